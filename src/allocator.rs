//! What the allocator of the static build is told (vendor-notes/mimalloc.md).

/// Gives free memory back to the system, when it is quiet after a burst. mimalloc by
/// itself keeps pages for threads that may want them again.
pub(crate) fn give_back() {
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
