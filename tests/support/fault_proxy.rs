//! A TCP proxy that breaks on purpose.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Forwards connections from its own loopback port to a target, until told to
/// cut, freeze, delay, throttle or refuse.
pub(crate) struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    frozen: bool,
    /// Connections up to this number are frozen for good.
    stranded: u64,
    refusing: bool,
    stopped: bool,
    delay: Duration,
    /// Bytes per second and direction; none: as fast as it goes.
    rate: Option<usize>,
    live: HashMap<u64, Pair>,
    accepted: u64,
    bytes: u64,
}

/// One forwarded connection and how many of its directions still flow.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    directions: u8,
}

impl FaultProxy {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            target,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, &accepting));
        Self { shared, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection that is open now; says how many.
    pub(crate) fn cut(&self) -> usize {
        let live = std::mem::take(&mut self.shared.lock().live);
        for pair in live.values() {
            pair.reset();
        }
        live.len()
    }

    /// Ends every connection that is open now in order, as a load balancer that is
    /// restarted does.
    pub(crate) fn hang_up(&self) {
        let live = std::mem::take(&mut self.shared.lock().live);
        for Pair { near, far, .. } in live.into_values() {
            // One that has ended by itself is no matter.
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }

    /// Nothing passes any more, in either direction; connections stay open, and new
    /// ones are accepted.
    pub(crate) fn freeze(&self) {
        self.shared.change(|state| state.frozen = true);
    }

    pub(crate) fn thaw(&self) {
        self.shared.change(|state| state.frozen = false);
    }

    /// Nothing passes any more on the connections that are open now, and nobody is
    /// told; new ones work. As behind a firewall that has forgotten them.
    pub(crate) fn strand(&self) {
        self.shared.change(|state| state.stranded = state.accepted);
    }

    /// New connections are closed at once.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.change(|state| state.refusing = refuse);
    }

    /// Everything arrives so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// At most so many bytes a second and direction. To be called before the
    /// connection is made: it also gets little room in between.
    pub(crate) fn throttle(&self, bytes_per_second: Option<usize>) {
        self.shared.change(|state| state.rate = bytes_per_second);
    }

    /// Connections accepted so far, refused ones included.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.lock().live.len()
    }

    /// Bytes passed so far, both directions.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.lock().bytes
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared
            .change(|state| (state.stopped, state.frozen) = (true, false));
        self.cut();
        // Wakes the accept loop, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

impl Pair {
    fn reset(&self) {
        for socket in [&self.near, &self.far] {
            // A shutdown says goodbye first, and what is closed after it, whatever
            // its linger time, has ended well for the other side. Disconnecting
            // resets, and wakes the threads that copy.
            if rustix::net::connect_unspec(socket).is_err() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Counts what is about to be passed on, once nothing is frozen.
    fn pass(&self, id: u64, bytes: usize) {
        let thawed = self.changed.wait_while(self.lock(), |state| {
            (state.frozen || id <= state.stranded) && !state.stopped
        });
        thawed.unwrap_or_else(PoisonError::into_inner).bytes += bytes as u64;
    }

    /// One direction of a connection has ended, well or not.
    fn ended(&self, id: u64, well: bool) {
        let mut state = self.lock();
        let Some(pair) = state.live.get_mut(&id) else {
            return;
        };
        if !well {
            pair.reset();
        }
        pair.directions -= 1;
        if pair.directions == 0 {
            state.live.remove(&id);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for near in listener.incoming() {
        let Ok(near) = near else { continue };
        let id = {
            let mut state = shared.lock();
            if state.stopped {
                return;
            }
            state.accepted += 1;
            if state.refusing {
                continue;
            }
            state.accepted
        };
        // Nobody listens behind us: the client's connection is closed.
        if let Ok(far) = TcpStream::connect(shared.target) {
            let _ = forward(id, near, far, shared);
        }
    }
}

fn forward(id: u64, near: TcpStream, far: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    if shared.lock().rate.is_some() {
        // A narrow link holds little: what piles up does so at its sender's. With a window
        // smaller than a segment of loopback (32 KiB) the sender's kernel would wait for
        // its timer before each.
        for socket in [&near, &far] {
            socket2::SockRef::from(socket).set_recv_buffer_size(64 * 1024)?;
        }
    }
    let ways = [
        (near.try_clone()?, far.try_clone()?),
        (far.try_clone()?, near.try_clone()?),
    ];
    let pair = Pair {
        near,
        far,
        directions: 2,
    };
    shared.lock().live.insert(id, pair);
    for (from, to) in ways {
        let shared = shared.clone();
        let (pieces, queue) = sync_channel::<Piece>(QUEUE);
        let writing = shared.clone();
        thread::spawn(move || {
            let done = write(id, &to, &queue, &writing);
            writing.ended(id, done.is_ok());
        });
        thread::spawn(move || {
            // What ends it ends the writer, too.
            let _ = read(&from, &shared, &|piece| pieces.send(piece).is_ok());
        });
    }
    Ok(())
}

/// What was read, and when it is due.
struct Piece(io::Result<Vec<u8>>, Instant);

fn read(mut from: &TcpStream, shared: &Shared, send: &dyn Fn(Piece) -> bool) -> io::Result<()> {
    let mut free = Instant::now();
    let mut buf = [0; 16 * 1024];
    loop {
        let (delay, rate) = {
            let state = shared.lock();
            (state.delay, state.rate)
        };
        let read = match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) => {
                send(Piece(Err(error), Instant::now()));
                return Ok(());
            }
        };
        // A piece begins when the one before is through, and takes its time.
        free = free.max(Instant::now());
        if let Some(rate) = rate {
            free += Duration::from_secs_f64(read as f64 / rate as f64);
        }
        if !send(Piece(Ok(buf[..read].to_vec()), free + delay)) {
            return Ok(());
        }
    }
}

fn write(id: u64, mut to: &TcpStream, queue: &Receiver<Piece>, shared: &Shared) -> io::Result<()> {
    for Piece(bytes, due) in queue {
        let bytes = bytes?;
        // The delay is the fault itself.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        shared.pass(id, bytes.len());
        to.write_all(&bytes)?;
    }
    to.shutdown(Shutdown::Write)
}

/// Pieces on their way.
const QUEUE: usize = 4;
