//! The connections to Services: kept, shared, encrypted or not.

use super::*;
use crate::http::Headers;
use crate::http::server::{self, Handler, Request, RequestBody, Responder, Server};
use crate::net::testing::{Ca, listen};
use crate::net::{PemSource, ServerTls, ServerTlsSettings};

/// Says what it was asked: the client's scheme, and the body.
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Request, mut body: RequestBody, responder: Responder) {
        let said = request.headers.get("X-Forwarded-Proto").unwrap_or("none");
        let body = body.read_all(1024).expect("a body");
        let said = format!("{said} {}", String::from_utf8_lossy(&body));
        let _ = responder.respond(200, &Headers::new(), said.trim_end().as_bytes());
    }
}

fn serve(tls: bool) -> Server {
    let tls = tls.then(|| {
        let issued = Ca::new().issue(&["somebody-else.test"]);
        let given = |pem: String| PemSource::Given {
            name: "test".into(),
            pem: pem.into_bytes(),
        };
        let settings = ServerTlsSettings {
            certificate: given(issued.certificate_pem),
            key: given(issued.key_pem),
            client_ca: None,
        };
        ServerTls::new(&settings).expect("tls")
    });
    let settings = server::Settings {
        tls,
        ..server::Settings::default()
    };
    let (listener, _) = listen();
    Server::start(listener, settings, Arc::new(Echo)).expect("a server")
}

/// `scheme` is the client's; the port's may be another one.
#[test]
fn t13_https_reaches_services_with_and_without_tls() {
    let (mut house, town) = house();
    let servers = [(443, serve(true)), (80, serve(false))];
    for (port, server) in &servers {
        let name = format!("web.shop:{port}");
        town.addresses.lock().insert(name, server.address());
        for id in ["a", "b"] {
            let mut payload = to_web(json!({"path": "/", "scheme": "https"}));
            payload["service_port"] = (*port).into();
            house.request(id, payload);
            let answer = house.expect("proxy_response", id);
            assert_eq!(decode(&answer["body"]), b"https", "{answer}");
        }
        forget(&house);
    }
    // Once for TLS; twice for what has none, as it was closed then.
    assert_eq!(town.dials.load(Ordering::SeqCst), 3);
    house.expect_rest();
}

/// They had their own connections for ever, and there may be any number of names.
#[test]
fn there_are_never_too_many_pools() {
    let (mut house, town) = house();
    let server = serve(false);
    for index in 0..140 {
        let name = format!("web-{index}");
        let whole = format!("{name}.shop:80");
        town.addresses.lock().insert(whole, server.address());
        let mut payload = to_web(json!({"path": "/"}));
        payload["service_name"] = name.into();
        house.request("r", payload);
        assert_eq!(status(&house, "r"), 200);
    }
    let pools = &house.executor.services().expect("some").pools;
    assert_eq!(pools.count(), 128);
    let until = Instant::now() + FAR;
    while pools.idle() > 100 {
        assert!(Instant::now() < until, "{} connections", pools.idle());
        std::thread::yield_now();
    }
    house.expect_rest();
}

fn by_tls(id: &str, house: &mut House) {
    let mut payload = to_web(json!({"path": "/", "scheme": "https"}));
    payload["service_port"] = 443.into();
    house.request(id, payload);
}

fn leads_to(town: &Town, address: SocketAddr) {
    let name = "web.shop:443".to_owned();
    town.addresses.lock().insert(name, address);
}

fn forget(house: &House) {
    house.executor.services().expect("some").pools.forget();
}

/// Each call began with a handshake that could only fail.
#[test]
fn t13_what_speaks_no_tls_is_remembered_for_a_while() {
    let (mut house, town) = house();
    let server = serve(false);
    leads_to(&town, server.address());
    for id in ["a", "b", "c"] {
        by_tls(id, &mut house);
        assert_eq!(status(&house, id), 200);
        forget(&house);
    }
    // One more for the first, whose handshake failed.
    assert_eq!(town.dials.load(Ordering::SeqCst), 4);
    house.expect_rest();
}

/// Most servers read to the end of a line before they say that it is none, and a
/// ClientHello has one by chance only.
#[test]
fn t13_every_server_without_tls_says_so() {
    let limits = ConnectionLimits {
        handshake_limit: 10 * FAR,
        dial_limit: 10 * FAR,
        ..ConnectionLimits::default()
    };
    let (mut house, town) = house_within(Settings::default(), limits);
    let server = serve(false);
    for port in 1000..1030 {
        let name = format!("web.shop:{port}");
        town.addresses.lock().insert(name, server.address());
        let mut payload = to_web(json!({"path": "/", "scheme": "https"}));
        payload["service_port"] = port.into();
        house.request("r", payload);
        assert_eq!(status(&house, "r"), 200);
    }
    house.expect_rest();
}

/// Otherwise whoever can answer in its place would get requests in clear text.
#[test]
fn t13_who_has_spoken_tls_is_never_called_without() {
    let (mut house, town) = house();
    let servers = [serve(true), serve(false)];
    leads_to(&town, servers[0].address());
    by_tls("a", &mut house);
    assert_eq!(status(&house, "a"), 200);
    forget(&house);
    leads_to(&town, servers[1].address());
    by_tls("b", &mut house);
    let text = house.expect_error("b");
    assert!(text.contains("TLS handshake"), "{text}");
    assert_eq!(town.dials.load(Ordering::SeqCst), 2);
    house.expect_rest();
}

/// An origin that is given as `https://` is never called without.
#[test]
fn tls_that_is_configured_is_not_left_out() {
    let (mut house, town) = house();
    *town.configured.lock() = Some(true);
    let server = serve(false);
    leads_to(&town, server.address());
    by_tls("a", &mut house);
    let text = house.expect_error("a");
    assert!(text.contains("TLS handshake"), "{text}");
    assert_eq!(town.dials.load(Ordering::SeqCst), 1);
    // And one as `http://` always.
    *town.configured.lock() = Some(false);
    by_tls("b", &mut house);
    assert_eq!(status(&house, "b"), 200);
    assert_eq!(town.dials.load(Ordering::SeqCst), 2);
    house.expect_rest();
}

/// A server without TLS may wait for the end of a line that never comes.
#[test]
fn t13_a_handshake_that_nobody_answers_is_given_up() {
    let limits = ConnectionLimits {
        handshake_limit: Duration::from_millis(20),
        dial_limit: 10 * FAR,
        ..ConnectionLimits::default()
    };
    let (mut house, town) = house_within(Settings::default(), limits);
    leads_to(&town, house.upstream.address);
    by_tls("a", &mut house);
    let mut peer = house.upstream.accept();
    let text = house.expect_error("a");
    assert!(text.contains("TLS handshake"), "{text}");
    peer.wait_for_end();
    house.expect_rest();
}

/// What of the body is there already isn't lost with the handshake.
#[test]
fn t13_a_streamed_body_arrives_where_there_is_no_tls() {
    let (mut house, town) = house();
    let server = serve(false);
    leads_to(&town, server.address());
    let mut payload = to_web(json!({"method": "POST", "path": "/", "scheme": "https",
        "use_streaming": true}));
    payload["service_port"] = 443.into();
    house.request("s", payload);
    house.requests().chunk("s", Some(&encode("he")));
    house.requests().chunk("s", Some(&encode("llo")));
    house.requests().end("s");
    let answer = house.expect("proxy_response", "s");
    assert_eq!(decode(&answer["body"]), b"https hello", "{answer}");
    house.expect_rest();
}

/// The connection is somebody's then; the next request may be another one's.
#[test]
fn a_connection_that_was_authenticated_is_not_used_again() {
    let (mut house, _) = house();
    for (asked, answered) in [
        ("Negotiate YII=", "X: y"),
        ("ntlm TlRM", "X: y"),
        ("Basic dTpw", "WWW-Authenticate: Basic realm=\"x\", NTLM"),
        ("Basic dTpw", "WWW-Authenticate: negotiate YII="),
    ] {
        let headers = json!({"Authorization": asked});
        house.request("a", to_web(json!({"path": "/", "headers": headers})));
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send(format!(
            "HTTP/1.1 401 Unauthorized\r\n{answered}\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(status(&house, "a"), 401);
        peer.wait_for_end();
    }
    house.expect_rest();
}

/// They waited in their pool for 90 seconds, for nobody.
#[test]
fn a_connection_to_another_name_is_closed_at_once() {
    let (mut house, town) = house();
    town.aliases.store(true, Ordering::SeqCst);
    house.request("a", to_web(json!({"path": "/"})));
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "a"), 200);
    peer.wait_for_end();
    house.expect_rest();
}

/// It may have been taken before the connection died.
#[test]
fn a_post_on_a_kept_connection_is_not_sent_twice() {
    let (mut house, town) = house();
    house.request("a", to_web(json!({"path": "/"})));
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "a"), 200);
    house.request(
        "b",
        to_web(json!({"method": "POST", "path": "/", "body": "once"})),
    );
    assert_eq!(peer.request().body, b"once");
    drop(peer);
    let text = house.expect_error("b");
    assert!(text.contains("closed before an answer came"), "{text}");
    assert_eq!(town.dials.load(Ordering::SeqCst), 1);
    house.expect_rest();
}

/// All of them together had no limit but 20 for each.
#[test]
fn no_more_connections_are_kept_than_all_may_have_together() {
    let limits = ConnectionLimits {
        max_idle: 2,
        ..ConnectionLimits::default()
    };
    let (mut house, town) = house_within(Settings::default(), limits);
    let server = serve(false);
    for name in ["a", "b", "c", "d"] {
        let whole = format!("{name}.shop:80");
        town.addresses.lock().insert(whole, server.address());
    }
    let mut ask = |name: &str| {
        let mut payload = to_web(json!({"path": "/"}));
        payload["service_name"] = name.into();
        house.request("r", payload);
        assert_eq!(status(&house, "r"), 200);
        house.expect_rest();
        let dials = town.dials.load(Ordering::SeqCst);
        (dials, house.executor.services().expect("some").pools.idle())
    };
    assert_eq!(ask("a"), (1, 1));
    assert_eq!(ask("b"), (2, 2));
    assert_eq!(ask("c"), (3, 2), "that of a is closed");
    assert_eq!(ask("b"), (3, 2), "its own is still there");
    assert_eq!(ask("a"), (4, 2));
}
