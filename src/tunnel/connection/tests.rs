//! What metrics say of a session.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::*;
use crate::link;
use crate::net::Halves;
use crate::net::testing::tcp_pair;
use crate::telemetry::metrics::snapshot;
use crate::tunnel::session::{Payload, Stream};
use crate::yamux::{Flags, Header};

/// Keeps the streams that it gets.
struct Keeps(Sender<Stream>);

impl Acceptors for Keeps {
    fn acceptor(&self, _: Connection) -> Box<dyn Acceptor> {
        let to = self.0.clone();
        Box::new(move |stream: Stream| to.send(stream).expect("the test waits"))
    }
}

/// Every text is a hello.
struct Tunnelled(ConnectionTunnels);

impl link::Receiver for Tunnelled {
    fn text(&mut self, _: &str) {
        self.0.replace(&Terms::default());
        self.0.begin();
    }

    fn binary(&mut self, message: &[u8]) {
        assert!(self.0.binary(message));
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The metrics belong to the process, so but for the session's own they can only be
/// seen to have grown.
#[test]
fn what_a_session_holds_and_who_waits_in_it_is_seen() {
    let (to, accepted) = channel();
    let tunnels = Tunnels::new(Settings::default(), Memory::new(64 << 20), Keeps(to));
    tunnels.next.store(NUMBER, Ordering::Relaxed);
    let (near, far) = tcp_pair();
    // It takes little, because it reads nothing.
    far.set_recv_buffer_size(4096).expect("set");
    near.set_send_buffer_size(4096).expect("set");
    let mut far = TcpStream::from(far);
    let link = Link::start(
        Halves::plain(near),
        link::Settings::new(link::Role::Client),
        |link| Tunnelled(tunnels.connection(link)),
    );
    let link = link.expect("started");
    far.write_all(b"\x81\x05hello").expect("written");
    for id in 1..=STREAMS {
        let syn = Header::window(2 * id, Flags::SYN, 0).encode();
        let frame = [&[0x82, syn.len() as u8], &syn[..]].concat();
        far.write_all(&frame).expect("written");
    }
    let senders: Vec<_> = (0..STREAMS)
        .map(|_| {
            let stream = accepted.recv().expect("accepted");
            thread::spawn(move || {
                while let Ok(room) = stream.room(None) {
                    let _ = stream.send(Payload::from(&vec![0; room][..]), None);
                }
            })
        })
        .collect();
    let series = format!("pipeops_agent_yamux_window_bytes{{session=\"{NUMBER}\"}}");
    let count = STREAMS as usize;
    let least = count * 32 * 1024;
    until("it is seen", || {
        let seen = snapshot();
        let value = |series: &str| seen.value(series).unwrap_or_default() as usize;
        value(&series) >= least
            && value("pipeops_agent_link_queue_bytes") >= least
            && value("pipeops_agent_yamux_paused_streams") >= count
            && value("pipeops_tunnel_status") == 1
    });
    link.abort("for the test");
    for sender in senders {
        sender.join().expect("no panic");
    }
    until("it is gone", || snapshot().value(&series).is_none());
}

/// No other test's session.
const NUMBER: u64 = 424_242;

/// More than the kernel takes for a peer that reads nothing.
const STREAMS: u32 = 16;
