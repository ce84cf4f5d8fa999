//! The header of a tunnel's stream: see `src/tunnel/header.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pipeops_agent::tunnel::header::fuzz(input));
