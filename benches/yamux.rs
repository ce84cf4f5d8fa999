//! What yamux itself costs: no socket, no TLS, one thread, a lock per stream as in
//! the agent. `cargo bench --bench yamux`

#![allow(clippy::print_stdout, reason = "a report")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pipeops_agent::turns::Turns;
use pipeops_agent::yamux::{
    Budget, Common, Config, Decoder, Event, Flags, HEADER, Header, Host, Input, MAX_PAYLOAD, Pool,
    Receiver, Role, Session, Stream,
};

type Handle = Arc<Mutex<Stream<Vec<u8>>>>;

/// What a link's shell has.
struct Shell {
    session: Mutex<Session<Handle>>,
    control: Mutex<VecDeque<Handle>>,
    turns: Mutex<Turns<Handle>>,
    accepted: Vec<Handle>,
}

impl Host for &mut Shell {
    type Handle = Handle;
    type Payload = Vec<u8>;

    fn session<R>(&mut self, f: impl FnOnce(&mut Session<Handle>) -> R) -> R {
        f(&mut self.session.lock())
    }

    fn stream<R>(&mut self, handle: &Handle, f: impl FnOnce(&mut Stream<Vec<u8>>) -> R) -> R {
        let mut stream = handle.lock();
        let result = f(&mut stream);
        let (id, wakes) = (stream.id(), stream.wakes());
        drop(stream);
        if wakes.control {
            self.control.lock().push_back(handle.clone());
        }
        if wakes.turn {
            self.turns.lock().enter(handle.clone());
        }
        if wakes.concern_session() {
            drop(self.session.lock().note(id, wakes));
        }
        result
    }

    fn accept(&mut self, stream: Stream<Vec<u8>>) -> Option<Handle> {
        let handle = Arc::new(Mutex::new(stream));
        self.accepted.push(handle.clone());
        Some(handle)
    }
}

impl Shell {
    fn new() -> Self {
        let budget = Arc::new(Budget::new(64 << 20));
        let common = Common::new(
            Config::new(Role::Client),
            budget,
            Arc::new(Shelf::default()),
        );
        Self {
            session: Mutex::new(Session::new(Arc::new(common))),
            control: Mutex::new(VecDeque::new()),
            turns: Mutex::new(Turns::new()),
            accepted: Vec::new(),
        }
    }

    /// Writes what there is; how many frames.
    fn write(&mut self, now: Instant, mut out: impl FnMut(Header, Option<Vec<u8>>)) -> usize {
        let mut frames = 0;
        let mut host = self;
        loop {
            let next = host.control.lock().pop_front();
            let Some(handle) = next else { break };
            while let Some(header) = host.stream(&handle, |stream| stream.next_control(now)) {
                out(header, None);
                frames += 1;
            }
        }
        loop {
            let next = host.turns.lock().next_turn();
            let Some(handle) = next else { return frames };
            let mut bytes = 0;
            let spoke = host.stream(&handle, |stream| {
                stream.turn(now, |header, payload| {
                    bytes += header.len as usize;
                    out(header, payload);
                    frames += 1;
                })
            });
            let mut turns = host.turns.lock();
            turns.spent(bytes);
            if spoke {
                turns.again(handle, bytes);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Shelf(Mutex<Vec<Vec<u8>>>);

impl Pool for Shelf {
    fn take(&self, size: usize) -> Vec<u8> {
        let mut shelf = self.0.lock();
        match shelf.pop() {
            Some(buffer) if buffer.capacity() == size => buffer,
            _ => Vec::with_capacity(size),
        }
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().push(buffer);
    }
}

/// A Data frame for each of `streams` in turn, `frames` in all.
fn data(streams: u32, frames: u32, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..frames {
        bytes.extend_from_slice(&Header::data(2 + 2 * (n % streams), payload as u32).encode());
        bytes.resize(bytes.len() + payload, n as u8);
    }
    bytes
}

/// Calls `round`, which says how many frames and bytes it has moved, for a second.
fn measure(name: &str, mut round: impl FnMut() -> (usize, usize)) {
    round();
    let start = Instant::now();
    let (mut frames, mut bytes) = (0, 0);
    while start.elapsed() < Duration::from_secs(1) {
        let (more_frames, more_bytes) = round();
        frames += more_frames;
        bytes += more_bytes;
    }
    let nanos = start.elapsed().as_nanos() as f64;
    let (per_frame, rate) = (nanos / frames as f64, bytes as f64 / nanos);
    println!("{name:<58} {per_frame:9.1} ns/frame {rate:8.2} GB/s");
}

fn parse(payload: usize) {
    let frames = 64.max((1 << 20) / (payload + HEADER));
    let stream = data(16, frames as u32, payload);
    let mut decoder = Decoder::default();
    measure(&format!("parse, {payload} B"), || {
        for mut slice in stream.chunks(RECORD) {
            while let Ok(Some(event)) = decoder.next(&mut slice) {
                if let Event::Payload { bytes, .. } = event {
                    black_box(bytes);
                }
            }
        }
        (frames, stream.len())
    });
}

fn receive(streams: u32, payload: usize) {
    let frames = 4 * streams;
    let mut shell = Shell::new();
    let mut receiver = Receiver::new();
    let now = Instant::now();
    for id in (2..).step_by(2).take(streams as usize) {
        let syn = Header::window(id, Flags::SYN, 0).encode();
        receiver.receive(&syn, now, &mut &mut shell).expect("valid");
    }
    shell.write(now, |_, _| ());
    let bytes = data(streams, frames, payload);
    let accepted = shell.accepted.clone();
    for stream in &accepted {
        stream.lock().join_frames();
    }
    let name = format!("receive, read, update: {streams} streams, {payload} B");
    measure(&name, || {
        for slice in bytes.chunks(RECORD) {
            receiver
                .receive(slice, now, &mut &mut shell)
                .expect("in the window");
        }
        for handle in &accepted {
            let mut host = &mut shell;
            loop {
                let read = handle.lock().read();
                let Ok(Input::Some(chunk)) = read else { break };
                black_box(&chunk[..]);
                host.stream(handle, |stream| stream.give_back(chunk, now));
            }
        }
        shell.write(now, |header, _| {
            black_box(header.encode());
        });
        (frames as usize, bytes.len())
    });
}

fn send(streams: u32, payload: usize) {
    let mut shell = Shell::new();
    let mut receiver = Receiver::new();
    let now = Instant::now();
    for id in (2..).step_by(2).take(streams as usize) {
        let syn = Header::window(id, Flags::SYN, 0).encode();
        receiver.receive(&syn, now, &mut &mut shell).expect("valid");
    }
    let accepted = shell.accepted.clone();
    let mut buffers = vec![vec![0; payload]; 2 * streams as usize];
    measure(
        &format!("queue, turn, header: {streams} streams, {payload} B"),
        || {
            let mut host = &mut shell;
            for handle in &accepted {
                // Granted as much as is sent.
                let grant = Header::window(handle.lock().id(), Flags::NONE, 2 * payload as u32);
                receiver
                    .receive(&grant.encode(), now, &mut host)
                    .expect("valid");
                for _ in 0..2 {
                    let buffer = buffers.pop().expect("one for each slot");
                    let queued = host.stream(handle, |stream| stream.queue(buffer, payload));
                    queued.expect("room");
                }
            }
            let frames = shell.write(now, |header, payload| {
                black_box(header.encode());
                buffers.extend(payload);
            });
            (frames, frames * payload)
        },
    );
}

fn open_and_close() {
    let mut shell = Shell::new();
    let mut receiver = Receiver::new();
    let now = Instant::now();
    let mut id = 0;
    measure("open, acknowledge, finish both ways (a stream)", || {
        id += 2;
        for flags in [Flags::SYN, Flags::FIN] {
            let frame = Header::window(id, flags, 0).encode();
            receiver
                .receive(&frame, now, &mut &mut shell)
                .expect("valid");
        }
        let handle = shell.accepted.pop().expect("accepted");
        (&mut shell).stream(&handle, Stream::finish);
        shell.write(now, |header, _| {
            black_box(header.encode());
        });
        (1, 4 * HEADER)
    });
}

fn main() {
    for payload in [64, MAX_PAYLOAD] {
        parse(payload);
    }
    for (streams, payload) in [(1, 64), (16, 64), (1, MAX_PAYLOAD), (16, MAX_PAYLOAD)] {
        receive(streams, payload);
    }
    for (streams, payload) in [(1, MAX_PAYLOAD), (16, MAX_PAYLOAD)] {
        send(streams, payload);
    }
    open_and_close();
}

/// Plaintext arrives in slices of a TLS record.
const RECORD: usize = 16 * 1024;
