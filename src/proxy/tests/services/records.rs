//! What is left of calls: verdicts, counters, places.

use super::*;
use crate::telemetry::metrics;

/// They were decided on and told nobody, or counted nowhere.
#[test]
fn what_is_denied_is_counted_and_noted_for_the_policys_audit() {
    let (mut house, town) = house();
    let [by_name, by_address] = &town.denies;
    let before = metrics::SERVICE_DENIED.value();
    by_name.store(true, Ordering::SeqCst);
    house.request("a", to_web(json!({"path": "/?secret"})));
    house.expect_error("a");
    by_name.store(false, Ordering::SeqCst);
    by_address.store(true, Ordering::SeqCst);
    house.request("b", to_web(json!({"path": "/"})));
    house.expect_error("b");
    house.expect_rest();
    let noted = || Noted {
        target: "web.shop:80".to_owned(),
        denied: true,
        dry_run: None,
        end: "refused".to_owned(),
    };
    assert_eq!(*town.noted.lock(), [noted(), noted()]);
    assert!(metrics::SERVICE_DENIED.value() >= before + 2);
}

#[test]
fn what_a_dry_run_says_is_noted_and_counted_and_changes_nothing() {
    let (mut house, town) = house();
    let before = metrics::SERVICE_DRY_RUN.value();
    *town.dry_run.lock() = Some("denied by rule 1".to_owned());
    house.request("a", to_web(json!({"path": "/"})));
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "a"), 200);
    house.expect_rest();
    let said = Some("denied by rule 1".to_owned());
    let noted = Noted {
        target: "web.shop:80".to_owned(),
        denied: false,
        dry_run: said,
        end: String::new(),
    };
    assert_eq!(*town.noted.lock(), [noted]);
    assert!(metrics::SERVICE_DRY_RUN.value() > before);
}

/// It took all 256 places.
#[test]
fn a_service_that_hangs_takes_only_its_own_places() {
    let (mut house, town) = house_with(Settings {
        places: PlaceLimits {
            short: 4,
            crowd: Crowd {
                short: 2,
                long: 1,
                waiting: 1,
            },
            ..PlaceLimits::default()
        },
        ..Settings::default()
    });
    let address = house.upstream.address;
    let other = "db.shop:80".to_owned();
    town.addresses.lock().insert(other, address);
    let mut hanging: Vec<Peer> = Vec::new();
    for id in ["a", "b"] {
        house.request(id, to_web(json!({"path": "/"})));
        let mut peer = house.upstream.accept();
        peer.request();
        hanging.push(peer);
    }
    // By another way it is the same Service, but not the same port's speech.
    house.request("c", to_web(json!({"path": "/", "timeout": "1h"})));
    house.wait_for_load(|load| load.waiting == 1);
    house.request("d", to_web(json!({"path": "/"})));
    assert_eq!(house.expect_error("d"), "agent busy");
    let mut payload = to_web(json!({"path": "/"}));
    payload["service_name"] = "db".into();
    house.request("e", payload);
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "e"), 200);
    house.get("f", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "f"), 200);
    // The one that waits is next, on the connection of the one before.
    hanging[0].answer("200 OK", "");
    assert_eq!(status(&house, "a"), 200);
    assert_eq!(hanging[0].request().line, "GET / HTTP/1.1");
    hanging[0].answer("200 OK", "");
    assert_eq!(status(&house, "c"), 200);
    hanging[1].answer("200 OK", "");
    assert_eq!(status(&house, "b"), 200);
    house.expect_rest();
}

/// Its time runs while it waits.
#[test]
fn who_waits_for_a_crowded_service_is_given_up_in_time() {
    let (mut house, town) = house_with(Settings {
        places: PlaceLimits {
            crowd: Crowd {
                short: 1,
                long: 1,
                waiting: 1,
            },
            ..PlaceLimits::default()
        },
        ..Settings::default()
    });
    house.request("a", to_web(json!({"path": "/", "timeout": "1h"})));
    let mut peer = house.upstream.accept();
    peer.request();
    house.request("b", to_web(json!({"path": "/", "timeout": 5})));
    assert_eq!(
        house.expect_error("b"),
        "service request failed: context deadline exceeded"
    );
    assert_eq!(town.dials.load(Ordering::SeqCst), 1);
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "a"), 200);
    house.expect_rest();
}

/// They counted as absent, and the request went somewhere else.
#[test]
fn a_target_of_another_type_is_refused() {
    let (mut house, _) = house();
    for (change, name) in [
        (json!({"service_name": 7}), "service_name"),
        (json!({"namespace": {"a": 1}}), "namespace"),
        (json!({"service_port": "80"}), "service_port"),
        (json!({"scheme": ["https"]}), "scheme"),
    ] {
        let mut payload = to_web(json!({"path": "/"}));
        let fields = payload.as_object_mut().expect("an object");
        fields.extend(change.as_object().expect("an object").clone());
        house.request("r", payload);
        let text = house.expect_error("r");
        assert!(
            text.contains(&format!("its {name} cannot be read")),
            "{text}"
        );
    }
    house.expect_rest();
}
