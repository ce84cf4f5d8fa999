use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};

use super::*;
use crate::net::testing::{Ca, far_deadline, tcp_pair, tls_over, tls_pair};

fn plain_pair() -> (Halves, Halves) {
    let (near, far) = tcp_pair();
    (Halves::plain(near), Halves::plain(far))
}

fn nested_pair() -> (Halves, Halves) {
    let (near, far) = tls_pair(&TLS13);
    let ca = Ca::new();
    tls_over(
        near,
        far,
        ca.client_config(&[&TLS12]),
        ca.server_config(&["127.0.0.1"]),
    )
}

/// Every kind of connection there is.
fn pairs() -> Vec<(&'static str, Halves, Halves)> {
    let named = |name, (near, far)| (name, near, far);
    vec![
        named("plain", plain_pair()),
        named("TLS 1.2", tls_pair(&TLS12)),
        named("TLS 1.3", tls_pair(&TLS13)),
        named("TLS in TLS", nested_pair()),
    ]
}

fn read_exact(half: &mut ReadHalf, mut count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while count > 0 {
        let bytes = half.fill().expect("fill");
        assert!(!bytes.is_empty(), "ended {count} bytes early");
        let taken = bytes.len().min(count);
        all.extend_from_slice(&bytes[..taken]);
        half.consume(taken);
        count -= taken;
    }
    all
}

/// A byte stream that anybody can compute at any place.
fn pattern(seed: u64, place: u64) -> u8 {
    (place.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Writes in pieces of all sizes, also several at once, also empty ones.
fn write_pattern(half: &mut WriteHalf, seed: u64, total: u64) {
    let mut place = 0;
    let mut sizes = fastrand::Rng::with_seed(seed);
    while place < total {
        let bufs: Vec<Vec<u8>> = (0..sizes.usize(1..100))
            .map(|_| {
                let size = [0, 1, 100, 4_000, 150_000][sizes.usize(0..5)];
                let size = sizes.u64(0..=size).min(total - place);
                let from = place;
                place += size;
                (from..place).map(|at| pattern(seed, at)).collect()
            })
            .collect();
        let slices: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        half.write_all(&slices).expect("write");
    }
    half.close().expect("close");
}

fn check_pattern(half: &mut ReadHalf, seed: u64, total: u64) {
    let mut place = 0;
    loop {
        let bytes = half.fill().expect("fill");
        if bytes.is_empty() {
            break;
        }
        for &byte in &*bytes {
            assert_eq!(byte, pattern(seed, place), "at {place}");
            place += 1;
        }
        let count = bytes.len();
        half.consume(count);
    }
    assert_eq!(place, total);
}

#[test]
fn halves_may_go_to_other_threads() {
    fn is_send<T: Send>() {}
    is_send::<Halves>();
}

#[test]
fn what_has_been_received_is_read_without_waiting_for_more() {
    const TOTAL: usize = 300_000;
    for (name, mut near, mut far) in pairs() {
        // Nothing is there, and nothing may ever come.
        assert!(near.read.fill_received().expect(name).is_empty());
        let writing = std::thread::spawn(move || {
            let all = vec![7; TOTAL];
            far.write.write_all(&[IoSlice::new(&all)]).expect("write");
            far
        });
        let (mut got, mut more) = (0, 0);
        while got < TOTAL {
            got += read_exact(&mut near.read, 1).len();
            loop {
                let at_hand = near.read.received();
                let bytes = near.read.fill_received().expect(name);
                assert!(bytes.len() <= at_hand, "{name}: it is as much as was said");
                let count = bytes.len();
                if count == 0 {
                    break;
                }
                near.read.consume(count);
                got += count;
                more += count;
            }
        }
        assert_eq!(got, TOTAL, "{name}");
        assert!(more > TOTAL / 2, "{name}: {more}");
        let far = writing.join().expect("written");
        assert!(near.read.fill_received().expect(name).is_empty());
        drop(far);
    }
}

#[test]
fn both_directions_at_once_on_two_threads_each() {
    const TOTAL: u64 = 4 * 1024 * 1024;
    for (_, near, far) in pairs() {
        let (mut near_read, mut near_write) = (near.read, near.write);
        let (mut far_read, mut far_write) = (far.read, far.write);
        std::thread::scope(|scope| {
            scope.spawn(move || write_pattern(&mut near_write, 1, TOTAL));
            scope.spawn(move || write_pattern(&mut far_write, 2, TOTAL));
            scope.spawn(move || check_pattern(&mut far_read, 1, TOTAL));
            scope.spawn(move || check_pattern(&mut near_read, 2, TOTAL));
        });
    }
}

#[test]
fn what_is_not_consumed_stays() {
    for (name, mut near, mut far) in pairs() {
        near.write.write_all(&[IoSlice::new(b"hello")]).expect(name);
        assert_eq!(far.read.fill().expect(name), b"hello");
        far.read.consume(2);
        assert_eq!(far.read.buffered(), b"llo");
        assert_eq!(far.read.fill().expect(name), b"llo");
        far.read.consume(99);
        assert!(far.read.buffered().is_empty());
    }
}

#[test]
fn an_end_without_close_notify_is_an_end() {
    for (name, near, mut far) in pairs() {
        near.socket.shutdown(Shutdown::Write).expect(name);
        assert!(far.read.fill().expect(name).is_empty());
        assert!(far.read.fill().expect(name).is_empty(), "and stays one");
    }
}

#[test]
fn a_reset_is_an_error_and_stays_one() {
    for (name, near, mut far) in pairs() {
        near.socket.set_linger(Some(Duration::ZERO)).expect(name);
        drop(near);
        for _ in 0..2 {
            let error = far.read.fill().expect_err(name);
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}");
        }
    }
}

#[test]
fn after_close_the_other_direction_goes_on() {
    for (name, mut near, mut far) in pairs() {
        near.write.close().expect(name);
        assert!(far.read.fill().expect(name).is_empty());
        far.write
            .write_all(&[IoSlice::new(b"answer")])
            .expect("half closed");
        assert_eq!(read_exact(&mut near.read, 6), b"answer");
    }
}

#[test]
fn a_passed_read_deadline_is_an_error_that_passes() {
    for (name, mut near, mut far) in pairs() {
        near.read
            .set_deadline(Some(Deadline::after(Duration::from_millis(10))));
        let error = near.read.fill().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        near.read.set_deadline(Some(far_deadline()));
        far.write.write_all(&[IoSlice::new(b"late")]).expect(name);
        assert_eq!(read_exact(&mut near.read, 4), b"late");
    }
}

#[test]
fn a_peer_that_reads_nothing_ends_the_write_by_limit_or_deadline() {
    for (name, near, far) in pairs() {
        let Halves { mut write, .. } = near;
        near.socket
            .set_write_timeout(Some(Duration::from_millis(20)))
            .expect(name);
        let much = vec![7; 64 * 1024 * 1024];
        let error = write.write_all(&[IoSlice::new(&much)]).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{name}");
        write.set_deadline(Some(Deadline::after(Duration::from_millis(20))));
        let error = write.write_all(&[IoSlice::new(&much)]).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{name}");
        drop(far);
    }
}

#[test]
fn an_idle_connection_is_known_to_be_alive() {
    for (name, mut near, mut far) in pairs() {
        assert!(near.read.is_idle_alive(), "{name}");
        assert!(far.read.is_idle_alive(), "{name}");
        // Also after traffic, with large buffers.
        far.write
            .write_all(&[IoSlice::new(&vec![1; 100_000])])
            .expect(name);
        read_exact(&mut near.read, 100_000);
        assert!(near.read.is_idle_alive(), "{name}");
    }
}

#[test]
fn an_idle_connection_with_unread_bytes_or_at_its_end_is_not_usable() {
    for (name, mut near, mut far) in pairs() {
        far.write.write_all(&[IoSlice::new(b"late")]).expect(name);
        assert!(near.read.fill().is_ok());
        assert!(!near.read.is_idle_alive(), "{name}: unread");
        near.read.consume(4);
        assert!(near.read.is_idle_alive(), "{name}: read");
        far.write.close().expect(name);
        // Arrives some time.
        while near.read.is_idle_alive() {
            std::thread::yield_now();
        }
        assert!(near.read.fill().expect(name).is_empty());
    }
}

#[test]
fn session_tickets_on_an_idle_connection_are_no_data() {
    let (mut near, far) = tls_pair(&TLS13);
    // They came right behind the handshake; nobody has read them.
    let (mut read, mut write) = (far.read, far.write);
    assert!(near.read.is_idle_alive());
    // A key update is no data either, and asks for an answer.
    write.change_keys(true).expect("TLS 1.3");
    write.flush().expect("flush");
    let end = far_deadline();
    while !near.read.wants_flush() {
        assert!(near.read.is_idle_alive());
        assert!(end.remaining().is_some(), "nothing to answer");
    }
    near.write.flush().expect("flush");
    assert!(!near.read.wants_flush());
    assert!(near.read.is_idle_alive());
    assert!(read.is_idle_alive());
}

#[test]
fn new_traffic_keys_both_ways_under_load() {
    const TOTAL: u64 = 2 * 1024 * 1024;
    let (near, far) = tls_pair(&TLS13);
    std::thread::scope(|scope| {
        for (seed, end) in [(1, near), (2, far)] {
            let Halves {
                mut read,
                mut write,
                ..
            } = end;
            scope.spawn(move || {
                for part in 0..8 {
                    write.change_keys(true).expect("TLS 1.3");
                    let from = part * TOTAL / 8;
                    let bytes: Vec<u8> = (from..from + TOTAL / 8)
                        .map(|at| pattern(seed, at))
                        .collect();
                    write.write_all(&[IoSlice::new(&bytes)]).expect("write");
                    write.flush().expect("flush");
                }
                write.close().expect("close");
            });
            scope.spawn(move || check_pattern(&mut read, 3 - seed, TOTAL));
        }
    });
}

#[test]
fn a_tampered_record_is_an_error_that_stays_and_the_peer_is_told() {
    for version in [&TLS12, &TLS13] {
        let (mut near, mut far) = tls_pair(version);
        near.write
            .write_all(&[IoSlice::new(b"good")])
            .expect("write");
        // Behind the back of TLS: a record that nobody has encrypted.
        near.socket
            .send(&[23, 3, 3, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
            .expect("send");
        near.socket.send(&[0; 22]).expect("send");
        assert_eq!(read_exact(&mut far.read, 4), b"good");
        for _ in 0..2 {
            let error = far.read.fill().expect_err("not encrypted");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
        assert!(far.read.wants_flush(), "an alert waits");
        far.write.flush().expect("flush");
        assert!(!far.read.wants_flush());
        let error = near.read.fill().expect_err("the alert");
        assert!(error.to_string().contains("alert"), "{error}");
        let error = far.write.write_all(&[IoSlice::new(b"x")]);
        assert_eq!(error.expect_err("broken").kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn a_record_that_is_cut_off_is_no_good_end() {
    let (near, mut far) = tls_pair(&TLS13);
    near.socket.send(&[23, 3, 3, 0, 32, 1, 2]).expect("send");
    near.socket.shutdown(Shutdown::Write).expect("shutdown");
    for _ in 0..2 {
        let error = far.read.fill().expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    // The server writes at once; its bytes may share a segment with its tickets.
    for version in [&TLS12, &TLS13] {
        let (mut near, mut far) = tls_pair(version);
        far.write
            .write_all(&[IoSlice::new(b"first")])
            .expect("write");
        assert_eq!(read_exact(&mut near.read, 5), b"first");
    }
}

#[test]
fn a_quiet_connection_gives_its_buffers_back() {
    for (name, mut near, mut far) in pairs() {
        let bulk = vec![1; 1_000_000];
        std::thread::scope(|scope| {
            scope.spawn(|| far.write.write_all(&[IoSlice::new(&bulk)]).expect(name));
            read_exact(&mut near.read, bulk.len());
        });
        let layers = if name == "TLS in TLS" { 2 } else { 1 };
        assert!(near.read.memory() > 3 * tcp::SMALL, "{name}");
        assert!(near.read.memory() <= layers * 36 * 1024, "{name}");
        while near.read.memory() > 3 * tcp::SMALL {
            let soon = Deadline::after(Duration::from_millis(200));
            near.read.set_deadline(Some(soon));
            near.read.fill().expect_err("nothing comes");
        }
        near.read.set_deadline(None);
        far.write.write_all(&[IoSlice::new(b"on")]).expect(name);
        assert_eq!(read_exact(&mut near.read, 2), b"on");
    }
}
