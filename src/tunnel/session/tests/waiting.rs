//! Whoever waits is woken.

use std::sync::mpsc::{Receiver, channel};

use super::pair::start;
use super::*;
use crate::tunnel::session::{Payload, SendError};
use crate::yamux::{Cut, INITIAL_WINDOW, Input, MAX_PAYLOAD, MOST_SLOTS, OpenError, Reset};

/// A thread that waits to read; what it got.
fn reader(stream: &Stream) -> Receiver<Result<bool, Cut>> {
    let stream = stream.clone();
    let (to, result) = channel();
    start("reader", move || {
        let read = stream.read(Some(soon()));
        to.send(read.map(|input| matches!(input, Input::Some(_))))
            .expect("the test waits");
    });
    result
}

/// A thread that waits for room; what it got.
fn sender(ours: &Ours, stream: &Stream) -> Receiver<Result<usize, SendError>> {
    fill(stream);
    let paused = ours.session.figures().paused;
    let (to, result) = channel();
    let stream = stream.clone();
    start("sender", move || {
        to.send(stream.room(Some(soon()))).expect("the test waits");
    });
    while ours.session.figures().paused == paused {
        std::thread::yield_now();
    }
    result
}

/// Until the slots are full, or the window is used up.
fn fill(stream: &Stream) {
    while let Ok(room) = stream.room(Some(Instant::now())) {
        let payload = Payload::from(&vec![1; room][..]);
        stream.send(payload, None).expect("room");
    }
}

/// What cuts a stream, and what is said of it then.
fn cuts(cut: fn(&mut Ours, &Stream), why: Cut) {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let (to, told) = channel();
    stream.on_cut(move |cut| to.send(cut).expect("the test waits"));
    let read = reader(&stream);
    let room = sender(&ours, &stream);
    cut(&mut ours, &stream);
    assert_eq!(read.recv(), Ok(Err(why)));
    assert_eq!(room.recv(), Ok(Err(SendError::Cut(why))));
    assert_eq!(told.recv(), Ok(why));
    assert!(told.recv().is_err(), "it is told once, and dropped then");
    assert_eq!(stream.cut(), Some(why));
    let (to, told) = channel();
    stream.on_cut(move |cut| to.send(cut).expect("the test waits"));
    assert_eq!(
        told.try_recv(),
        Ok(why),
        "who comes too late is told at once"
    );
    assert_eq!(stream.read(None).map(drop_input), Err(why));
    let sent = stream.send(Payload::from(&b"x"[..]), None);
    assert_eq!(sent, Err(SendError::Cut(why)));
    assert!(ours.session.figures().queued == 0);
}

fn drop_input<T>(_: Input<T>) {}

#[test]
fn the_peers_reset_wakes_everybody() {
    cuts(
        |ours, _| ours.peer(Header::window(2, Flags::RST, 0)),
        Cut::ByPeer,
    );
}

#[test]
fn a_reset_by_another_thread_wakes_everybody() {
    cuts(|_, stream| stream.reset(Reset::AtOnce), Cut::ByUs);
}

#[test]
fn the_loss_of_the_session_wakes_everybody() {
    cuts(|ours, _| ours.session.lose(), Cut::SessionLost);
}

#[test]
fn a_mistake_of_the_peer_wakes_everybody() {
    cuts(
        |ours, _| ours.peer(Header::window(0, Flags::NONE, 0)),
        Cut::SessionLost,
    );
}

#[test]
fn data_and_the_end_wake_a_reader() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let read = reader(&stream);
    ours.peer_data(2, b"x");
    assert_eq!(read.recv(), Ok(Ok(true)));
    let read = reader(&stream);
    ours.peer(Header::window(2, Flags::FIN, 0));
    assert_eq!(read.recv(), Ok(Ok(false)));
    assert!(stream.peer_finished());
}

#[test]
fn a_turn_and_a_window_update_wake_a_sender() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let room = sender(&ours, &stream);
    // Half of the frames, two in a turn; what is left of the window is little.
    for _ in 0..MOST_SLOTS / 4 {
        ours.wire.next().expect("a turn");
    }
    let rest = INITIAL_WINDOW as usize - MOST_SLOTS * MAX_PAYLOAD;
    assert_eq!(room.recv(), Ok(Ok(rest)));
    let used_up = || {
        fill(&stream);
        ours.frames().is_empty()
    };
    while !used_up() {}
    let room = sender(&ours, &stream);
    ours.peer(Header::window(2, Flags::NONE, 100));
    assert_eq!(room.recv(), Ok(Ok(100)));
    stream.finish();
    assert_eq!(stream.room(None), Err(SendError::Finished));
}

#[test]
fn waiting_has_an_end() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    let before = Instant::now();
    let until = Some(before + Duration::from_millis(20));
    let read = stream.read(until).map(|input| matches!(input, Input::Wait));
    assert_eq!(read, Ok(true));
    fill(&stream);
    assert_eq!(stream.room(until), Err(SendError::TimedOut));
    let sent = stream.send(Payload::from(&b"x"[..]), until);
    assert_eq!(sent, Err(SendError::TimedOut));
    assert!(before.elapsed() >= Duration::from_millis(20));
}

#[test]
fn who_opens_too_much_waits_for_the_peer() {
    let memory = Memory::new(64 << 20);
    let wire = Arc::new(Wire::default());
    let config = Config::new(Role::Server);
    let (session, mut inbox) = Session::start(config, &memory, wire.clone(), |_: Stream| ());
    let streams: Vec<_> = (0..256)
        .map(|_| session.open(Instant::now()).expect("allowed"))
        .collect();
    let late = session.open(Instant::now()).map(|stream| stream.id());
    assert_eq!(late, Err(OpenError::Unanswered));
    wire.all();
    let (to, opened) = channel();
    let other = session.clone();
    start("opener", move || {
        let stream = other.open(soon()).map(|stream| stream.id());
        to.send(stream).expect("the test waits");
    });
    inbox.receive(&Header::window(2, Flags::ACK, 0).encode());
    assert_eq!(opened.recv(), Ok(Ok(514)));
    drop(streams);
}
