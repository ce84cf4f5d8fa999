//! Through proxies of the test's own.

use super::*;

/// How the proxy of a test behaves.
#[derive(Clone, Copy, Default)]
struct Behaviour {
    /// Asked for by CONNECT; anything else is a 403.
    credentials: Option<&'static str>,
    answer: Option<&'static str>,
    /// Sent in the same write as the answer.
    extra: &'static [u8],
}

/// A CONNECT proxy for one connection. Returns the head of the request.
fn proxy_once(
    listener: TcpListener,
    tls: Option<ServerTls>,
    behaviour: Behaviour,
    target: Option<SocketAddr>,
) -> JoinHandle<String> {
    thread::spawn(move || {
        let (socket, _) = listener.accept().expect("accept");
        let mut client = accept(
            socket.into(),
            tls.as_ref(),
            &ConnectOptions::default(),
            far_deadline(),
            &Cancel::new(),
        )
        .expect("handshake");
        let head = read_head(&mut client);
        let authorized = behaviour
            .credentials
            .is_none_or(|expected| head.contains(expected));
        let answer = behaviour.answer.unwrap_or(if authorized {
            "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n"
        } else {
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n"
        });
        let slices = [
            std::io::IoSlice::new(answer.as_bytes()),
            std::io::IoSlice::new(behaviour.extra),
        ];
        client.write.write_all(&slices).expect("answer");
        if let Some(target) = target.filter(|_| answer.contains(" 200 ")) {
            let target = TcpStream::connect(target).expect("target");
            join(client, target);
        }
        head
    })
}

fn read_head(client: &mut Halves) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let bytes = client.read.fill().expect("request");
        assert!(!bytes.is_empty(), "no complete request");
        // The client must not talk before it has the answer.
        head.extend_from_slice(bytes);
        let count = bytes.len();
        client.read.consume(count);
    }
    String::from_utf8(head).expect("ASCII")
}

fn join(client: Halves, target: TcpStream) {
    let Halves {
        mut read,
        mut write,
        socket,
    } = client;
    let mut to_target = target.try_clone().expect("clone");
    let up = thread::spawn(move || {
        while let Ok(bytes) = read.fill() {
            if bytes.is_empty() || to_target.write_all(bytes).is_err() {
                break;
            }
            let count = bytes.len();
            read.consume(count);
        }
        let _ = to_target.shutdown(std::net::Shutdown::Both);
    });
    let mut from_target = BufReader::new(target);
    while let Ok(bytes) = from_target.fill_buf() {
        if bytes.is_empty() || write.write_all(&[std::io::IoSlice::new(bytes)]).is_err() {
            break;
        }
        let count = bytes.len();
        from_target.consume(count);
    }
    let _ = socket.shutdown(std::net::Shutdown::Both);
    up.join().expect("up");
}

fn through(dialer: Dialer, url: &str) -> Dialer {
    dialer.with_proxy(ProxyRules::always("test", url).expect("proxy"))
}

#[test]
fn through_an_http_proxy_with_credentials() {
    let ca = Ca::new();
    let (target, target_address) = listen();
    let _server = echo_once(target, Some(server_tls(&ca.issue(&[NAME]), None)));
    let (listener, address) = listen();
    let behaviour = Behaviour {
        credentials: Some("Proxy-Authorization: Basic bWU6cyNjcmV0\r\n"),
        ..Behaviour::default()
    };
    let proxy = proxy_once(listener, None, behaviour, Some(target_address));
    let dialer = through(
        dialer(trusting(&ca)),
        &format!("http://me:s%23cret@{address}"),
    );
    // The name is the proxy's to resolve.
    let dialer = dialer.with_resolver(Resolver::new(|name| panic!("looked up {name}")));
    let mut halves = dial(&dialer, &endpoint(NAME, 443, true)).expect("dial");
    check_echo(&mut halves);
    drop(halves);
    let head = proxy.join().expect("proxy");
    assert!(
        head.starts_with("CONNECT gateway.test:443 HTTP/1.1\r\nHost: gateway.test:443\r\n"),
        "{head}"
    );
}

#[test]
fn through_an_https_proxy_tls_in_tls() {
    let ca = Ca::new();
    let (target, target_address) = listen();
    let issued = ca.issue(&[NAME]);
    let _server = echo_once(target, Some(server_tls(&issued, Some(&ca))));
    let (listener, address) = listen();
    let tls = server_tls(&ca.issue(&["127.0.0.1"]), None);
    let proxy = proxy_once(
        listener,
        Some(tls),
        Behaviour::default(),
        Some(target_address),
    );
    let client = ca.issue(&["client"]);
    let settings = ClientTlsSettings {
        certificate: Some(pem(&client.certificate_pem)),
        key: Some(pem(&client.key_pem)),
        // Meant for the target, not for the proxy.
        server_name: Some(NAME.into()),
        ..trusting(&ca)
    };
    let dialer = through(dialer(settings), &format!("https://{address}"));
    let mut halves = dial(&dialer, &endpoint("10.0.0.1", 443, true)).expect("dial");
    check_echo(&mut halves);
    drop(halves);
    let head = proxy.join().expect("proxy");
    assert!(head.starts_with("CONNECT 10.0.0.1:443 "), "{head}");
}

#[test]
fn a_proxy_does_not_get_our_client_certificate() {
    let ca = Ca::new();
    let (listener, address) = listen();
    let tls = server_tls(&ca.issue(&["127.0.0.1"]), Some(&ca));
    let server = echo_once(listener, Some(tls));
    let client = ca.issue(&["client"]);
    let settings = ClientTlsSettings {
        certificate: Some(pem(&client.certificate_pem)),
        key: Some(pem(&client.key_pem)),
        ..trusting(&ca)
    };
    let dialer = through(dialer(settings), &format!("https://{address}"));
    let error = dial(&dialer, &endpoint(NAME, 443, true)).expect_err("refused");
    assert_eq!(error.phase, Phase::Proxy);
    assert!(error.tls().is_some(), "{error}");
    server.join().expect("server").expect_err("no certificate");
}

#[test]
fn bytes_behind_the_proxys_answer_are_not_lost() {
    let (listener, address) = listen();
    let behaviour = Behaviour {
        extra: b"early bird",
        ..Behaviour::default()
    };
    let proxy = proxy_once(listener, None, behaviour, None);
    let dialer = through(
        dialer(ClientTlsSettings::default()),
        &format!("http://{address}"),
    );
    let mut halves = dial(&dialer, &endpoint(NAME, 80, false)).expect("dial");
    let mut got = Vec::new();
    loop {
        let bytes = halves.read.fill().expect("read");
        if bytes.is_empty() {
            break;
        }
        got.extend_from_slice(bytes);
        let count = bytes.len();
        halves.read.consume(count);
    }
    assert_eq!(got, b"early bird");
    proxy.join().expect("proxy");
}

#[test]
fn refusals_of_a_proxy_are_told_from_those_of_the_target() {
    for (answer, status, words) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            407,
            "does not accept the user and password",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            403,
            "does not allow connections to gateway.test:443",
        ),
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", 401, "does not allow"),
        (
            "HTTP/1.0 503 Service Unavailable\r\n\r\n",
            503,
            "could not reach",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n",
            302,
            "redirects",
        ),
    ] {
        let (listener, address) = listen();
        let behaviour = Behaviour {
            answer: Some(answer),
            ..Behaviour::default()
        };
        let proxy = proxy_once(listener, None, behaviour, None);
        let url = format!("http://me:hunter2@{address}");
        let dialer = through(dialer(ClientTlsSettings::default()), &url);
        let error = dial(&dialer, &endpoint(NAME, 443, true)).expect_err(answer);
        assert_eq!(error.phase, Phase::Proxy);
        assert_eq!(error.proxy_status(), Some(status));
        let text = format!("{error} {error:?}");
        assert!(text.contains(words), "{text}");
        assert!(text.contains(&format!("http://{address}")), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        proxy.join().expect("proxy");
    }
}

#[test]
fn a_proxy_that_is_none_is_explained() {
    for (answer, words) in [
        ("SSH-2.0-OpenSSH_9.9\r\n", "not HTTP"),
        ("HTTP/1.1 200", "closed"),
        ("", "closed"),
    ] {
        let (listener, address) = listen();
        let behaviour = Behaviour {
            answer: Some(answer),
            ..Behaviour::default()
        };
        let proxy = proxy_once(listener, None, behaviour, None);
        let dialer = through(
            dialer(ClientTlsSettings::default()),
            &format!("http://{address}"),
        );
        let error = dial(&dialer, &endpoint(NAME, 443, true)).expect_err(answer);
        assert_eq!(error.phase, Phase::Proxy);
        assert_eq!(error.proxy_status(), None);
        assert!(error.to_string().contains(words), "{error}");
        proxy.join().expect("proxy");
    }
}

#[test]
fn an_exception_goes_straight_to_the_target() {
    let (listener, address) = listen();
    let _server = echo_once(listener, None);
    let rules = ProxyRules::from_env(|name| match name {
        // Nobody is there.
        "HTTP_PROXY" => Some("http://192.0.2.1:1".into()),
        "NO_PROXY" => Some(".test".into()),
        _ => None,
    })
    .expect("rules");
    let dialer = resolving_to(dialer(ClientTlsSettings::default()), vec![address]);
    let dialer = dialer.with_proxy(rules);
    check_echo(&mut dial(&dialer, &endpoint(NAME, address.port(), false)).expect("dial"));
}
