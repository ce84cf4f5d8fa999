//! Peers that are dead, frozen or slow.

use super::*;

#[test]
fn a_frozen_peer_is_noticed() {
    let (near, mut far) = against_raw(Settings {
        ping_interval: Duration::from_millis(10),
        read_limit: Duration::from_millis(100),
        ..quiet(Role::Client)
    });
    let ending = near.link.wait();
    assert_eq!(ending.by, EndedBy::Network);
    assert!(
        ending.why.starts_with("nothing was received for"),
        "{ending}"
    );
    assert!(ending.lived >= Duration::from_millis(100), "{ending}");
    let events = far.rest();
    assert!(events.iter().all(|event| event == "Ping([])"), "{events:?}");
    assert!(!events.is_empty(), "it was asked before");
    assert_eq!(near.next(), Seen::Gone);
}

#[test]
fn a_frozen_peer_is_noticed_while_the_writer_is_stuck() {
    // lessons.md: a healthy judgement needs a thread that never blocks on the socket.
    let (near, _far) = against_raw(Settings {
        ping_interval: Duration::from_millis(10),
        read_limit: Duration::from_millis(200),
        bulk_bytes: 1024 * 1024,
        ..quiet(Role::Client)
    });
    let mut sent = 0;
    while near.binary(&pattern(64 * 1024)).is_ok() {
        sent += 1;
    }
    assert!(sent > 0);
    let ending = near.link.wait();
    assert!(ending.why.starts_with("nothing was received"), "{ending}");
}

#[test]
fn a_write_without_progress_ends_the_link() {
    let (near, _far) = against_raw(Settings {
        write_limit: Duration::from_millis(50),
        ..quiet(Role::Client)
    });
    while near.binary(&pattern(64 * 1024)).is_ok() {}
    let ending = near.link.wait();
    assert_eq!(ending.by, EndedBy::Network);
    assert_eq!(ending.why, "write timed out");
}

#[test]
fn any_byte_is_a_sign_of_life_a_ping_too() {
    // control-channel.md §2.4: the original doesn't count pings.
    let (near, mut far) = against_raw(quiet(Role::Client));
    let before = near.link.0.traffic.last_received();
    far.send(Opcode::Ping, b"x").expect("open");
    let mut answered = false;
    while !answered {
        assert!(far.read(&mut |event| answered = event == Event::Pong(b"x")));
    }
    assert!(near.link.0.traffic.last_received() > before);
}

#[test]
fn pings_go_out_and_pongs_keep_it_alive() {
    // Two links that only ping each other outlive many read limits.
    let settings = |role| Settings {
        ping_interval: Duration::from_millis(20),
        read_limit: Duration::from_secs(2),
        ..quiet(role)
    };
    let (near, far) = tcp_pair();
    let near = Watched::start(Halves::plain(near), settings(Role::Client));
    let far = Watched::start(Halves::plain(far), settings(Role::Server));
    let frames = |link: &Watched| link.link.0.traffic.bytes_received() / 2;
    until("100 frames were exchanged", || {
        assert!(near.link.is_open() && far.link.is_open());
        frames(&near) > 100
    });
}

/// control-channel.md T5: in the original the pinger and the reader of a lost
/// connection act on the one that came after it.
#[test]
fn t5_a_lost_link_does_nothing_to_the_next_one() {
    let (old, old_far) = against_raw(Settings {
        ping_interval: Duration::from_millis(5),
        ..quiet(Role::Client)
    });
    let (new, mut new_far) = against_raw(quiet(Role::Client));
    drop(old_far);
    let ending = old.link.wait();
    assert_eq!(old.next(), Seen::Gone);
    // Late orders of the old one's owner, too.
    old.link.close(1000, "late");
    old.link.abort("late");
    assert_eq!(old.text(Lane::Control, "late"), Err(SendError::Closed));
    assert_eq!(old.link.wait().why, ending.why);

    new.text(Lane::Control, "well").expect("open");
    new.link.close(1000, "");
    let mut events = Vec::new();
    while events.len() < 2 {
        assert!(new_far.read(&mut |event| events.push(format!("{event:?}"))));
    }
    assert_eq!(events[0], "Text(\"well\")");
    assert!(
        events[1].starts_with("Close"),
        "no ping, nothing: {events:?}"
    );
}
