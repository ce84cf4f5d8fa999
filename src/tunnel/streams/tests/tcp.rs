//! Bytes both ways, and each half's own end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::stage::*;
use crate::net::testing::listen;
use crate::telemetry::metrics;
use crate::yamux::{Cut, Flags, Kind};

fn stage() -> (Stage, TcpListener) {
    let (listener, address) = listen();
    let plan = Plan {
        settings: settings(),
        ..Plan::to(&address)
    };
    (Stage::new(plan), listener)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (target, _) = listener.accept().expect("accepted");
    target.set_read_timeout(Some(LONG)).expect("limit");
    target.set_write_timeout(Some(LONG)).expect("limit");
    target
}

/// Closes it with a reset.
fn resets(target: TcpStream) {
    SockRef::from(&target)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(target);
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

#[test]
fn the_gateway_ends_first_and_is_still_answered() {
    let (stage, listener) = stage();
    let client = stage.open();
    let mut target = accept(&listener);
    client.send(b"question");
    client.0.finish();
    let mut question = Vec::new();
    target.read_to_end(&mut question).expect("a clean end");
    assert_eq!(question, b"question");
    // The gateway's half is closed, the target's is not.
    target.write_all(b"answer").expect("sent");
    assert_eq!(client.read(6), b"answer");
    drop(target);
    client.assert_end();
    let line = &stage.audit()[0];
    assert_eq!(line["bytes_in"], 8);
    assert_eq!(line["bytes_out"], 6);
    assert_eq!(line["end"], "by the gateway");
    stage.end();
}

#[test]
fn the_target_ends_first_and_still_hears() {
    let (stage, listener) = stage();
    let client = stage.open();
    let mut target = accept(&listener);
    target.write_all(b"greeting").expect("sent");
    target.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(client.read(8), b"greeting");
    client.assert_end();
    client.send(b"and on and on");
    client.0.finish();
    let mut heard = Vec::new();
    target.read_to_end(&mut heard).expect("a clean end");
    assert_eq!(heard, b"and on and on");
    assert_eq!(stage.audit()[0]["end"], "by the target");
    stage.end();
}

/// In all sizes of windows, both ways at once.
#[test]
fn every_window_carries_the_same_bytes() {
    for max_window in [64 << 10, 256 << 10, 1 << 20, 16 << 20] {
        let (listener, address) = listen();
        let stage = Stage::new(Plan {
            settings: settings(),
            max_window,
            ..Plan::to(&address)
        });
        let client = stage.open();
        let target = accept(&listener);
        let (up, down) = (pattern(3_000_001, 1), pattern(3_000_003, 2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&target).write_all(&down).expect("sent");
                target.shutdown(Shutdown::Write).expect("half closed");
            });
            scope.spawn(|| {
                client.send(&up);
                client.0.finish();
            });
            let read = scope.spawn(|| client.read_to_end());
            let mut arrived = Vec::new();
            (&target).read_to_end(&mut arrived).expect("a clean end");
            assert!(arrived == up, "{max_window}: the way up");
            let (arrived, end) = read.join().expect("read");
            assert_eq!(end, Ok(()));
            assert!(arrived == down, "{max_window}: the way down");
        });
        let line = &stage.audit()[0];
        assert_eq!(line["bytes_in"], 3_000_001);
        assert_eq!(line["bytes_out"], 3_000_003);
        stage.end();
    }
}

/// FIN only after a good end (T9, the other way round).
#[test]
fn a_target_that_fails_resets_the_stream_behind_its_data() {
    let (stage, listener) = stage();
    let before = metrics::YAMUX_COPY_ERRORS.value();
    let client = stage.open();
    let mut target = accept(&listener);
    stage.hold_agent(true);
    target.write_all(b"half an answer").expect("sent");
    wait_until("the answer is queued", || {
        stage.agent.figures().queued == 14
    });
    resets(target);
    wait_until("the reset is seen", || stage.streams.open() == 0);
    stage.hold_agent(false);
    client.assert_reset();
    let frames = stage.heard_from_agent();
    let [.., data, reset] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert_eq!((data.kind, data.len), (Kind::Data, 14));
    assert_eq!(reset.flags, Flags::RST);
    let end = stage.audit()[0]["end"].to_string();
    assert!(end.contains("the target: "), "{end}");
    assert!(metrics::YAMUX_COPY_ERRORS.value() > before);
    stage.end();
}

/// Before anything was copied, as well.
#[test]
fn a_target_that_hangs_up_at_once_with_a_reset_has_not_ended_well() {
    let (stage, listener) = stage();
    for _ in 0..50 {
        let client = stage.open();
        resets(accept(&listener));
        client.assert_reset();
    }
    stage.end();
}

/// The kernel tells of a reset once. When that was to the thread that writes, the
/// other one reads a clean end.
#[test]
fn a_reset_that_the_writing_thread_hears_of_is_no_clean_end() {
    let (stage, listener) = stage();
    for _ in 0..50 {
        let client = stage.open();
        let mut target = accept(&listener);
        let writing = client.clone();
        let writer = std::thread::spawn(move || {
            let piece = vec![1; 1000];
            while writing.0.send(piece[..].into(), Some(soon())).is_ok() {}
        });
        let mut some = vec![0; 30_000];
        target.read_exact(&mut some).expect("it comes");
        resets(target);
        client.assert_reset();
        writer.join().expect("writer");
    }
    stage.end();
}

/// A server that has heard enough: 413, end, and what still comes is not read.
#[test]
fn a_target_that_reads_no_more_but_answers_is_heard_to_its_end() {
    let (stage, listener) = stage();
    let client = stage.open();
    let mut target = accept(&listener);
    let uploading = client.clone();
    let upload = std::thread::spawn(move || {
        // Far more than all windows and buffers hold.
        let piece = vec![1; 30_000];
        for _ in 0..1000 {
            uploading.send(&piece);
        }
        uploading.0.finish();
    });
    target.read_exact(&mut [0; 1000]).expect("it comes");
    target
        .write_all(b"HTTP/1.1 413 Too Large\r\n\r\n")
        .expect("sent");
    target.shutdown(Shutdown::Write).expect("end");
    // The end is there before the reset that closing causes.
    let (answer, end) = client.read_to_end();
    drop(target);
    assert_eq!(answer, b"HTTP/1.1 413 Too Large\r\n\r\n");
    assert_eq!(end, Ok(()));
    upload.join().expect("all of the upload was taken");
    wait_until("both ends have finished", || {
        stage.agent.figures().streams == 0
    });
    assert_eq!(stage.audit()[0]["end"], "by the target");
    stage.end();
}

/// A download whose client has left, seen from its end: it has finished, and takes no
/// more.
#[test]
fn who_sends_without_end_to_a_target_that_is_gone_is_reset() {
    let (stage, listener) = stage();
    let client = stage.open();
    let mut target = accept(&listener);
    let sending = client.clone();
    let sender = std::thread::spawn(move || {
        let piece = vec![1; 30_000];
        let until = soon();
        while sending.0.send(piece[..].into(), Some(until)).is_ok() && Instant::now() < until {}
        sending.0.cut()
    });
    target.read_exact(&mut [0; 1000]).expect("it comes");
    target.write_all(b"enough").expect("sent");
    target.shutdown(Shutdown::Write).expect("end");
    let (answer, end) = client.read_to_end();
    assert_eq!((&answer[..], end), (&b"enough"[..], Ok(())));
    drop(target);
    assert_eq!(sender.join().expect("sender"), Some(Cut::ByPeer));
    wait_until("the stream is gone", || stage.agent.figures().streams == 0);
    assert_eq!(stage.audit()[0]["end"], "by the target");
    stage.end();
}

/// The same without an orderly end. A stream that is reset gives nothing any more, so
/// its reader needs a moment before that.
#[test]
fn the_answer_of_a_target_that_closes_with_a_reset_arrives_before_it() {
    let (stage, listener) = stage();
    let answered = (0..20).map(|_| {
        let client = stage.open();
        let mut target = accept(&listener);
        client.send(&vec![1; 100_000]);
        target.read_exact(&mut [0; 1000]).expect("it comes");
        target.write_all(b"413").expect("sent");
        // With unread bytes in its buffer: a reset.
        drop(target);
        let reader = client.clone();
        std::thread::spawn(move || reader.read_to_end())
    });
    for reader in answered.collect::<Vec<_>>() {
        let heard = reader.join().expect("reader");
        assert_eq!(heard, (b"413".to_vec(), Err(Cut::ByPeer)));
    }
    stage.end();
}

#[test]
fn unix_sockets_are_targets_too() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bound");
    let stage = Stage::new(Plan {
        settings: settings(),
        ..Plan::to(&format!("unix://{}", path.display()))
    });
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    client.send(b"ping");
    client.0.finish();
    let mut heard = Vec::new();
    target.read_to_end(&mut heard).expect("end");
    target.write_all(&heard).expect("sent");
    drop(target);
    assert_eq!(client.read_to_end(), (b"ping".to_vec(), Ok(())));
    stage.end();
}
