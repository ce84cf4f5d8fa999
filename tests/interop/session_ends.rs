//! Sessions that end while their WebSocket lives, and what is said at the end
//! (tunnels.md §9 T7, §10.2 item 18).

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::stage::Stage;
use crate::tunnel_driver::{NAMESPACE, SERVICE};

/// T7 as it happened to the original: the gateway's session is gone without a word, and
/// nothing on the WebSocket says so. Only our ping notices.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t7_a_session_that_ends_in_silence_takes_its_connection_with_it() {
    let stage = Stage::with_tunnels();
    let agent = stage.start();
    let lost = stage.arrived();
    // The shortest that the agent agrees to.
    let config = json!({"keep_alive_interval_seconds": 5, "connection_timeout_seconds": 5});
    stage.gateway.hello(json!({"yamux_config": config}));
    let held = json!([{"say": "echo\n"}, {"trips": 1, "size": 10}, {"gate": "never"}]);
    stage.gateway.streams("held", json!({}), held);
    stage.gateway.target_opened("echo", 1);
    stage.gateway.set("close_code", 1002);
    stage.gateway.command(json!({"cmd": "end_session"}));
    stage.gateway.closed(&lost, 1002);
    stage.gateway.target_saw("echo", "reset");
    stage.gateway.set("close_code", 1000);
    let conn = stage.gateway.connection("gateway");
    stage.heartbeat_on(&conn);
    stage.gateway.hello(json!({}));
    stage.gateway.script("vectors", SERVICE);
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn x18_at_the_end_streams_may_finish_and_new_ones_are_refused() {
    let stage = Stage::with_tunnels();
    let agent = stage.start();
    let conn = stage.arrived();
    // By hand, because the library opens no stream behind a Go Away.
    stage.gateway.hello(json!({"raw": true}));
    let gateway = &stage.gateway;
    let inject = |hex: &str| gateway.command(json!({"cmd": "inject", "hex": hex}));
    let frame = |more: Value| {
        let mut frame = json!({"event": "frame"});
        for (name, value) in more.as_object().expect("an object") {
            frame[name] = value.clone();
        }
        gateway.expect(frame)
    };
    inject(SYN_2);
    let port = gateway.target_port.expect("a service");
    inject(&data_2(&header(port)));
    inject(&data_2(b"echo\n"));
    gateway.target_opened("echo", 1);
    gateway.settle();
    agent.stop();
    frame(json!({"type": "goaway", "length": 0}));
    inject(SYN_4);
    frame(json!({"type": "window", "flags": "rst", "stream": 4}));
    inject(&data_2(b"hello"));
    let back = frame(json!({"type": "data", "stream": 2}));
    assert_eq!(back["length"], 5);
    inject(FIN_2);
    frame(json!({"type": "window", "flags": "fin", "stream": 2}));
    gateway.target_saw("echo", "eof");
    gateway.closed(&conn, 1000);
    agent.wait().expect("an orderly end");
    stage.gateway.finish();
}

// Frames of tunnels.md §10.1.
const SYN_2: &str = "000100010000000200000000";
const SYN_4: &str = "000100010000000400000000";
const FIN_2: &str = "000100040000000200000000";

/// A Data frame of stream 2.
fn data_2(payload: &[u8]) -> String {
    let mut hex = format!("0000000000000002{:08x}", payload.len());
    for byte in payload {
        write!(hex, "{byte:02x}").expect("a String");
    }
    hex
}

/// The header of a TCP stream to the gateway's service (tunnels.md §3.1).
fn header(port: u16) -> Vec<u8> {
    let mut header = vec![1, 1];
    header.extend(port.to_be_bytes());
    for text in [SERVICE, NAMESPACE, "t-1"] {
        header.extend((text.len() as u16).to_be_bytes());
        header.extend(text.as_bytes());
    }
    header
}
