//! The reader of WebSocket frames: see `src/websocket/frame/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pipeops_agent::websocket::fuzz_frames(data));
