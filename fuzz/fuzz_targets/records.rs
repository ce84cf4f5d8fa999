//! The TLS record reader: see `src/net/stream/tls/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pipeops_agent::net::fuzz_records(input));
