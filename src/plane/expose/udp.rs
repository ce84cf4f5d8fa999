//! Listeners for datagrams: a client's address is a stream (tunnels.md §3.6).

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};
use socket2::Socket;

use super::backoff::Backoff;
use super::entrance::{Client, Entrance, NoStream};
use super::{Settings, pause};
use crate::telemetry::RateLimit;
use crate::threads::{self, Stack};
use crate::tunnel::session::{Payload, SendError, Stream};
use crate::tunnel::streams::{Account, Activity};
use crate::yamux::{Cut, Datagram, Input};

/// One listener's clients.
struct Shared {
    entrance: Arc<Entrance>,
    /// For answers. Taken away with the listener, so that the address is free then,
    /// whoever still waits for one.
    answers: RwLock<Option<UdpSocket>>,
    clients: Mutex<HashMap<SocketAddr, Arc<Peer>>>,
    backoff: Mutex<Backoff>,
    idle: Duration,
}

/// One client's stream.
struct Peer {
    stream: Stream,
    activity: Activity,
    client: Client,
    /// A datagram came back.
    answered: AtomicBool,
}

impl Peer {
    /// The agent has ended it, and nothing had come of it: its target is denied, can't
    /// be reached, or there is no place for more streams.
    fn has_failed(&self) -> bool {
        let ended = match self.stream.cut() {
            Some(cut) => cut == Cut::ByPeer,
            None => !self.activity.is_idle(),
        };
        ended && !self.answered.load(Ordering::Relaxed)
    }
}

/// Listens until the exposure ends. A client without a datagram for
/// [`udp_idle`](Settings::udp_idle) is forgotten.
pub(super) fn listen(
    entrance: &Arc<Entrance>,
    socket: UdpSocket,
    name: String,
    settings: Settings,
) -> io::Result<JoinHandle<Option<()>>> {
    static FAILED: RateLimit = RateLimit::new(1, Duration::from_mins(1));
    let held = Arc::new(Socket::from(socket.try_clone()?));
    let shared = Arc::new(Shared {
        entrance: entrance.clone(),
        answers: RwLock::new(Some(socket.try_clone()?)),
        clients: Mutex::default(),
        backoff: Mutex::new(Backoff::new(settings.udp_pause)),
        idle: settings.udp_idle,
    });
    threads::spawn(name, Stack::Work, move || {
        // Ends the waiting for datagrams.
        let Ok(_guard) = shared.entrance.cancel.on_socket(held) else {
            return;
        };
        let mut buf = Vec::with_capacity(MAX_DATAGRAM);
        while shared.entrance.cancel.reason().is_none() {
            buf.clear();
            // Not the standard library's: of a socket that was shut down there is no
            // address to tell, and it can panic then.
            match recvfrom(&socket, spare_capacity(&mut buf), RecvFlags::empty()) {
                // There is no frame for an empty one.
                Ok((0, ..)) | Err(Errno::INTR) => {}
                Ok((_, _, address)) => {
                    if let Some(Ok(address)) = address.map(SocketAddr::try_from) {
                        shared.pass_on(&buf, address);
                    }
                }
                Err(error) => {
                    if let Some(skipped) = FAILED.pass() {
                        log::warn!(skipped; "a listener can't receive: {error}");
                    }
                    pause(&shared.entrance.cancel);
                }
            }
        }
        *shared.answers.write() = None;
    })
    .map_err(io::Error::other)
}

impl Shared {
    /// What finds no stream, or no room in it, is dropped, as datagrams are.
    fn pass_on(self: &Arc<Self>, datagram: &[u8], address: SocketAddr) {
        // A stream that has ended just now, idle perhaps, costs no datagram.
        for _ in 0..2 {
            let known = self.clients.lock().get(&address).cloned();
            let Some(peer) = known.or_else(|| self.begin(address)) else {
                return;
            };
            match peer.stream.try_send_datagram(Payload::from(datagram)) {
                Ok(true) => {
                    peer.activity.touch();
                    peer.client.moved_out(datagram.len());
                    return;
                }
                Ok(false) | Err(SendError::TimedOut) => return,
                Err(SendError::Finished | SendError::Cut(_)) => self.forget(address, &peer),
            }
        }
    }

    fn begin(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Peer>> {
        if !self.backoff.lock().allows(address, Instant::now()) {
            self.entrance.refuse(&NoStream::Failing);
            return None;
        }
        let mut client = self.entrance.enter().ok()?;
        // The listener waits for nobody.
        let stream = match self.entrance.open(address, Instant::now()) {
            Ok(stream) => stream,
            Err(why) => {
                self.entrance.refuse(&why);
                return None;
            }
        };
        client.holds(&stream).ok()?;
        let peer = Arc::new(Peer {
            stream,
            activity: Activity::new(Some(self.idle)),
            client,
            answered: AtomicBool::new(false),
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
        let (stream, activity) = (&peer.stream, &peer.activity);
        loop {
            // Waits without a buffer.
            match stream.parse(activity.until(), |_| ()) {
                Ok(Input::Some(())) => {}
                Ok(Input::Wait) if !activity.is_idle() => continue,
                Ok(Input::Wait | Input::End) | Err(_) => return,
            }
            let mut buf = Vec::new();
            // A large one comes in parts.
            match stream.read_datagram(MAX_DATAGRAM, &mut buf, activity.until()) {
                Ok(Input::Some(Datagram::Whole(_))) => {
                    activity.touch();
                    if !peer.answered.swap(true, Ordering::Relaxed) {
                        self.backoff.lock().succeed(address);
                    }
                    let answers = self.answers.read();
                    let Some(socket) = &*answers else { return };
                    // A client that can't be reached may be back for the next.
                    if socket.send_to(&buf, address).is_ok() {
                        peer.client.moved_in(buf.len());
                    }
                }
                Ok(Input::Some(Datagram::TooLong(_))) => {}
                Ok(Input::Wait) if !activity.is_idle() => {}
                Ok(Input::Wait | Input::End) | Err(_) => return,
            }
        }
    }

    fn forget(&self, address: SocketAddr, peer: &Arc<Peer>) {
        let failed = peer.has_failed();
        peer.stream.finish();
        peer.stream.discard();
        let mut clients = self.clients.lock();
        let same = |known: &Arc<Peer>| Arc::ptr_eq(known, peer);
        if clients.get(&address).is_some_and(same) {
            let gone = clients.remove(&address);
            // Whoever finds it gone finds this.
            if failed {
                self.backoff.lock().fail(address, Instant::now());
            }
            drop(clients);
            drop(gone);
        }
    }
}

/// No datagram is longer.
const MAX_DATAGRAM: usize = 65_535;
