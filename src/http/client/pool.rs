//! Idle connections to one server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::Halves;

/// Connections that wait to be used again; the one that waits longest is in front.
pub struct Pool {
    idle: Mutex<VecDeque<Idle>>,
    /// Most connections kept.
    max: usize,
    /// Longest time one is kept.
    limit: Duration,
    all: IdleCount,
}

/// Counts the idle connections of all pools that were made with it.
#[derive(Clone, Debug, Default)]
pub struct IdleCount(Arc<AtomicUsize>);

struct Idle {
    halves: Halves,
    since: Instant,
    _counted: Counted,
}

/// One of them.
struct Counted(IdleCount);

impl IdleCount {
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Keeps `max` connections at most, none for longer than `limit`.
    pub fn new(max: usize, limit: Duration, all: IdleCount) -> Self {
        Self {
            idle: Mutex::default(),
            max,
            limit,
            all,
        }
    }

    /// The connection that was used last and is still good. What the server has
    /// closed meanwhile, or sent without being asked, makes one useless.
    pub(super) fn take(&self) -> Option<Halves> {
        loop {
            let mut idle = self.idle.lock().pop_back()?;
            if idle.since.elapsed() < self.limit && idle.halves.read.is_idle_alive() {
                return Some(idle.halves);
            }
        }
    }

    /// Keeps a connection whose last exchange is complete.
    pub(super) fn put(&self, halves: Halves) {
        let since = Instant::now();
        let surplus = {
            let mut idle = self.idle.lock();
            idle.push_back(Idle {
                halves,
                since,
                _counted: self.all.enter(),
            });
            (idle.len() > self.max).then(|| idle.pop_front())
        };
        drop(surplus); // closes a socket: outside the lock
    }

    /// Closes what is too old or dead, and takes the buffers of what has been idle
    /// for a while. Nothing waits for the network here, so it is done in place: what
    /// were taken out meanwhile wouldn't count when another one comes back.
    pub fn sweep(&self) {
        let mut closed = Vec::new();
        let mut idle = self.idle.lock();
        for _ in 0..idle.len() {
            let Some(mut one) = idle.pop_front() else {
                break;
            };
            let age = one.since.elapsed();
            if age >= self.limit || !one.halves.read.is_idle_alive() {
                closed.push(one);
                continue;
            }
            if age >= SHRINK_AFTER {
                one.halves.read.shrink();
                one.halves.write.shrink();
            }
            idle.push_back(one);
        }
        drop(idle);
        drop(closed); // closes sockets: outside the lock
    }

    /// When the one that waits longest began to.
    pub fn oldest(&self) -> Option<Instant> {
        Some(self.idle.lock().front()?.since)
    }

    /// Closes the one that waits longest.
    pub fn close_oldest(&self) {
        let oldest = self.idle.lock().pop_front();
        drop(oldest); // closes a socket: outside the lock
    }

    /// Closes all.
    pub fn clear(&self) {
        drop(std::mem::take(&mut *self.idle.lock()));
    }

    /// Idle connections now.
    pub fn len(&self) -> usize {
        self.idle.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A connection that is used all the time keeps its buffers.
const SHRINK_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::thread;

    use rustls::version::{TLS12, TLS13};

    use super::*;
    use crate::net::testing::{tcp_pair, tls_pair};

    const HOUR: Duration = Duration::from_hours(1);

    fn later(pool: &Pool, by: Duration) {
        for one in pool.idle.lock().iter_mut() {
            one.since = one
                .since
                .checked_sub(by)
                .expect("the machine runs for longer");
        }
    }

    /// 66 KiB stayed with each connection that had sent something large.
    #[test]
    fn an_idle_connection_keeps_no_buffers() {
        for version in [&TLS12, &TLS13] {
            let (mut near, mut far) = tls_pair(version);
            let reading = thread::spawn(move || {
                let mut left = 1 << 20;
                while left > 0 {
                    let count = far.read.fill().expect("data").len();
                    far.read.consume(count);
                    left -= count;
                }
                far
            });
            let large = vec![1; 1 << 20];
            near.write.write_all(&[IoSlice::new(&large)]).expect("sent");
            let _far = reading.join().expect("read");
            assert!(near.write.memory() > 32 * 1024);
            let pool = Pool::new(1, HOUR, IdleCount::default());
            pool.put(near);
            pool.sweep();
            assert!(
                pool.idle.lock()[0].halves.write.memory() > 0,
                "used just now"
            );
            later(&pool, SHRINK_AFTER);
            pool.sweep();
            assert_eq!(pool.idle.lock()[0].halves.write.memory(), 0);
            // And goes on.
            let mut near = pool.take().expect("still good");
            near.write.write_all(&[IoSlice::new(b"x")]).expect("sent");
        }
    }

    /// What a sweep had in its hands didn't count.
    #[test]
    fn there_are_never_more_than_the_maximum() {
        const MAX: usize = 4;
        let pool = Pool::new(MAX, HOUR, IdleCount::default());
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let (one, other) = tcp_pair();
            near.push(Halves::plain(one));
            far.push(other);
        }
        thread::scope(|scope| {
            let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
            let pool = &pool;
            scope.spawn(move || {
                while stopped.try_recv() != Err(crossbeam_channel::TryRecvError::Disconnected) {
                    pool.sweep();
                }
            });
            for halves in near {
                pool.put(halves);
                assert!(pool.len() <= MAX);
            }
            drop(stop);
        });
        assert_eq!(pool.len(), MAX);
    }
}
