mod speaking;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::link::lanes::CONTROL_MESSAGES;
use crate::net::Reason;

fn message(len: usize) -> Message {
    Message::binary(len, |buf| buf.extend(std::iter::repeat_n(7, len)))
}

fn outbox(room: usize) -> Arc<Outbox> {
    Arc::new(Outbox::new(room))
}

/// For all messages of one request.
fn slot() -> Slot {
    Slot::of("")
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the writer is given now; there must be something.
fn take(outbox: &Outbox) -> (Step, Batch) {
    let mut batch = Batch::default();
    let step = outbox.next(&mut batch, false);
    (step, batch)
}

fn sizes(batch: &Batch) -> Vec<usize> {
    batch.messages.iter().map(Message::len).collect()
}

#[test]
fn control_goes_before_bulk() {
    let outbox = outbox(1000);
    outbox
        .send_bulk(slot(), message(3), &Cancel::new())
        .expect("room");
    outbox.send_control(message(1)).expect("room");
    outbox.send_control(message(2)).expect("room");
    let (step, batch) = take(&outbox);
    assert_eq!((step, sizes(&batch)), (Step::Write, vec![1, 2, 3]));
}

#[test]
fn a_full_control_lane_is_an_error() {
    let outbox = outbox(1000);
    for _ in 0..CONTROL_MESSAGES {
        outbox.send_control(message(0)).expect("room");
    }
    assert_eq!(outbox.send_control(message(0)), Err(Untaken::Full));
}

#[test]
fn senders_wait_until_they_are_written_in_order() {
    for slots in [1, 20] {
        let outbox = outbox(100);
        outbox
            .send_bulk(slot(), message(100), &Cancel::new())
            .expect("room");
        let mut senders = Vec::new();
        for i in 0..20 {
            let sender = outbox.clone();
            senders.push(thread::spawn(move || {
                let slot = Slot::of(&(i % slots).to_string());
                sender.send_bulk(slot, message(80 + i), &Cancel::new())
            }));
            until("it waits", || outbox.waiting() == i + 1);
        }
        let (_, batch) = take(&outbox);
        let expected: Vec<usize> = [100].into_iter().chain(80..100).collect();
        assert_eq!(sizes(&batch), expected);
        for sender in senders {
            assert_eq!(sender.join().expect("no panic"), Ok(()));
        }
    }
}

#[test]
fn a_cancelled_sender_stops_waiting_and_its_message_is_gone() {
    let outbox = outbox(100);
    outbox
        .send_bulk(slot(), message(100), &Cancel::new())
        .expect("room");
    let cancel = Cancel::new();
    let (sender, its) = (outbox.clone(), cancel.clone());
    let sender = thread::spawn(move || sender.send_bulk(slot(), message(1), &its));
    until("it waits", || outbox.waiting() == 1);
    cancel.cancel(Reason::Deadline);
    assert_eq!(
        sender.join().expect("no panic"),
        Err(SendError::Cancelled(Reason::Deadline))
    );
    let (_, batch) = take(&outbox);
    assert_eq!(sizes(&batch), [100]);
    assert_eq!(
        outbox.send_bulk(slot(), message(1), &cancel),
        Err(SendError::Cancelled(Reason::Deadline)),
        "cancelled work sends nothing, room or not"
    );
}

#[test]
fn close_sends_the_waiting_away_and_writes_what_is_queued_first() {
    let outbox = outbox(100);
    outbox
        .send_bulk(slot(), message(100), &Cancel::new())
        .expect("room");
    let other = outbox.clone();
    let sender = thread::spawn(move || other.send_bulk(slot(), message(1), &Cancel::new()));
    until("it waits", || outbox.waiting() == 1);
    assert!(outbox.close(CloseFrame::new(1000, "")));
    assert_eq!(sender.join().expect("no panic"), Err(SendError::Closed));
    assert_eq!(outbox.send_control(message(1)), Err(Untaken::Closed));
    let (_, batch) = take(&outbox);
    assert!(batch.close.is_none() && sizes(&batch) == [100]);
    let mut batch = Batch::default();
    assert_eq!(outbox.next(&mut batch, true), Step::Write);
    assert!(batch.close.is_none(), "not inside a message");
    let (_, batch) = take(&outbox);
    assert_eq!(batch.close.expect("now").code, Some(1000));
    outbox.ping();
    outbox.finish(None);
    let (step, batch) = take(&outbox);
    assert_eq!(step, Step::Finish);
    assert!(!batch.jobs.ping, "nothing follows a close frame");
}

#[test]
fn an_answered_close_does_not_wait_for_a_message_in_hand() {
    let outbox = outbox(1000);
    outbox
        .send_bulk(slot(), message(1), &Cancel::new())
        .expect("room");
    outbox.finish(Some(CloseFrame::new(1001, "")));
    let mut batch = Batch::default();
    assert_eq!(outbox.next(&mut batch, true), Step::Write);
    assert_eq!(batch.close.as_ref().expect("at once").code, Some(1001));
    assert!(batch.messages.is_empty());
    assert_eq!(outbox.next(&mut batch, false), Step::Finish);
}

#[test]
fn of_many_pings_the_last_is_answered_and_a_flood_is_refused() {
    let outbox = outbox(1000);
    for i in 0..100u8 {
        outbox.pong(&[i]).expect("a few");
    }
    let (_, batch) = take(&outbox);
    assert_eq!(batch.jobs.pongs.len(), PONGS);
    assert_eq!(batch.jobs.pongs.back().expect("some").payload(), [99]);
    let refused = (0..=PONGS + UNANSWERED).find(|_| outbox.pong(b"").is_err());
    assert_eq!(refused, Some(PONGS + UNANSWERED));
}

#[test]
fn stop_ends_everybody() {
    let outbox = outbox(10);
    let writer = outbox.clone();
    let writer = thread::spawn(move || writer.next(&mut Batch::default(), false));
    outbox.stop();
    assert_eq!(writer.join().expect("no panic"), Step::Stop);
    assert_eq!(
        outbox.send_bulk(slot(), message(1), &Cancel::new()),
        Err(SendError::Closed)
    );
}

/// Many senders, some cancelled at any moment, one writer: every message that was
/// accepted is written once, and nobody sleeps for ever.
#[test]
fn no_wake_up_is_lost() {
    const SENDERS: usize = 8;
    const EACH: usize = 300;
    let outbox = outbox(500);
    let accepted = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..SENDERS)
        .map(|seed| {
            let (outbox, accepted) = (outbox.clone(), accepted.clone());
            thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                for _ in 0..EACH {
                    let cancel = Cancel::new();
                    let len = random.usize(0..700);
                    if random.u8(..) < 100 {
                        let cancel = cancel.clone();
                        thread::spawn(move || cancel.cancel(Reason::Cancelled));
                    }
                    let slot = Slot::of(&random.u8(0..4).to_string());
                    match outbox.send_bulk(slot, message(len), &cancel) {
                        Ok(()) => drop(accepted.fetch_add(1, Ordering::SeqCst)),
                        Err(SendError::Cancelled(_)) => {}
                        Err(SendError::Closed) => panic!("nobody closes"),
                    }
                }
            })
        })
        .collect();
    let writer = thread::spawn({
        let outbox = outbox.clone();
        move || {
            let (mut batch, mut count) = (Batch::default(), 0);
            while outbox.next(&mut batch, false) == Step::Write {
                count += batch.messages.len();
                if batch.close.is_some() {
                    outbox.finish(None);
                }
            }
            count
        }
    });
    for sender in senders {
        sender.join().expect("no panic");
    }
    assert!(outbox.close(CloseFrame::default()));
    assert_eq!(
        writer.join().expect("no panic"),
        accepted.load(Ordering::SeqCst)
    );
    assert_eq!(outbox.waiting(), 0);
}
