//! What isn't for the Kubernetes API: Services and origins, asked for by a control plane
//! that isn't ours, in the fields that the wire has for them (control-channel.md §8.3,
//! §8.5; config-and-state.md §12.2).

mod websockets;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crossbeam_channel::unbounded;
use pipeops_agent::agent::Agent;
use pipeops_agent::config::{Config, Origin, ServicePort};
use pipeops_agent::http::Headers;
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use serde_json::{Value, json};

use crate::forms::body_of;
use crate::support::fake_plane::{Conn, FakePlane, chunk};
use crate::support::house::{agent_config, start};
use crate::support::pattern::whole;
use crate::support::upstream::{Upstream, content, scripted};

/// An agent of a plain machine with these routes, on the fake plane's gateway.
fn machine(
    routes: &[(&str, String)],
    change: impl FnOnce(&mut Config),
) -> (FakePlane, Agent, Conn) {
    let plane = FakePlane::start();
    let url = format!("https://{}", plane.address());
    let mut config = agent_config(&url, "t-1", &plane.ca_file());
    config.daemon.routes = routes
        .iter()
        .map(|(name, origin)| ((*name).to_owned(), Origin::parse(origin).expect(origin)))
        .collect::<BTreeMap<_, _>>();
    change(&mut config);
    let agent = start(&config, None);
    let conn = plane.register();
    (plane, agent, conn)
}

/// Answers with its own name and what came.
fn echo(name: &'static str) -> impl Fn(Request, RequestBody, Responder) + Send + Sync {
    move |request, mut body, responder| {
        let bytes = body.read_all(64 << 20).expect("a whole body");
        drop(body);
        let field = |name| request.headers.get(name);
        let answer = json!({
            "name": name, "method": request.method, "target": request.target,
            "host": field("Host"), "proto": field("X-Forwarded-Proto"),
            "length": field("Content-Length"), "body": String::from_utf8_lossy(&bytes),
        });
        let answer = answer.to_string();
        let headers = content("application/json");
        let _ = responder.respond(200, &headers, answer.as_bytes());
    }
}

fn ask(conn: &mut Conn, payload: &Value) -> Value {
    conn.request("r", payload);
    let answer = conn.answer("r");
    serde_json::from_slice(&body_of(&answer)).expect("JSON")
}

fn refusal(conn: &mut Conn, payload: &Value) -> String {
    conn.request("r", payload);
    let answer = conn.answer("r");
    assert_eq!(answer["type"], "proxy_error", "{answer}");
    answer["payload"]["error"]
        .as_str()
        .expect("a text")
        .to_owned()
}

#[test]
fn on_a_plain_machine_the_route_of_the_host_goes_first() {
    let [by_host, by_service, default] = [
        Upstream::start(echo("host")),
        Upstream::start_tls(echo("service")),
        Upstream::start(echo("default")),
    ];
    let origin = |upstream: &Upstream| upstream.address().to_string();
    let routes = [
        ("shop.test", origin(&by_host)),
        ("web", format!("https://{}", by_service.address())),
        ("db.prod", origin(&by_host)),
    ];
    let (_plane, _agent, mut conn) = machine(&routes, |config| {
        config.daemon.default_origin = Some(Origin::parse(&origin(&default)).expect("one"));
    });
    let service = |name: &str, namespace: &str| json!({"path": "/api/v1/x", "service_name": name, "namespace": namespace, "service_port": 80});
    for (payload, name) in [
        (
            json!({"path": "/", "headers": {"Host": "Shop.test:8443"}}),
            "host",
        ),
        (
            json!({"path": "/", "headers": {"X-Forwarded-Host": "shop.test"}}),
            "host",
        ),
        (service("web", "default"), "service"),
        (service("db", "prod"), "host"),
        (service("other", "default"), "default"),
        (json!({"path": "/api/v1/pods"}), "default"),
    ] {
        assert_eq!(ask(&mut conn, &payload)["name"], name, "{payload}");
    }
    let mut both = service("web", "default");
    both["headers"] = json!({"host": ["shop.test"]});
    both["scheme"] = "https".into();
    both["method"] = "put".into();
    both["body"] = "hello".into();
    both["query"] = "b=1&a".into();
    // By TLS at first, which nobody speaks there (T13).
    let want = json!({
        "name": "host", "method": "PUT", "target": "/api/v1/x?b=1&a", "host": "shop.test",
        "proto": "https", "length": "5", "body": "hello",
    });
    assert_eq!(ask(&mut conn, &both), want);
}

#[test]
fn an_origin_that_is_not_configured_or_not_allowed_is_not_called() {
    let upstream = Upstream::start(echo("any"));
    let address = upstream.address().to_string();
    let (_plane, _agent, mut conn) = machine(&[("shop.test", address)], |config| {
        config.daemon.allowed_origins = vec!["localhost".to_owned()];
    });
    let unknown = refusal(
        &mut conn,
        &json!({"path": "/", "headers": {"Host": "x.test"}}),
    );
    assert!(unknown.contains("no local address configured"), "{unknown}");
    let denied = refusal(
        &mut conn,
        &json!({"path": "/", "headers": {"Host": "shop.test"}}),
    );
    assert!(
        denied.starts_with("service request failed: the agent's policy denies it: "),
        "{denied}"
    );
    let upgrade = json!({"path": "/", "headers": {"Host": "shop.test"}, "is_websocket": true});
    let refused = refusal(&mut conn, &upgrade);
    let start = "failed to connect to service WebSocket: the agent's policy denies it: ";
    assert!(refused.starts_with(start), "{refused}");
}

#[test]
fn an_origin_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path: PathBuf = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody");
        for _ in 0..2 {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                std::io::Read::read_exact(&mut stream, &mut byte).expect("a head");
                head.push(byte[0]);
            }
            assert!(String::from_utf8_lossy(&head).contains("Host: shop.test\r\n"));
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer).expect("answered");
        }
    });
    let origin = format!("unix://{}", path.display());
    let (_plane, _agent, mut conn) = machine(&[("shop.test", origin)], |_| {});
    for _ in 0..2 {
        let payload = json!({"path": "/", "headers": {"Host": "shop.test"}});
        assert_eq!(ask(&mut conn, &payload), json!({}));
    }
    serving.join().expect("served on one connection");
}

/// Events of a server, parts of a file, redirects, binary calls.
#[test]
fn what_services_answer_goes_back_as_it_comes() {
    let (send, events) = unbounded::<&'static str>();
    let upstream = Upstream::start(move |request, mut body, responder| {
        let bytes = body.read_all(1 << 20).expect("a body");
        drop(body);
        let field = |name| request.headers.get(name).unwrap_or_default().to_owned();
        match request.target.as_str() {
            "/events" => {
                let headers = content("text/event-stream");
                let mut writer = responder.start(200, &headers, None).expect("begun");
                while let Ok(event) = events.recv() {
                    writer.write(event.as_bytes()).expect("written");
                }
                let _ = writer.finish();
            }
            "/part" => {
                assert_eq!(field("Range"), "bytes=2-4");
                let mut headers = content("video/mp4");
                headers.push("Content-Range", "bytes 2-4/9");
                let _ = responder.respond(206, &headers, b"cde");
            }
            "/moved" => {
                let headers: Headers = [("Location", "https://elsewhere.test/")]
                    .into_iter()
                    .collect();
                let _ = responder.respond(307, &headers, b"");
            }
            _ => {
                let headers = content(&field("Content-Type"));
                let _ = responder.respond(200, &headers, &bytes);
            }
        }
    });
    let routes = [("shop.test", upstream.address().to_string())];
    let (_plane, _agent, mut conn) = machine(&routes, |_| {});
    let request = |path: &str, headers: Value| {
        let mut payload = json!({
            "path": path, "headers": headers, "supports_response_streaming": true,
        });
        payload["headers"]["Host"] = "shop.test".into();
        payload
    };
    conn.request("e", &request("/events", json!({})));
    assert_eq!(conn.answer("e")["payload"]["status"], 200);
    for event in ["data: one\n\n", "data: two\n\n"] {
        // The next one isn't sent before this one is there.
        send.send(event).expect("listened to");
        assert_eq!(chunk(&conn.answer("e")), event.as_bytes());
    }
    drop(send);
    assert_eq!(conn.answer("e")["type"], "proxy_response_end");
    conn.request("p", &request("/part", json!({"Range": "bytes=2-4"})));
    let (status, headers, body) = conn.streamed("p");
    assert_eq!((status, body.as_slice()), (206, &b"cde"[..]));
    assert_eq!(headers["Content-Range"], json!(["bytes 2-4/9"]));
    conn.request("m", &request("/moved", json!({})));
    let (status, headers, _) = conn.streamed("m");
    assert_eq!(status, 307);
    assert_eq!(headers["Location"], json!(["https://elsewhere.test/"]));
    // A frame of gRPC-web: neither text nor zipped.
    let frame = [&[0, 0, 0, 0x08, 0][..], &whole(2048)].concat();
    let mut call = request(
        "/x.Y/Z",
        json!({"Content-Type": "application/grpc-web+proto"}),
    );
    call["method"] = "POST".into();
    call["body"] = base64_simd::STANDARD.encode_to_string(&frame).into();
    call["body_encoding"] = "base64".into();
    conn.request("g", &call);
    let (status, headers, body) = conn.streamed("g");
    assert_eq!((status, body == frame), (200, true));
    assert_eq!(
        headers["Content-Type"],
        json!(["application/grpc-web+proto"])
    );
}

/// 48 MiB through a budget of 6 MiB: what the origin hasn't taken is not granted.
#[test]
fn an_upload_takes_constant_memory_where_there_is_credit() {
    const TOTAL: usize = 48 << 20;
    let upstream = Upstream::start(|request, mut body, responder| {
        assert_eq!(request.headers.get("Transfer-Encoding"), Some("chunked"));
        let mut total = 0;
        loop {
            let piece = body.chunk(1 << 20).expect("a piece").len();
            if piece == 0 {
                break;
            }
            total += piece;
        }
        drop(body);
        let _ = responder.respond(200, &content("text/plain"), total.to_string().as_bytes());
    });
    let routes = [("shop.test", upstream.address().to_string())];
    let (plane, _agent, first) = machine(&routes, |config| config.proxy.memory_limit = 6 << 20);
    first.link.abort("for one with credit");
    let mut conn = plane.accept();
    conn.send(&json!({"type": "plane_hello", "payload": {"features": ["flow"]}}));
    conn.expect("plane_hello_ack");
    conn.acknowledge();
    conn.request(
        "u",
        &json!({
            "method": "PUT", "path": "/", "headers": {"Host": "shop.test"},
            "use_streaming": true, "supports_response_streaming": true,
        }),
    );
    let (mut sent, mut granted) = (0, 1 << 20);
    let data = base64_simd::STANDARD.encode_to_string(vec![7; 128 << 10]);
    while sent < TOTAL {
        if sent + (128 << 10) <= granted {
            conn.send(&json!({
                "type": "proxy_request_chunk", "request_id": "u", "payload": {"data": data},
            }));
            sent += 128 << 10;
            continue;
        }
        let grant = conn.answer("u");
        assert_eq!(grant["type"], "proxy_flow", "{grant}");
        granted +=
            usize::try_from(grant["payload"]["credit"].as_u64().expect("one")).expect("small");
    }
    conn.send(&json!({"type": "proxy_request_stream_end", "request_id": "u"}));
    let body = loop {
        let message = conn.answer("u");
        if message["type"] == "proxy_response_chunk" {
            break chunk(&message);
        }
    };
    assert_eq!(String::from_utf8_lossy(&body), TOTAL.to_string());
}

#[test]
fn an_answer_that_breaks_off_is_never_a_whole_one() {
    let (address, _script) = scripted(|head, mut stream| {
        let said: &[u8] = if head.starts_with("GET /head ") {
            b"HTTP/1.1 200 OK\r\nContent-"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
        };
        stream.write_all(said).expect("written");
    });
    let (_plane, _agent, mut conn) = machine(&[("shop.test", address.to_string())], |_| {});
    let request = |path: &str| json!({"path": path, "headers": {"Host": "shop.test"}});
    for path in ["/head", "/body"] {
        let text = refusal(&mut conn, &request(path));
        assert!(text.starts_with("service request failed: "), "{text}");
    }
    let mut streamed = request("/body");
    streamed["supports_response_streaming"] = true.into();
    conn.request("s", &streamed);
    let kinds = [
        "proxy_response_header",
        "proxy_response_chunk",
        "proxy_response_abort",
    ];
    assert_eq!(
        kinds.map(|_| conn.answer("s")["type"].take()),
        kinds.map(Value::from)
    );
    assert!(conn.is_quiet());
}

/// With a kubeconfig the API server is reached as before; what is for a Service says
/// why it isn't reached, and never lands at the API server.
#[test]
fn outside_of_its_cluster_an_agent_reaches_no_services_and_says_so() {
    let upstream = Upstream::start_tls(echo("api"));
    let plane = FakePlane::start();
    let url = format!("https://{}", plane.address());
    let mut config = agent_config(&url, "t-1", &plane.ca_file());
    config.proxy.ingress_controller = ServicePort::parse("traefik.kube-system:80").ok();
    let shop = ServicePort::parse("web.shop:80").expect("one");
    config.proxy.ingress_routes = [("shop.test".to_owned(), shop)].into();
    let _agent = start(&config, Some(upstream.credentials()));
    let mut conn = plane.register();
    for payload in [
        json!({"path": "/api/v1/pods"}),
        json!({"path": "/apis/x", "headers": {"Host": "other.test"}}),
        json!({"path": "/x", "service_name": "web"}),
    ] {
        assert_eq!(ask(&mut conn, &payload)["name"], "api", "{payload}");
    }
    for payload in [
        json!({"path": "/x", "service_name": "web", "namespace": "shop", "service_port": 80}),
        json!({"path": "/api/v1/pods", "headers": {"Host": "shop.test"}}),
        json!({"path": "/shop"}),
    ] {
        let text = refusal(&mut conn, &payload);
        assert!(text.contains("outside the cluster"), "{text}");
    }
}
