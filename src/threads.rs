//! The one way to start a thread.
//!
//! Every thread of the agent has a name, a chosen stack and a root that catches
//! panics: parking_lot's locks don't poison, so a panic must not leave a thread
//! half dead in silence. What a panic *means* is decided by the drop guards that
//! the body owns (a request answers with an error, a link ends its connection);
//! this module logs it, counts it and lets those guards run.

mod prompt;

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::{fmt, io};

pub(crate) use prompt::prompt;

/// How much stack a thread gets. Stacks are mapped, not resident: a page counts
/// only once it has been touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// 64 KiB: threads that only copy. Less would not survive a panic hook that
    /// prints a backtrace.
    Copy,
    /// 256 KiB: everything that parses, shakes hands or calls into TLS.
    Work,
}

impl Stack {
    const fn bytes(self) -> usize {
        match self {
            Self::Copy => 64 * 1024,
            Self::Work => 256 * 1024,
        }
    }
}

/// The system refused a thread: an error like any other, never a panic.
#[derive(Debug)]
pub struct SpawnError {
    name: String,
    cause: io::Error,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start thread {}: {}", self.name, self.cause)
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Starts a named thread. The handle yields `None` when the body panicked; the
/// panic itself has been logged (by the hook of `telemetry`) and counted by then.
pub fn spawn<T, F>(
    name: impl Into<String>,
    stack: Stack,
    body: F,
) -> Result<JoinHandle<Option<T>>, SpawnError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let name = name.into();
    #[cfg(test)]
    if testing::refuses() {
        let cause = io::ErrorKind::WouldBlock.into();
        return Err(SpawnError { name, cause });
    }
    let mut builder = Builder::new().stack_size(stack.bytes());
    // The standard library copies a thread's name, on the thread itself, and there
    // the allocator then keeps 16 KiB: more than all else that an idle one holds.
    let told = match stack {
        Stack::Copy => system_name(&name),
        Stack::Work => {
            builder = builder.name(name.clone());
            None
        }
    };
    builder
        .spawn(move || {
            let _live = Live::enter();
            prompt::usual();
            if let Some(told) = told {
                // It is for people only.
                let _ = rustix::thread::set_name(&told);
                drop(told);
            }
            let value = catch_unwind(AssertUnwindSafe(body)).ok();
            if value.is_none() {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            value
        })
        .map_err(|cause| SpawnError { name, cause })
}

/// The name of the thread that calls, as it was given to [`spawn`] or as much of it as
/// the system keeps.
pub(crate) fn own_name() -> String {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) => name.to_owned(),
        None => rustix::thread::name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    }
}

/// As much of a name as the system takes; none of one with a zero in it.
fn system_name(name: &str) -> Option<CString> {
    let name = name.as_bytes();
    CString::new(&name[..name.len().min(SYSTEM_NAME)]).ok()
}

/// Bytes of a thread's name that Linux keeps.
const SYSTEM_NAME: usize = 15;

/// Threads alive now that were started here.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Threads that ended by a panic since the process started.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

struct Live;

impl Live {
    fn enter() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PANICS: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
pub(crate) mod testing {
    use std::cell::Cell;

    thread_local! {
        static GRANTED: Cell<usize> = const { Cell::new(0) };
        static REFUSED: Cell<usize> = const { Cell::new(0) };
    }

    /// The next `count` threads that the calling one wants to start can't be had.
    pub(crate) fn refuse(count: usize) {
        refuse_after(0, count);
    }

    /// The same, behind so many that it gets.
    pub(crate) fn refuse_after(granted: usize, count: usize) {
        GRANTED.set(granted);
        REFUSED.set(count);
    }

    pub(super) fn refuses() -> bool {
        let granted = GRANTED.get();
        if granted > 0 {
            GRANTED.set(granted - 1);
            return false;
        }
        let left = REFUSED.get();
        REFUSED.set(left.saturating_sub(1));
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_thread_and_is_counted() {
        let before = panics();
        let handle = spawn("panics", Stack::Work, || panic!("on purpose")).expect("thread");
        assert_eq!(handle.join().expect("the root catches it"), None::<()>);
        assert!(panics() > before);
    }

    #[test]
    fn the_thread_has_its_name() {
        for (stack, name, kept) in [
            (Stack::Work, "a-name-that-is-long", "a-name-that-is-long"),
            (Stack::Copy, "proxy-7", "proxy-7"),
            (Stack::Copy, "a-name-that-is-long", "a-name-that-is-"),
        ] {
            let handle = spawn(name, stack, own_name).expect("thread");
            assert_eq!(handle.join().expect("joined").as_deref(), Some(kept));
        }
    }
}
