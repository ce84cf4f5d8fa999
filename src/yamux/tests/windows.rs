//! Flow control, and windows that tune themselves.

use super::*;
use crate::yamux::{Datagram, MAX_PAYLOAD, MAX_WINDOW};

const MIB: usize = 1 << 20;

/// An agent whose windows may grow to the limit, behind a round trip of 10 ms.
fn tunable(budget: &Arc<Budget>) -> Ours {
    let mut config = Config::new(Role::Client);
    config.max_window = MAX_WINDOW;
    let mut ours = Ours::sharing(config, budget);
    ours.end.tick(ours.now).expect("alive");
    ours.written();
    ours.now += SECOND / 100;
    ours.peer(Header::ping(Flags::ACK, 0)).expect("allowed");
    ours
}

/// The peer sends `count` bytes, half a window each time, and all are read; what
/// windows we granted.
fn read_at_once(ours: &mut Ours, stream: &Handle, count: usize) -> u32 {
    let id = stream.borrow().id();
    let piece = vec![0; INITIAL_WINDOW as usize / 2];
    let mut granted = 0;
    let mut sent = 0;
    while sent < count {
        ours.peer_data(id, &piece).expect("in the window");
        sent += piece.len();
        ours.read_all(stream);
        granted += ours.written().iter().map(|header| header.len).sum::<u32>();
    }
    granted
}

#[test]
fn half_a_window_read_is_one_update() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, &full_window()[..131_071])
        .expect("allowed");
    ours.read_all(&stream);
    assert_eq!(ours.written(), []);
    ours.peer_data(2, b"!").expect("allowed");
    assert_eq!(ours.written(), [], "it isn't read");
    ours.read_all(&stream);
    assert_eq!(ours.written(), [update(2, 131_072)]);
}

#[test]
fn a_window_that_is_overrun_ends_the_session() {
    let mut ours = Ours::agent();
    ours.accepted(2);
    ours.peer_data(2, &full_window()).expect("a full window");
    let fatal = ours
        .peer(Header::data(2, 1))
        .expect_err("one byte too many");
    assert_eq!(
        fatal,
        Fatal::WindowOverrun {
            id: 2,
            len: 1,
            window: 0
        }
    );
    assert_eq!(fatal.go_away(), Some(1));
}

#[test]
fn a_window_that_is_announced_too_large_allocates_nothing() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    stream.borrow_mut().join_frames();
    ours.peer(Header::data(2, INITIAL_WINDOW)).expect("allowed");
    assert_eq!(stream.borrow().unread(), None);
    assert_eq!(ours.end.hub.session.common().budget().charged(), 0);
    let mut other = Ours::agent();
    other.accepted(2);
    other.peer(Header::data(2, u32::MAX)).expect_err("refused");
}

#[test]
fn a_send_window_that_overflows_ends_the_session() {
    let mut ours = Ours::agent();
    ours.accepted(2);
    let fatal = ours.peer(update(2, u32::MAX)).expect_err("overflow");
    assert_eq!(fatal, Fatal::WindowOverflow(2));
    assert_eq!(fatal.go_away(), Some(1));
}

#[test]
fn the_send_window_is_obeyed_to_the_byte() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    assert_eq!(stream.borrow().room(), Ok(MAX_PAYLOAD));
    ours.queue(&stream, &full_window()[1..]);
    ours.written();
    assert_eq!(stream.borrow().room(), Ok(1));
    assert!(stream.borrow_mut().queue(vec![0; 2], 2).is_err());
    ours.queue(&stream, b"!");
    ours.written();
    assert_eq!(stream.borrow().room(), Ok(0));
}

#[test]
fn no_window_is_granted_for_what_was_only_taken() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, &full_window()).expect("allowed");
    let mut taken = Vec::new();
    while let Ok(Input::Some(chunk)) = stream.borrow_mut().read() {
        taken.push(chunk);
    }
    assert_eq!(ours.written(), []);
    let now = ours.now;
    for chunk in taken {
        ours.end
            .with_stream(&stream, |stream| stream.give_back(chunk, now));
    }
    assert_eq!(ours.written(), [update(2, INITIAL_WINDOW)]);
}

#[test]
fn a_peer_that_has_finished_gets_no_more_window() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, &full_window()).expect("allowed");
    ours.peer_window(2, Flags::FIN, 0);
    assert_eq!(ours.read_all(&stream), full_window());
    assert_eq!(ours.written(), []);

    let stream = ours.accepted(4);
    ours.peer_data(4, &full_window()).expect("allowed");
    ours.read_all(&stream);
    ours.peer_window(4, Flags::FIN, 0);
    assert_eq!(ours.written(), [], "not even what was to be written before");
}

/// A target that answers 413 and reads no more: its answer must get through.
#[test]
fn input_that_nobody_wants_is_dropped_and_its_window_granted() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, &full_window()).expect("allowed");
    let now = ours.now;
    ours.end.with_stream(&stream, |stream| stream.discard(now));
    assert_eq!(ours.written(), [update(2, INITIAL_WINDOW)]);
    for _ in 0..10 {
        ours.peer_data(2, &full_window()).expect("in the window");
        assert_eq!(stream.borrow().unread(), None);
        let granted: u32 = ours.written().iter().map(|header| header.len).sum();
        assert_eq!(granted, INITIAL_WINDOW);
    }
    ours.queue(&stream, b"413");
    ours.finish(&stream);
    assert_eq!(ours.written(), [Header::data(2, 3), fin(2)]);
}

#[test]
fn what_nobody_reads_takes_nothing_of_the_memory() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut ours = tunable(&budget);
    let stream = ours.accepted(2);
    read_at_once(&mut ours, &stream, 4 * MIB);
    let window = stream.borrow().window();
    assert!(window > INITIAL_WINDOW && budget.charged() > 0);
    let now = ours.now;
    ours.end.with_stream(&stream, |stream| stream.discard(now));
    assert_eq!(budget.charged(), 0, "nothing of it will ever be kept");
    read_at_once(&mut ours, &stream, 64 * MIB);
    assert_eq!((stream.borrow().window(), budget.charged()), (window, 0));
}

#[test]
fn a_window_that_limits_the_peer_grows_to_the_negotiated_maximum() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut ours = tunable(&budget);
    let stream = ours.accepted(2);
    let granted = read_at_once(&mut ours, &stream, 64 * MIB);
    assert_eq!(stream.borrow().window(), MAX_WINDOW);
    assert!(
        granted as usize > (64 + 16 / 2 - 1) * MIB,
        "{granted} granted"
    );
    assert_eq!(
        budget.charged(),
        16 * MIB - INITIAL_WINDOW as usize,
        "it may all come"
    );
    ours.reset(&stream, Reset::AtOnce);
    assert_eq!(budget.charged(), 0);
}

#[test]
fn a_window_does_not_grow_for_a_slow_reader() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut ours = tunable(&budget);
    let stream = ours.accepted(2);
    for _ in 0..10 {
        ours.now += SECOND / 40;
        read_at_once(&mut ours, &stream, INITIAL_WINDOW as usize / 2);
    }
    assert_eq!(stream.borrow().window(), INITIAL_WINDOW);
    ours.now += SECOND / 60;
    read_at_once(&mut ours, &stream, INITIAL_WINDOW as usize / 2);
    assert_eq!(
        stream.borrow().window(),
        2 * INITIAL_WINDOW,
        "within two round trips"
    );
}

#[test]
fn without_a_round_trip_or_a_larger_maximum_windows_stay() {
    let mut config = Config::new(Role::Client);
    config.max_window = MAX_WINDOW;
    let mut unmeasured = Ours::with(config);
    let stream = unmeasured.accepted(2);
    read_at_once(&mut unmeasured, &stream, MIB);
    assert_eq!(stream.borrow().window(), INITIAL_WINDOW);
}

#[test]
fn near_the_cap_windows_shrink_and_the_initial_one_stays() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut ours = tunable(&budget);
    let large = ours.accepted(2);
    read_at_once(&mut ours, &large, 64 * MIB);
    assert_eq!(large.borrow().window(), MAX_WINDOW);
    // Others fill the memory: 256 KiB each is theirs without asking.
    for id in (4..).step_by(2).take(160) {
        ours.accepted(id);
        ours.peer_data(id, &full_window()).expect("allowed");
    }
    assert!(budget.is_near() && !budget.is_full());
    let granted = read_at_once(&mut ours, &large, 16 * MIB);
    assert_eq!(large.borrow().window(), MAX_WINDOW / 2);
    assert!(granted as usize <= 8 * MIB, "{granted} granted");
    assert!(!budget.is_near(), "what was taken back is free for others");
    for id in (1000..).step_by(2).take(64) {
        ours.accepted(id);
        ours.peer_data(id, &full_window()).expect("allowed");
    }
    assert!(budget.is_near());
    read_at_once(&mut ours, &large, 16 * MIB);
    assert_eq!(large.borrow().window(), INITIAL_WINDOW);
    let granted = read_at_once(&mut ours, &large, 4 * MIB);
    assert_eq!(granted as usize, 4 * MIB, "who reads is served at any time");
}

/// Issue 4, "it is done when", 3: 64 stalled targets, and the next runs.
#[test]
fn stalled_streams_with_large_windows_stay_under_the_cap() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut ours = tunable(&budget);
    let mut stalled = Vec::new();
    for id in (2..).step_by(2).take(64) {
        let stream = ours.accepted(id);
        let granted = read_at_once(&mut ours, &stream, 16 * MIB);
        stalled.push((id, granted as usize + INITIAL_WINDOW as usize - 16 * MIB));
    }
    // Nobody reads any more, and the peer fills every window it has.
    let zeros = vec![0; 16 * MIB];
    for (id, left) in stalled {
        ours.peer_data(id, &zeros[..left]).expect("in the window");
    }
    assert!(budget.charged() <= 64 << 20, "{} bytes", budget.charged());
    let stream = ours.accepted(1000);
    let granted = read_at_once(&mut ours, &stream, 16 * MIB);
    assert_eq!(granted as usize, 16 * MIB);
}

#[test]
fn datagrams_keep_their_ends() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let mut out = Vec::new();
    let now = ours.now;
    ours.peer_data(2, b"header+first").expect("allowed");
    stream.borrow_mut().skip(7, now);
    ours.peer_data(2, b"second").expect("allowed");
    ours.peer_data(2, &vec![1; 70_000]).expect("allowed");
    ours.peer_data(2, b"").expect("tolerated");
    ours.peer_data(2, b"last").expect("allowed");
    ours.peer_window(2, Flags::FIN, 0);
    let mut read = || {
        out.clear();
        let read = stream.borrow_mut().read_datagram(65_507, &mut out, now);
        (read, out.clone())
    };
    assert_eq!(
        read(),
        (Ok(Input::Some(Datagram::Whole(5))), b"first".to_vec())
    );
    assert_eq!(
        read(),
        (Ok(Input::Some(Datagram::Whole(6))), b"second".to_vec())
    );
    assert_eq!(
        read(),
        (Ok(Input::Some(Datagram::TooLong(70_000))), Vec::new())
    );
    assert_eq!(
        read(),
        (Ok(Input::Some(Datagram::Whole(4))), b"last".to_vec())
    );
    assert_eq!(read(), (Ok(Input::End), Vec::new()));
}

#[test]
fn a_large_datagram_is_one_frame_and_one_turn() {
    let mut ours = Ours::agent();
    let udp = ours.accepted(2);
    let other = ours.accepted(4);
    ours.queue(&udp, &vec![0; 65_507]);
    ours.queue(&udp, &[0; 100]);
    ours.queue(&other, b"not behind both");
    assert_eq!(
        ours.written(),
        [
            Header::data(2, 65_507),
            Header::data(4, 15),
            Header::data(2, 100)
        ]
    );
}
