//! What a peer can make us hold.

use super::*;
use crate::yamux::{
    MAX_PAYLOAD, MAX_REPLIES, MOST_SLOTS, Reset, SCARCE, SLOTS, SPARE_SLOTS, Unread, victim,
};

#[test]
fn a_ping_flood_without_a_reader_ends_the_session() {
    let mut ours = Ours::agent();
    for value in 0..MAX_REPLIES as u32 {
        ours.peer(Header::ping(Flags::SYN, value)).expect("counted");
    }
    let fatal = ours.peer(Header::ping(Flags::SYN, 0)).expect_err("a flood");
    assert_eq!(fatal, Fatal::Flood);
    ours.end.end(Some(fatal));
    assert_eq!(ours.written(), []);
}

#[test]
fn pings_that_are_answered_in_time_are_no_flood() {
    let mut ours = Ours::agent();
    for value in 0..3 * MAX_REPLIES as u32 {
        ours.peer(Header::ping(Flags::SYN, value))
            .expect("answered");
        assert_eq!(ours.written(), [Header::ping(Flags::ACK, value)]);
    }
}

#[test]
fn a_stream_flood_is_refused_and_then_ends_the_session() {
    let mut config = Config::new(Role::Client);
    config.max_streams = 10;
    let mut ours = Ours::with(config);
    let ids = |from: u32| (from..).map(|n| 2 * n);
    for id in ids(1).take(10) {
        ours.peer(syn(id)).expect("accepted");
    }
    for id in ids(11).take(MAX_REPLIES) {
        ours.peer(syn(id)).expect("refused");
    }
    assert_eq!(ours.streams(), 10);
    assert_eq!(ours.peer(syn(2_000_000)), Err(Fatal::Flood));
    let written = ours.written();
    assert_eq!(written.len(), 10 + MAX_REPLIES, "each SYN has its answer");
    let refused: Vec<_> = ids(11).take(MAX_REPLIES).map(rst).collect();
    assert_eq!(written[..MAX_REPLIES], refused);
}

#[test]
fn a_stream_that_the_host_cannot_have_is_refused_and_its_payload_dropped() {
    let mut ours = Ours::agent();
    ours.end.hub.refuse = true;
    let mut frame = Header::data(2, 5);
    frame.flags = Flags::SYN;
    let now = ours.now;
    ours.end
        .receive(&encode(&[(frame, b"hello".to_vec())]), now)
        .expect("refused");
    assert_eq!(ours.written(), [rst(2)]);
    assert_eq!(ours.end.hub.session.common().budget().charged(), 0);
}

#[test]
fn pongs_and_refusals_are_counted_together() {
    let mut ours = Ours::agent();
    ours.end.hub.refuse = true;
    for n in 0..MAX_REPLIES as u32 / 2 {
        ours.peer(Header::ping(Flags::SYN, n)).expect("counted");
        ours.peer(syn(2 + 2 * n)).expect("counted");
    }
    assert_eq!(ours.peer(Header::ping(Flags::SYN, 0)), Err(Fatal::Flood));
}

#[test]
fn window_updates_fins_and_resets_of_a_stream_need_no_queue() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let quarter = full_window().len() / 4;
    for _ in 0..4 {
        ours.peer_data(2, &full_window()[..quarter])
            .expect("allowed");
        ours.read_all(&stream);
    }
    ours.finish(&stream);
    // Read at four times, said at once.
    assert_eq!(ours.written(), [update(2, INITIAL_WINDOW), fin(2)]);
}

#[test]
fn a_peer_that_never_reads_stops_its_own_streams_and_nothing_else() {
    let mut ours = Ours::agent();
    let stuck = ours.accepted(2);
    let half = vec![0; INITIAL_WINDOW as usize / 2];
    for _ in 0..2 {
        ours.queue(&stuck, &half);
    }
    assert_eq!(ours.written().len(), 2);
    assert_eq!(stuck.borrow().room(), Ok(0));
    assert!(stuck.borrow_mut().queue(vec![0], 1).is_err());
    let other = ours.accepted(4);
    ours.queue(&other, b"goes on");
    assert_eq!(ours.written(), [Header::data(4, 7)]);
    ours.peer_window(2, Flags::NONE, 1);
    assert_eq!(stuck.borrow().room(), Ok(1));
}

/// Frames that it queued until there was no room.
fn fill(ours: &mut Ours, stream: &Handle) -> usize {
    let mut count = 0;
    while stream.borrow().room() != Ok(0) {
        ours.queue(stream, b"!");
        count += 1;
    }
    assert!(stream.borrow_mut().queue(b"!".to_vec(), 1).is_err());
    count
}

#[test]
fn a_stream_waits_with_two_frames_and_those_of_the_spare_places_that_others_left() {
    let mut ours = Ours::agent();
    let [a, b, c] = [2, 4, 6].map(|id| ours.accepted(id));
    assert_eq!(fill(&mut ours, &a), MOST_SLOTS);
    assert_eq!(fill(&mut ours, &b), SLOTS);
    // What is given up, however, is there for all.
    a.borrow_mut().reset(Reset::AtOnce);
    assert_eq!(fill(&mut ours, &b), SPARE_SLOTS);
    assert_eq!(fill(&mut ours, &c), SLOTS);
    ours.written();
    assert_eq!(fill(&mut ours, &c), MOST_SLOTS);
}

/// One that is woken for each frame would sleep as often as there are frames.
#[test]
fn who_waits_is_woken_when_half_of_his_frames_are_written() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let frame = vec![0; MAX_PAYLOAD];
    while stream.borrow().room() == Ok(MAX_PAYLOAD) {
        ours.queue(&stream, &frame);
    }
    let mut woken = Vec::new();
    let _ = stream.borrow_mut().wakes();
    while stream.borrow().queued() > 0 {
        let mut stream = stream.borrow_mut();
        let mut frames = 0;
        stream.turn(ours.now, |_, _| frames += 1);
        woken.push((frames, stream.wakes().sender));
    }
    let half: usize = woken
        .iter()
        .take_while(|(_, woken)| !woken)
        .map(|(frames, _)| frames)
        .sum();
    assert!((1..=MOST_SLOTS / 2).contains(&half), "{woken:?}");
    assert!(woken.last().is_some_and(|(_, woken)| *woken));
}

#[test]
fn a_stream_that_is_refilled_in_its_turn_does_not_overtake_a_silent_one() {
    let mut ours = Ours::agent();
    let bulk = ours.accepted(2);
    let echo = ours.accepted(4);
    let frame = vec![7; 32 * 1024];
    ours.queue(&bulk, &frame);
    let now = ours.now;
    assert!(ours.end.next_frame(now).is_some());
    ours.queue(&bulk, &frame);
    ours.queue(&echo, b"echo");
    assert_eq!(
        ours.written(),
        [Header::data(4, 4), Header::data(2, 32 * 1024)]
    );
}

#[test]
fn empty_frames_are_never_sent_and_tolerated() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    assert!(stream.borrow_mut().queue(Vec::new(), 0).is_err());
    ours.peer_data(2, b"").expect("tolerated");
    assert_eq!(ours.read(&stream), Ok(Input::Wait));
    assert_eq!(ours.written(), []);
}

#[test]
fn memory_is_taken_when_bytes_arrive_and_given_back() {
    let budget = Arc::new(Budget::new(64 << 20));
    let mut ours = Ours::sharing(Config::new(Role::Client), &budget);
    let stream = ours.accepted(2);
    assert_eq!(budget.charged(), 0, "an idle stream takes nothing");
    ours.peer_data(2, &full_window()).expect("allowed");
    assert!(budget.charged() >= INITIAL_WINDOW as usize);
    ours.queue(&stream, b"queued");
    ours.read_all(&stream);
    assert_eq!(budget.charged(), 6);
    ours.written();
    assert_eq!(budget.charged(), 0);
    ours.peer_data(2, b"hello").expect("allowed");
    drop(stream);
    drop(ours);
    assert_eq!(budget.charged(), 0);
}

#[test]
fn the_victim_has_most_unread_bytes_of_those_where_nobody_reads() {
    let now = Instant::now() + 100 * SECOND;
    let unread = |bytes, seconds: u32| {
        let since = now.checked_sub(seconds * SECOND).expect("after the boot");
        Some(Unread { bytes, since })
    };
    let streams = [
        ("idle", None),
        ("small", unread(10, 60)),
        ("victim", unread(1000, 10)),
        ("busy", unread(50_000, 9)),
    ];
    assert_eq!(victim(streams, now), Some("victim"));
    assert_eq!(victim([streams[0], streams[3]], now), None);
}

#[test]
fn unread_bytes_have_an_age() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    assert_eq!(stream.borrow().unread(), None);
    let unread = |bytes, since| Some(Unread { bytes, since });
    ours.now += SECOND;
    let arrived = ours.now;
    ours.peer_data(2, b"hello").expect("allowed");
    ours.now += SECOND;
    ours.peer_data(2, b"hello").expect("allowed");
    assert_eq!(stream.borrow().unread(), unread(10, arrived));
    // Taken isn't read: who took it may hang in a write to its target.
    let chunk = match stream.borrow_mut().read() {
        Ok(Input::Some(chunk)) => chunk,
        other => panic!("{other:?}"),
    };
    assert_eq!(stream.borrow().unread(), unread(10, arrived));
    ours.peer_data(2, b"!").expect("allowed");
    stream.borrow_mut().give_back(chunk, ours.now);
    assert_eq!(stream.borrow().unread(), unread(1, ours.now));
}

/// decisions.md §6.6: one cap for windows and queues.
#[test]
fn while_memory_is_full_streams_queue_little() {
    let budget = Arc::new(Budget::new(2 * INITIAL_WINDOW as usize));
    let mut ours = Ours::sharing(Config::new(Role::Client), &budget);
    let streams: Vec<_> = (0..64).map(|n| ours.accepted(2 + 2 * n)).collect();
    // Nobody takes what we write: everybody queues what he may.
    let room = |stream: &Handle| stream.borrow().room().expect("open");
    let fill = |ours: &mut Ours| {
        for stream in &streams {
            while room(stream) > 0 {
                ours.queue(stream, &vec![0; room(stream)]);
            }
        }
    };
    fill(&mut ours);
    let beyond = budget.charged() - 2 * INITIAL_WINDOW as usize;
    assert!(
        beyond <= MAX_PAYLOAD + 64 * SCARCE,
        "{beyond} bytes too many"
    );
    let last = &streams[63];
    assert_eq!(last.borrow().queued(), SCARCE);
    let datagram = last.borrow_mut().queue_datagram(vec![0; 10], 10);
    assert!(datagram.is_err(), "one waits already");
    // Who waits is woken when his own frame is written, and goes on.
    ours.end.hub.woken.clear();
    ours.written();
    assert!((0..64).all(|n| ours.end.hub.woken[&(2 + 2 * n)][1]));
    assert_eq!(room(last), MAX_PAYLOAD);
    // What was promised holds: memory is full by the time he comes with it.
    fill(&mut ours);
    ours.written();
    let promised = room(last);
    for id in [2, 4] {
        ours.peer_data(id, &full_window()).expect("in the window");
    }
    assert_eq!(room(last), SCARCE);
    ours.queue(last, &vec![0; promised]);
    assert_eq!(room(last), 0);
}
