//! Compressors that are lent, a block at a time.

use std::time::{Duration, Instant};

use flate2::{Compress, CompressError, Compression, FlushCompress, Status};
use parking_lot::{Condvar, Mutex};

/// The compressors of a process. Each is 300 KiB that would have to be had and cleared,
/// so they are used again; and whoever finds [`MOST`] of a level at work waits, because
/// more of them would only take the processors from each other. (A thread that was
/// preempted in the middle of a block has one meanwhile: 128 requests at once made
/// dozens, over and over.) Who has one waits for nothing but a processor.
#[derive(Default)]
pub(in crate::proxy) struct Compressors {
    quick: Shelf,
    good: Shelf,
}

/// Those of one level.
#[derive(Default)]
struct Shelf {
    state: Mutex<State>,
    /// One came back.
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Compressor>,
    on_loan: usize,
}

struct Compressor {
    deflate: Compress,
    packed: Vec<u8>,
    used: Instant,
}

/// On loan, back when dropped.
pub(super) struct Lent<'a> {
    shelf: &'a Shelf,
    level: Level,
    /// Made when it is needed.
    compressor: Option<Compressor>,
}

impl Compressors {
    /// Waits until one is free.
    pub(super) fn borrow(&self, level: Level) -> Lent<'_> {
        let shelf = self.of(level);
        let mut state = shelf.state.lock();
        while state.on_loan == MOST {
            shelf.returned.wait(&mut state);
        }
        state.on_loan += 1;
        let compressor = state.idle.pop();
        drop(state);
        Lent {
            shelf,
            level,
            compressor,
        }
    }

    fn of(&self, level: Level) -> &Shelf {
        match level {
            Level::Quick => &self.quick,
            Level::Good => &self.good,
        }
    }

    fn shelves(&self) -> [&Shelf; 2] {
        [&self.quick, &self.good]
    }

    pub(in crate::proxy) fn idle(&self) -> usize {
        let idle = |shelf: &Shelf| shelf.state.lock().idle.len();
        self.shelves().into_iter().map(idle).sum()
    }

    #[cfg(test)]
    pub(super) fn on_loan(&self) -> usize {
        let on_loan = |shelf: &Shelf| shelf.state.lock().on_loan;
        self.shelves().into_iter().map(on_loan).sum()
    }

    /// Lets go of those that nobody has used for a while.
    pub(in crate::proxy) fn sweep(&self) {
        for shelf in self.shelves() {
            let mut state = shelf.state.lock();
            state.idle.retain(|one| one.used.elapsed() < KEPT_FOR);
        }
    }
}

impl Lent<'_> {
    pub(super) fn pack(
        &mut self,
        bytes: &[u8],
        flush: FlushCompress,
    ) -> Result<&[u8], CompressError> {
        let level = self.level;
        let compressor = self
            .compressor
            .get_or_insert_with(|| Compressor::new(level));
        compressor.pack(bytes, flush)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.shelf.state.lock();
        state.on_loan -= 1;
        if let Some(mut compressor) = self.compressor.take() {
            compressor.used = Instant::now();
            state.idle.push(compressor);
        }
        drop(state);
        self.shelf.returned.notify_one();
    }
}

impl Compressor {
    fn new(level: Level) -> Self {
        Self {
            deflate: Compress::new(Compression::new(level as u32), false),
            packed: Vec::new(),
            used: Instant::now(),
        }
    }

    /// A part of a deflate stream that refers to nothing before it, and ends at a
    /// byte.
    fn pack(&mut self, mut bytes: &[u8], flush: FlushCompress) -> Result<&[u8], CompressError> {
        self.deflate.reset();
        self.packed.clear();
        loop {
            self.packed.reserve(bytes.len() / 4 + 1024);
            let before = self.deflate.total_in();
            let status = self.deflate.compress_vec(bytes, &mut self.packed, flush)?;
            bytes = &bytes[(self.deflate.total_in() - before) as usize..];
            let has_room = self.packed.len() < self.packed.capacity();
            if status == Status::StreamEnd || (flush == FlushCompress::Sync && has_room) {
                return Ok(&self.packed);
            }
        }
    }
}

/// How hard to try (vendor-notes/flate2.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Half the time for a small block, most of which is preparation.
    Quick = 1,
    /// A fourth smaller than the one above.
    Good = 2,
}

impl Level {
    pub(super) fn of(length: usize) -> Self {
        if length <= SMALL {
            Self::Quick
        } else {
            Self::Good
        }
    }
}

/// Blocks that are small, in bytes.
pub(super) const SMALL: usize = 4096;

/// Compressors of a level at most: so many pack more than 2 GB of JSON a second,
/// and on a small machine one of them works for each processor whatever is preempted.
const MOST: usize = 4;
const KEPT_FOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn compressors_are_kept_for_a_while() {
        let compressors = Compressors::default();
        let used = |level| {
            let mut lent = compressors.borrow(level);
            lent.pack(b"x", FlushCompress::Finish).expect("packed");
            lent
        };
        let lent = [used(Level::Good), used(Level::Good), used(Level::Quick)];
        assert_eq!(compressors.idle(), 0);
        drop(lent);
        assert_eq!(compressors.idle(), 3);
        drop(used(Level::Good));
        assert_eq!(compressors.idle(), 3, "used again");
        compressors.sweep();
        assert_eq!(compressors.idle(), 3);
        for one in &mut compressors.good.state.lock().idle {
            one.used -= KEPT_FOR;
        }
        compressors.sweep();
        assert_eq!(compressors.idle(), 1);
    }

    #[test]
    fn there_are_never_more_than_the_most_and_who_waits_gets_the_next() {
        let compressors = &Compressors::default();
        let mut lent: Vec<Lent<'_>> = (0..MOST).map(|_| compressors.borrow(Level::Good)).collect();
        // Another level has its own.
        drop(compressors.borrow(Level::Quick));
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            for _ in 0..3 * MOST {
                let tell = tell.clone();
                scope.spawn(move || {
                    let mut lent = compressors.borrow(Level::Good);
                    let on_loan = compressors.on_loan();
                    lent.pack(b"x", FlushCompress::Finish).expect("packed");
                    tell.send(on_loan).expect("the test waits");
                });
            }
            assert!(told.try_recv().is_err(), "all are on loan");
            // One is enough for all, one after the other.
            lent.truncate(MOST - 1);
            for _ in 0..3 * MOST {
                assert_eq!(told.recv(), Ok(MOST));
            }
        });
        drop(lent);
        assert_eq!(compressors.on_loan(), 0);
        assert_eq!(compressors.idle(), 1, "only one has worked");
    }
}
