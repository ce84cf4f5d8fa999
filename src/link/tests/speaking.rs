//! Speakers and carriers, seen from outside.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;

/// A stream as the link sees it: frames of its number, until there are none.
struct Stream {
    number: u8,
    frames: Mutex<VecDeque<usize>>,
}

impl Stream {
    fn new(number: u8, frames: &[usize]) -> Arc<Self> {
        Arc::new(Self {
            number,
            frames: Mutex::new(frames.to_vec().into()),
        })
    }
}

impl Speaker for Stream {
    fn control(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.number; 12]);
    }

    fn turn(&self, out: &mut Vec<Message>) -> bool {
        let Some(len) = self.frames.lock().pop_front() else {
            return false;
        };
        let mut buf = vec![0; HEADROOM];
        buf.resize(HEADROOM + len, self.number);
        out.push(Message::from_buffer(Kind::Binary, buf.into()));
        true
    }
}

#[test]
fn what_streams_have_to_say_arrives_stream_by_stream_in_order() {
    let (near, far) = tcp_pair();
    let near = Watched::start(Halves::plain(near), quiet(Role::Client));
    let far = Watched::start(Halves::plain(far), quiet(Role::Server));
    let lengths = lengths();
    let few = &lengths[..lengths.len() - 1];
    for number in 1..=3 {
        near.link.enter(Stream::new(number, few));
    }
    near.link.close(1000, "");
    let mut seen = [const { Vec::new() }; 3];
    loop {
        match far.next() {
            Seen::Binary(bytes) if bytes.is_empty() => {}
            Seen::Binary(bytes) => {
                let number = bytes[0];
                assert!(bytes.iter().all(|byte| *byte == number));
                seen[usize::from(number) - 1].push(bytes.len());
            }
            Seen::Gone => break,
            text @ Seen::Text(_) => panic!("{text:?}"),
        }
    }
    for seen in seen {
        assert_eq!(seen, few[1..], "all but the empty one");
    }
}

#[test]
fn control_frames_overtake_a_backlog() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    near.link.enter(Stream::new(1, &[64 * 1024; 1000]));
    assert!(far.read(&mut |_| {}), "it has begun");
    near.link.enter_control(Stream::new(2, &[]));
    let (mut before, mut came) = (0, false);
    while !came {
        assert!(far.read(&mut |event| match event {
            Event::Binary(bytes) if bytes == [2; 12] => came = true,
            _ => before += usize::from(!came),
        }));
    }
    assert!(before < 1000, "it was the last");
    near.link.abort("for the test");
}

#[test]
fn an_ended_link_lets_go_of_speakers_and_of_its_carrier() {
    struct Ticks(AtomicUsize);
    impl Carrier for Ticks {
        fn tick(&self, _: Instant) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let ticks = || Arc::new(Ticks(AtomicUsize::new(0)));
    let (near, _far) = against_raw(quiet(Role::Client));
    let (first, second, late) = (ticks(), ticks(), ticks());
    let stream = Stream::new(1, &[64 * 1024; 1000]);
    near.link.enter(stream.clone());
    near.link.attach(Some(first.clone()));
    until("it is told the time", || first.0.load(Ordering::SeqCst) > 0);
    near.link.attach(Some(second.clone()));
    until("it is let go of", || Arc::strong_count(&first) == 1);
    until("it is told the time", || {
        second.0.load(Ordering::SeqCst) > 1
    });
    near.link.abort("for the test");
    near.link.wait();
    assert_eq!(Arc::strong_count(&second), 1);
    near.link.attach(Some(late.clone()));
    near.link.enter(stream.clone());
    near.link.enter_control(stream.clone());
    assert_eq!(
        (Arc::strong_count(&late), Arc::strong_count(&stream)),
        (1, 1)
    );
}
