//! `pipeops-agent`: see `pipeops_agent::cli`.

use std::process::ExitCode;

/// musl's own malloc cuts the data path to about a quarter (vendor-notes/mimalloc.md).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: pipeops_agent::allocator::Allocator = pipeops_agent::allocator::Allocator;

/// The standard library has each thread enter a map, and gives it a stack for signals,
/// to say whose stack it was when one overflows; unless somebody else handles SIGSEGV
/// and SIGBUS before `main`. The map's nodes are allocated on the new threads, and of one
/// that allocates mimalloc keeps 16 KiB, 7 of them for ever. So here somebody does: the
/// process ends by the signal as it would by default, and a core dump says whose stack.
#[cfg(target_env = "musl")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    unsafe extern "C" {
        safe fn signal(number: i32, action: usize) -> usize;
    }
    const DEFAULT: usize = 0;

    /// Whoever returns does again what brought it here, and ends by it.
    extern "C" fn fatal(number: i32) {
        signal(number, DEFAULT);
    }

    extern "C" fn before_main() {
        for number in [7, 11] {
            signal(number, fatal as *const () as usize);
        }
    }

    before_main
};

fn main() -> ExitCode {
    pipeops_agent::cli::main(std::env::args_os())
}
