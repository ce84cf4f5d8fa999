//! How streams and sessions end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use super::pair::{Pair, start};
use super::*;
use crate::tunnel::session::{Acceptor, Payload};
use crate::yamux::{Cut, Fatal, INITIAL_WINDOW, Input, OpenError, Reset};

fn rst(id: u32) -> Header {
    Header::window(id, Flags::RST, 0)
}

fn drop_input<T>(_: Input<T>) {}

fn fin(id: u32) -> Header {
    Header::window(id, Flags::FIN, 0)
}

#[test]
fn who_drops_a_stream_refuses_it() {
    let pair = Pair::new(drop);
    let stream = pair.plane.open(soon()).expect("opened");
    let read = stream.read(Some(soon()));
    assert_eq!(read.map(drop_input), Err(Cut::ByPeer));
    pair.plane.drain(soon());
    drop(stream);
    pair.end().assert_none();
}

#[test]
fn who_accepts_streams_learns_of_those_beyond_the_limit() {
    #[derive(Default)]
    struct Full(Arc<AtomicUsize>, Vec<Stream>);
    impl Acceptor for Full {
        fn accept(&mut self, stream: Stream) {
            self.1.push(stream);
        }
        fn refused(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (acceptor, memory) = (Full::default(), Memory::new(1 << 20));
    let wire = Arc::new(Wire::default());
    let refused = acceptor.0.clone();
    let config = Config {
        max_streams: 2,
        ..Config::new(Role::Client)
    };
    // As connections have it.
    let acceptor: Box<dyn Acceptor> = Box::new(acceptor);
    let (session, mut inbox) = Session::start(config, &memory, wire.clone(), acceptor);
    for id in [2, 4, 6, 8] {
        inbox.receive(&Header::window(id, Flags::SYN, 0).encode());
    }
    assert_eq!(refused.load(Ordering::Relaxed), 2);
    assert_eq!(frames(&wire.all())[2..], [rst(6), rst(8)]);
    // What comes after our Go Away isn't beyond any limit.
    session.leave();
    inbox.receive(&Header::window(10, Flags::SYN, 0).encode());
    assert_eq!(refused.load(Ordering::Relaxed), 2);
}

#[test]
fn the_last_handle_resets_what_has_not_finished() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let other = stream.clone();
    drop(stream);
    assert!(ours.frames().is_empty());
    other.send(Payload::from(&b"lost"[..]), None).expect("room");
    drop(other);
    assert_eq!(ours.frames(), [rst(2)]);
    assert_eq!(ours.session.figures().streams, 0);
}

#[test]
fn the_last_handle_of_a_finished_stream_discards_until_the_peer_ends_it_too() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let (to, told) = channel::<Cut>();
    stream.on_cut(move |cut| to.send(cut).expect("not called"));
    ours.peer_data(2, b"nobody will read it");
    stream.send(Payload::from(&b"bye"[..]), None).expect("room");
    stream.finish();
    drop(stream);
    assert!(told.recv().is_err(), "dropped with the last handle");
    assert_eq!(ours.frames(), [Header::data(2, 3), fin(2)]);
    let half = vec![0; INITIAL_WINDOW as usize / 2];
    ours.peer_data(2, &half);
    let granted = half.len() as u32 + 19;
    assert_eq!(ours.frames(), [Header::window(2, Flags::NONE, granted)]);
    ours.peer(fin(2));
    assert_eq!(ours.session.figures().streams, 0);
    assert!(ours.frames().is_empty());
}

#[test]
fn a_panic_resets_the_stream() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let other = stream.clone();
    let thread = start("panics", move || {
        let _stream = other;
        panic!("on purpose");
    });
    assert_eq!(thread.join().expect("caught"), None);
    assert_eq!(stream.cut(), Some(Cut::ByUs));
}

#[test]
fn a_mistake_of_the_peer_is_answered_by_a_go_away_and_then_the_line_is_told() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    stream.send(Payload::from(&b"x"[..]), None).expect("room");
    ours.peer(Header::ping(Flags::SYN, 1));
    ours.peer(Header::window(2, Flags::SYN, 0));
    assert!(!ours.session.is_live());
    assert_eq!(ours.wire.dead_because(), None, "not before it is said");
    assert_eq!(ours.frames(), [Header::go_away(1)]);
    assert_eq!(ours.wire.dead_because(), Some(Fatal::DuplicateSyn(2)));
    // What follows has no meaning.
    ours.peer(Header::window(4, Flags::SYN, 0));
    assert!(ours.frames().is_empty());
    ours.session.lose();
    drop(ours.inbox);
    assert_eq!(stream.cut(), Some(Cut::SessionLost));
}

#[test]
fn some_mistakes_are_not_worth_a_word() {
    let mut ours = Ours::new();
    ours.peer(Header::go_away(2));
    assert_eq!(ours.wire.dead_because(), Some(Fatal::PeerGoAway(2)));
    assert!(ours.frames().is_empty());
}

#[test]
fn a_replaced_session_says_nothing_any_more() {
    let mut ours = Ours::new();
    let kept = ours.open(2);
    let reset = ours.open(4);
    kept.send(Payload::from(&b"x"[..]), None).expect("room");
    kept.send(Payload::from(&b"y"[..]), None).expect("room");
    reset.reset(Reset::AtOnce);
    ours.peer(Header::window(6, Flags::SYN, 0));
    ours.peer(Header::ping(Flags::SYN, 1));
    ours.session.tick(Instant::now());
    drop(ours.inbox);
    assert!(ours.wire.all().is_empty());
    assert_eq!(ours.wire.dead_because(), None);
    assert_eq!(kept.cut(), Some(Cut::SessionLost));
    assert_eq!(reset.cut(), Some(Cut::ByUs), "it stays what it was");
    kept.finish();
    drop(kept);
    assert!(ours.wire.all().is_empty());
}

#[test]
fn a_stream_that_came_to_its_end_before_the_session_stays_readable() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    ours.peer_data(2, b"all of it");
    ours.peer(fin(2));
    stream.finish();
    assert_eq!(ours.frames(), [fin(2)]);
    drop(ours.inbox);
    let Ok(Input::Some(chunk)) = stream.read(None) else {
        panic!("it was complete");
    };
    assert_eq!(&chunk[..], b"all of it");
    stream.give_back(chunk);
    assert_eq!(
        stream.read(None).map(|input| matches!(input, Input::End)),
        Ok(true)
    );
}

/// Reads to the end and finishes then.
fn take_all(stream: Stream) {
    start("agent", move || {
        while let Ok(Input::Some(chunk)) = stream.read(Some(soon())) {
            stream.give_back(chunk);
        }
        stream.finish();
    });
}

#[test]
fn draining_refuses_new_streams_and_waits_for_the_others() {
    let pair = Pair::new(take_all);
    let stream = pair.plane.open(soon()).expect("opened");
    while pair.agent.figures().streams == 0 {
        std::thread::yield_now();
    }
    let agent = pair.agent.clone();
    let drained = start("drain", move || assert_eq!(agent.drain(soon()), 0));
    // Refused, when they come after the Go Away and before it is known.
    while pair.plane.open(soon()).map(drop) != Err(OpenError::PeerLeaving) {
        std::thread::yield_now();
    }
    stream.finish();
    let end = stream.read(Some(soon()));
    assert_eq!(end.map(|input| matches!(input, Input::End)), Ok(true));
    drained.join().expect("caught").expect("no panic");
    drop(stream);
    pair.end().assert_none();
}

#[test]
fn what_is_left_after_draining_is_reset() {
    let pair = Pair::new(take_all);
    let stream = pair.plane.open(soon()).expect("opened");
    while pair.agent.figures().streams == 0 {
        std::thread::yield_now();
    }
    assert_eq!(pair.agent.drain(Instant::now()), 1);
    assert_eq!(stream.read(Some(soon())).map(drop_input), Err(Cut::ByPeer));
    assert_eq!(pair.agent.figures().streams, 0);
    drop(stream);
    pair.end().assert_none();
}

#[test]
fn a_cut_connection_leaves_nothing_behind() {
    let (to, cuts) = channel();
    let pair = Pair::new(move |stream: Stream| {
        let to = to.clone();
        stream.on_cut(move |cut| to.send(cut).expect("the test waits"));
        start("agent", move || {
            while let Ok(Input::Some(chunk)) = stream.read(None) {
                stream.send(Payload::from(&chunk[..]), None).ok();
                stream.give_back(chunk);
            }
        });
    });
    let streams: Vec<_> = (0..100)
        .map(|_| pair.plane.open(soon()).expect("opened"))
        .collect();
    for stream in &streams {
        stream
            .send(Payload::from(&[1; 1000][..]), None)
            .expect("room");
        let read = stream.read(Some(soon()));
        assert!(matches!(read, Ok(Input::Some(_))));
    }
    let leftover = pair.end();
    for _ in &streams {
        assert_eq!(cuts.recv(), Ok(Cut::SessionLost));
    }
    for stream in streams {
        assert_eq!(stream.cut(), Some(Cut::SessionLost));
    }
    leftover.assert_none();
}

#[test]
fn time_ends_what_nobody_answers() {
    let mut ours = Ours::new();
    let now = Instant::now();
    ours.session.tick(now);
    assert_eq!(ours.frames(), [Header::ping(Flags::SYN, 0)]);
    let stream = ours.open(2);
    stream.finish();
    assert_eq!(ours.frames(), [fin(2)]);
    ours.session.tick(now + Duration::from_secs(29));
    assert!(ours.session.is_live());
    ours.peer(Header::ping(Flags::ACK, 0));
    ours.session.tick(now + Duration::from_secs(301));
    assert_eq!(ours.frames(), [Header::ping(Flags::SYN, 1), rst(2)]);
    assert_eq!(stream.cut(), Some(Cut::ByUs));
    ours.session.tick(now + Duration::from_secs(700));
    assert_eq!(ours.wire.dead_because(), Some(Fatal::Keepalive));
    assert!(!ours.session.is_live());
}

#[test]
fn what_the_session_says_itself_does_not_hold_up_others() {
    let mut ours = Ours::new();
    for value in 0..1000 {
        ours.peer(Header::ping(Flags::SYN, value));
    }
    let stream = ours.open_unread(2);
    let first = frames(&ours.wire.next().expect("pongs"));
    assert_eq!(first.len(), 4096 / 12);
    let second = frames(&ours.wire.next().expect("the stream's"));
    assert_eq!(second, [Header::window(2, Flags::ACK, 0)]);
    assert_eq!(ours.frames().len(), 1000 - first.len());
    drop(stream);
}
