//! How a stream to a Service begins, or doesn't.

use std::sync::atomic::Ordering;

use super::*;

/// Also where the Service doesn't echo the subprotocol: many don't.
#[test]
fn c12_the_answer_is_101_and_then_messages_pass_both_ways() {
    for (form, chosen) in [("B", None), ("S", Some("chat"))] {
        let (mut house, town) = house();
        let streamed = json!({"supports_response_streaming": form == "S"});
        house.request("a", upgrading(streamed));
        // Before the answer: it waits.
        house.data("a", 1, b"early");
        let mut leg = upgrade(house.upstream.accept(), chosen);
        assert_eq!(leg.line, "GET /socket?b=1&a HTTP/1.1");
        let field = |name| leg.headers.get(name);
        assert_eq!(field("Host"), Some("shop.test"));
        assert_eq!(field("Cookie"), Some("session=1"));
        assert_eq!(field("Origin"), Some("https://shop.test"));
        assert_eq!(field("Sec-WebSocket-Protocol"), Some("graphql-ws, chat"));
        assert_eq!(field("Sec-WebSocket-Extensions"), None);
        assert_eq!(field("X-Hop"), None);
        assert_ne!(field("Sec-WebSocket-Key"), Some("the-client's-own"));
        leg.say(Said::text("hello"));
        leg.say(Said::binary(vec![0, 1, 2]));
        let kind = if form == "S" {
            "proxy_response_header"
        } else {
            "proxy_response"
        };
        let answer = house.expect(kind, "a");
        assert_eq!(answer["status"], 101);
        let headers = &answer["headers"];
        assert_eq!(headers["Upgrade"], json!(["websocket"]));
        assert_eq!(headers["Connection"], json!(["Upgrade"]));
        assert_eq!(
            headers["Sec-Websocket-Accept"].as_array().map(Vec::len),
            Some(1)
        );
        assert_eq!(headers["Sec-Websocket-Protocol"][0], json!(chosen));
        if form == "S" {
            house.expect("proxy_response_end", "a");
        }
        assert_eq!(house.expect_app_data("a"), (1, b"hello".to_vec()));
        assert_eq!(house.expect_app_data("a"), (2, vec![0, 1, 2]));
        assert_eq!(leg.read(), Said::text("early"));
        house.data("a", 2, b"\x00\xff");
        assert_eq!(leg.read(), Said::binary(vec![0, 0xff]));
        house.close("a");
        assert_eq!(leg.expect_close(), (1000, String::new()));
        house.expect_rest();
        assert_eq!(town.dials.load(Ordering::SeqCst), 1);
        assert!(town.noted.lock().is_empty());
    }
}

#[test]
fn t42_a_request_under_a_streams_id_is_refused_and_the_stream_goes_on() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    for payload in [upgrading(json!({})), to_web(json!({"path": "/"}))] {
        house.request("a", payload);
        assert!(house.expect_error("a").contains("still being executed"));
    }
    house.data("a", 1, b"on");
    assert_eq!(leg.read(), Said::text("on"));
    house.close("a");
    leg.expect_close();
    house.expect_rest();
}

#[test]
fn t20_what_cannot_be_a_service_or_is_denied_is_never_dialled() {
    let (mut house, town) = house();
    for (change, start) in [
        (json!({"service_name": "a.b"}), "invalid service name: "),
        (json!({"namespace": "shop/../x"}), "invalid namespace: "),
        (json!({"service_port": 70_000}), "invalid service port: "),
        (json!({"service_port": "80"}), "failed to create"),
        (json!({"path": "/../x"}), "invalid path: "),
        (json!({"query": "a b"}), "invalid query string: "),
        (
            json!({"headers": {"Host": "a b", "Upgrade": "websocket"}}),
            "failed to create",
        ),
        (
            json!({"protocol": "a b", "headers": {}}),
            "invalid subprotocol",
        ),
    ] {
        house.request("r", upgrading(change));
        let text = house.expect_error("r");
        assert!(text.starts_with(start), "{text}");
    }
    let [by_name, by_address] = &town.denies;
    for denies in [by_name, by_address] {
        denies.store(true, Ordering::SeqCst);
        house.request("r", upgrading(json!({})));
        let text = house.expect_error("r");
        let start = "failed to connect to service WebSocket: the agent's policy denies it: ";
        assert!(text.starts_with(start), "{text}");
        denies.store(false, Ordering::SeqCst);
    }
    house.expect_rest();
    assert_eq!(town.dials.load(Ordering::SeqCst), 0);
    let noted = town.noted.lock();
    assert!(
        noted.len() == 2 && noted.iter().all(|noted| noted.denied),
        "{noted:?}"
    );
}

/// In the words and with the status of the Service, if it has said any.
#[test]
fn a_stream_that_cannot_be_opened_fails_in_the_form_of_its_request() {
    let (mut house, town) = house();
    let refuse = |house: &House| {
        let mut peer = house.upstream.accept();
        peer.head();
        peer.send("HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 4\r\n\r\nlogs");
    };
    // So that it is noted what the audit says.
    *town.dry_run.lock() = Some("denied by rule 1".to_owned());
    house.request("b", upgrading(json!({})));
    refuse(&house);
    let text = house.expect_error("b");
    assert_eq!(
        text,
        "failed to connect to service WebSocket: logs (status: 403)"
    );
    house.expect_rest();
    let noted = std::mem::take(&mut *town.noted.lock());
    assert_eq!(noted[0].end, "the target refused the upgrade");
    *town.dry_run.lock() = None;
    let streamed = json!({"supports_response_streaming": true});
    house.request("s", upgrading(streamed.clone()));
    refuse(&house);
    let head = house.expect("proxy_response_header", "s");
    assert_eq!(
        (&head["status"], &head["headers"]["X-Why"]),
        (&json!(403), &json!(["no"]))
    );
    assert!(house.expect_abort("s").ends_with("(status: 403)"));
    // Nobody there.
    town.addresses.lock().clear();
    house.request("n", upgrading(streamed));
    assert_eq!(house.expect("proxy_response_header", "n")["status"], 502);
    assert!(house.expect_abort("n").contains("no such host"));
    house.request("m", upgrading(json!({})));
    assert!(house.expect_error("m").contains("no such host"));
    house.expect_rest();
}

/// The end of the answer found no room in time; a second head followed the first.
#[test]
fn an_answer_that_has_begun_has_one_head_and_one_end() {
    let (mut house, _) = house();
    let streamed = json!({"supports_response_streaming": true});
    for close in [false, true] {
        house.peer.set_room(Some(1));
        house.request("a", upgrading(streamed.clone()));
        let _leg = upgrade(house.upstream.accept(), None);
        assert_eq!(house.expect("proxy_response_header", "a")["status"], 101);
        house.peer.wait_until(|state| state.waiting == 1);
        if close {
            house.close("a");
        }
        house.executor.timer.ring_all();
        house.peer.set_room(None);
        let text = house.expect_abort("a");
        let why = if close {
            "closed by the peer"
        } else {
            "context deadline exceeded"
        };
        assert!(text.ends_with(why), "{text}");
        house.expect_rest();
    }
}

/// While it waits for its place or for the Service.
#[test]
fn t18_cancelling_an_upgrade_ends_it_and_nothing_more_is_said() {
    let (mut house, _) = house();
    for payload in [
        upgrading(json!({})),
        upgrading(json!({"supports_response_streaming": true})),
    ] {
        house.request("a", payload);
        let mut peer = house.upstream.accept();
        peer.head();
        house.requests().cancel("a");
        peer.wait_for_end();
        house.expect_rest();
    }
}

/// The request that it was is owed one.
#[test]
fn t26_a_close_during_the_dial_ends_it_with_an_outcome() {
    let (mut house, _) = house();
    let text = "failed to connect to service WebSocket: closed by the peer";
    for streamed in [false, true] {
        let form = json!({"supports_response_streaming": streamed});
        house.request("a", upgrading(form));
        let mut peer = house.upstream.accept();
        peer.head();
        house.close("a");
        peer.wait_for_end();
        if streamed {
            assert_eq!(house.expect("proxy_response_header", "a")["status"], 502);
            assert_eq!(house.expect_abort("a"), text);
        } else {
            assert_eq!(house.expect_error("a"), text);
        }
        house.expect_rest();
    }
}

/// By name it is known before the dial, by address in it: who asked sees no difference.
#[test]
fn what_is_denied_has_one_form() {
    let (mut house, town) = house();
    let streamed = json!({"supports_response_streaming": true});
    for denies in &town.denies {
        denies.store(true, Ordering::SeqCst);
        house.request("a", upgrading(streamed.clone()));
        let head = house.expect("proxy_response_header", "a");
        assert_eq!(head, json!({"status": 502, "headers": null}));
        let text = house.expect_abort("a");
        assert!(text.contains("the agent's policy denies it"), "{text}");
        denies.store(false, Ordering::SeqCst);
    }
    house.expect_rest();
}

/// Its dial has a limit of its own, and it is the shorter one.
#[test]
fn a_service_that_is_not_there_in_time_is_given_up() {
    assert_eq!(Settings::default().service_handshake, 10 * SECOND);
    let (mut house, _) = house_with(Settings {
        handshake: 3600 * SECOND,
        service_handshake: Duration::from_millis(20),
        ..Settings::default()
    });
    house.request("a", upgrading(json!({"timeout": "1h"})));
    let mut peer = house.upstream.accept();
    let text = house.expect_error("a");
    assert!(text.ends_with("context deadline exceeded"), "{text}");
    peer.wait_for_end();
    house.expect_rest();
}

/// It got a close that meant nothing, and no answer.
#[test]
fn a_panic_is_an_answer_too() {
    let (mut house, _) = house();
    house.request("a", upgrading(json!({"service_name": "panics"})));
    let text = house.expect_error("a");
    assert!(text.ends_with("internal error of the agent"), "{text}");
    house.expect_rest();
}

#[test]
fn a_service_that_answers_halfway_or_not_at_all_is_given_up() {
    let (mut house, _) = house();
    let prefix = "failed to connect to service WebSocket: ";
    for said in ["", "HTTP/1.1 101 Switching Pro"] {
        house.request("a", upgrading(json!({"timeout": 20})));
        let mut peer = house.upstream.accept();
        peer.send(said);
        let text = house.expect_error("a");
        assert_eq!(text, format!("{prefix}context deadline exceeded"));
        peer.wait_for_end();
        house.request("b", upgrading(json!({})));
        let mut peer = house.upstream.accept();
        peer.head();
        peer.send(said);
        drop(peer);
        let text = house.expect_error("b");
        assert!(text.starts_with(prefix), "{text}");
    }
    // A 101 that isn't one for us.
    house.request("c", upgrading(json!({})));
    let mut peer = house.upstream.accept();
    peer.head();
    peer.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
    assert!(house.expect_error("c").contains("Sec-WebSocket-Accept"));
    house.expect_rest();
}

/// The client's scheme; the Service may have no TLS (T13). And what belongs to the agent
/// stays with it.
#[test]
fn t13_an_upgrade_has_the_rules_of_requests() {
    let (mut house, _) = house();
    let headers = json!({
        "Authorization": "Bearer agents-own", "X-Forwarded-Host": "shop.test",
        "X-Forwarded-For": "192.0.2.7",
    });
    house.request(
        "a",
        upgrading(json!({"scheme": "https", "headers": headers})),
    );
    let mut hello = house.upstream.accept();
    hello.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    let mut leg = upgrade(house.upstream.accept(), None);
    let field = |name| leg.headers.get(name);
    assert_eq!(field("Host"), Some("shop.test"));
    assert_eq!(field("X-Forwarded-Proto"), Some("https"));
    assert_eq!(field("X-Forwarded-For"), Some("192.0.2.7"));
    assert_eq!(field("Authorization"), None);
    assert_eq!(house.expect("proxy_response", "a")["status"], 101);
    house.close("a");
    leg.expect_close();
    house.expect_rest();
}

#[test]
fn an_upgrade_that_names_no_service_is_for_the_ingress_controller() {
    let (mut house, _) = house();
    for part in [
        json!({}),
        json!({"service_name": "other"}),
        json!({"namespace": "x"}),
    ] {
        let mut payload = json!({"path": "/socket", "is_websocket": true});
        let fields = payload.as_object_mut().expect("an object");
        fields.extend(part.as_object().expect("one").clone());
        house.request("a", payload);
        let mut leg = upgrade(house.upstream.accept(), None);
        assert_eq!(leg.headers.get("Host"), Some("web.shop:80"));
        assert_eq!(house.expect("proxy_response", "a")["status"], 101);
        house.close("a");
        leg.expect_close();
    }
    // And fails where there is none.
    let mut house = House::new();
    house.request("a", json!({"path": "/socket", "is_websocket": true}));
    let text = house.expect_error("a");
    assert_eq!(text, "missing service routing information for WebSocket");
    house.expect_rest();
}

#[test]
fn streams_to_one_service_leave_places_for_others() {
    let (mut house, town) = house_with(Settings {
        places: PlaceLimits {
            crowd: Crowd {
                short: 1,
                long: 1,
                waiting: 0,
            },
            ..PlaceLimits::default()
        },
        ..Settings::default()
    });
    another(&town, &house);
    let mut leg = house.open_app("a");
    house.request("b", upgrading(json!({})));
    let text = house.expect_error("b");
    assert_eq!(text, "failed to connect to service WebSocket: agent busy");
    house.request("c", upgrading(json!({"service_name": "db"})));
    let mut other = upgrade(house.upstream.accept(), None);
    assert_eq!(house.expect("proxy_response", "c")["status"], 101);
    for (id, leg) in [("a", &mut leg), ("c", &mut other)] {
        house.close(id);
        leg.expect_close();
    }
    house.expect_rest();
}

/// `db.shop:80`, at the same address.
fn another(town: &Town, house: &House) {
    let name = "db.shop:80".to_owned();
    town.addresses.lock().insert(name, house.upstream.address);
}

const SECOND: Duration = Duration::from_secs(1);
