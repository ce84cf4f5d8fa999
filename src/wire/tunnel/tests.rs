use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::wire::{Envelope, ToAgent};

fn text(encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut buf = Vec::new();
    encode(&mut buf);
    let text = String::from_utf8(buf).expect("text");
    let (message, time) = text.split_once(",\"timestamp\":\"").expect("a time");
    assert!(time.ends_with("Z\"}\n"), "{time}");
    message.to_owned()
}

fn parse<T>(kind: &str, payload: &Value, take: impl FnOnce(ToAgent<'_>) -> T) -> T {
    let text = json!({"type": kind, "request_id": "c", "payload": payload}).to_string();
    take(ToAgent::parse(&Envelope::parse(&text).expect("valid")))
}

fn start(payload: &Value) -> TcpStart<'static> {
    parse("tcp_tunnel_start", payload, |message| match message {
        ToAgent::TcpTunnelStart(start) => TcpStart {
            tunnel_id: start.tunnel_id.into_owned().into(),
            client: start.client.into_owned().into(),
            target: owned(start.target),
        },
        other => panic!("{other:?}"),
    })
}

fn datagram(payload: &Value) -> Datagram<'static> {
    parse("udp_tunnel_data", payload, |message| match message {
        ToAgent::UdpTunnelData(datagram) => Datagram {
            tunnel_id: datagram.tunnel_id.into_owned().into(),
            client_address: datagram.client_address.into_owned().into(),
            client_port: datagram.client_port,
            data: datagram.data.into_owned().into(),
            target: owned(datagram.target),
        },
        other => panic!("{other:?}"),
    })
}

fn owned(target: Target<'_>) -> Target<'static> {
    Target {
        service: target.service.into_owned().into(),
        namespace: target.namespace.into_owned().into(),
        port: target.port,
        gateway_port: target.gateway_port,
    }
}

/// The examples of tunnels.md §4.1 and §4.5.
#[test]
fn the_specifications_examples_are_read() {
    assert_eq!(
        start(&json!({
            "tunnel_id": "tcp-8b0e-tcp-gateway-5432", "gateway_name": "tcp-gateway",
            "gateway_namespace": "pipeops-system", "gateway_port": 5432,
            "service_name": "postgres", "service_namespace": "databases", "service_port": 5432,
            "client_addr": "198.51.100.7:51512",
        })),
        TcpStart {
            tunnel_id: "tcp-8b0e-tcp-gateway-5432".into(),
            client: "198.51.100.7:51512".into(),
            target: Target {
                service: "postgres".into(),
                namespace: "databases".into(),
                port: 5432,
                gateway_port: 5432,
            },
        }
    );
    assert_eq!(
        datagram(&json!({
            "tunnel_id": "udp-8b0e-dns-53", "data": "q80BAAABAAA=",
            "client_addr": "198.51.100.7", "client_port": 40112, "gateway_port": 53,
        })),
        Datagram {
            tunnel_id: "udp-8b0e-dns-53".into(),
            client_address: "198.51.100.7".into(),
            client_port: 40112,
            data: "q80BAAABAAA=".into(),
            target: Target {
                gateway_port: 53,
                ..Target::default()
            },
        }
    );
}

/// tunnels.md §4: wrong-typed fields are ignored.
#[test]
fn what_is_wrong_counts_as_absent() {
    for port in [
        json!("80"),
        json!(-1),
        json!(65_536),
        json!(null),
        json!([]),
    ] {
        let payload = json!({"service_name": 7, "service_port": port, "gateway_port": 9.9});
        let want = Target {
            gateway_port: 9,
            ..Target::default()
        };
        assert_eq!(start(&payload).target, want);
    }
    assert_eq!(start(&json!({})), TcpStart::default());
    assert_eq!(datagram(&json!({"data": 1})), Datagram::default());
}

#[test]
fn what_the_agent_says_has_the_shape_of_the_original() {
    assert_eq!(
        text(|buf| tcp_tunnel_data(buf, "c-81f2", b"R\0\0\0\x08\0\0\0\0")),
        r#"{"type":"tcp_tunnel_data","request_id":"c-81f2","payload":{"data":"UgAAAAgAAAAA","direction":"agent_to_gateway"}"#
    );
    let bare = TcpClose {
        reason: CloseReason::RegistrationFailed,
        error: None,
        totals: None,
    };
    assert_eq!(
        text(|buf| tcp_tunnel_close(buf, "c-1", &bare)),
        r#"{"type":"tcp_tunnel_close","request_id":"c-1","payload":{"reason":"registration_failed"}"#
    );
    let full = TcpClose {
        reason: CloseReason::ServiceClosed,
        error: Some("\"reset\""),
        totals: Some(Totals {
            bytes_sent: 1,
            bytes_received: 2,
            duration: Duration::from_millis(3),
        }),
    };
    assert_eq!(
        text(|buf| tcp_tunnel_close(buf, "c-1", &full)),
        r#"{"type":"tcp_tunnel_close","request_id":"c-1","payload":{"bytes_received":2,"bytes_sent":1,"duration_ms":3,"error":"\"reset\"","reason":"service_closed"}"#
    );
    assert_eq!(
        text(|buf| udp_tunnel_data(buf, "udp-1", ("198.51.100.7", 40112), b"hi")),
        r#"{"type":"udp_tunnel_data","payload":{"client_addr":"198.51.100.7","client_port":40112,"data":"aGk=","direction":"agent_to_gateway","tunnel_id":"udp-1"}"#
    );
}

proptest! {
    /// Whatever is in a field, the others are read, and nothing is mistaken.
    #[test]
    fn any_field_of_any_type(service in ".*", number in any::<f64>(), data in "\\PC*") {
        let payload = json!({
            "service_name": service, "service_namespace": [data], "service_port": number,
            "client_port": number, "data": data, "tunnel_id": {"a": data},
        });
        let datagram = datagram(&payload);
        prop_assert_eq!(&datagram.target.service, &service);
        prop_assert_eq!(&datagram.data, &data);
        prop_assert!(datagram.target.namespace.is_empty() && datagram.tunnel_id.is_empty());
        let whole = number.trunc();
        let port = if (0.0..=65_535.0).contains(&whole) { whole as u16 } else { 0 };
        prop_assert_eq!(datagram.client_port, port);
    }

    /// Bytes and names of any kind survive the way out.
    #[test]
    fn what_is_written_is_json_and_says_the_same(
        id in ".{1,40}", address in ".*", port in any::<u16>(), bytes in any::<Vec<u8>>(), error in ".*",
    ) {
        let value = |encode: &dyn Fn(&mut Vec<u8>)| -> Value {
            let mut buf = Vec::new();
            encode(&mut buf);
            serde_json::from_slice(&buf).expect("JSON")
        };
        let decoded = |value: &Value| {
            base64_simd::STANDARD.decode_to_vec(value.as_str().expect("text")).expect("base64")
        };
        let data = value(&|buf| tcp_tunnel_data(buf, &id, &bytes));
        prop_assert_eq!(&data["request_id"], &json!(id));
        prop_assert_eq!(&decoded(&data["payload"]["data"]), &bytes);
        let data = value(&|buf| udp_tunnel_data(buf, &id, (&address, port), &bytes));
        prop_assert_eq!(&data["payload"]["tunnel_id"], &json!(id));
        prop_assert_eq!(&data["payload"]["client_addr"], &json!(address));
        prop_assert_eq!(&data["payload"]["client_port"], &json!(port));
        prop_assert_eq!(&decoded(&data["payload"]["data"]), &bytes);
        let close = TcpClose { reason: CloseReason::WriteError, error: Some(&error), totals: None };
        let close = value(&|buf| tcp_tunnel_close(buf, &id, &close));
        prop_assert_eq!(&close["payload"], &json!({"error": error, "reason": "write_error"}));
    }
}
