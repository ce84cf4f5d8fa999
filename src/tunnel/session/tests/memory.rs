//! The cap, and the buffers that are used again.

use super::*;
use crate::resident::Store;
use crate::tunnel::session::{Memory, Payload, Shelf};
use crate::yamux::{CHUNK, Cut, Input, MAX_PAYLOAD, Pool, SMALL_CHUNK};

#[test]
fn when_memory_is_full_what_nobody_reads_is_reset() {
    let memory = Memory::new(400 * 1024);
    let mut ours = Ours::with(&memory);
    let mut other = Ours::with(&memory);
    let hung = ours.open(2);
    let small = ours.open(4);
    let elsewhere = other.open(2);
    ours.peer_data(2, &vec![0; 200 * 1024]);
    ours.peer_data(4, &[0; 2000]);
    let now = Instant::now();
    ours.session.tick(now + Duration::from_secs(11));
    assert_eq!(hung.cut(), None, "there is room");
    other.peer_data(2, &vec![0; 200 * 1024]);
    ours.session.tick(now + Duration::from_secs(1));
    assert_eq!(hung.cut(), None, "it may read soon");
    ours.session.tick(now + Duration::from_secs(11));
    assert_eq!(hung.cut(), Some(Cut::ByUs));
    assert_eq!(small.cut(), None, "then there was room");
    other.session.tick(now + Duration::from_secs(11));
    assert_eq!(elsewhere.cut(), None);
}

/// However little is in it: 4,096 streams with 6 KiB each held 256 MiB and more.
#[test]
fn what_waits_to_be_sent_counts_with_its_whole_buffer() {
    let mut ours = Ours::new();
    let (stream, other) = (ours.open(2), ours.open(4));
    let mut payload = Payload::new();
    payload.fill(|buf| buf.extend_from_slice(&[0; 6000]));
    stream.send(payload, None).expect("room");
    let charged = ours.memory.budget().charged();
    assert!(charged >= MAX_PAYLOAD, "{charged}");
    // While memory is full, too, and then it is a small one.
    let budget = ours.memory.budget().clone();
    let rest = budget.take((64 << 20) - charged).expect("it is left");
    let room = other.room(None).expect("little");
    let mut payload = Payload::new();
    payload.fill(|buf| buf.extend_from_slice(&vec![0; room]));
    other.send(payload.fitting(), None).expect("room");
    let more = budget.charged() - (64 << 20);
    assert!((room..=4096).contains(&more), "{more}");
    ours.frames();
    drop(rest);
    assert_eq!(budget.charged(), 0);
}

#[test]
fn figures_are_what_there_is() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    ours.open(4);
    ours.peer_data(2, b"unread");
    ours.peer_data(100, b"nobody's");
    let figures = ours.session.figures();
    // The second was dropped: its RST isn't written yet.
    assert_eq!(figures.streams, 2);
    assert_eq!(figures.unread, 6);
    assert_eq!(figures.windows, 2 * 256 * 1024);
    assert_eq!((figures.queued, figures.paused), (0, 0));
    assert_eq!(figures.ignored, 1);
    ours.frames();
    assert_eq!(ours.session.figures().streams, 1);
    drop(stream);
}

#[test]
fn buffers_are_used_again_and_given_back_when_idle() {
    let mut ours = Ours::new();
    let shelf = ours.memory.shelf().clone();
    let stream = ours.open(2);
    let read = |stream: &Stream| {
        let Ok(Input::Some(chunk)) = stream.read(None) else {
            panic!("there is something");
        };
        let at = chunk.as_ptr();
        stream.give_back(chunk);
        at
    };
    ours.peer_data(2, &vec![1; CHUNK]);
    let first = read(&stream);
    assert_eq!(shelf.kept(), CHUNK);
    ours.peer_data(2, &vec![1; CHUNK]);
    assert_eq!(shelf.kept(), 0);
    assert_eq!(read(&stream), first);
    // It was used since it lay there.
    assert!(shelf.sweep());
    assert_eq!(shelf.kept(), CHUNK);
    assert!(!shelf.sweep());
    assert_eq!(shelf.kept(), 0);
}

#[test]
fn nothing_is_kept_beyond_the_limit_and_without_a_session() {
    let shelf = Shelf::new(2 * CHUNK);
    shelf.give(Vec::with_capacity(CHUNK));
    assert_eq!(shelf.kept(), 0, "there is no session");

    let memory = Memory::new(16 * CHUNK);
    let ours = Ours::with(&memory);
    let shelf = memory.shelf();
    for _ in 0..3 {
        shelf.give(Vec::with_capacity(CHUNK));
    }
    assert_eq!(shelf.kept(), 2 * CHUNK);
    shelf.give(Vec::with_capacity(SMALL_CHUNK));
    shelf.give(Vec::new());
    assert_eq!(shelf.kept(), 2 * CHUNK);
    assert_eq!(shelf.take(SMALL_CHUNK).capacity(), SMALL_CHUNK);
    assert_eq!(shelf.take(CHUNK).capacity(), CHUNK);
    drop(ours);
    assert_eq!(shelf.kept(), 0);
}
