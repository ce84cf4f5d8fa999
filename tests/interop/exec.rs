//! Exec, attach and port-forward: the gateway, the agent, and an API server on gorilla
//! (control-channel.md §9.1).

use serde_json::{Value, json};

use crate::socket_stage::{BINARY, EXEC, Sockets, TEXT, V4};
use crate::upstream::bytes;

const DEFAULTS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// C11: the conversation of the captures, lines 122 to 143, and the rest of the table.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c11_c13_t8_an_exec_is_translated_both_ways_from_its_start_to_the_echo_of_its_close() {
    let sockets = Sockets::cluster();
    let gateway = sockets.gateway();
    for (id, start, data, close) in [
        (
            "long",
            "proxy_websocket_start",
            "proxy_websocket_data",
            "proxy_websocket_close",
        ),
        ("short", "ws_start", "ws_data", "ws_close"),
    ] {
        gateway.send(start, id, json!({
            "headers": {
                "Authorization": ["Bearer callers-own"], "Host": ["evil.test"], "Connection": "Upgrade, X-Hop",
                "X-Hop": "1", "Sec-WebSocket-Key": "the-clients-own", "Sec-WebSocket-Extensions": "permessage-deflate",
                "Origin": "https://console.test", "X-Stays": ["one", "two"],
            },
            "method": "GET", "path": EXEC, "protocol": V4,
            "query": format!("command=sh&stdin=true&socket={id}"), "stream_id": id,
        }));
        // At once, before anything can be known of the dial: in order.
        for n in 0..100u8 {
            let data = crate::socket_stage::framed(TEXT, &[b'a', n]);
            gateway.send(
                "proxy_websocket_data",
                id,
                json!({"stream_id": id, "data": data}),
            );
        }
        let asked = sockets.far("socket", id);
        assert_eq!(
            asked["target"],
            format!("{EXEC}?command=sh&stdin=true&socket={id}")
        );
        assert_eq!(asked["offered"], json!([V4]));
        let sent = &asked["headers"];
        assert_eq!(
            sent["Authorization"],
            json!(["Bearer callers-own"]),
            "{sent}"
        );
        assert_eq!(sent["X-Stays"], json!(["one", "two"]));
        assert!(
            sent["Host"][0]
                .as_str()
                .is_some_and(|host| host.starts_with("127.0.0.1:"))
        );
        assert_ne!(sent["Sec-Websocket-Key"], json!(["the-clients-own"]));
        for hop in ["X-Hop", "Sec-Websocket-Extensions"] {
            assert!(sent.get(hop).is_none(), "{hop} in {sent}");
        }
        for n in 0..100u8 {
            sockets.far_hears(id, BINARY, &[0, b'a', n]);
        }
        // `ls\n`, and the size of a terminal (§9.1).
        gateway.send(data, id, json!({"stream_id": id, "data": "AWxzCg=="}));
        sockets.far_hears(id, BINARY, b"\x00ls\n");
        gateway.send(
            data,
            id,
            json!({"stream_id": id, "data": "AgR7IldpZHRoIjoxMjAsIkhlaWdodCI6NDB9"}),
        );
        sockets.far_hears(id, BINARY, b"\x04{\"Width\":120,\"Height\":40}");
        for channel in 0..4u8 {
            sockets.far_says(id, BINARY, &[channel, b'x']);
            sockets.hears(id, TEXT, b"x");
        }
        for (kind, bytes) in [
            (BINARY, &b"\x04{}"[..]),
            (BINARY, b"\xff\x00"),
            (TEXT, b"\x01text"),
            (BINARY, b""),
        ] {
            sockets.far_says(id, kind, bytes);
            sockets.hears(id, kind, bytes);
        }
        gateway.send(close, id, json!({"stream_id": id}));
        sockets.hears_close(id);
        sockets.far("socket_end", id);
        // Unknown now: no reply.
        sockets.say(id, TEXT, b"late");
        gateway.send(close, id, json!({"stream_id": id}));
    }
    sockets.end();
}

/// In their words, and with a close where there was a stream.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t36_a_bad_path_is_refused_under_the_envelopes_id_and_a_failed_dial_with_a_close() {
    let sockets = Sockets::cluster();
    let gateway = sockets.gateway();
    for path in [
        "",
        "/etc/passwd",
        "/api/v1/../../x",
        "/api//v1",
        "/apifoo",
        "/api/v1/x?y",
        "/api/v1/%2e%2e",
    ] {
        gateway.send(
            "ws_start",
            "e",
            json!({"stream_id": "s", "path": path, "headers": {}}),
        );
        assert_eq!(
            sockets.error("e"),
            "invalid path: must be a Kubernetes API path",
            "{path:?}"
        );
    }
    gateway.send("proxy_websocket_start", "e", json!({"path": EXEC}));
    assert_eq!(sockets.error("e"), "missing stream_id");
    assert_eq!(
        sockets.count("proxy_websocket_close", "s") + sockets.count("proxy_error", "s"),
        0
    );

    let nobody = json!({"headers": {"Authorization": "Bearer nobody"}});
    for (id, query, more, status) in [("d", "mode=deny", json!({}), 403), ("n", "", nobody, 401)] {
        sockets.start(id, EXEC, query, more);
        let text = sockets.error(id);
        assert!(text.starts_with("failed to connect to K8s API: "), "{text}");
        assert!(text.ends_with(&format!("(status: {status})")), "{text}");
        sockets.hears_close(id);
    }
    assert!(sockets.count("proxy_websocket_close", "d") == 1);
    sockets.end();
}

/// `protocol`, then the header, in order and once each; the defaults where there are
/// none; v5 only by name.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn subprotocols_are_offered_as_the_peer_names_them() {
    let sockets = Sockets::cluster();
    let header = json!({"Sec-WebSocket-Protocol": "b, c ,a", "Authorization": "Bearer t"});
    let spdy = "SPDY/3.1+portforward.k8s.io";
    for (id, path, more, offered) in [
        (
            "both",
            EXEC,
            json!({"protocol": " a,b,,", "headers": header}),
            json!(["a", "b", "c"]),
        ),
        ("none", EXEC, json!({"protocol": ""}), json!(DEFAULTS)),
        (
            "v5",
            EXEC,
            json!({"protocol": "v5.channel.k8s.io"}),
            json!(["v5.channel.k8s.io"]),
        ),
        (
            "watch",
            "/api/v1/pods",
            json!({"protocol": ""}),
            json!(null),
        ),
        (
            "forward",
            "/api/v1/namespaces/n/pods/p/portforward",
            json!({"protocol": spdy}),
            json!([spdy]),
        ),
    ] {
        sockets.start(id, path, "", more);
        assert_eq!(sockets.far("socket", id)["offered"], offered, "{id}");
        sockets.far("socket_open", id);
        sockets.close(id);
        sockets.hears_close(id);
    }
    sockets.end();
}

/// T25: what is no exec, or has no binary channels, passes as it is.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t25_port_forward_and_other_subprotocols_pass_untouched() {
    let sockets = Sockets::cluster();
    let forward = "/api/v1/namespaces/n/pods/p/portforward";
    for (id, path, protocol) in [
        ("f", forward, V4),
        ("b", EXEC, "base64.channel.k8s.io"),
        ("n", EXEC, ""),
        ("l", "/api/v1/namespaces/n/pods/p/log", V4),
    ] {
        sockets.start(
            id,
            path,
            &format!("protocol={protocol}"),
            json!({"protocol": if protocol.is_empty() { V4 } else { protocol }}),
        );
        sockets.far("socket_open", id);
        let large = bytes(1 << 20);
        for (kind, bytes) in [
            (BINARY, &b"\x00\x50\x1f"[..]),
            (TEXT, b"0bHM="),
            (BINARY, b"\x01"),
            (BINARY, &large),
        ] {
            sockets.say(id, kind, bytes);
            sockets.far_hears(id, kind, bytes);
            sockets.far_says(id, kind, bytes);
            sockets.hears(id, kind, bytes);
        }
        sockets.close(id);
        sockets.hears_close(id);
    }
    sockets.end();
}

/// T19: as its caller, whatever the case of his header; never as the agent. Answered
/// without a 101 (captures 151).
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t19_an_exec_by_a_request_is_made_as_its_caller() {
    let sockets = Sockets::cluster();
    for (n, (headers, who)) in [
        (
            json!({"authorization": "Bearer callers-own"}),
            json!(["Bearer callers-own"]),
        ),
        (
            json!({"AUTHORIZATION": ["Bearer callers-own"], "Sec-WebSocket-Protocol": V4}),
            json!(["Bearer callers-own"]),
        ),
        (json!({}), json!(null)),
    ]
    .into_iter()
    .enumerate()
    {
        for streamed in [false, true] {
            let id = format!("r-{n}-{streamed}");
            let protocols = headers
                .get("Sec-WebSocket-Protocol")
                .map_or(json!(DEFAULTS), |one| json!([one]));
            let more =
                json!({"path": EXEC, "headers": headers, "supports_response_streaming": streamed});
            sockets.upgrade(&id, "command=sh", more);
            if streamed {
                sockets.outcome(&id, "end");
            } else {
                sockets.outcome(&id, "response");
                let answer = sockets.message("proxy_response", &id);
                assert_eq!(answer, json!({"status": 200, "headers": null}));
            }
            let asked = sockets.far("socket", &id);
            assert_eq!(
                asked["headers"]
                    .get("Authorization")
                    .cloned()
                    .unwrap_or(Value::Null),
                who
            );
            assert_eq!(asked["offered"], protocols);
            sockets.far("socket_open", &id);
            sockets.far_says(&id, BINARY, b"\x01hello");
            sockets.hears(&id, TEXT, b"hello");
            sockets.say(&id, TEXT, b"in");
            sockets.far_hears(&id, BINARY, b"\x00in");
            sockets.close(&id);
            sockets.hears_close(&id);
        }
    }
    sockets.end();
}
