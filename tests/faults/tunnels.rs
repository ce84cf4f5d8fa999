//! Tunnels, from a client of the plane's ports to a target behind the agent, both of
//! them processes: lines that are cut, targets and clients that misbehave.
//!
//! Name servers that hang, or change their answer between check and dial, can't be had
//! for a process without changing the machine's: `net::resolve::tests`,
//! `tunnel::target::tests` (`hanging_name_servers_…`, `tt14_the_address_that_was_checked_…`)
//! and `tunnel::streams::tests::opening` (`a_look_up_that_hangs_…`,
//! `tt14_a_name_server_that_changes_its_mind_…`) hold that.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Held, Stage, open};
use crate::support::pattern::{self, PIECE};
use crate::support::process::is_release;
use crate::support::sockets::{is_reset, receive, reset, send};
use crate::support::wait::{figure, until};

/// Streams that are open when the line is cut.
const STREAMS: usize = 500;
/// Of memory, in KiB: what the allocator keeps of what was used once.
const NOISE: u64 = 4096;
/// What an agent or a plane may have at most, in KiB: 64 MiB of windows and queues
/// (`tunnels.memory_limit`), and what it has anyway.
const PEAK: u64 = 128 * 1024;

#[test]
fn a_cut_with_500_streams_resets_everybody_and_leaves_nothing() {
    let stage = Stage::new();
    let fresh = stage.held();
    figure("fresh: agent, plane", format!("{fresh:?}"));
    // Of memory, what the allocator keeps of the first time isn't lost.
    let mut first = None;
    for round in 1..=3 {
        let streams = open(&stage, STREAMS);
        // One whose target is stuck in writing, and one whose client is.
        let stuck = [open(&stage, 1).remove(0), open(&stage, 1).remove(0)];
        let writers = [&stuck[0].0, &stuck[1].1].map(|stream| {
            let mut stream = stream.try_clone().expect("cloned");
            thread::spawn(move || {
                let piece = vec![7; PIECE];
                loop {
                    if let Err(error) = stream.write_all(&piece) {
                        return error.kind();
                    }
                }
            })
        });
        figure("with 500 streams", format!("{:?}", stage.held()));
        let accepted = stage.proxy.accepted();
        assert!(stage.proxy.cut() > 0);
        for (client, target) in &streams {
            assert!(is_reset(target), "a target saw an end");
            assert!(is_reset(client), "a client saw an end");
        }
        for writer in writers {
            let kind = writer.join().expect("no panic");
            assert!(
                [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind),
                "{kind}"
            );
        }
        assert!(is_reset(&stuck[0].1) && is_reset(&stuck[1].0));
        drop((streams, stuck));
        until("the agent is back", || stage.proxy.accepted() > accepted);
        stage.plane.attached("edge");
        until("tunnels are back", || {
            let row = stage.plane.tunnel("tcp", stage.to_target);
            row.is_some_and(|row| row.last().is_some_and(|state| state == "open"))
        });
        // They work as before.
        drop(open(&stage, 20));
        stage.echoes();
        let now = stage.settled(&fresh);
        figure(&format!("after cut {round}"), format!("{now:?}"));
        let before = *first.get_or_insert(now);
        // The allocator of the binary that ships: of others nothing is known.
        until("memory stays", || {
            let now = stage.held();
            let within = |(now, before): (&Held, &Held)| now.resident <= before.resident + NOISE;
            !is_release() || now.iter().zip(&before).all(within)
        });
    }
}

/// And one that never answers, and a client that vanishes without a word in between.
#[test]
fn a_target_that_never_reads_holds_up_nobody_and_takes_no_memory_beyond_the_limit() {
    let stage = Stage::new();
    let mut client = stage.client();
    let target = stage.accept();
    client
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("set");
    let mut sent = 0;
    let piece = vec![7; PIECE];
    while let Ok(count) = client.write(&piece) {
        sent += count;
        assert!(sent < 256 << 20, "nobody stops it");
    }
    figure("bytes on the way to a target that never reads", sent);
    stage.echoes();
    // It neither reads nor answers; the client leaves.
    reset(client);
    assert!(is_reset(&target));
    stage.is_over();
    for process in [&stage.agent.process, &stage.plane.process] {
        figure("KiB resident at most", process.peak());
        assert!(process.peak() < PEAK);
    }
}

#[test]
fn a_target_that_never_answers_is_waited_for_and_aborted_with_its_client() {
    let stage = Stage::new();
    // The client has said all, and waits.
    let mut asked = stage.client();
    asked.write_all(b"question").expect("sent");
    asked.shutdown(Shutdown::Write).expect("shut down");
    let mut target = stage.accept();
    let mut question = String::new();
    target.read_to_string(&mut question).expect("read");
    assert_eq!(question, "question");
    // Another vanishes instead: halfway, with nothing of it read.
    let mut vanishing = stage.client();
    vanishing.write_all(&pattern::whole(100_000)).expect("sent");
    let abandoned = stage.accept();
    stage.echoes();
    reset(vanishing);
    assert!(is_reset(&abandoned), "an upload that broke off looks whole");
    assert_eq!(stage.plane.clients("tcp", stage.to_target), 1);
    // However late.
    target.write_all(b"answer").expect("sent");
    drop(target);
    let mut answer = String::new();
    asked.read_to_string(&mut answer).expect("read");
    assert_eq!(answer, "answer");
    stage.is_over();
}

/// decisions.md §6.6 "A target that reads no more but still answers".
#[test]
fn a_413_is_read_whole_by_a_client_that_goes_on_sending() {
    const ASKED: usize = 1000;
    const UPLOAD: u64 = 48 << 20;
    let stage = Stage::new();
    // Of what a target that is gone hasn't got rid of, a reset takes the rest: so it is
    // without a tunnel.
    for (closes_at_once, body) in [(true, 10_000), (false, 300_000)] {
        let mut client = stage.client();
        client.write_all(&[7; ASKED]).expect("sent");
        let mut target = stage.accept();
        target.read_exact(&mut [0; ASKED]).expect("read");
        target
            .write_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")
            .expect("sent");
        target
            .write_all(&pattern::whole(body as usize))
            .expect("sent");
        // One closes, what comes then is reset; the other one only reads no more.
        let held = if closes_at_once {
            drop(target);
            None
        } else {
            target.shutdown(Shutdown::Write).expect("shut down");
            Some(target)
        };
        let mut reading = client.try_clone().expect("cloned");
        let reader = thread::spawn(move || {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                reading.read_exact(&mut byte).expect("read");
                head.extend(byte);
            }
            assert!(head.starts_with(b"HTTP/1.1 413 "));
            receive(&reading, body);
        });
        if let Some(target) = held {
            reader.join().expect("all of it");
            drop(target);
            drop(client);
        } else {
            // All of it goes out before the answer is looked at.
            send(client.try_clone().expect("cloned"), UPLOAD)
                .join()
                .expect("taken");
            reader.join().expect("all of it");
        }
        stage.is_over();
    }
}

/// Nobody takes the datagrams: they are dropped somewhere, in bounded memory.
#[test]
fn a_flood_of_datagrams_is_bounded_and_others_live() {
    const SOURCES: usize = 64;
    let sink = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let echo = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = |socket: &UdpSocket| socket.local_addr().expect("an address");
    let mut stage = Stage::with(&[("sink", address(&sink)), ("datagrams", address(&echo))]);
    thread::spawn(move || {
        let mut buf = [0; 2000];
        while let Ok((count, from)) = echo.recv_from(&mut buf) {
            let _ = echo.send_to(&buf[..count], from);
        }
    });
    let to_sink = stage.plane.expose("udp", "sink:1");
    let to_echo = stage.plane.expose("udp", "datagrams:1");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let sockets: Vec<UdpSocket> = (0..SOURCES)
                .map(|_| UdpSocket::bind("127.0.0.1:0").expect("bound"))
                .collect();
            let mut sent = 0_u64;
            while !done.load(Ordering::Relaxed) {
                for socket in &sockets {
                    // Lost, if there is no room at all.
                    sent += u64::from(socket.send_to(&[7; 8000], to_sink).is_ok());
                }
            }
            sent
        });
        let begun = Instant::now();
        until("many are flooding", || {
            stage.plane.clients("udp", to_sink) >= SOURCES / 2
        });
        for _ in 0..20 {
            stage.echoes();
        }
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        client.connect(to_echo).expect("connected");
        let short = Some(Duration::from_millis(100));
        client.set_read_timeout(short).expect("set");
        for n in 0..20 {
            until("a datagram comes back", || {
                client.send(&[n; 100]).expect("sent");
                let mut buf = [0; 200];
                client
                    .recv(&mut buf)
                    .is_ok_and(|count| buf[..count] == [n; 100])
            });
        }
        figure("others were served in", format!("{:?}", begun.elapsed()));
        done.store(true, Ordering::Relaxed);
        figure("datagrams of the flood", flood.join().expect("no panic"));
    });
    for process in [&stage.agent.process, &stage.plane.process] {
        figure("KiB resident at most", process.peak());
        assert!(process.peak() < PEAK);
    }
    // Its listeners end as they should: the standard library's `recv_from` can panic
    // on a socket that was shut down, which has no address to tell.
    for process in [&mut stage.agent.process, &mut stage.plane.process] {
        assert_eq!(process.terminate(), Some(0), "{}", process.log());
        assert!(!process.log().contains("panic"), "{}", process.log());
    }
    // The sink has had some.
    sink.set_nonblocking(true).expect("set");
    assert_eq!(sink.recv(&mut [0; 9000]).expect("arrived"), 8000);
}
