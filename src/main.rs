//! `pipeops-agent`: see `pipeops_agent::cli`.

use std::process::ExitCode;

/// musl's own malloc cuts the data path to about a quarter (vendor-notes/mimalloc.md).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pipeops_agent::cli::main(std::env::args_os())
}
