//! Listeners for datagrams: a client's address is a stream (tunnels.md §3.6).

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::Socket;

use super::entrance::{Client, Entrance};
use crate::threads::{self, Stack};
use crate::tunnel::session::{Payload, SendError, Stream};
use crate::tunnel::streams::{Account, Activity};
use crate::yamux::{Datagram, Input};

/// One listener's clients.
struct Shared {
    entrance: Arc<Entrance>,
    socket: UdpSocket,
    clients: Mutex<HashMap<SocketAddr, Arc<Peer>>>,
    idle: Duration,
}

/// One client's stream.
struct Peer {
    stream: Stream,
    activity: Activity,
    client: Client,
}

/// Listens until the exposure ends. A client without a datagram for `idle` is
/// forgotten.
pub(super) fn listen(
    entrance: &Arc<Entrance>,
    address: SocketAddr,
    idle: Duration,
) -> io::Result<JoinHandle<Option<()>>> {
    let socket = UdpSocket::bind(address)?;
    let held = Arc::new(Socket::from(socket.try_clone()?));
    let shared = Arc::new(Shared {
        entrance: entrance.clone(),
        socket,
        clients: Mutex::default(),
        idle,
    });
    let name = format!("udp-{}", address.port());
    threads::spawn(name, Stack::Work, move || {
        // Ends the waiting for datagrams.
        let Ok(_guard) = shared.entrance.cancel.on_socket(held) else {
            return;
        };
        let mut buf = vec![0; MAX_DATAGRAM];
        loop {
            let received = shared.socket.recv_from(&mut buf);
            if shared.entrance.cancel.reason().is_some() {
                return;
            }
            match received {
                // There is no frame for an empty one.
                Ok((0, _)) => {}
                Ok((len, address)) => shared.pass_on(&buf[..len], address),
                Err(error) => {
                    log::warn!("a listener can't receive: {error}");
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    })
    .map_err(io::Error::other)
}

impl Shared {
    /// What finds no stream, or no room in it, is dropped, as datagrams are.
    fn pass_on(self: &Arc<Self>, datagram: &[u8], address: SocketAddr) {
        let known = self.clients.lock().get(&address).cloned();
        let Some(peer) = known.or_else(|| self.begin(address)) else {
            return;
        };
        match peer.stream.try_send_datagram(Payload::from(datagram)) {
            Ok(true) => {
                peer.activity.touch();
                peer.client.moved_out(datagram.len());
            }
            Ok(false) | Err(SendError::TimedOut) => {}
            // The next one gets a new stream.
            Err(SendError::Finished | SendError::Cut(_)) => self.forget(address, &peer),
        }
    }

    fn begin(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Peer>> {
        let mut client = self.entrance.enter()?;
        // The listener waits for nobody.
        let stream = match self.entrance.open(address, Instant::now()) {
            Ok(stream) => stream,
            Err(why) => {
                self.entrance.refuse(&why);
                return None;
            }
        };
        if !client.holds(&stream) {
            return None;
        }
        let peer = Arc::new(Peer {
            stream,
            activity: Activity::new(Some(self.idle)),
            client,
        });
        self.clients.lock().insert(address, peer.clone());
        let (shared, answered) = (self.clone(), peer.clone());
        let task = Box::new(move || {
            shared.answer(address, &answered);
            shared.forget(address, &answered);
        });
        if self.entrance.crew.openers.run(task).is_err() {
            self.entrance.refuse(&"no thread can be had");
            self.forget(address, &peer);
            return None;
        }
        Some(peer)
    }

    /// Service → client, until either has had enough.
    fn answer(&self, address: SocketAddr, peer: &Peer) {
        loop {
            // Waits without a buffer.
            match peer.stream.parse(peer.activity.until(), |_| ()) {
                Ok(Input::Some(())) => {}
                Ok(Input::Wait) if !peer.activity.is_idle() => continue,
                Ok(Input::Wait | Input::End) | Err(_) => return,
            }
            let mut buf = Vec::new();
            let now = Some(Instant::now());
            match peer.stream.read_datagram(MAX_DATAGRAM, &mut buf, now) {
                Ok(Input::Some(Datagram::Whole(_))) => {
                    peer.activity.touch();
                    // A client that can't be reached may be back for the next.
                    if self.socket.send_to(&buf, address).is_ok() {
                        peer.client.moved_in(buf.len());
                    }
                }
                Ok(Input::Some(Datagram::TooLong(_)) | Input::Wait) => {}
                Ok(Input::End) | Err(_) => return,
            }
        }
    }

    fn forget(&self, address: SocketAddr, peer: &Arc<Peer>) {
        peer.stream.finish();
        peer.stream.discard();
        let mut clients = self.clients.lock();
        let same = |known: &Arc<Peer>| Arc::ptr_eq(known, peer);
        if clients.get(&address).is_some_and(same) {
            let gone = clients.remove(&address);
            drop(clients);
            drop(gone);
        }
    }
}

/// No datagram is longer.
const MAX_DATAGRAM: usize = 65_535;
