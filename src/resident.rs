//! What stays resident while nothing happens.
//!
//! A thread looks after it ([`left_behind`]), which is there only while there is
//! something to be given back: buffers that nobody needed for a quarter of a second, and
//! when they are gone what the allocator and the code have taken meanwhile.

use std::ffi::c_void;
use std::ptr::addr_of;
use std::sync::Weak;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::mm::{Advice, madvise};

use crate::buffers;
use crate::threads::{self, Stack};

/// Keeps what may be used again.
pub(crate) trait Store: Send + Sync {
    /// Frees what nobody has needed since the last time. False: nothing is left.
    fn sweep(&self) -> bool;
}

/// This one is swept too, as long as it lives.
pub(crate) fn look_after(store: Weak<dyn Store>) {
    let mut keeper = KEEPER.lock();
    keeper.stores.retain(|store| store.strong_count() > 0);
    keeper.stores.push(store);
}

/// So many bytes, about, may be given back soon: to be told when something is put into
/// a store that was empty, and when memory was freed of which much may be left.
pub(crate) fn left_behind(bytes: usize) {
    let mut keeper = KEEPER.lock();
    keeper.left += bytes;
    if std::mem::replace(&mut keeper.runs, true) {
        return;
    }
    drop(keeper);
    if threads::spawn("memory", Stack::Work, keep).is_err() {
        KEEPER.lock().runs = false;
    }
}

/// Until there was nothing to be done for a whole period.
fn keep() {
    let mut all = 0;
    loop {
        thread::sleep(PERIOD);
        let (left, stores) = {
            let mut keeper = KEEPER.lock();
            (std::mem::take(&mut keeper.left), keeper.stores.clone())
        };
        all += left;
        // Each of them, whatever the others say.
        let mut kept = buffers::sweep();
        for store in stores.iter().filter_map(Weak::upgrade) {
            kept |= store.sweep();
        }
        if kept || left > 0 {
            continue;
        }
        if all >= WORTH_IT {
            all = 0;
            give_back();
        }
        let mut keeper = KEEPER.lock();
        if keeper.left == 0 {
            keeper.runs = false;
            return;
        }
    }
}

static KEEPER: Mutex<Keeper> = Mutex::new(Keeper {
    stores: Vec::new(),
    left: 0,
    runs: false,
});

struct Keeper {
    stores: Vec<Weak<dyn Store>>,
    left: usize,
    runs: bool,
}

const PERIOD: Duration = Duration::from_millis(250);

/// Bytes for which the allocator is asked for what it keeps, and code unmapped, which
/// then has to be mapped again.
const WORTH_IT: usize = 1 << 20;

/// Gives back what a burst or the start has left behind: free memory of this thread
/// (mimalloc by itself keeps it for whoever may want it next), and the pages of code
/// that were mapped. A start touches five of seven MiB of it, most of them once. The
/// code stays in the page cache, and what is used again is mapped again as it is
/// called: some 40 short faults.
pub(crate) fn give_back() {
    collect();
    unmap_code();
}

/// Only the static build has mimalloc (vendor-notes/mimalloc.md).
fn collect() {
    #[cfg(target_env = "musl")]
    {
        use mimalloc as _; // links what is declared here

        unsafe extern "C" {
            fn mi_collect(force: bool);
        }
        // SAFETY: it takes no pointers, and any thread may call it at any time.
        unsafe { mi_collect(true) };
    }
}

fn unmap_code() {
    unsafe extern "C" {
        // The linker's: where the program begins, and where its code ends. Between them
        // are read-only pages of the file alone.
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (addr_of!(__executable_start), addr_of!(etext));
    let page = rustix::param::page_size();
    let length = (end.addr() - start.addr()) & !(page - 1);
    // SAFETY: the pages are private, from a file and never written (the linker refuses
    // relocations in code), so that each can be read from the file again: nobody sees a
    // difference, not even who runs in them.
    // Refused: they stay, which is no loss.
    let _ = unsafe {
        madvise(
            start.cast_mut().cast::<c_void>(),
            length,
            Advice::LinuxDontNeed,
        )
    };
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Resident KiB of mappings with `mode` of the running program.
    fn resident(mode: &str) -> u64 {
        let program = std::env::current_exe().expect("program");
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut ours = false;
        let mut total = 0;
        for line in smaps.lines() {
            if line.contains(" r") && line.contains('-') && !line.contains(" kB") {
                ours = line.contains(mode) && line.ends_with(&*program.to_string_lossy());
            } else if let Some(rest) = line.strip_prefix("Rss:")
                && ours
            {
                let kib = rest.trim().trim_end_matches(" kB");
                total += kib.parse::<u64>().expect("a number");
            }
        }
        total
    }

    #[test]
    fn code_that_ran_once_is_given_back_and_runs_again() {
        // Other tests bring pages back meanwhile: not all of them each time.
        let falls = || {
            let before = resident("r-xp");
            give_back();
            resident("r-xp") < before
        };
        assert!((0..100).any(|_| falls()));
    }
}
