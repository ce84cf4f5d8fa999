//! Few threads, each with one thing to do, in every order that the locks allow. Who
//! waits and is never woken is a deadlock, which loom reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use loom::model;
use loom::model::Builder;
use loom::thread;
use rooms::link::Speaker;
use rooms::session::{Inbox, Line, Memory, Payload, SendError, Session, Stream};
use rooms::sync::{Condvar, Mutex};
use rooms::yamux::{Config, Cut, Decoder, Event, Fatal, Flags, Header, Input, Kind, Reset, Role};

/// Who is in line. The test is the thread that writes.
struct Wire(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    control: Vec<Arc<dyn Speaker>>,
    turns: Vec<Arc<dyn Speaker>>,
    dead: usize,
}

impl Wire {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue::default())))
    }

    /// What the next speaker says; none: nobody is in line.
    fn next(&self) -> Option<Vec<u8>> {
        let (control, turn) = {
            let mut queue = self.0.lock();
            if queue.control.is_empty() {
                let turn = (!queue.turns.is_empty()).then(|| queue.turns.remove(0));
                (None, turn)
            } else {
                (Some(queue.control.remove(0)), None)
            }
        };
        let mut bytes = Vec::new();
        if let Some(speaker) = control {
            speaker.control(&mut bytes);
            return Some(bytes);
        }
        let speaker = turn?;
        let mut messages = Vec::new();
        let spoke = speaker.turn(&mut messages);
        assert_eq!(spoke, !messages.is_empty());
        for message in &messages {
            bytes.extend_from_slice(message.payload());
        }
        if spoke {
            enter(&mut self.0.lock().turns, speaker);
        }
        Some(bytes)
    }

    /// All that is left to be said.
    fn frames(&self) -> Vec<Header> {
        std::iter::from_fn(|| self.next())
            .flat_map(|bytes| frames(&bytes))
            .collect()
    }
}

impl Line for Wire {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        enter(&mut self.0.lock().turns, speaker);
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        enter(&mut self.0.lock().control, speaker);
    }

    fn dead(&self, _why: Fatal) {
        self.0.lock().dead += 1;
    }
}

/// Everybody is in line once.
fn enter(line: &mut Vec<Arc<dyn Speaker>>, speaker: Arc<dyn Speaker>) {
    let twice = line.iter().any(|other| Arc::ptr_eq(other, &speaker));
    assert!(!twice, "twice in line");
    line.push(speaker);
}

fn frames(mut bytes: &[u8]) -> Vec<Header> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    while let Some(event) = decoder.next(&mut bytes).expect("frames") {
        if let Event::Frame(header) = event {
            frames.push(header);
        }
    }
    frames
}

/// An agent's session with a stream that the peer opened, whose ACK is written.
struct Ours {
    session: Session,
    inbox: Inbox,
    wire: Arc<Wire>,
    stream: Stream,
    memory: Memory,
}

impl Ours {
    fn new() -> Self {
        Self::with_limit(1 << 20)
    }

    /// With this limit of memory.
    fn with_limit(limit: usize) -> Self {
        let wire = Wire::new();
        let memory = Memory::new(limit);
        let accepted = Arc::new(std::sync::Mutex::new(None));
        let to = accepted.clone();
        let accept = move |stream: Stream| *to.lock().expect("alone") = Some(stream);
        let config = Config::new(Role::Client);
        let (session, mut inbox) = Session::start(config, &memory, wire.clone(), accept);
        peer(&mut inbox, Flags::SYN);
        assert_eq!(wire.frames(), [window(Flags::ACK)]);
        let stream = accepted.lock().expect("alone").take();
        Self {
            session,
            inbox,
            wire,
            stream: stream.expect("accepted"),
            memory,
        }
    }
}

/// From the thread that accepts to one that waits.
struct Handover(Mutex<Option<Stream>>, Condvar);

impl Handover {
    fn new() -> Self {
        Self(Mutex::new(None), Condvar::new())
    }

    fn put(&self, stream: Stream) {
        *self.0.lock() = Some(stream);
        self.1.notify_all();
    }

    fn take(&self) -> Stream {
        let mut place = self.0.lock();
        loop {
            if let Some(stream) = place.take() {
                return stream;
            }
            self.1.wait(&mut place);
        }
    }
}

fn window(flags: Flags) -> Header {
    Header::window(ID, flags, 0)
}

fn peer(inbox: &mut Inbox, flags: Flags) {
    inbox.receive(&window(flags).encode());
}

fn peer_data(inbox: &mut Inbox) {
    inbox.receive(&Header::data(ID, DATA.len() as u32).encode());
    inbox.receive(&DATA);
}

fn data() -> Header {
    Header::data(ID, DATA.len() as u32)
}

fn send(stream: &Stream) -> Result<(), SendError> {
    stream.send(Payload::from(&DATA[..]), None)
}

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
        // Both slots are full.
        send(&ours.stream).expect("room");
        send(&ours.stream).expect("room");
        let stream = ours.stream.clone();
        let sender = thread::spawn(move || {
            send(&stream).expect("not cut");
            stream.finish();
        });
        let mut written = frames(&ours.wire.next().expect("a turn"));
        sender.join().expect("no panic");
        written.extend(ours.wire.frames());
        assert_eq!(written, [data(), data(), data(), window(Flags::FIN)]);
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
        send(&ours.stream).expect("room");
        send(&ours.stream).expect("room");
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

const ID: u32 = 2;
const DATA: [u8; 3] = [1, 2, 3];
static HALF: [u8; 128 * 1024] = [0; 128 * 1024];
