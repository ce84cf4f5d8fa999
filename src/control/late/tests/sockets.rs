//! Over real connections that die at each stage of an answer's way out.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use socket2::Socket;

use super::*;
use crate::link::{Link, Receiver, Role, Settings};
use crate::net::Halves;
use crate::net::testing::tcp_pair;
use crate::proxy::Outlet;

/// Sends on what it hears.
struct Ear(crossbeam_channel::Sender<String>);

impl Receiver for Ear {
    fn text(&mut self, message: &str) {
        let _ = self.0.send(message.to_owned());
    }

    fn binary(&mut self, _: &[u8]) {}
}

/// A link on which nothing happens by itself.
pub(super) fn start(socket: Socket, bulk_bytes: usize) -> Link {
    let (sender, _) = crossbeam_channel::unbounded();
    start_with(socket, Role::Client, bulk_bytes, sender)
}

fn start_with(
    socket: Socket,
    role: Role,
    bulk_bytes: usize,
    sender: crossbeam_channel::Sender<String>,
) -> Link {
    let settings = Settings {
        ping_interval: Duration::from_mins(10),
        read_limit: Duration::from_mins(10),
        write_limit: Duration::from_mins(10),
        bulk_bytes,
        ..Settings::new(role)
    };
    Link::start(Halves::plain(socket), settings, |_| Ear(sender)).expect("started")
}

/// A connection whose peer reads nothing by itself.
struct Doomed {
    link: Link,
    far: TcpStream,
    outlet: Arc<ConnectionOutlet>,
}

impl Doomed {
    fn new(late: &Arc<LateAnswers>, generation: Generation, bulk_bytes: usize) -> Self {
        let (near, far) = tcp_pair();
        let link = start(near, bulk_bytes);
        let outlet = late.connected(generation, URL, Arc::new(link.clone()));
        Self {
            link,
            far: far.into(),
            outlet,
        }
    }

    /// Keeps the link busy for ever.
    fn plug(&self) {
        let plug = Message::binary(HUGE, |buf| buf.resize(buf.len() + HUGE, 7));
        self.outlet
            .send("plug", plug, &Cancel::new())
            .expect("open");
    }

    fn answer(&self, id: &str, message: Message) {
        let sent = self.outlet.send_late(id, message, &Cancel::new());
        sent.expect("no error of the sender's");
    }

    fn die(self, late: &LateAnswers, generation: Generation) {
        drop(self.far);
        self.link.wait();
        late.lost(generation);
    }
}

/// Expects these texts on the next connection, and nothing before them.
fn expect_next(late: &Arc<LateAnswers>, generation: Generation, expected: &[&str]) {
    let (near, far) = tcp_pair();
    let (sender, heard) = crossbeam_channel::unbounded();
    let peer = start_with(far, Role::Server, 1000, sender);
    let link = start(near, 1000);
    let _outlet = late.connected(generation, URL, Arc::new(link.clone()));
    let serving = serve(late, generation);
    for text in expected {
        let came = heard.recv_timeout(Duration::from_mins(1)).expect("it came");
        assert!(came == *text, "{} bytes came", came.len());
    }
    link.abort("for the test");
    link.wait();
    peer.wait();
    lose(late, generation, serving);
    assert!(heard.is_empty());
}

/// More than the system takes for a peer that doesn't read.
const HUGE: usize = 32 * 1024 * 1024;

#[test]
fn an_answer_that_waited_for_room() {
    let late = LateAnswers::new();
    let doomed = Doomed::new(&late, 1, 1000);
    doomed.plug();
    let room = Arc::new(());
    thread::scope(|scope| {
        let message = answer("a").holding(room.clone());
        scope.spawn(|| doomed.answer("r", message));
        while doomed.link.waiting() == 0 {
            thread::yield_now();
        }
        doomed.link.abort("for the test");
    });
    doomed.die(&late, 1);
    // Its room is taken until it is delivered.
    assert_eq!(Arc::strong_count(&room), 2);
    expect_next(&late, 2, &["a"]);
    assert_eq!(Arc::strong_count(&room), 1);
    assert_eq!(late.dropped(), 0);
}

#[test]
fn answers_that_were_queued_come_in_order_and_others_do_not() {
    let late = LateAnswers::new();
    let doomed = Doomed::new(&late, 1, usize::MAX);
    doomed.plug();
    doomed.answer("r", answer("a"));
    let chunk = answer("form S");
    doomed
        .outlet
        .send("c", chunk, &Cancel::new())
        .expect("open");
    doomed.answer("s", answer("b"));
    doomed.die(&late, 1);
    expect_next(&late, 2, &["a", "b"]);
    assert_eq!(late.dropped(), 0);
}

#[test]
fn an_answer_that_was_half_written_comes_again_as_a_whole_also_a_second_time() {
    let late = LateAnswers::new();
    let text = "0123456789abcdef".repeat(HUGE / 16);
    let mut doomed = Doomed::new(&late, 1, 1000);
    doomed.answer("r", answer(&text));
    doomed
        .far
        .read_exact(&mut vec![0; 200_000])
        .expect("a part");
    doomed.die(&late, 1);
    let mut doomed = Doomed::new(&late, 2, 1000);
    let serving = serve(&late, 2);
    doomed
        .far
        .read_exact(&mut vec![0; 100_000])
        .expect("a part");
    doomed.die(&late, 2);
    serving.join().expect("no panic");
    expect_next(&late, 3, &[&text]);
    assert_eq!(late.dropped(), 0);
}

#[test]
fn an_answer_that_was_written_does_not_come_again() {
    let late = LateAnswers::new();
    let mut doomed = Doomed::new(&late, 1, 1000);
    doomed.answer("r", answer("a"));
    // Two bytes of header, four of mask, the text.
    doomed.far.read_exact(&mut [0; 7]).expect("all of it");
    let outlet = doomed.outlet.clone();
    doomed.die(&late, 1);
    outlet
        .send_late("s", answer("b"), &Cancel::new())
        .expect("kept");
    expect_next(&late, 2, &["b"]);
}

#[test]
fn an_id_that_is_used_again_cancels_an_answer_that_is_given_back_or_waits_for_the_lane() {
    let late = LateAnswers::new();
    let doomed = Doomed::new(&late, 1, usize::MAX);
    doomed.plug();
    for id in ["r", "s", "t"] {
        doomed.answer(id, answer(id));
    }
    // The next connection is there before the old one has ended.
    let next = Doomed::new(&late, 2, 1000);
    late.used(2, "r");
    doomed.die(&late, 1);
    next.plug();
    let serving = serve(&late, 2);
    while next.link.waiting() == 0 {
        thread::yield_now();
    }
    late.used(2, "s");
    while next.link.waiting() == 0 || !late.state.lock().waiting.is_empty() {
        thread::yield_now();
    }
    next.die(&late, 2);
    serving.join().expect("no panic");
    expect_next(&late, 3, &["t"]);
    // Silently.
    assert_eq!(late.dropped(), 0);
}
