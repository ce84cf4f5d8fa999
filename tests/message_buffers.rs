//! What streams all day doesn't ask the allocator all day: the buffers of large messages
//! are used again, whichever thread dropped them. A process of its own, because it
//! counts what the whole process allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pipeops_agent::link::Message;

/// Counts allocations that are worth a buffer.
struct Counting;

static LARGE: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are freed only by who has buffers.
static POOLED: AtomicUsize = AtomicUsize::new(0);

/// The sizes of buffers that [`EXPECTED`] needs.
const SIZES: [usize; 2] = [36 * 1024, 48 * 1024];

// SAFETY: everything is the system's allocator's doing; this only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= 12 * 1024 {
            LARGE.fetch_add(1, Ordering::Relaxed);
        }
        if SIZES.contains(&layout.size()) {
            POOLED.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if SIZES.contains(&layout.size()) {
            POOLED.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WAITING: usize = 8;

/// Lengths of messages.
const EXPECTED: [usize; 2] = [32 * 1024, 32 * 1024 * 4 / 3 + 256];

/// One test, because all of the process is counted.
#[test]
fn buffers_of_messages_are_used_again_across_threads_and_given_back_when_nobody_needs_them() {
    they_are_used_again();
    assert!(POOLED.load(Ordering::Relaxed) > 0, "they are kept");
    they_are_given_back();
}

fn they_are_used_again() {
    let (send, written) = mpsc::sync_channel::<Message>(WAITING);
    let writer = thread::spawn(move || {
        for message in written {
            assert!(message.payload().iter().all(|byte| *byte == b'x'));
        }
    });
    let before = LARGE.load(Ordering::Relaxed);
    for n in 0..1000 {
        let length = EXPECTED[n % EXPECTED.len()];
        let message = Message::text(length, |buf| buf.resize(buf.len() + length, b'x'));
        assert_eq!(message.len(), length);
        send.send(message).expect("it is taken");
    }
    drop(send);
    writer.join().expect("nothing of an older message is left");
    let taken = LARGE.load(Ordering::Relaxed) - before;
    // Those that wait, are written and are made, of each size.
    assert!(taken <= EXPECTED.len() * (WAITING + 2), "{taken}");
}

/// Whoever else there is in the process.
fn they_are_given_back() {
    let limit = Instant::now() + Duration::from_mins(1);
    while POOLED.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < limit, "they are never given back");
        thread::sleep(Duration::from_millis(10));
    }
}
