//! Memory of all sessions of the process: the cap, and buffers that are used again.

use std::fmt;
use std::sync::Arc;

use crate::resident::{self, Store};
use crate::sync::Mutex;
use crate::yamux::{Budget, CHUNK, Pool, SMALL_CHUNK};

/// What sessions share: one cap (`tunnels.memory_limit`), one shelf of buffers.
#[derive(Clone, Debug)]
pub struct Memory {
    budget: Arc<Budget>,
    shelf: Arc<Shelf>,
}

impl Memory {
    /// With a cap of `limit` bytes; an eighth of it may be kept in buffers that
    /// nobody uses, 4 MiB at most.
    pub fn new(limit: usize) -> Self {
        Self {
            budget: Arc::new(Budget::new(limit)),
            shelf: Arc::new(Shelf::new((limit / 8).min(MAX_KEPT))),
        }
    }

    /// What lies in it unused is given back from now on.
    #[must_use]
    pub fn looked_after(self) -> Self {
        let shelf = Arc::downgrade(&self.shelf);
        resident::look_after(shelf);
        self
    }

    /// The cap, and what of it is taken now.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The buffers for what arrives.
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    pub(super) fn tenant(&self) -> Tenant {
        Tenant::new(self.shelf.clone())
    }
}

/// A pool of limited size, which gives back what it doesn't need: all of it when
/// there is no session any more, and otherwise, now and then, what lay there the whole
/// time ([`Memory::looked_after`]).
pub struct Shelf {
    /// Bytes that may lie here.
    limit: usize,
    places: Mutex<Places>,
}

struct Places {
    large: Pile,
    small: Pile,
    sessions: usize,
}

#[derive(Default)]
struct Pile {
    buffers: Vec<Vec<u8>>,
    /// The fewest that lay here since it was tidied.
    unused: usize,
}

impl Pile {
    fn take(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop();
        self.unused = self.unused.min(self.buffers.len());
        buffer
    }

    /// What wasn't needed since the last time.
    fn tidy(&mut self) -> Vec<Vec<u8>> {
        let unused = self.buffers.drain(..self.unused).collect();
        self.unused = self.buffers.len();
        unused
    }
}

impl Shelf {
    /// Keeps up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Mutex::new(Places {
                large: Pile::default(),
                small: Pile::default(),
                sessions: 0,
            }),
        }
    }

    /// Bytes that lie here.
    pub fn kept(&self) -> usize {
        self.places.lock().kept()
    }
}

impl Store for Shelf {
    fn sweep(&self) -> bool {
        let mut places = self.places.lock();
        let unused = (places.large.tidy(), places.small.tidy());
        let left = places.kept() > 0;
        drop(places);
        let bytes = (unused.0.iter().chain(&unused.1)).map(Vec::capacity).sum();
        // The allocator has its own locks.
        drop(unused);
        if bytes > 0 {
            resident::left_behind(bytes);
        }
        left
    }
}

impl Places {
    fn kept(&self) -> usize {
        self.large.buffers.len() * CHUNK + self.small.buffers.len() * SMALL_CHUNK
    }

    fn pile(&mut self, size: usize) -> &mut Pile {
        if size >= CHUNK {
            &mut self.large
        } else {
            &mut self.small
        }
    }
}

impl Pool for Shelf {
    fn take(&self, size: usize) -> Vec<u8> {
        let buffer = self.places.lock().pile(size).take();
        buffer.unwrap_or_else(|| Vec::with_capacity(size))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if size < SMALL_CHUNK {
            return;
        }
        buffer.clear();
        let mut places = self.places.lock();
        if places.sessions > 0 && places.kept() + size <= self.limit {
            let first = places.kept() == 0;
            places.pile(size).buffers.push(buffer);
            drop(places);
            if first {
                resident::left_behind(size);
            }
            return;
        }
        drop(places);
        drop(buffer);
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} of {} bytes)", self.kept(), self.limit)
    }
}

/// A session on a shelf.
pub(super) struct Tenant(Arc<Shelf>);

impl Tenant {
    fn new(shelf: Arc<Shelf>) -> Self {
        shelf.places.lock().sessions += 1;
        Self(shelf)
    }

    pub(super) fn shelf(&self) -> &Arc<Shelf> {
        &self.0
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let mut places = self.0.places.lock();
        places.sessions -= 1;
        if places.sessions == 0 {
            let unused = (
                std::mem::take(&mut places.large),
                std::mem::take(&mut places.small),
            );
            drop(places);
            drop(unused);
        }
    }
}

/// More isn't kept, however large the cap is: as much as sixteen windows hold.
const MAX_KEPT: usize = 4 * 1024 * 1024;
