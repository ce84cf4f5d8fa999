//! The allocator of the static build: mimalloc, but for the buffers of bulk data, which
//! come from the system and go back there.
//!
//! mimalloc has a part for each thread, and keeps there what was freed by others until
//! that thread comes by again. A thread that copies took one buffer when there was none
//! to be used again, and then waited for hours, with a page of half a MiB whose memory
//! nobody could have back. Buffers have their own store ([`buffers`](crate::buffers)), so
//! it is seldom that one is made, and then a mapping of its own costs little.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

use mimalloc::MiMalloc;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::buffers::CLASSES;
use crate::yamux::CHUNK;

/// For `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

/// Known by their sizes, which others hardly ever ask for.
fn is_buffer(layout: Layout) -> bool {
    let size = layout.size();
    layout.align() == 1 && (size == CHUNK || CLASSES.contains(&size))
}

// SAFETY: each of the two allocates and frees its own; whose a place is follows from its
// layout, which the caller promises is the same each time.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_buffer(layout) {
            // SAFETY: the caller's promise is passed on.
            return unsafe { MiMalloc.alloc(layout) };
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: it takes no place that anybody has.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), layout.size(), protection, flags) };
        mapped.map_or(ptr::null_mut(), <*mut _>::cast)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if is_buffer(layout) {
            // SAFETY: it was mapped with this size, and nobody has it any more.
            // Nothing can be done where it fails.
            let _ = unsafe { munmap(place.cast(), layout.size()) };
        } else {
            // SAFETY: the caller's promise is passed on.
            unsafe { MiMalloc.dealloc(place, layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_buffer(layout) {
            // SAFETY: the caller's promise is passed on; a mapping is all zeros.
            unsafe { self.alloc(layout) }
        } else {
            // SAFETY: as above.
            unsafe { MiMalloc.alloc_zeroed(layout) }
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that it is no more than there may be.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_buffer(layout) && !is_buffer(new) {
            // SAFETY: the caller's promise is passed on.
            return unsafe { MiMalloc.realloc(place, layout, size) };
        }
        // SAFETY: the new place is another one, and both have so many bytes.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(place, moved, layout.size().min(size));
                self.dealloc(place, layout);
            }
            moved
        }
    }
}
