//! What the fuzz targets call: pure rooms of the agent, and the functions that its
//! own property tests call too.

use pipeops_agent::wire::stream::{self, StreamData};
use pipeops_agent::wire::{Envelope, FromAgent, ToAgent};

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

/// Text as a message, from either end. Data of a stream is decoded as well, and written
/// again it is the same.
pub fn messages(text: &str) {
    let Ok(envelope) = Envelope::parse(text) else {
        return;
    };
    if let FromAgent::WebSocketData(data) = FromAgent::parse(&envelope) {
        written(&data);
    }
    if let ToAgent::WebSocketData(data) = ToAgent::parse(&envelope) {
        written(&data);
    }
}

fn written(data: &StreamData<'_>) {
    let Some(frame) = data.frame() else {
        return;
    };
    assert!(frame.payload().len() <= data.size());
    let mut text = Vec::new();
    stream::proxy_websocket_data(&mut text, "id", frame.kind, frame.payload());
    let text = str::from_utf8(&text).expect("text");
    let envelope = Envelope::parse(text).expect("a message");
    let FromAgent::WebSocketData(again) = FromAgent::parse(&envelope) else {
        panic!("{text}");
    };
    let again = again.frame().expect("data");
    assert_eq!((again.kind, again.payload()), (frame.kind, frame.payload()));
}
