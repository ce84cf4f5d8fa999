//! What a link has taken is given back, however it ends. A process of its own,
//! because it counts the threads and descriptors of the whole process.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pipeops_agent::link::{Lane, Link, Message, Receiver, Role, Settings, Slot};
use pipeops_agent::net::{Cancel, Halves};

struct Answers(Link);

impl Receiver for Answers {
    fn text(&mut self, _: &str) {
        let message = Message::text(2, |buf| buf.extend_from_slice(b"ok"));
        // Fails when the link is being cut.
        let _ = self.0.send(Lane::Control, message, &Cancel::new());
    }

    fn binary(&mut self, _: &[u8]) {}
}

fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    (near, listener.accept().expect("accept").0)
}

fn start(stream: TcpStream, role: Role) -> Link {
    let halves = Halves::plain(stream.into());
    Link::start(halves, Settings::new(role), |link| Answers(link.clone())).expect("started")
}

/// Threads and open descriptors.
fn taken() -> (usize, usize) {
    let count = |path| fs::read_dir(path).expect("proc").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

fn send(link: &Link, len: usize) -> bool {
    let message = Message::binary(len, |buf| buf.resize(buf.len() + len, 7));
    let lane = Lane::Bulk(Slot::of(""));
    link.send(lane, message, &Cancel::new()).is_ok()
}

#[test]
fn three_hundred_links_leave_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut before = (0, 0);
    let mut ended = Vec::new();
    for i in 0..330 {
        if i == 30 {
            // What is made once (the test's own machinery) is there by now.
            before = settled(None);
        }
        let (near, mut far) = pair(&listener);
        let link = start(near, Role::Client);
        match i % 6 {
            // Cut in the middle of everything.
            0 => {
                let sender = link.clone();
                let sending = thread::spawn(move || while send(&sender, 100_000) {});
                far.write_all(b"\x81\x02hi").expect("write");
                drop(far);
                sending.join().expect("no panic");
            }
            1 => drop(far),
            2 => link.abort("test"),
            3 => {
                let other = start(far, Role::Server);
                send(&link, 300_000);
                link.close(1000, "");
                other.wait();
            }
            4 => {
                let other = start(far, Role::Server);
                send(&other, 300_000);
                other.abort("test");
                other.wait();
            }
            _ => {
                far.write_all(b"\xff\xff").expect("write");
                drop(far);
            }
        }
        link.wait();
        // A handle to an ended link keeps neither thread nor descriptor.
        ended.push(link);
    }
    assert_eq!(settled(Some(before)), before);
    assert_eq!(ended.len(), 330);
}

/// The counts once they stay as they are, or are the wanted ones: a thread is gone
/// a moment after it has ended its work.
fn settled(wanted: Option<(usize, usize)>) -> (usize, usize) {
    let limit = Instant::now() + Duration::from_mins(1);
    let mut last = taken();
    let mut same = 0;
    while same < 20 && wanted != Some(last) && Instant::now() < limit {
        thread::sleep(Duration::from_millis(10));
        let now = taken();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}
