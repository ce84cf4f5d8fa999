//! Calls to Services (control-channel.md §8.5).

use super::*;

fn planned(payload: &str) -> Result<Plan, PlanError> {
    let payload = payload.replacen(
        '{',
        r#"{"service_name":"web","namespace":"shop","service_port":80,"#,
        1,
    );
    with(&payload, Plan::for_service)
}

#[test]
fn the_peers_host_is_sent_if_it_is_one() {
    let host = |headers: &str| {
        let payload = format!(r#"{{"path":"/","headers":{headers}}}"#);
        planned(&payload).map(|plan| (plan.host, plan.headers.contains("Host")))
    };
    for (given, want) in [
        (r#"{"Host":"shop.test"}"#, Some("shop.test")),
        (r#"{"host":["Shop.Test:8443"]}"#, Some("Shop.Test:8443")),
        (r#"{"Host":" [::1]:80 "}"#, Some("[::1]:80")),
        (r#"{"Host":""}"#, None),
        ("{}", None),
    ] {
        assert_eq!(host(given), Ok((want.map(str::to_owned), false)), "{given}");
    }
    let long = format!(r#"{{"Host":"{}"}}"#, "a".repeat(261));
    for bad in [
        r#"{"Host":["a","b"]}"#,
        r#"{"Host":"a","host":"b"}"#,
        r#"{"Host":"a, b"}"#,
        r#"{"Host":"a/b"}"#,
        r#"{"Host":"a@b"}"#,
        r#"{"Host":"a\\b"}"#,
        r#"{"Host":"a b"}"#,
        r#"{"Host":"a?b"}"#,
        r#"{"Host":"hällo"}"#,
        &long,
    ] {
        assert_eq!(host(bad), Err(PlanError::Host), "{bad}");
    }
    // It can smuggle nothing.
    assert!(host(r#"{"Host":"a\r\nX: 1"}"#).is_err());
}

#[test]
fn t13_the_clients_scheme_is_told_and_other_forwarded_fields_pass() {
    let fields = |scheme: &str| {
        let payload = format!(
            r#"{{"path":"/","scheme":"{scheme}","headers":{{"x-forwarded-proto":["http","x"],
            "X-Forwarded-For":"192.0.2.7","X-Forwarded-Host":"shop.test"}}}}"#
        );
        let plan = planned(&payload).expect("a plan");
        let proto = plan.headers.get_all("X-Forwarded-Proto");
        let proto: Vec<String> = proto.map(str::to_owned).collect();
        assert_eq!(plan.headers.get("X-Forwarded-For"), Some("192.0.2.7"));
        assert_eq!(plan.headers.get("X-Forwarded-Host"), Some("shop.test"));
        proto
    };
    assert_eq!(fields("https"), ["https"]);
    assert_eq!(fields("HTTPS"), ["https"]);
    assert_eq!(fields("http"), ["http", "x"]);
    assert_eq!(fields(""), ["http", "x"]);
}

#[test]
fn the_callers_credential_passes_and_the_agents_is_never_lent() {
    let plan = planned(
        r#"{"path":"/","headers":{"Authorization":"Basic dTpw","Connection":"X-Hop","X-Hop":"1",
        "Proxy-Authorization":"x","Upgrade":"h2c","Keep-Alive":"5","TE":"trailers","Cookie":"c"}}"#,
    )
    .expect("a plan");
    let names: Vec<_> = plan.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Authorization", "Cookie"]);
    let plan = planned(r#"{"path":"/","headers":{"Impersonate-User":"root"}}"#).expect("a plan");
    assert_eq!(plan.identity, Identity::Caller);
    assert!(plan.headers.is_empty());
}

#[test]
fn t34_a_query_goes_as_it_is() {
    let target = |query: &str| {
        let payload = serde_json::json!({"path": "/x", "query": query});
        planned(&payload.to_string()).map(|plan| plan.target)
    };
    for query in [
        "b=2&a=1&a",
        "X-Amz-Signature=a%2Fb+c&Expires=1",
        "a;b",
        "q[]=1&q[]=2",
        "%zz&\"{}|^`<>\\",
        "?a=/",
    ] {
        assert_eq!(target(query).as_deref(), Ok(format!("/x?{query}").as_str()));
    }
    assert_eq!(target("é").as_deref(), Ok("/x?%C3%A9"));
    for bad in ["a b", "a#b", "a\r\nX: 1", "a\u{0}", "a\u{7f}", "a\tb"] {
        assert_eq!(target(bad), Err(PlanError::Query), "{bad:?}");
    }
}

#[test]
fn a_path_is_checked_and_encoded() {
    let target = |path: &str| {
        let payload = serde_json::json!({"path": path});
        planned(&payload.to_string()).map(|plan| plan.target)
    };
    for (path, want) in [
        ("", "/"),
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a b", "/a%20b"),
        ("/a%2Fb", "/a%252Fb"),
        ("/a?b#c", "/a%3Fb%23c"),
        ("/é", "/%C3%A9"),
        ("/a\r\nX: 1", "/a%0D%0AX:%201"),
    ] {
        assert_eq!(target(path).as_deref(), Ok(want), "{path:?}");
    }
    for bad in [
        "x",
        "/../x",
        "/a/..",
        "/a..b",
        "/http://evil.test",
        "http://evil.test/",
    ] {
        assert_eq!(target(bad), Err(PlanError::Path), "{bad}");
    }
}

/// A client could take away what the gateway says of it.
#[test]
fn a_client_does_not_take_away_what_its_gateway_says() {
    let payload = r#"{"path":"/","headers":{"Connection":"X-Forwarded-For, x-real-ip, X-Own",
        "X-Forwarded-For":"192.0.2.7","X-Real-Ip":"192.0.2.7","X-Own":"1"}}"#;
    let got = planned(payload).expect("a plan").headers;
    assert_eq!(got.get("X-Forwarded-For"), Some("192.0.2.7"));
    assert_eq!(got.get("X-Real-Ip"), Some("192.0.2.7"));
    assert_eq!(got.get("X-Own"), None);
}

#[test]
fn the_dot_of_an_absolute_host_is_left_out() {
    for (given, want) in [
        ("shop.test.", "shop.test"),
        ("shop.test.:8080", "shop.test:8080"),
        ("shop.test:8080", "shop.test:8080"),
        ("[::1]:80", "[::1]:80"),
    ] {
        let payload = format!(r#"{{"path":"/","headers":{{"Host":"{given}"}}}}"#);
        let host = planned(&payload).expect("a plan").host;
        assert_eq!(host.as_deref(), Some(want));
    }
}
