//! A TCP proxy that breaks on purpose.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Forwards connections from its own loopback port to a target, until told to
/// cut, freeze, delay, throttle or refuse.
pub struct FaultProxy {
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
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let shared =
            Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, &accepting));
        Self { shared, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection that is open now.
    pub fn cut(&self) {
        let live = std::mem::take(&mut self.shared.lock().live);
        for Pair { near, far, .. } in live.into_values() {
            for socket in [near, far] {
                // A reset, not a clean end; then wake the threads that copy.
                let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Nothing passes any more, in either direction; connections stay open.
    pub fn freeze(&self) {
        self.shared.change(|state| state.frozen = true);
    }

    pub fn thaw(&self) {
        self.shared.change(|state| state.frozen = false);
    }

    /// New connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.change(|state| state.refusing = refuse);
    }

    /// Every piece of data waits this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// At most so many bytes a second and direction.
    pub fn throttle(&self, bytes_per_second: Option<usize>) {
        self.shared.change(|state| state.rate = bytes_per_second);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.lock().live.len()
    }

    /// Bytes passed so far, both directions.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().bytes
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.change(|state| (state.stopped, state.frozen) = (true, false));
        self.cut();
        // Wakes the accept loop, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits while frozen; says how long to wait besides for `bytes`.
    fn pass(&self, bytes: usize) -> Duration {
        let frozen = self.changed.wait_while(self.lock(), |state| state.frozen && !state.stopped);
        let mut state = frozen.unwrap_or_else(std::sync::PoisonError::into_inner);
        state.bytes += bytes as u64;
        let rate = state.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(bytes as f64 / rate as f64)
        });
        state.delay + rate
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
        let Ok(far) = TcpStream::connect(shared.target) else { continue };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
        shared.lock().live.insert(id, Pair { near: near_too, far: far_too, directions: 2 });
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let shared = shared.clone();
            thread::spawn(move || {
                let _ = copy(&from, &to, &shared);
                let _ = to.shutdown(Shutdown::Write);
                let mut state = shared.lock();
                if let Some(pair) = state.live.get_mut(&id) {
                    pair.directions -= 1;
                    if pair.directions == 0 {
                        state.live.remove(&id);
                    }
                }
            });
        }
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buf = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buf)?;
        if read == 0 {
            return Ok(());
        }
        let wait = shared.pass(read);
        if !wait.is_zero() {
            thread::sleep(wait); // the delay is the fault itself
        }
        to.write_all(&buf[..read])?;
    }
}
