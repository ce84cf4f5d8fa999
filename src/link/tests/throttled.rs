//! A peer that reads slowly: who goes first, and what can't be overtaken any more
//! (design.md, "Fairness").

use std::ffi::c_int;
use std::sync::Arc;

use rustix::ioctl;
use socket2::Socket;

use super::*;
use crate::turns::TURN;

/// A stream that always has a backlog.
struct Bulk;

impl Speaker for Bulk {
    fn control(&self, _: &mut Vec<u8>) {}

    fn turn(&self, out: &mut Vec<Message>) -> bool {
        out.push(frame(b'b', 32 * 1024));
        out.push(frame(b'b', 32 * 1024));
        true
    }
}

/// One that has something to say from time to time.
struct Echo;

impl Speaker for Echo {
    fn control(&self, _: &mut Vec<u8>) {}

    fn turn(&self, out: &mut Vec<Message>) -> bool {
        out.push(frame(b'e', 64));
        false
    }
}

fn frame(byte: u8, len: usize) -> Message {
    Message::binary(len, |buf| buf.resize(buf.len() + len, byte))
}

/// Bytes that the kernel was given and hasn't sent.
#[allow(
    unsafe_code,
    reason = "the call has no safe form; only this test makes it"
)]
fn unsent(socket: &Socket) -> usize {
    const SIOCOUTQNSD: ioctl::Opcode = 0x894b;
    // SAFETY: the kernel writes a c_int for this opcode (tcp_ioctl), and nothing else.
    let bytes: c_int = unsafe {
        let getter = ioctl::Getter::<SIOCOUTQNSD, c_int>::new();
        ioctl::ioctl(socket, getter).expect("a TCP socket")
    };
    usize::try_from(bytes).expect("a size")
}

/// The other end, which reads when it is told to, and then not much.
struct Slow {
    halves: Halves,
    frames: FrameReader,
}

impl Slow {
    fn read(&mut self, on: &mut dyn FnMut(&[u8])) {
        let bytes = self.halves.read.fill().expect("it goes on");
        let count = bytes.len();
        assert!(count > 0, "the end");
        let mut on = whole(|event| {
            if let Event::Binary(bytes) = event {
                on(bytes);
            }
        });
        self.frames.read(bytes, &mut on).expect("valid");
        self.halves.read.consume(count);
    }
}

fn silent_ones_go_first(near: Halves, far: Halves) {
    far.socket.set_recv_buffer_size(256 * 1024).expect("set");
    let socket = near.socket.clone();
    let mut far = Slow {
        halves: far,
        frames: FrameReader::new(Role::Server, 1 << 20),
    };
    let link = Watched::start(near, quiet(Role::Client)).link;
    let mut senders = Vec::new();
    for number in 0..BULK_SENDERS {
        link.enter(Arc::new(Bulk));
        let (link, lane) = (link.clone(), Lane::Bulk(Slot::of(&number.to_string())));
        senders.push(thread::spawn(move || {
            while link
                .send(lane, frame(b'B', 32 * 1024), &Cancel::new())
                .is_ok()
            {}
        }));
    }
    // So that the kernel finds out what this connection can take.
    let mut warm = 0;
    while warm < 8 * 1024 * 1024 {
        far.read(&mut |bytes| warm += bytes.len());
    }
    for _ in 0..5 {
        // For a moment at least: the kernel should be full, too.
        let mut last = usize::MAX;
        until("everybody waits", || {
            let before = std::mem::replace(&mut last, unsent(&socket));
            link.waiting() == BULK_SENDERS && before == last
        });
        link.enter(Arc::new(Echo));
        // Its message is queued at once, whether there is room or not.
        let sender = link.clone();
        let echo = thread::spawn(move || {
            let lane = Lane::Bulk(Slot::of("echo"));
            sender.send(lane, frame(b'E', 64), &Cancel::new())
        });
        until("it is queued", || {
            echo.is_finished() || link.waiting() > BULK_SENDERS
        });
        let unsent = unsent(&socket);
        let unread = rustix::io::ioctl_fionread(&far.halves.socket).expect("a TCP socket");
        assert!(unsent <= UNSENT, "{unsent} bytes wait in the kernel");
        // Whatever the writer takes from now on, it takes the silent ones first.
        let mut before = unsent + unread as usize + IN_HAND;
        let mut waiting = vec![b'e', b'E'];
        while !waiting.is_empty() {
            far.read(&mut |bytes| {
                if !matches!(bytes[0], b'b' | b'B') {
                    waiting.retain(|byte| *byte != bytes[0]);
                } else if !waiting.is_empty() {
                    before = before
                        .checked_sub(bytes.len())
                        .expect("a backlog goes first");
                }
            });
        }
        assert_eq!(echo.join().expect("no panic"), Ok(()));
    }
    link.abort("for the test");
    for sender in senders {
        sender.join().expect("no panic");
    }
}

#[test]
fn silent_ones_go_before_backlogs_plain() {
    let (near, far) = tcp_pair();
    silent_ones_go_first(Halves::plain(near), Halves::plain(far));
}

#[test]
fn silent_ones_go_before_backlogs_tls() {
    let (near, far) = tls_pair(&TLS13);
    silent_ones_go_first(near, far);
}

/// Streams, and as many requests.
const BULK_SENDERS: usize = 8;

/// What may wait in the kernel unsent, in bytes: the limit, and one buffer of the
/// system's that was begun below it.
const UNSENT: usize = 128 * 1024 + 64 * 1024;

/// What nobody can overtake beside it: a write call of two turns at most, and what
/// the far end has read already of messages and records that aren't complete.
const IN_HAND: usize = 2 * TURN + 64 * 1024;
