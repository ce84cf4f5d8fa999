//! FIN and RST.

use super::*;
use crate::yamux::QueueError;

#[test]
fn both_halves_close_by_themselves() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.queue(&stream, b"last words");
    ours.finish(&stream);
    ours.finish(&stream);
    assert_eq!(ours.written(), [Header::data(2, 10), fin(2)]);
    assert_eq!(stream.borrow().room(), Err(QueueError::Finished));
    // The other direction goes on.
    ours.peer_data(2, b"still here").expect("allowed");
    assert_eq!(ours.read(&stream), Ok(Input::Some(b"still here".to_vec())));
    assert_eq!(ours.read(&stream), Ok(Input::Wait));
    assert_eq!(ours.streams(), 1);
    ours.peer_window(2, Flags::FIN, 0);
    assert_eq!(ours.read(&stream), Ok(Input::End));
    assert_eq!(ours.streams(), 0);
    assert_eq!(ours.written(), []);
}

#[test]
fn the_peers_fin_leaves_our_half_open() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, b"question").expect("allowed");
    ours.peer_window(2, Flags::FIN, 0);
    assert!(stream.borrow().peer_finished());
    assert_eq!(ours.read(&stream), Ok(Input::Some(b"question".to_vec())));
    assert_eq!(ours.read(&stream), Ok(Input::End));
    ours.queue(&stream, b"answer");
    assert_eq!(ours.written(), [Header::data(2, 6)]);
    ours.peer_window(2, Flags::NONE, 1000);
    ours.finish(&stream);
    assert_eq!(ours.written(), [fin(2)]);
    assert_eq!(ours.streams(), 0);
}

#[test]
fn what_arrived_before_both_fins_can_still_be_read() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.finish(&stream);
    ours.written();
    ours.peer_data(2, b"unread").expect("allowed");
    ours.peer_window(2, Flags::FIN, 0);
    assert_eq!(ours.streams(), 0);
    ours.end.end(None);
    ours.end.with_stream(&stream, Stream::lose);
    ours.end
        .with_stream(&stream, |stream| stream.tick(Instant::now() + 900 * SECOND))
        .expect("over");
    assert_eq!(ours.read(&stream), Ok(Input::Some(b"unread".to_vec())));
    assert_eq!(ours.read(&stream), Ok(Input::End));
}

/// tunnels.md T17: FIN on a frame with payload must not overtake the payload.
#[test]
fn a_fin_on_a_data_frame_comes_after_its_payload() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let mut frame = Header::data(2, 5);
    frame.flags = Flags::FIN;
    ours.peer(frame).expect("allowed");
    assert_eq!(
        ours.read(&stream),
        Ok(Input::Wait),
        "the payload isn't here"
    );
    let now = ours.now;
    ours.end.receive(b"he", now).expect("payload");
    assert_eq!(ours.read(&stream), Ok(Input::Some(b"he".to_vec())));
    assert_eq!(ours.read(&stream), Ok(Input::Wait));
    ours.end.receive(b"llo", now).expect("payload");
    assert_eq!(ours.read(&stream), Ok(Input::Some(b"llo".to_vec())));
    assert_eq!(ours.read(&stream), Ok(Input::End));
}

/// Found by fuzzing: forgotten at the second FIN, nobody told it that its payload
/// would never come.
#[test]
fn a_session_that_ends_inside_the_last_payload_cuts_its_stream() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.finish(&stream);
    ours.written();
    let mut frame = Header::data(2, 5);
    frame.flags = Flags::FIN;
    ours.peer(frame).expect("allowed");
    assert_eq!(ours.streams(), 1);
    ours.end.end(None);
    assert_eq!(ours.read(&stream), Err(Cut::SessionLost));
}

#[test]
fn a_fin_wakes_who_reads_also_behind_payload_that_is_dropped() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.end
        .with_stream(&stream, |stream| stream.discard(Instant::now()));
    let mut frame = Header::data(2, 2);
    frame.flags = Flags::FIN;
    let header = frame.encode();
    let mut stream = stream.borrow_mut();
    assert_eq!(
        stream.receive(&Header::decode(&header).expect("valid")),
        Ok(true)
    );
    assert!(stream.wakes().reader);
    stream.receive_data(b"x", ours.now);
    assert!(!stream.wakes().reader);
    stream.receive_data(b"x", ours.now);
    assert!(stream.wakes().reader);
    assert_eq!(stream.peek(), Ok(Input::End));
}

#[test]
fn data_behind_a_fin_is_dropped_and_stays_in_the_window() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_window(2, Flags::FIN, 0);
    ours.peer_data(2, b"too late").expect("tolerated");
    assert_eq!(ours.read(&stream), Ok(Input::End));
    let overrun = ours.peer_data(2, &full_window());
    assert!(matches!(overrun, Err(Fatal::WindowOverrun { id: 2, .. })));
}

#[test]
fn a_second_fin_ends_the_session() {
    let mut ours = Ours::agent();
    ours.accepted(2);
    ours.peer_window(2, Flags::FIN, 0);
    assert_eq!(ours.peer(fin(2)), Err(Fatal::UnexpectedFin(2)));
    assert_eq!(Fatal::UnexpectedFin(2).go_away(), Some(1));
}

#[test]
fn a_reset_by_the_peer_loses_what_is_buffered_and_nothing_more_is_said() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, &full_window()).expect("allowed");
    ours.queue(&stream, b"queued");
    ours.peer_window(2, Flags::RST, 0);
    assert_eq!(ours.read(&stream), Err(Cut::ByPeer));
    assert_eq!(stream.borrow().room(), Err(QueueError::Cut(Cut::ByPeer)));
    let (error, payload) = stream
        .borrow_mut()
        .queue(b"more".to_vec(), 4)
        .expect_err("over");
    assert_eq!(
        (error, &payload[..]),
        (QueueError::Cut(Cut::ByPeer), &b"more"[..])
    );
    ours.finish(&stream);
    ours.reset(&stream, Reset::AfterData);
    assert_eq!(
        ours.read(&stream),
        Err(Cut::ByPeer),
        "the first reason stays"
    );
    assert_eq!(ours.written(), []);
    assert_eq!(ours.streams(), 0);
    assert_eq!(ours.end.hub.session.common().budget().charged(), 0);
}

#[test]
fn every_flag_is_honoured_on_data_frames_too() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let mut frame = Header::data(2, 3);
    frame.flags = Flags::RST;
    let now = ours.now;
    ours.end
        .receive(&encode(&[(frame, b"abc".to_vec())]), now)
        .expect("allowed");
    assert_eq!(ours.read(&stream), Err(Cut::ByPeer));
    let mut plane = Ours::plane();
    let stream = plane.end.open(now).expect("opens");
    plane.written();
    let mut frame = Header::data(2, 3);
    frame.flags = Flags::ACK | Flags::FIN;
    plane
        .end
        .receive(&encode(&[(frame, b"abc".to_vec())]), now)
        .expect("allowed");
    plane.end.tick(now + 90 * SECOND).expect("it was answered");
    assert_eq!(plane.read_all(&stream), b"abc");
    assert_eq!(plane.read(&stream), Ok(Input::End));
}

#[test]
fn a_reset_of_ours_takes_the_place_of_the_data_or_follows_it() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.queue(&stream, b"answer");
    ours.queue(&stream, b"rest");
    ours.reset(&stream, Reset::AfterData);
    assert_eq!(ours.read(&stream), Err(Cut::ByUs));
    assert_eq!(
        ours.written(),
        [Header::data(2, 6), Header::data(2, 4), rst(2)]
    );
    assert_eq!(ours.streams(), 0);

    let stream = ours.accepted(4);
    ours.queue(&stream, b"answer");
    ours.reset(&stream, Reset::AtOnce);
    assert_eq!(ours.written(), [rst(4)]);

    let stream = ours.accepted(6);
    ours.queue(&stream, b"answer");
    ours.reset(&stream, Reset::AfterData);
    ours.reset(&stream, Reset::AtOnce);
    assert_eq!(
        ours.written(),
        [rst(6)],
        "the second thought is the harder one"
    );
}

#[test]
fn a_reset_after_both_fins_is_not_said() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.peer_data(2, b"unread").expect("allowed");
    ours.peer_window(2, Flags::FIN, 0);
    ours.finish(&stream);
    assert_eq!(ours.written(), [fin(2)]);
    ours.reset(&stream, Reset::AtOnce);
    assert_eq!(ours.written(), []);
    assert_eq!(ours.read(&stream), Err(Cut::ByUs));
}

#[test]
fn a_fin_that_waits_is_replaced_by_a_reset_and_none_follows() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.queue(&stream, b"answer");
    ours.finish(&stream);
    ours.reset(&stream, Reset::AtOnce);
    ours.finish(&stream);
    assert_eq!(ours.written(), [rst(2)]);
}

#[test]
fn what_the_peer_sends_before_it_sees_our_reset_is_dropped() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.reset(&stream, Reset::AtOnce);
    // Not written yet, so the stream is still known.
    ours.peer_data(2, b"under way").expect("tolerated");
    ours.peer_window(2, Flags::NONE, 5);
    ours.peer_window(2, Flags::FIN, 0);
    ours.peer_window(2, Flags::FIN, 0);
    assert_eq!(ours.written(), [rst(2)]);
    ours.peer_data(2, b"under way").expect("tolerated");
    ours.peer_window(2, Flags::FIN, 0);
    ours.peer_window(2, Flags::RST, 0);
    assert_eq!(ours.end.hub.session.ignored(), 3);

    // When it resets at the same time, ours isn't needed.
    let stream = ours.accepted(4);
    ours.queue(&stream, b"queued");
    ours.reset(&stream, Reset::AfterData);
    ours.peer_window(4, Flags::RST, 0);
    assert_eq!(ours.written(), []);
    assert_eq!(ours.read(&stream), Err(Cut::ByUs));
    assert_eq!(ours.streams(), 0);
}

#[test]
fn a_peer_that_never_answers_our_fin_is_reset() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.finish(&stream);
    ours.end
        .tick(ours.now + 600 * SECOND)
        .expect("no FIN was written");
    ours.now += SECOND;
    assert_eq!(ours.written()[1..], [fin(2)]);
    ours.end
        .receive(&Header::ping(Flags::ACK, 0).encode(), ours.now)
        .expect("a pong");
    let start = ours.now;
    ours.end.tick(start + 29 * SECOND).expect("not yet");
    for second in [299, 300] {
        let now = start + second * SECOND;
        ours.now = now;
        ours.end
            .with_stream(&stream, |stream| stream.tick(now))
            .expect("no error");
        let expected: &[Header] = if second == 300 { &[rst(2)] } else { &[] };
        assert_eq!(ours.written(), expected);
    }
    assert_eq!(ours.read(&stream), Err(Cut::ByUs));
    assert_eq!(ours.streams(), 0);
}

/// tunnels.md T9: what died must not look complete.
#[test]
fn the_end_of_a_session_is_an_error_for_its_streams() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    let finished = ours.accepted(4);
    ours.peer_data(2, b"half").expect("allowed");
    ours.peer_data(4, b"whole").expect("allowed");
    ours.peer_window(4, Flags::FIN, 0);
    ours.end.end(None);
    assert_eq!(ours.read(&stream), Err(Cut::SessionLost));
    assert_eq!(
        ours.read(&finished),
        Err(Cut::SessionLost),
        "our half was open"
    );
    assert_eq!(
        stream.borrow().room(),
        Err(QueueError::Cut(Cut::SessionLost))
    );
    assert_eq!(
        ours.written(),
        [],
        "and nothing is said to a peer that is gone"
    );
}
