//! Where TCP connections may lead.

use std::io::{ErrorKind, Write};

use serde_json::json as value;

use super::*;
use crate::net::testing::listen;
use crate::telemetry::metrics::TCP_DENIED;

#[test]
fn the_agents_own_ports_are_never_reached() {
    let (listener, address) = listen();
    let mut stage = Stage::with(Wants {
        rules: Some(LOOPBACK),
        ..Wants::default()
    });
    stage.policy.set_own_ports(vec![address.port()]);
    stage.open("own", address.port());
    let close = stage.wire.close("own");
    assert_eq!(close["reason"], "connection_failed");
    assert!(
        close["error"]
            .as_str()
            .expect("text")
            .contains("this agent itself")
    );
    listener.set_nonblocking(true).expect("set");
    let error = listener.accept().expect_err("nobody came");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn tt23_what_the_policy_denies_is_refused_before_any_dial_and_recorded() {
    let rules = "rules:\n- {action: deny, namespaces: [shop], name: no-shop}\n- {action: allow}\n";
    let mut stage = Stage::with(Wants {
        rules: Some(rules),
        lookup: Some(Arc::new(|| panic!("nobody asks"))),
        ..Wants::default()
    });
    let target = Target {
        gateway_port: 1,
        ..service(5432)
    };
    let before = TCP_DENIED.value();
    let close = stage.start("c", target).expect("refused");
    assert_eq!(close["payload"]["reason"], "connection_failed");
    assert!(TCP_DENIED.value() > before);
    let (listener, address) = listen();
    stage.open("good", address.port());
    let mut target = accept(&listener);
    stage.data("good", b"12345");
    assert_eq!(read_exactly(&mut target, 5), b"12345");
    target.write_all(b"123").expect("written");
    drop(target);
    stage.wire.close("good");
    stage.settle();
    let lines = stage.audit();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let part = |line: &Value, names: &[&str]| -> Value {
        names.iter().map(|name| line[name].clone()).collect()
    };
    assert_eq!(
        part(&lines[0], &["id", "tunnel", "client", "target", "verdict"]),
        value!(["c", "tcp-1", "198.51.100.7:51512", "db.shop:5432", "denied"])
    );
    assert_eq!(
        part(
            &lines[1],
            &["id", "address", "verdict", "bytes_in", "bytes_out", "end"]
        ),
        value!([
            "good",
            address.to_string(),
            "allowed",
            5,
            3,
            "closed by the target"
        ])
    );
}

/// T23.
#[test]
fn tt23_a_named_service_comes_first_and_the_gateways_port_where_it_cannot_be_meant() {
    let (named, service_address) = listen();
    let (local, local_address) = listen();
    let origin = config::Origin::parse(&service_address.to_string()).expect("an origin");
    let routes = Routes {
        routes: [("db.shop".to_owned(), origin)].into(),
        ..Routes::default()
    };
    let mut stages = [Preference::Service, Preference::Gateway].map(|prefer| {
        Stage::with(Wants {
            settings: Settings {
                prefer,
                ..Settings::default()
            },
            routes: routes.clone(),
            ..Wants::default()
        })
    });
    let both = Target {
        gateway_port: local_address.port(),
        ..service(5432)
    };
    let renamed = |name: &'static str| Target {
        service: name.into(),
        ..both.clone()
    };
    let cases = [
        (0, both.clone(), true),
        (
            0,
            Target {
                port: 0,
                ..both.clone()
            },
            false,
        ),
        (
            0,
            Target {
                namespace: "".into(),
                ..both.clone()
            },
            false,
        ),
        (0, renamed("no such"), false),
        (0, renamed("other"), false),
        (0, service(5432), true),
        (0, gateway_port(local_address.port()), false),
        (1, both.clone(), false),
        (1, service(5432), true),
    ];
    for (number, (stage, target, to_service)) in cases.into_iter().enumerate() {
        let id = number.to_string();
        assert_eq!(stages[stage].start(&id, target), None);
        let listener = if to_service { &named } else { &local };
        let mut target = accept(listener);
        stages[stage].data(&id, id.as_bytes());
        assert_eq!(read_exactly(&mut target, 1), id.as_bytes());
    }
    // Neither of the two.
    let close = stages[0].start("none", Target::default()).expect("refused");
    assert_eq!(close["payload"]["reason"], "connection_failed");
}

/// A message may have 96 MiB, and what it says would be kept, logged and sent back.
#[test]
fn names_that_are_too_long_are_refused_and_neither_kept_nor_repeated() {
    let mut stage = Stage::new();
    let long = || "x".repeat(257).into();
    let good = || TcpStart {
        tunnel_id: "tcp-1".into(),
        client: "198.51.100.7:51512".into(),
        target: gateway_port(1),
    };
    for start in [
        TcpStart {
            tunnel_id: long(),
            ..good()
        },
        TcpStart {
            client: long(),
            ..good()
        },
        TcpStart {
            target: Target {
                service: long(),
                ..service(1)
            },
            ..good()
        },
        TcpStart {
            target: Target {
                namespace: long(),
                ..service(1)
            },
            ..good()
        },
    ] {
        let close = json(stage.tunnels().start("c", &start).expect("refused"));
        let want =
            value!({"reason": "registration_failed", "error": "a name has more than 256 bytes"});
        assert_eq!(close["payload"], want);
    }
    assert_eq!(stage.shared.live(), (0, 0));
    assert!(stage.audit().is_empty());
}

/// In a cluster, where a name in `tunnels.proxy_protocol` leads to `address`.
fn introducing(name: &str, address: SocketAddr) -> Stage {
    Stage::with(Wants {
        settings: Settings {
            proxy_protocol: [(name.to_owned(), ProxyProtocol::V1)].into(),
            ..Settings::default()
        },
        rules: Some(LOOPBACK),
        lookup: Some(Arc::new(move || address)),
        ..Wants::default()
    })
}

/// A name alone is that of a route, and each namespace may have a Service of that name.
#[test]
fn a_service_is_not_introduced_to_by_its_name_alone() {
    let (listener, address) = listen();
    let mut stage = introducing("db", address);
    assert_eq!(stage.start("c", service(address.port())), None);
    stage.data("c", b"hello");
    stage.tunnels().close("c", Some("client_closed"));
    let mut heard = String::new();
    accept(&listener).read_to_string(&mut heard).expect("text");
    assert_eq!(heard, "hello");
}

/// A target that trusts the PROXY protocol believes the first bytes, and without ours
/// those are the client's.
#[test]
fn the_client_is_introduced_where_that_is_set() {
    let (listener, address) = listen();
    let mut stage = introducing("db.shop", address);
    assert_eq!(stage.start("c", service(address.port())), None);
    stage.data("c", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    stage.tunnels().close("c", Some("client_closed"));
    let mut heard = String::new();
    accept(&listener).read_to_string(&mut heard).expect("text");
    let (first, rest) = heard.split_once("\r\n").expect("lines");
    let ours = format!("PROXY TCP4 198.51.100.7 127.0.0.1 51512 {}", address.port());
    assert_eq!(first, ours);
    assert!(rest.starts_with("PROXY TCP4 10.0.0.1"), "{rest}");
    // What was put in front is not the client's.
    assert_eq!(stage.wire.close("c")["bytes_sent"], rest.len());
}
