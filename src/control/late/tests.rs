mod sockets;

use std::thread::{self, JoinHandle};

use super::super::channel::tests::Recorder;
use super::*;
use crate::proxy::Outlet;

const URL: &str = "wss://g/ws?cluster_uuid=1";

fn answer(text: &str) -> Message {
    Message::text(text.len(), |buf| buf.extend_from_slice(text.as_bytes()))
}

fn texts(sent: Vec<(Lane, String)>) -> Vec<String> {
    assert!(sent.iter().all(|(lane, _)| matches!(lane, Lane::Bulk(_))));
    sent.into_iter().map(|(_, text)| text).collect()
}

fn serve(late: &Arc<LateAnswers>, generation: Generation) -> JoinHandle<()> {
    let late = late.clone();
    thread::spawn(move || late.serve(generation))
}

/// The connection is lost, and whoever served it has noticed.
fn lose(late: &LateAnswers, generation: Generation, serving: JoinHandle<()>) {
    late.lost(generation);
    serving.join().expect("no panic");
}

struct Two {
    late: Arc<LateAnswers>,
    old: Arc<ConnectionOutlet>,
    first: Arc<Recorder>,
    second: Arc<Recorder>,
}

impl Two {
    fn answer(&self, id: &str, text: &str) {
        self.old
            .send_late(id, answer(text), &Cancel::new())
            .expect("no error of the sender's");
    }
}

/// A connection that is gone, with a request that still runs.
fn lost() -> Two {
    let (late, first) = (LateAnswers::new(), Recorder::new());
    let old = late.connected(1, URL, first.clone());
    first.go();
    late.lost(1);
    Two {
        late,
        old,
        first,
        second: Recorder::new(),
    }
}

#[test]
fn while_the_connection_lives_answers_go_there() {
    let (late, channel) = (LateAnswers::new(), Recorder::new());
    let outlet = late.connected(1, URL, channel.clone());
    let _ = outlet.send_late("r", answer("a"), &Cancel::new());
    outlet.send("s", answer("b"), &Cancel::new()).expect("sent");
    assert_eq!(texts(channel.take(2)), ["a", "b"]);
}

#[test]
fn an_answer_waits_for_the_next_connection_to_the_same_endpoint() {
    let two = lost();
    two.answer("r", "a");
    let elsewhere = Recorder::new();
    let _other = two.late.connected(2, "wss://elsewhere", elsewhere.clone());
    lose(&two.late, 2, serve(&two.late, 2));
    assert!(elsewhere.types().is_empty());
    let _new = two.late.connected(3, URL, two.second.clone());
    let serving = serve(&two.late, 3);
    assert_eq!(texts(two.second.take(1)), ["a"]);
    lose(&two.late, 3, serving);
    assert!(two.first.types().is_empty());
    assert_eq!(two.late.dropped(), 0);
}

#[test]
fn an_answer_that_comes_later_goes_to_the_new_connection_too() {
    let two = lost();
    let _new = two.late.connected(2, URL, two.second.clone());
    let serving = serve(&two.late, 2);
    two.answer("r", "a");
    assert_eq!(texts(two.second.take(1)), ["a"]);
    lose(&two.late, 2, serving);
}

#[test]
fn an_id_that_is_used_again_cancels_the_answer_before_and_after_it_is_ready() {
    let two = lost();
    two.answer("r", "waiting");
    let _new = two.late.connected(2, URL, two.second.clone());
    two.late.used(2, "r");
    two.late.used(2, "s");
    let serving = serve(&two.late, 2);
    two.answer("s", "too late");
    two.answer("t", "good");
    assert_eq!(texts(two.second.take(1)), ["good"]);
    lose(&two.late, 2, serving);
    // Silently.
    assert_eq!(two.late.dropped(), 0);
}

#[test]
fn answers_that_waited_too_long_are_dropped_and_counted() {
    let two = lost();
    two.answer("r", "a");
    two.late.tick(Instant::now());
    assert_eq!(two.late.dropped(), 0);
    two.late.tick(Instant::now() + PATIENCE);
    assert_eq!(two.late.dropped(), 1);
    let _new = two.late.connected(2, URL, two.second.clone());
    lose(&two.late, 2, serve(&two.late, 2));
    assert!(two.second.types().is_empty());
}

#[test]
fn what_waits_is_bounded() {
    let two = lost();
    for n in 0..=MAX_WAITING {
        two.answer(&n.to_string(), "a");
    }
    assert_eq!(two.late.dropped(), 1);
}

#[test]
fn an_answer_that_is_cancelled_goes_nowhere() {
    let cancel = Cancel::new();
    cancel.cancel(Reason::Cancelled);
    let late = LateAnswers::new();
    let (near, _far) = crate::net::testing::tcp_pair();
    let link = sockets::start(near, 1000);
    let outlet = late.connected(1, URL, Arc::new(link));
    let sent = outlet.send_late("r", answer("a"), &cancel);
    assert_eq!(sent, Err(SendError::Cancelled(Reason::Cancelled)));
    assert!(late.state.lock().waiting.is_empty());
}

#[test]
fn ids_are_remembered_only_while_older_answers_may_come() {
    let two = lost();
    let _new = two.late.connected(2, URL, two.second.clone());
    two.late.used(2, "r");
    drop(two.old);
    two.late.used(2, "s");
    let state = two.late.state.lock();
    assert!(state.live.as_ref().expect("live").used.is_empty());
}

#[test]
fn t05_the_end_of_an_old_connection_does_not_touch_the_new_one() {
    let two = lost();
    let _new = two.late.connected(2, URL, two.second.clone());
    let serving = serve(&two.late, 2);
    two.late.lost(1);
    two.answer("r", "a");
    assert_eq!(texts(two.second.take(1)), ["a"]);
    lose(&two.late, 2, serving);
}
