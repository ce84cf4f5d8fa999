//! One stream, and who uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model;
use loom::thread;
use rooms::session::SendError;
use rooms::yamux::{Cut, Flags, Header, Input, Kind, MOST_SLOTS, Reset};

use crate::stage::*;

#[test]
fn a_reader_is_woken_by_data_and_by_the_end() {
    model(|| {
        let mut ours = Ours::new();
        let stream = ours.stream.clone();
        let reader = thread::spawn(move || {
            let mut read = 0;
            while let Input::Some(chunk) = stream.read(None).expect("not cut") {
                read += chunk.len();
                stream.give_back(chunk);
            }
            read
        });
        peer_data(&mut ours.inbox);
        peer(&mut ours.inbox, Flags::FIN);
        assert_eq!(reader.join().expect("no panic"), DATA.len());
    });
}

#[test]
fn a_sender_is_woken_by_a_turn_and_what_it_queues_is_written() {
    model(|| {
        let ours = Ours::new();
        // All slots are full.
        for _ in 0..MOST_SLOTS {
            send(&ours.stream).expect("room");
        }
        let stream = ours.stream.clone();
        let sender = thread::spawn(move || {
            send(&stream).expect("not cut");
            stream.finish();
        });
        let mut written = frames(&ours.wire.next().expect("a turn"));
        sender.join().expect("no panic");
        written.extend(ours.wire.frames());
        let mut all = vec![data(); MOST_SLOTS + 1];
        all.push(window(Flags::FIN));
        assert_eq!(written, all);
    });
}

#[test]
fn who_says_something_while_his_turn_ends_is_not_forgotten() {
    model(|| {
        let ours = Ours::new();
        send(&ours.stream).expect("room");
        let wire = ours.wire.clone();
        // Two turns: with the second, empty one he leaves the list.
        let writer = thread::spawn(move || {
            let mut written = Vec::new();
            for _ in 0..2 {
                written.extend(frames(&wire.next().unwrap_or_default()));
            }
            written
        });
        send(&ours.stream).expect("a slot is free");
        let mut written = writer.join().expect("no panic");
        written.extend(ours.wire.frames());
        assert_eq!(written, [data(), data()]);
    });
}

#[test]
fn a_window_update_is_not_forgotten_and_not_given_twice() {
    model(|| {
        let mut ours = Ours::new();
        ours.stream.discard();
        let wire = ours.wire.clone();
        let writer = thread::spawn(move || wire.frames());
        // Half a window, twice: each is granted again.
        for _ in 0..2 {
            let header = Header::data(ID, HALF.len() as u32);
            ours.inbox.receive(&header.encode());
            ours.inbox.receive(&HALF);
        }
        let mut granted = writer.join().expect("no panic");
        granted.extend(ours.wire.frames());
        assert!(granted.iter().all(|frame| frame.kind == Kind::WindowUpdate));
        let sum: u32 = granted.iter().map(|frame| frame.len).sum();
        assert_eq!(sum as usize, 2 * HALF.len());
    });
}

#[test]
fn a_cut_ends_a_send_and_is_told_once() {
    model(|| {
        let mut ours = Ours::new();
        for _ in 0..MOST_SLOTS {
            send(&ours.stream).expect("room");
        }
        let told = Arc::new(AtomicUsize::new(0));
        let (stream, tell) = (ours.stream.clone(), told.clone());
        let sender = thread::spawn(move || {
            stream.on_cut(move |_| {
                tell.fetch_add(1, Ordering::Relaxed);
            });
            send(&stream)
        });
        let stream = ours.stream.clone();
        let aborter = thread::spawn(move || stream.reset(Reset::AtOnce));
        peer(&mut ours.inbox, Flags::RST);
        let sent = sender.join().expect("no panic");
        aborter.join().expect("no panic");
        assert!(matches!(sent, Err(SendError::Cut(Cut::ByPeer | Cut::ByUs))));
        assert_eq!(told.load(Ordering::Relaxed), 1);
        let rest = ours.wire.frames();
        assert!(rest.is_empty(), "the peer's RST came before ours: {rest:?}");
        assert_eq!(ours.session.figures().streams, 0);
    });
}

#[test]
fn who_wants_to_know_of_a_cut_is_told_once_and_never_forgotten() {
    model(|| {
        let mut ours = Ours::new();
        let told = Arc::new(AtomicUsize::new(0));
        let (stream, tell) = (ours.stream.clone(), told.clone());
        let asker = thread::spawn(move || {
            stream.on_cut(move |_| {
                tell.fetch_add(1, Ordering::Relaxed);
            });
        });
        peer(&mut ours.inbox, Flags::RST);
        asker.join().expect("no panic");
        assert_eq!(told.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn frames_may_come_for_a_stream_that_is_being_forgotten() {
    model(|| {
        let mut ours = Ours::new();
        peer(&mut ours.inbox, Flags::FIN);
        ours.stream.finish();
        let wire = ours.wire.clone();
        let writer = thread::spawn(move || wire.frames());
        ours.inbox
            .receive(&Header::window(ID, Flags::NONE, 7).encode());
        peer(&mut ours.inbox, Flags::RST);
        let written = writer.join().expect("no panic");
        assert!(written.len() <= 1 && ours.wire.frames().is_empty());
        assert!(ours.session.is_live());
        assert_eq!(ours.session.figures().streams, 0);
    });
}

#[test]
fn the_last_two_handles_go_at_once() {
    model(|| {
        let ours = Ours::new();
        let other = ours.stream.clone();
        let copier = thread::spawn(move || {
            other.finish();
            drop(other);
        });
        drop(ours.stream);
        copier.join().expect("no panic");
        let written = ours.wire.frames();
        assert_eq!(written, [window(Flags::FIN)]);
        assert_eq!(ours.session.figures().streams, 1, "until the peer ends it");
    });
}
