//! Threads for which others wait.

use std::ffi::{c_int, c_long};

/// Asks the system to let the calling thread run soon after it has something to do, and
/// for a shorter while at a time: for one that a whole connection waits for, beside many
/// that copy and keep the cores busy. What it may use in all stays the same.
///
/// That is a slice of [`SLICE`] for Linux' scheduler (6.12 and later; before, nothing
/// changes): whose slice is shorter comes to its turn earlier. It takes no privilege.
pub(crate) fn prompt() {
    if let Some(mut attributes) = attributes() {
        attributes.slice = SLICE;
        // Refused (by a sandbox, say): it is as prompt as any other.
        let _ = call(SET, &mut attributes, 0);
    }
}

/// A thread that a prompt one has started begins as one, too: no longer.
pub(super) fn usual() {
    if let Some(mut attributes) = attributes()
        && attributes.slice == SLICE
    {
        attributes.slice = 0;
        let _ = call(SET, &mut attributes, 0);
    }
}

/// Those of the calling thread, if it is scheduled as usual.
fn attributes() -> Option<Attributes> {
    let mut attributes = Attributes::default();
    let size = c_long::from(SIZE);
    let told = call(GET, &mut attributes, size);
    (told && attributes.policy == SCHED_OTHER).then_some(Attributes {
        size: SIZE,
        ..attributes
    })
}

/// `sched_setattr` and `sched_getattr`, of the calling thread.
fn call(number: c_long, attributes: &mut Attributes, last: c_long) -> bool {
    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
    }
    const OURS: c_int = 0;
    if number == UNKNOWN {
        return false;
    }
    let attributes: *mut Attributes = attributes;
    // SAFETY: both calls take the thread, a `struct sched_attr` of the size that stands
    // in it (set) or is told (get), which is that of `Attributes`, and one number more.
    unsafe { syscall(number, OURS, attributes, last, 0 as c_long) == 0 }
}

/// The first version of `struct sched_attr`, which all kernels know.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// In nanoseconds.
    slice: u64,
    _deadline: u64,
    _period: u64,
}

const SIZE: u32 = size_of::<Attributes>() as u32;

const SCHED_OTHER: u32 = 0;

/// A tenth of the usual one, or less; the shortest that Linux grants is half of it.
const SLICE: u64 = 200_000;

const UNKNOWN: c_long = -1;

#[cfg(target_arch = "x86_64")]
const SET: c_long = 314;
#[cfg(target_arch = "x86_64")]
const GET: c_long = 315;
#[cfg(target_arch = "aarch64")]
const SET: c_long = 274;
#[cfg(target_arch = "aarch64")]
const GET: c_long = 275;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const SET: c_long = UNKNOWN;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const GET: c_long = UNKNOWN;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::threads::{Stack, spawn};

    /// On a thread of its own: it stays as it is then.
    #[test]
    fn a_prompt_thread_has_a_short_slice_and_else_what_it_had() {
        let test = || {
            let before = attributes();
            prompt();
            let child = spawn("child", Stack::Copy, attributes).expect("thread");
            (
                before,
                attributes(),
                child.join().expect("joined").flatten(),
            )
        };
        let thread = std::thread::spawn(test);
        let (Some(before), Some(after), Some(child)) = thread.join().expect("joined") else {
            return; // scheduled otherwise, or in a sandbox
        };
        assert_eq!(child.slice, before.slice);
        assert_eq!(after.nice, before.nice);
        assert_eq!(
            (after.flags, after.priority),
            (before.flags, before.priority)
        );
        // An old kernel has none.
        assert!(after.slice == SLICE || after.slice == before.slice);
    }
}
