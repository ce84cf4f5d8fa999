//! `pipeops-agent`: see `pipeops_agent::cli`.

use std::process::ExitCode;

/// musl's own malloc cuts the data path to about a quarter (vendor-notes/mimalloc.md).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: pipeops_agent::allocator::Allocator = pipeops_agent::allocator::Allocator;

fn main() -> ExitCode {
    pipeops_agent::cli::main(std::env::args_os())
}
