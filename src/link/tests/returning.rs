//! Messages that go back to their owner when the link ends before they were sent.

use std::sync::Arc;

use super::*;

/// What came back; its other end is gone when nothing can come any more.
type Returned = crossbeam_channel::Receiver<Message>;

fn owned(bytes: &[u8]) -> (Message, Returned) {
    let (back, returned) = crossbeam_channel::unbounded();
    let message = Message::binary(bytes.len(), |buf| buf.extend_from_slice(bytes));
    let owner = move |message| {
        let _ = back.send(message);
    };
    (message.or_back_to(owner), returned)
}

fn expect_back(returned: &Returned, bytes: &[u8]) {
    let message = returned.try_recv().expect("it came back");
    assert_eq!(message.kind(), Kind::Binary);
    assert!(message.payload() == bytes, "it came back whole");
    expect_gone(returned);
}

/// Whoever could give it back has dropped it.
fn expect_gone(returned: &Returned) {
    let gone = crossbeam_channel::TryRecvError::Disconnected;
    assert_eq!(returned.try_recv().map(drop), Err(gone));
}

/// A lane in which everything finds room.
fn roomy(role: Role) -> Settings {
    Settings {
        bulk_bytes: usize::MAX,
        ..quiet(role)
    }
}

/// More than the system takes for a peer that doesn't read.
const HUGE: usize = 32 * 1024 * 1024;

fn send(link: &Link, message: Message) -> Result<(), SendError> {
    link.send(bulk(), message, &Cancel::new())
}

#[test]
fn what_waits_for_room_comes_back() {
    let (near, far) = against_raw(quiet(Role::Client));
    near.binary(&pattern(HUGE)).expect("open");
    let (message, returned) = owned(b"answer");
    let link = near.link.clone();
    let sending = thread::spawn(move || send(&link, message));
    until("it waits", || near.link.waiting() == 1);
    drop(far);
    let sent = sending.join().expect("no panic");
    assert_eq!(sent, Err(SendError::Closed));
    near.link.wait();
    expect_back(&returned, b"answer");
}

#[test]
fn what_is_queued_comes_back() {
    let (near, far) = against_raw(roomy(Role::Client));
    near.binary(&pattern(HUGE)).expect("open");
    let (bulk, bulk_returned) = owned(b"bulk");
    send(&near.link, bulk).expect("queued");
    drop(far);
    near.link.wait();
    expect_back(&bulk_returned, b"bulk");
}

#[test]
fn what_is_half_written_comes_back_as_it_was() {
    let bytes = pattern(HUGE);
    for (role, part) in [
        (Role::Client, 1),
        (Role::Client, 1_000_000),
        (Role::Server, 100_000),
    ] {
        let (near, mut far) = against_raw(roomy(role));
        let (message, returned) = owned(&bytes);
        send(&near.link, message).expect("queued");
        let mut seen = vec![0; part];
        far.stream.read_exact(&mut seen).expect("a part of it");
        assert!(returned.is_empty());
        near.link.abort("for the test");
        near.link.wait();
        expect_back(&returned, &bytes);
    }
}

#[test]
fn what_an_orderly_close_has_no_time_for_comes_back() {
    let settings = Settings {
        drain: Duration::from_millis(20),
        ..roomy(Role::Client)
    };
    let (near, _far) = against_raw(settings);
    let bytes = pattern(HUGE);
    let (begun, begun_returned) = owned(&bytes);
    let (queued, queued_returned) = owned(b"queued");
    send(&near.link, begun).expect("queued");
    send(&near.link, queued).expect("queued");
    near.link.close(1000, "");
    near.link.wait();
    expect_back(&begun_returned, &bytes);
    expect_back(&queued_returned, b"queued");
}

#[test]
fn what_was_written_does_not_come_back() {
    for size in [0, 10, 200_000] {
        let (near, mut far) = against_raw(quiet(Role::Client));
        let bytes = pattern(size);
        let (message, returned) = owned(&bytes);
        send(&near.link, message).expect("queued");
        let mut came = false;
        while !came {
            assert!(far.read(&mut |event| came = matches!(event, Event::Binary(_))));
        }
        drop(far);
        near.link.wait();
        expect_gone(&returned);
    }
}

#[test]
fn what_is_sent_on_an_ended_link_comes_back_and_what_is_cancelled_does_not() {
    let (near, _far) = against_raw(quiet(Role::Client));
    near.binary(&pattern(HUGE)).expect("open");
    let cancel = Cancel::new();
    let (message, cancelled) = owned(b"cancelled");
    let (link, cancels) = (near.link.clone(), cancel.clone());
    let sending = thread::spawn(move || link.send(bulk(), message, &cancels));
    until("it waits", || near.link.waiting() == 1);
    cancel.cancel(Reason::Cancelled);
    let sent = sending.join().expect("no panic");
    assert_eq!(sent, Err(SendError::Cancelled(Reason::Cancelled)));
    expect_gone(&cancelled);

    near.link.abort("for the test");
    let (message, returned) = owned(b"late");
    assert_eq!(send(&near.link, message), Err(SendError::Closed));
    expect_back(&returned, b"late");
    let (message, returned) = owned(b"control");
    let sent = near.link.send(Lane::Control, message, &Cancel::new());
    assert_eq!(sent, Err(SendError::Closed));
    expect_back(&returned, b"control");
    near.link.wait();
}

#[test]
fn what_a_message_holds_is_held_until_it_is_written_or_dropped() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    let room = Arc::new(());
    let message = Message::binary(HUGE, |buf| buf.resize(buf.len() + HUGE, 7));
    send(&near.link, message.holding(room.clone())).expect("queued");
    assert!(far.read(&mut |_| {}), "it has begun");
    assert_eq!(Arc::strong_count(&room), 2);
    let mut came = false;
    while !came {
        assert!(far.read(&mut |event| came = matches!(event, Event::Binary(_))));
    }
    until("it is let go", || Arc::strong_count(&room) == 1);
    let (message, returned) = owned(b"answer");
    near.link.abort("for the test");
    assert!(send(&near.link, message.holding(room.clone())).is_err());
    assert_eq!(Arc::strong_count(&room), 2);
    drop(returned.try_recv().expect("it came back"));
    assert_eq!(Arc::strong_count(&room), 1);
}
