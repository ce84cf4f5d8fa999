//! What stands between senders and the writer of a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model;
use loom::thread;
use rooms::link::{Mailbox, Message, SendError, Slot, Speaker};

/// Room for one message, whatever it says.
const LITTLE: usize = 1;

/// Has so many turns; its last one ends with a ping that somebody asks for meanwhile.
struct Talker {
    mailbox: Arc<Mailbox>,
    turns: AtomicUsize,
    pings: bool,
}

impl Talker {
    fn new(mailbox: &Arc<Mailbox>, turns: usize, pings: bool) -> Arc<Self> {
        Arc::new(Self {
            mailbox: mailbox.clone(),
            turns: AtomicUsize::new(turns),
            pings,
        })
    }
}

impl Speaker for Talker {
    fn control(&self, out: &mut Vec<u8>) {
        out.push(b'c');
    }

    fn turn(&self, out: &mut Vec<Message>) -> bool {
        if self.pings {
            self.mailbox.ping();
        }
        let left = self.turns.load(Ordering::Relaxed);
        if left == 0 {
            return false;
        }
        self.turns.store(left - 1, Ordering::Relaxed);
        out.push(Message::binary(1, |buf| buf.push(b't')));
        true
    }
}

fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::new(LITTLE))
}

#[test]
fn what_is_sent_while_the_writer_goes_to_sleep_is_written() {
    model(|| {
        let mailbox = mailbox();
        let writer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.write(2))
        };
        let sender = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.send(Slot::of("a"), "bulk"))
        };
        assert!(mailbox.send_control("control"));
        assert_eq!(sender.join().expect("no panic"), Ok(()));
        let mut written = writer.join().expect("no panic").messages;
        written.sort();
        assert_eq!(written, [&b"bulk"[..], b"control"]);
    });
}

#[test]
fn a_sender_without_room_is_woken_when_its_message_is_taken() {
    model(|| {
        let mailbox = mailbox();
        let writer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.write(2))
        };
        for text in ["1", "2"] {
            assert_eq!(mailbox.send(Slot::of("a"), text), Ok(()));
        }
        let written = writer.join().expect("no panic").messages;
        assert_eq!(written, [b"1", b"2"]);
    });
}

#[test]
fn a_speaker_who_enters_is_asked_and_so_is_who_enters_while_he_speaks() {
    model(|| {
        let mailbox = mailbox();
        let writer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.write(3))
        };
        let second = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let talker = Talker::new(&mailbox, 1, false);
                mailbox.enter(talker);
            })
        };
        mailbox.enter(Talker::new(&mailbox, 1, false));
        second.join().expect("no panic");
        mailbox.enter_control(Talker::new(&mailbox, 0, false));
        let mut written = writer.join().expect("no panic").messages;
        written.sort();
        assert_eq!(written, [b"c", b"t", b"t"]);
    });
}

#[test]
fn a_ping_asked_for_during_a_turn_goes_out_with_what_was_said() {
    model(|| {
        let mailbox = mailbox();
        mailbox.enter(Talker::new(&mailbox, 1, true));
        // As the clock does, at the same time.
        let clock = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.ping())
        };
        let written = mailbox.write(1);
        assert!(written.ping);
        clock.join().expect("no panic");
    });
}

#[test]
fn a_ping_wakes_a_writer_that_has_nothing_else() {
    model(|| {
        let mailbox = mailbox();
        let clock = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.ping())
        };
        assert!(mailbox.next().expect("something").ping);
        clock.join().expect("no panic");
    });
}

#[test]
fn a_close_wakes_everybody_and_what_was_queued_goes_before_it() {
    model(|| {
        let mailbox = mailbox();
        assert_eq!(mailbox.send(Slot::of("a"), "0"), Ok(()));
        let sender = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.send(Slot::of("a"), "1"))
        };
        let closer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || assert!(mailbox.close()))
        };
        let written = mailbox.write(3);
        assert!(written.close);
        closer.join().expect("no panic");
        // He is told which it was.
        let want: &[&[u8]] = match sender.join().expect("no panic") {
            Ok(()) => &[b"0", b"1"],
            Err(why) => {
                assert_eq!(why, SendError::Closed);
                &[b"0"]
            }
        };
        assert_eq!(written.messages, want);
    });
}

#[test]
fn a_stop_wakes_the_writer_and_those_who_wait() {
    model(|| {
        let mailbox = mailbox();
        assert_eq!(mailbox.send(Slot::of("a"), "0"), Ok(()));
        let sender = {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.send(Slot::of("a"), "1"))
        };
        let writer = {
            let mailbox = mailbox.clone();
            thread::spawn(move || while mailbox.next().is_some() {})
        };
        mailbox.stop();
        writer.join().expect("no panic");
        // It may have been taken before.
        let told = sender.join().expect("no panic");
        assert!(matches!(told, Ok(()) | Err(SendError::Closed)));
    });
}
