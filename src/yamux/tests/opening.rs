//! SYN and ACK.

use super::*;
use crate::yamux::OpenError;

#[test]
fn every_syn_is_answered_once_by_an_ack_alone() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    assert_eq!(ours.written(), []);
    ours.peer_data(2, b"hello").expect("allowed");
    assert_eq!(ours.read(&stream), Ok(Input::Some(b"hello".to_vec())));
    assert_eq!(ours.written(), []);
}

#[test]
fn the_ack_is_written_before_any_other_frame_of_its_stream() {
    let mut ours = Ours::agent();
    ours.peer_window(2, Flags::SYN, 0);
    ours.peer_data(2, &full_window()).expect("allowed");
    let stream = ours.end.hub.accepted.pop_back().expect("accepted");
    ours.queue(&stream, b"answer");
    ours.read_all(&stream);
    ours.finish(&stream);
    assert_eq!(
        ours.written(),
        [
            ack(2),
            update(2, INITIAL_WINDOW),
            Header::data(2, 6),
            fin(2)
        ]
    );
}

#[test]
fn the_ack_survives_a_reset_by_either_end() {
    let mut ours = Ours::agent();
    ours.peer_window(2, Flags::SYN, 0);
    let stream = ours.end.hub.accepted.pop_back().expect("accepted");
    ours.queue(&stream, b"purged");
    ours.reset(&stream, Reset::AtOnce);
    assert_eq!(ours.streams(), 1, "until it is answered");
    assert_eq!(ours.written(), [ack(2), rst(2)]);

    ours.peer_window(4, Flags::SYN | Flags::RST, 0);
    ours.peer_window(6, Flags::SYN, 0);
    ours.peer_window(6, Flags::RST, 0);
    assert_eq!(
        ours.streams(),
        2,
        "a flood of such is limited like any other"
    );
    assert_eq!(ours.written(), [ack(4), ack(6)]);
    assert_eq!(ours.streams(), 0);
}

#[test]
fn a_stream_that_had_a_fin_before_its_ack_is_acknowledged_too() {
    let mut ours = Ours::agent();
    ours.peer_window(2, Flags::SYN | Flags::FIN, 0);
    let stream = ours.end.hub.accepted.pop_back().expect("accepted");
    assert_eq!(ours.written(), [ack(2)]);
    assert_eq!(ours.read(&stream), Ok(Input::End));
}

#[test]
fn a_syn_may_carry_window_or_data() {
    let mut ours = Ours::agent();
    ours.peer_window(2, Flags::SYN, 1000);
    let bytes = full_window();
    let mut frame = Header::data(4, INITIAL_WINDOW);
    frame.flags = Flags::SYN;
    let now = ours.now;
    ours.end
        .receive(&encode(&[(frame, bytes.clone())]), now)
        .expect("a full window");
    let second = ours.end.hub.accepted.pop_back().expect("accepted");
    assert_eq!(ours.read_all(&second), bytes);
    let first = ours.end.hub.accepted.pop_back().expect("accepted");
    let too_much = vec![0; INITIAL_WINDOW as usize + 1001];
    let len = too_much.len();
    let full = first.borrow_mut().queue(too_much, len);
    assert!(full.is_err());
    ours.queue(&first, &vec![0; INITIAL_WINDOW as usize + 1000]);
}

/// CVE-2026-32314 of another implementation: a panic, or an allocation.
#[test]
fn data_with_syn_beyond_the_initial_window_ends_the_session() {
    for len in [INITIAL_WINDOW + 1, u32::MAX] {
        let mut ours = Ours::agent();
        let mut frame = Header::data(2, len);
        frame.flags = Flags::SYN;
        let fatal = ours.peer(frame).expect_err("refused");
        assert_eq!(fatal.go_away(), Some(1));
        assert_eq!(ours.streams(), 0);
        assert!(ours.end.hub.accepted.is_empty());
    }
}

#[test]
fn a_duplicate_syn_ends_the_session() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let fatal = ours.peer(syn(2)).expect_err("refused");
    assert_eq!(fatal, Fatal::DuplicateSyn(2));
    ours.end.end(Some(fatal));
    assert_eq!(ours.written(), [Header::go_away(1)]);
    assert_eq!(ours.read(&stream), Err(Cut::SessionLost));
}

#[test]
fn stream_zero_ends_the_session() {
    for frame in [syn(0), Header::data(0, 5), update(0, 1)] {
        let mut ours = Ours::agent();
        assert_eq!(ours.peer(frame), Err(Fatal::StreamZero));
        assert_eq!(Fatal::StreamZero.go_away(), Some(1));
    }
}

#[test]
fn ids_of_the_wrong_half_are_accepted() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(5);
    assert!(Role::Client.opens(stream.borrow().id()));
    let mut plane = Ours::plane();
    plane.accepted(2);
    let next = plane.opened();
    assert_eq!(next.borrow().id(), 4, "the taken one is passed over");
    assert!(Role::Server.opens(4));
}

#[test]
fn the_opener_may_send_before_it_is_accepted() {
    let mut ours = Ours::plane();
    let stream = ours.end.open(ours.now).expect("opens");
    ours.queue(&stream, b"early");
    assert_eq!(ours.written(), [syn(2), Header::data(2, 5)]);
    ours.peer_window(2, Flags::ACK, 786_432);
    let larger = vec![0; INITIAL_WINDOW as usize - 5 + 786_432];
    ours.queue(&stream, &larger);
    ours.peer_window(2, Flags::ACK, 0);
    assert_eq!(ours.streams(), 1, "a second ACK is tolerated");
}

#[test]
fn a_stream_reset_before_its_syn_was_written_says_nothing() {
    let mut ours = Ours::plane();
    let stream = ours.end.open(ours.now).expect("opens");
    ours.queue(&stream, b"never");
    ours.reset(&stream, Reset::AfterData);
    assert_eq!(ours.written(), []);
    assert_eq!(ours.streams(), 0);
}

#[test]
fn only_so_many_syns_wait_for_their_answer() {
    let mut ours = Ours::plane();
    let first = ours.end.open(ours.now).expect("opens");
    for _ in 1..256 {
        ours.end.open(ours.now).expect("opens");
    }
    let refused = ours.end.open(ours.now).err();
    assert_eq!(refused, Some(OpenError::Unanswered));
    ours.written();
    // ACK, FIN, RST, and a reset of ours: each is an answer, and counts once.
    ours.peer_window(4, Flags::ACK, 0);
    ours.peer_window(4, Flags::FIN, 0);
    ours.peer_window(4, Flags::RST, 0);
    ours.peer_window(6, Flags::FIN, 0);
    ours.peer_window(8, Flags::RST, 0);
    ours.reset(&first, Reset::AtOnce);
    ours.written();
    for _ in 0..4 {
        ours.end.open(ours.now).expect("opens");
    }
    assert_eq!(ours.end.open(ours.now).err(), Some(OpenError::Unanswered));
}

#[test]
fn a_syn_without_an_answer_ends_the_session_in_time() {
    let mut ours = Ours::plane();
    ours.opened();
    let stream = ours.end.open(ours.now).expect("opens");
    let start = ours.now;
    let tick = |after: u32| stream.borrow_mut().tick(start + after * SECOND);
    assert_eq!(tick(100), Ok(()), "it isn't even written");
    ours.written();
    assert_eq!(tick(74), Ok(()));
    assert_eq!(tick(75), Err(Fatal::OpenTimeout(4)));
    ours.peer_window(4, Flags::ACK, 0);
    assert_eq!(tick(75), Ok(()));
}

#[test]
fn a_stream_that_is_accepted_while_the_session_ends_is_lost_like_the_others() {
    let mut ours = Ours::agent();
    ours.end.hub.ends_meanwhile = true;
    ours.peer_window(2, Flags::SYN, 0);
    let stream = ours.end.hub.accepted.pop_back().expect("accepted");
    assert_eq!(stream.borrow().cut(), Some(Cut::SessionLost));
    assert_eq!(ours.streams(), 0);
    assert_eq!(ours.written(), []);
}

/// A peer that opens an id of ours in the very moment in which we do: whoever was first
/// must stay in the table, or nobody would tell him of his end.
#[test]
fn a_stream_is_not_pushed_out_by_one_of_the_same_id() {
    let mut ours = Ours::plane();
    ours.end.hub.opens_meanwhile = true;
    assert_eq!(ours.peer(syn(2)), Err(Fatal::DuplicateSyn(2)));
    let [opened] = &ours.end.hub.opened[..] else {
        panic!("one was opened");
    };
    let opened = opened.clone();
    assert_eq!(opened.borrow().id(), 2);
    ours.end.end(Some(Fatal::DuplicateSyn(2)));
    assert_eq!(opened.borrow().cut(), Some(Cut::SessionLost));
}
