//! What the fuzz targets call: pure rooms of the agent, and the functions that its
//! own property tests call too.

#[path = "../../src/turns.rs"]
pub mod turns;
#[path = "../../src/yamux/mod.rs"]
pub mod yamux;

#[allow(dead_code, reason = "some of it is for tests only")]
#[path = "../../src/yamux/tests/endpoint.rs"]
mod endpoint;
#[allow(dead_code, reason = "some of it is for tests only")]
#[path = "../../src/yamux/tests/hostile.rs"]
mod hostile;
#[path = "../../src/yamux/tests/play/mod.rs"]
mod play;
#[path = "../../src/yamux/tests/script.rs"]
mod script;

/// Any bytes, in any slices, are the same frames.
pub fn yamux_frames(data: &[u8]) {
    hostile::decode(data);
}

/// A peer that breaks every rule.
pub fn yamux_attack(data: &[u8]) {
    hostile::attack(data);
}

/// Two ends back to back.
pub fn yamux_pair(data: &[u8]) {
    play::play(data);
}
