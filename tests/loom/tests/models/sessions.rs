//! Sessions: how they and their streams begin and end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::model;
use loom::model::Builder;
use loom::thread;
use rooms::session::{Memory, Session, Stream};
use rooms::yamux::{Config, Cut, Flags, Header, Input, Role};

use crate::stage::*;

#[test]
fn a_stream_that_is_opened_while_the_session_ends_is_lost_with_it() {
    model(|| {
        let wire = Wire::new();
        let memory = Memory::new(1 << 20);
        let config = Config::new(Role::Server);
        let (session, inbox) =
            Session::start(config, &memory, wire.clone(), |_: Stream| panic!("none"));
        let opener = {
            let session = session.clone();
            thread::spawn(move || session.open(Instant::now()))
        };
        drop(inbox);
        assert!(wire.frames().is_empty(), "it has ended");
        if let Ok(stream) = opener.join().expect("no panic") {
            assert_eq!(stream.cut(), Some(Cut::SessionLost));
        }
        assert!(wire.frames().is_empty());
        assert_eq!(session.figures().streams, 0);
    });
}

#[test]
fn a_stream_that_comes_while_the_session_ends_is_lost_with_it() {
    model(|| {
        let Ours {
            session,
            mut inbox,
            wire,
            stream,
            ..
        } = Ours::new();
        let other = session.clone();
        let ender = thread::spawn(move || other.lose());
        inbox.receive(&Header::window(4, Flags::SYN, 0).encode());
        ender.join().expect("no panic");
        assert_eq!(session.figures().streams, 0);
        assert_eq!(stream.cut(), Some(Cut::SessionLost));
        assert!(wire.frames().is_empty());
    });
}

#[test]
fn who_gets_a_stream_may_end_it_at_once() {
    model(|| {
        let wire = Wire::new();
        let memory = Memory::new(1 << 20);
        let accepted = Arc::new(Handover::new());
        let to = accepted.clone();
        let (session, mut inbox) = Session::start(
            Config::new(Role::Client),
            &memory,
            wire.clone(),
            move |stream: Stream| to.put(stream),
        );
        let ender = thread::spawn(move || {
            drop(accepted.take());
            wire.frames()
        });
        peer(&mut inbox, Flags::SYN);
        let written = ender.join().expect("no panic");
        assert_eq!(written, [window(Flags::ACK), window(Flags::RST)]);
        assert_eq!(session.figures().streams, 0);
    });
}

#[test]
fn nothing_follows_a_go_away_and_the_line_is_told_once() {
    // Three threads with much to do: all orders would take hours.
    let mut few_switches = Builder::new();
    few_switches.preemption_bound = Some(2);
    few_switches.check(|| {
        let mut ours = Ours::new();
        send(&ours.stream).expect("room");
        // So it is in line when it ends.
        ours.inbox.receive(&Header::ping(Flags::SYN, 7).encode());
        let wire = ours.wire.clone();
        let writer = thread::spawn(move || {
            let mut written = wire.next().unwrap_or_default();
            written.extend(wire.next().unwrap_or_default());
            written
        });
        let session = ours.session.clone();
        let loser = thread::spawn(move || session.lose());
        // A second SYN.
        peer(&mut ours.inbox, Flags::SYN);
        loser.join().expect("no panic");
        let mut written = frames(&writer.join().expect("no panic"));
        written.extend(ours.wire.frames());
        let go_away = Header::go_away(1);
        let told = ours.wire.0.lock().dead;
        assert_eq!(
            told,
            written.iter().filter(|frame| **frame == go_away).count()
        );
        assert!(told == 0 || written.last() == Some(&go_away), "{written:?}");
        assert!(!ours.session.is_live());
    });
}

#[test]
fn draining_sees_the_last_stream_go() {
    model(|| {
        let mut ours = Ours::new();
        peer(&mut ours.inbox, Flags::FIN);
        ours.stream.finish();
        let session = ours.session.clone();
        let hour = Duration::from_secs(3600);
        let drained = thread::spawn(move || session.drain(Instant::now() + hour));
        ours.wire.frames();
        assert_eq!(drained.join().expect("no panic"), 0);
    });
}

#[test]
fn at_the_cap_a_stream_goes_and_its_memory_comes_back() {
    model(|| {
        let mut ours = Ours::with_limit(1024);
        peer_data(&mut ours.inbox);
        assert!(ours.memory.budget().is_full());
        let stream = ours.stream.clone();
        let reader = thread::spawn(move || {
            if let Ok(Input::Some(chunk)) = stream.read(None) {
                stream.give_back(chunk);
            }
        });
        let later = Instant::now() + Duration::from_secs(11);
        ours.session.tick(later);
        reader.join().expect("no panic");
        assert_eq!(ours.memory.budget().charged(), 0);
        ours.wire.frames();
        let left = usize::from(ours.stream.cut().is_none());
        assert_eq!(ours.session.figures().streams, left);
    });
}

#[test]
fn an_id_that_both_ends_open_at_once_is_cut_with_the_session() {
    model(|| {
        let wire = Wire::new();
        let memory = Memory::new(1 << 20);
        let config = Config::new(Role::Server);
        let (session, mut inbox) = Session::start(config, &memory, wire.clone(), drop::<Stream>);
        let opener = {
            let session = session.clone();
            thread::spawn(move || session.open(Instant::now()))
        };
        // The first id that is the plane's to open.
        peer(&mut inbox, Flags::SYN);
        let opened = opener.join().expect("no panic");
        drop(inbox);
        if let Ok(stream) = opened {
            assert_eq!(stream.cut(), Some(Cut::SessionLost));
        }
    });
}
