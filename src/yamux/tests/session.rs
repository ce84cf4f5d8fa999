//! Pings, Go Away, and what ends a session.

use super::*;
use crate::yamux::OpenError;

#[test]
fn pings_are_answered_before_everything_else() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.queue(&stream, b"bulk");
    ours.peer(Header::ping(Flags::SYN, 7)).expect("allowed");
    assert!(ours.end.hub.session.has_frames());
    assert_eq!(
        ours.written(),
        [Header::ping(Flags::ACK, 7), Header::data(2, 4)]
    );
    assert!(!ours.end.hub.session.has_frames());
}

#[test]
fn an_answer_to_nobody_is_ignored() {
    let mut ours = Ours::agent();
    for flags in [Flags::NONE, Flags::ACK] {
        ours.peer(Header::ping(flags, 99)).expect("tolerated");
    }
    assert_eq!(ours.written(), []);
}

#[test]
fn our_pings_measure_the_round_trip() {
    let mut ours = Ours::agent();
    ours.end.tick(ours.now).expect("alive");
    assert_eq!(ours.written(), [Header::ping(Flags::SYN, 0)]);
    assert_eq!(ours.end.hub.session.common().round_trip(), None);
    ours.now += SECOND / 100;
    ours.peer(Header::ping(Flags::ACK, 0)).expect("allowed");
    let round_trip = ours.end.hub.session.common().round_trip();
    assert_eq!(round_trip, Some(SECOND / 100));
}

#[test]
fn a_peer_that_goes_away_takes_no_new_streams() {
    let mut ours = Ours::plane();
    let stream = ours.opened();
    ours.peer(Header::go_away(0)).expect("allowed");
    assert!(ours.end.hub.session.peer_is_leaving());
    assert_eq!(ours.end.open(ours.now).err(), Some(OpenError::PeerLeaving));
    ours.queue(&stream, b"goes on");
    assert_eq!(ours.written(), [Header::data(2, 7)]);
}

#[test]
fn a_peer_that_goes_away_with_an_error_ends_the_session() {
    for code in [1, 2, 77] {
        let mut ours = Ours::agent();
        let fatal = ours.peer(Header::go_away(code)).expect_err("over");
        assert_eq!(fatal, Fatal::PeerGoAway(code));
        ours.end.end(Some(fatal));
        assert_eq!(ours.written(), []);
    }
}

#[test]
fn after_our_go_away_streams_are_refused_and_those_that_live_go_on() {
    let mut ours = Ours::plane();
    let stream = ours.accepted(1);
    ours.end.hub.session.leave();
    ours.end.hub.session.leave();
    ours.peer(syn(3)).expect("no mistake");
    ours.queue(&stream, b"goes on");
    assert_eq!(
        ours.written(),
        [Header::go_away(0), rst(3), Header::data(1, 7)]
    );
    assert_eq!(ours.end.open(ours.now).err(), Some(OpenError::Leaving));
    ours.peer_data(3, b"not seen yet").expect("tolerated");
}

#[test]
fn nothing_follows_the_go_away_that_ends_a_session() {
    let mut ours = Ours::agent();
    let stream = ours.accepted(2);
    ours.queue(&stream, b"bulk");
    ours.peer(Header::ping(Flags::SYN, 1)).expect("allowed");
    let fatal = ours.peer(syn(2)).expect_err("over");
    ours.end.end(Some(fatal));
    ours.end.end(None);
    ours.end.hub.session.leave();
    assert_eq!(ours.written(), [Header::go_away(1)]);
    assert_eq!(ours.end.open(ours.now).err(), Some(OpenError::Ended));
    assert!(!ours.end.hub.session.has_frames());
}

#[test]
fn frames_for_streams_that_nobody_knows_are_tolerated() {
    let mut ours = Ours::agent();
    ours.peer_data(2, &full_window()).expect("drained");
    for frame in [update(2, 5), ack(4), fin(4), rst(6)] {
        ours.peer(frame).expect("tolerated");
    }
    // Announced, and never allocated.
    ours.peer(Header::data(8, u32::MAX)).expect("drained");
    let now = ours.now;
    ours.end.receive(&full_window(), now).expect("its payload");
    // All but the window update, which may cross a FIN.
    assert_eq!(ours.end.hub.session.ignored(), 5);
    assert_eq!(ours.end.hub.session.common().budget().charged(), 0);
    assert_eq!(ours.written(), []);
    assert_eq!(ours.streams(), 0);
}

#[test]
fn a_silent_peer_ends_the_session() {
    let mut ours = Ours::agent();
    ours.end.tick(ours.now).expect("alive");
    ours.written();
    ours.now += 30 * SECOND;
    assert_eq!(ours.end.tick(ours.now), Err(Fatal::Keepalive));
    ours.end
        .receive(&Header::ping(Flags::SYN, 1).encode()[..3], ours.now)
        .expect("a few bytes");
    assert_eq!(
        ours.end.tick(ours.now),
        Ok(()),
        "any byte is a sign of life"
    );
}

/// tunnels.md T6: a hello can't make the session fail.
#[test]
fn absurd_settings_are_clamped() {
    let mut config = Config::new(Role::Client);
    config.max_window = 1000;
    config.keepalive = SECOND / 2;
    config.timeout = Duration::from_hours(1);
    let ours = Ours::with(config);
    let used = *ours.end.hub.session.common().config();
    assert_eq!(used.max_window, INITIAL_WINDOW);
    assert_eq!((used.keepalive, used.timeout), (5 * SECOND, 120 * SECOND));
    config.max_window = u32::MAX;
    config.timeout = Duration::ZERO;
    let used = *Ours::with(config).end.hub.session.common().config();
    assert_eq!((used.max_window, used.timeout), (16 << 20, 5 * SECOND));
}
