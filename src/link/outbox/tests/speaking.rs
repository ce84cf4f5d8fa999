//! Turns of slots and speakers, and what speakers may do.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;

use parking_lot::MutexGuard as Guard;

use super::*;
use crate::link::message::Kind;

/// Queues without waiting.
fn push(outbox: &Outbox, id: &str, message: Message) {
    drop(outbox.state.lock().lanes.push(Slot::of(id), message));
}

const KIB: usize = 1024;

/// Has some messages for each of its turns, and control frames.
struct Says {
    turns: Mutex<VecDeque<Vec<usize>>>,
    control: Mutex<VecDeque<Vec<u8>>>,
    /// Called when it has been asked.
    then: Box<dyn Fn() + Send + Sync>,
}

impl Says {
    fn new<const N: usize>(turns: [&[usize]; N]) -> Self {
        Self {
            turns: Mutex::new(turns.map(<[_]>::to_vec).into()),
            control: Mutex::default(),
            then: Box::new(|| {}),
        }
    }

    fn control<const N: usize>(frames: [&[u8]; N]) -> Self {
        Self {
            control: Mutex::new(frames.map(<[_]>::to_vec).into()),
            ..Self::new([])
        }
    }
}

impl Speaker for Says {
    fn control(&self, out: &mut Vec<u8>) {
        if let Some(frames) = self.control.lock().pop_front() {
            out.extend_from_slice(&frames);
        }
        (self.then)();
    }

    fn turn(&self, out: &mut Vec<Message>) -> bool {
        let mut turns = self.turns.lock();
        let lengths = turns.pop_front();
        let more = lengths.is_some();
        out.extend(lengths.into_iter().flatten().map(message));
        Guard::unlocked(&mut turns, || (self.then)());
        more
    }
}

#[test]
fn who_was_silent_goes_before_a_backlog_and_there_it_goes_in_turns() {
    let outbox = outbox(usize::MAX);
    for _ in 0..3 {
        push(&outbox, "a", message(64 * KIB));
    }
    let bulk = [63 * KIB, KIB];
    outbox.enter(Arc::new(Says::new([&bulk, &bulk])));
    let written = |outbox: &Outbox| sizes(&take(outbox).1);
    assert_eq!(written(&outbox), [64 * KIB]);
    assert_eq!(written(&outbox)[..2], bulk);
    push(&outbox, "b", message(1));
    outbox.enter(Arc::new(Says::new([&[2]])));
    assert_eq!(written(&outbox), [1, 2, 64 * KIB]);
    push(&outbox, "a", message(3));
    assert_eq!(written(&outbox)[..2], bulk, "it is in the backlog");
    assert_eq!(written(&outbox), [64 * KIB]);
    assert_eq!(written(&outbox), [3]);
    assert!(outbox.state.lock().lanes.turns.is_empty());
}

#[test]
fn control_frames_come_together_in_one_message_before_turns_and_behind_the_control_lane() {
    let outbox = outbox(1000);
    push(&outbox, "a", message(1));
    outbox.enter(Arc::new(Says::new([&[2]])));
    outbox.enter_control(Arc::new(Says::control([b"one"])));
    outbox.enter_control(Arc::new(Says::control([])));
    outbox.enter_control(Arc::new(Says::control([b"two", b"never asked for"])));
    outbox.send_control(message(3)).expect("room");
    let (_, batch) = take(&outbox);
    assert_eq!(sizes(&batch), [3, 6, 1, 2]);
    assert_eq!(batch.messages[1].payload(), b"onetwo");
    assert_eq!(batch.messages[1].kind(), Kind::Binary);
}

#[test]
fn control_frames_have_a_limit_in_one_message() {
    let outbox = outbox(1000);
    for _ in 0..3 {
        outbox.enter_control(Arc::new(Says::control([&[7; 3 * KIB]])));
    }
    let (_, batch) = take(&outbox);
    assert_eq!(sizes(&batch), [6 * KIB, 3 * KIB]);
}

#[test]
fn a_speaker_may_speak_to_the_link_when_it_is_asked() {
    let outbox = outbox(1000);
    let again = outbox.clone();
    let then = move || {
        push(&again, "a", message(5));
        again.send_control(message(4)).expect("room");
    };
    outbox.enter(Arc::new(Says {
        then: Box::new(then),
        ..Says::new([&[1, 2]])
    }));
    let (_, batch) = take(&outbox);
    assert_eq!(sizes(&batch), [1, 2, 4, 5, 4, 5]);
}

#[test]
fn who_says_nothing_has_left_whatever_it_answers() {
    struct Mute;
    impl Speaker for Mute {
        fn control(&self, _: &mut Vec<u8>) {}
        fn turn(&self, _: &mut Vec<Message>) -> bool {
            true
        }
    }
    let outbox = outbox(1000);
    let mute = Arc::new(Mute);
    outbox.enter(mute.clone());
    outbox.enter_control(mute.clone());
    outbox.ping();
    let (_, batch) = take(&outbox);
    assert!(batch.messages.is_empty());
    assert_eq!(Arc::strong_count(&mute), 1);
}

#[test]
fn a_close_lets_speakers_finish_and_takes_no_new_ones() {
    let outbox = outbox(1000);
    outbox.enter(Arc::new(Says::new([&[64 * KIB], &[1]])));
    outbox.enter_control(Arc::new(Says::control([b"go away"])));
    assert!(outbox.close(CloseFrame::new(1000, "")));
    let late = Arc::new(Says::new([&[2]]));
    outbox.enter(late.clone());
    outbox.enter_control(late.clone());
    assert_eq!(Arc::strong_count(&late), 1);
    assert_eq!(sizes(&take(&outbox).1), [7, 64 * KIB]);
    assert_eq!(sizes(&take(&outbox).1), [1]);
    assert!(take(&outbox).1.close.is_some());
}

#[test]
fn the_end_drops_speakers_also_the_one_that_is_asked_and_what_it_said() {
    type End = fn(&Outbox);
    let ends: [End; 3] = [Outbox::stop, Outbox::hurry, |outbox| outbox.finish(None)];
    for end in ends {
        let outbox = outbox(1000);
        let ending = outbox.clone();
        let asked = Arc::new(Says {
            then: Box::new(move || {
                assert!(ending.close(CloseFrame::default()) || ending.state.lock().closed);
                end(&ending);
            }),
            ..Says::new([&[1], &[2]])
        });
        let waits = Arc::new(Says::new([&[3]]));
        outbox.enter(asked.clone());
        outbox.enter(waits.clone());
        push(&outbox, "a", message(4));
        let (step, batch) = take(&outbox);
        assert!(step == Step::Stop || batch.close.is_some());
        assert!(batch.messages.is_empty());
        assert_eq!(
            (Arc::strong_count(&asked), Arc::strong_count(&waits)),
            (1, 1)
        );
        assert_eq!(outbox.waiting(), 0);
    }
}

#[test]
fn what_is_asked_for_while_a_speaker_has_nothing_to_say_is_done_at_once() {
    let asks: [fn(&Outbox); 3] = [
        |outbox| outbox.pong(b"now").expect("the first"),
        Outbox::ping,
        Outbox::flush,
    ];
    for ask in asks {
        let outbox = outbox(1000);
        let other = outbox.clone();
        outbox.enter(Arc::new(Says {
            then: Box::new(move || ask(&other)),
            ..Says::new([])
        }));
        let (to, given) = mpsc::channel();
        thread::spawn(move || {
            let (step, batch) = take(&outbox);
            let jobs = batch.jobs;
            to.send((step, jobs.flush, jobs.ping, jobs.pongs.len()))
        });
        let given = given.recv_timeout(Duration::from_secs(20));
        let (step, flush, ping, pongs) = given.expect("the writer isn't left waiting");
        assert_eq!(step, Step::Write);
        assert_eq!(usize::from(flush) + usize::from(ping) + pongs, 1);
    }
}
