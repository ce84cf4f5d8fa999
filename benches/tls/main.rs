//! What TLS costs the process that reads or writes: `cargo bench --bench tls`.
//!
//! One process plays the peer (the server); the process that is measured is
//! another, started anew for each turn. With `--subject NAME=PROGRAM` (several
//! times) it is other builds of this very program, in turns: a comparison within
//! one run. See `benches/README.md`.

#![allow(clippy::print_stdout)] // its results

use std::error::Error;
use std::io::{BufRead, BufReader, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};
use pipeops_agent::link::{Lane, Link, Message, Receiver, Role, Settings, Slot};
use pipeops_agent::net::{
    Cancel, ClientTls, ClientTlsSettings, Halves, PemSource, ReadHalf, ServerTls,
    ServerTlsSettings, Trust, WriteHalf,
};
use rustix::time::{ClockId, clock_gettime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the measured process does.
#[derive(Clone, Copy, Debug)]
struct Mode {
    name: &'static str,
    /// Bytes of one message.
    size: usize,
    /// Messages of a turn.
    count: usize,
}

const MODES: [Mode; 7] = [
    mode("read", 32 * 1024, 65_536),
    mode("write", 32 * 1024, 65_536),
    mode("link-read", 32_748, 65_536),
    mode("link-write", 32_748, 65_536),
    mode("read-small", 64, 400_000),
    mode("write-small", 64, 300_000),
    mode("echo-small", 64, 40_000),
];

const fn mode(name: &'static str, size: usize, count: usize) -> Mode {
    Mode { name, size, count }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, mode, address, ca] = &args[..]
        && first == "measured"
    {
        return measured(find(mode)?, address.parse()?, Path::new(ca));
    }
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let mut subjects = Vec::new();
    let mut modes = Vec::new();
    let mut turns = 5;
    let mut args = args.into_iter().filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or("an option without its value");
        match arg.as_str() {
            "--subject" => {
                let value = value()?;
                let (name, path) = value.split_once('=').ok_or("--subject NAME=PROGRAM")?;
                subjects.push((name.to_owned(), path.to_owned()));
            }
            "--mode" => modes.push(find(&value()?)?),
            "--turns" => turns = value()?.parse()?,
            _ => return Err(format!("unknown option {arg}").into()),
        }
    }
    if subjects.is_empty() {
        subjects.push(("this build".to_owned(), own));
    }
    if modes.is_empty() {
        modes.extend(MODES);
    }
    compare(&subjects, &modes, turns)
}

fn find(name: &str) -> Result<Mode> {
    let mut modes = MODES.into_iter();
    modes
        .find(|mode| mode.name == name)
        .ok_or_else(|| format!("no mode {name}").into())
}

fn compare(subjects: &[(String, String)], modes: &[Mode], turns: usize) -> Result<()> {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let ca = tempfile::NamedTempFile::new()?;
    std::fs::write(ca.path(), key.cert.pem())?;
    let tls = ServerTls::new(&ServerTlsSettings {
        certificate: PemSource::File(ca.path().into()),
        key: PemSource::Given {
            name: "key".to_owned(),
            pem: key.signing_key.serialize_pem().into_bytes(),
        },
        client_ca: None,
    })?;
    println!("this build: TLS as two halves without a lock (src/net/stream/tls)");
    for mode in modes {
        let mut costs = vec![Vec::new(); subjects.len()];
        let mut rates = vec![Vec::new(); subjects.len()];
        for turn in 0..=turns {
            for (at, (_, program)) in subjects.iter().enumerate() {
                let (cpu, wall) = turn_of(program, &tls, ca.path(), *mode)?;
                // The first one warms the machine up.
                if turn > 0 {
                    costs[at].push(cpu);
                    rates[at].push(wall);
                }
            }
        }
        for (at, (name, _)) in subjects.iter().enumerate() {
            let bytes = (mode.size * mode.count) as f64;
            let (cpu, wall) = (median(&mut costs[at]), median(&mut rates[at]));
            println!(
                "{:12} {name:14} {:6.3} CPU-s/GB  {:7.2} CPU-us/message  {:6.2} GB/s",
                mode.name,
                cpu / bytes * 1e9,
                cpu / mode.count as f64 * 1e6,
                bytes / wall / 1e9,
            );
        }
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One turn: CPU and wall seconds of the measured process.
fn turn_of(program: &str, tls: &ServerTls, ca: &Path, mode: Mode) -> Result<(f64, f64)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut child = Command::new(program)
        .args(["measured", mode.name, &listener.local_addr()?.to_string()])
        .arg(ca)
        .stdout(Stdio::piped())
        .spawn()?;
    let (socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let halves = Halves::plain(socket.into()).tls_server(tls.session()?)?;
    play(mode, halves)?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    if !child.wait()?.success() {
        return Err("the measured process has failed".into());
    }
    let (cpu, wall) = line.trim().split_once(' ').ok_or("no figures")?;
    Ok((cpu.parse()?, wall.parse()?))
}

/// The peer's part.
fn play(mode: Mode, mut halves: Halves) -> Result<()> {
    match mode.name {
        "read" => send(&mut halves.write, mode, 2)?,
        "read-small" => send(&mut halves.write, mode, 1)?,
        "write" | "write-small" => {
            drain(&mut halves.read, mode.size * mode.count)?;
            halves.write.write_all(&[IoSlice::new(&[1])])?;
        }
        "echo-small" => {
            let message = vec![7; mode.size];
            for _ in 0..mode.count {
                halves.write.write_all(&[IoSlice::new(&message)])?;
                drain(&mut halves.read, mode.size)?;
            }
        }
        "link-read" => link_send(halves, Role::Server, mode)?,
        _ => link_drain(halves, Role::Server, mode)?,
    }
    Ok(())
}

/// The measured process.
fn measured(mode: Mode, address: SocketAddr, ca: &Path) -> Result<()> {
    let tls = ClientTls::new(ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![PemSource::File(ca.into())],
        ..ClientTlsSettings::default()
    })?;
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut halves = Halves::plain(socket.into()).tls_client(tls.session("localhost")?)?;
    let (cpu, start) = (cpu(), Instant::now());
    match mode.name {
        "read" | "read-small" => drain(&mut halves.read, mode.size * mode.count)?,
        "write" | "write-small" => {
            let at_once = if mode.name == "write" { 2 } else { 1 };
            send(&mut halves.write, mode, at_once)?;
            // The peer says that it has all.
            drain(&mut halves.read, 1)?;
        }
        "echo-small" => {
            let message = vec![7; mode.size];
            for _ in 0..mode.count {
                drain(&mut halves.read, mode.size)?;
                halves.write.write_all(&[IoSlice::new(&message)])?;
            }
        }
        "link-read" => link_drain(halves, Role::Client, mode)?,
        _ => link_send(halves, Role::Client, mode)?,
    }
    println!("{} {}", self::cpu() - cpu, start.elapsed().as_secs_f64());
    Ok(())
}

/// Sends all messages, `at_once` in a call.
fn send(write: &mut WriteHalf, mode: Mode, at_once: usize) -> Result<()> {
    let message = vec![7; mode.size];
    let slices = vec![IoSlice::new(&message); at_once];
    for _ in 0..mode.count / at_once {
        write.write_all(&slices)?;
    }
    Ok(())
}

fn drain(read: &mut ReadHalf, mut left: usize) -> Result<()> {
    while left > 0 {
        let count = read.fill()?.len().min(left);
        if count == 0 {
            return Err("an early end".into());
        }
        read.consume(count);
        left -= count;
    }
    Ok(())
}

fn link_send(halves: Halves, role: Role, mode: Mode) -> Result<()> {
    let (done, ended) = bounded(1);
    let link = Link::start(halves, Settings::new(role), |_| Counter { left: 1, done })?;
    let payload = vec![7; mode.size];
    let cancel = Cancel::new();
    let lane = Lane::Bulk(Slot::of(""));
    for _ in 0..mode.count {
        let message = Message::binary(mode.size, |buf| buf.extend_from_slice(&payload));
        link.send(lane, message, &cancel)?;
    }
    // The peer says that it has all.
    ended.recv()?;
    Ok(())
}

fn link_drain(halves: Halves, role: Role, mode: Mode) -> Result<()> {
    let (done, ended) = bounded(1);
    let counter = |_: &Link| Counter {
        left: mode.count,
        done,
    };
    let link = Link::start(halves, Settings::new(role), counter)?;
    ended.recv()?;
    let thanks = Message::binary(1, |buf| buf.push(1));
    link.send(Lane::Control, thanks, &Cancel::new())?;
    link.close(1000, "");
    link.wait();
    Ok(())
}

struct Counter {
    left: usize,
    done: Sender<()>,
}

impl Receiver for Counter {
    fn text(&mut self, _: &str) {}

    fn binary(&mut self, _: &[u8]) {
        self.left -= 1;
        if self.left == 0 {
            let _ = self.done.try_send(());
        }
    }
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
