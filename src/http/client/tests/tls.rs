//! Calls over TLS.

use std::io::IoSlice;

use super::uploads::stream;
use super::*;
use crate::http::incoming::read_head;

/// Our own server on the other side, behind TLS.
#[test]
fn client_and_server_understand_each_other_over_tls() {
    struct Echo;
    impl crate::http::server::Handler for Echo {
        fn handle(
            &self,
            request: crate::http::server::Request,
            mut body: crate::http::server::RequestBody,
            responder: crate::http::server::Responder,
        ) {
            let all = body.read_all(1 << 20).expect("read");
            let length = (request.target == "/length").then_some(all.len() as u64);
            let headers = Headers::new();
            let mut writer = responder.start(200, &headers, length).expect("started");
            for piece in all.chunks(10_000) {
                writer.write(piece).expect("written");
            }
            writer.finish().expect("finished");
        }
    }
    let ca = Ca::new();
    let issued = ca.issue(&["127.0.0.1"]);
    let given = |pem: String| PemSource::Given {
        name: "test".into(),
        pem: pem.into_bytes(),
    };
    let tls = ServerTls::new(&ServerTlsSettings {
        certificate: given(issued.certificate_pem),
        key: given(issued.key_pem),
        client_ca: None,
    });
    let settings = crate::http::server::Settings {
        tls: Some(tls.expect("tls")),
        ..Default::default()
    };
    let (listener, address) = listen();
    let server = Server::start(listener, settings, Arc::new(Echo)).expect("server");
    let tls = ClientTls::new(ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![given(ca.pem())],
        ..ClientTlsSettings::default()
    });
    let endpoint = Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        tls: true,
    };
    let dialer = Dialer::new(Arc::new(tls.expect("tls")));
    let client = Client::new(endpoint, "api", dialer, Settings::default());
    for size in [0, 1, SMALL, 300_000] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for target in ["/length", "/chunked"] {
            let (fed, streamed) = stream(None);
            for piece in bytes.chunks(50_000) {
                fed.feed(Ok(Some(piece.to_vec())));
            }
            fed.feed(Ok(None));
            for body in [full(bytes.clone()), streamed] {
                let call = Call {
                    target,
                    ..post(body)
                };
                let mut response = client.call(&call, &Cancel::new()).expect("answer");
                assert_eq!(response.body.read_all(size).expect("body"), bytes);
                assert_eq!(client.idle(), 1);
                client.sweep();
            }
        }
    }
    assert_eq!(server.connections(), 1, "one connection served them all");
}

#[test]
fn t18_cancelling_closes_a_tls_connection_too() {
    let ca = Ca::new();
    let server_config = ca.server_config(&["127.0.0.1"]);
    let upstream = Upstream::new();
    let tls = ClientTls::new(ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![PemSource::Given {
            name: "test".into(),
            pem: ca.pem().into_bytes(),
        }],
        ..ClientTlsSettings::default()
    });
    let endpoint = Endpoint {
        tls: true,
        ..upstream.endpoint()
    };
    let dialer = Dialer::new(Arc::new(tls.expect("tls")));
    let client = Client::new(endpoint, "api", dialer, Settings::default());
    let cancel = Cancel::new();
    let call = calling(&client, get("/"), &cancel);
    let socket = upstream.accept().into_socket();
    let session = rustls::server::UnbufferedServerConnection::new(server_config).expect("server");
    let mut far = Halves::plain(socket)
        .tls_server(session)
        .expect("handshake");
    let head = read_head(&mut far.read, crate::http::head::RequestHead::parse).expect("a head");
    assert_eq!(head.target, "/");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel";
    far.write
        .write_all(&[IoSlice::new(answer)])
        .expect("written");
    cancel.cancel(Reason::Cancelled);
    // The end, whatever TLS makes of it.
    while far.read.fill().is_ok_and(|bytes| !bytes.is_empty()) {
        let count = far.read.buffered().len();
        far.read.consume(count);
    }
    let error = call.join().expect("call").expect_err("cancelled");
    assert!(
        matches!(error, CallError::Cancelled(Reason::Cancelled)),
        "{error}"
    );
}
