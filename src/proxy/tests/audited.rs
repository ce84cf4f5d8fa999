//! The line that each call leaves in the log.

use std::collections::BTreeMap;
use std::sync::Once;
use std::sync::atomic::Ordering;

use log::kv::{Error, Key, Value as Field, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::services::{house, to_web};
use super::streams::{EXEC, Said, V4, upgrade};
use super::*;

/// Keeps the lines of the audit, of all tests in this process.
struct Kept;

static LINES: Mutex<Vec<(Level, Fields)>> = Mutex::new(Vec::new());

#[derive(Clone, Debug, Default)]
struct Fields(BTreeMap<String, String>);

impl Log for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "pipeops_agent::proxy::audit"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut fields = Fields::default();
            record.key_values().visit(&mut fields).expect("no error");
            fields
                .0
                .insert("text".to_owned(), record.args().to_string());
            LINES.lock().push((record.level(), fields));
        }
    }

    fn flush(&self) {}
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Field<'kvs>) -> Result<(), Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Kept).expect("the only one of this process");
        log::set_max_level(LevelFilter::Debug);
    });
}

/// The one line of a call, once it is over.
fn line(house: &House, id: &str) -> (Level, Fields) {
    house.expect_rest();
    let mut lines = LINES.lock();
    let of_it = |(_, fields): &(Level, Fields)| fields.0["request"] == id;
    let place = lines.iter().position(of_it).expect("a line");
    let line = lines.remove(place);
    assert!(!lines.iter().any(of_it), "{id} has more than one line");
    line
}

/// What of a line is worth a look each time, and nothing that must not be in it.
#[track_caller]
fn expect(house: &House, id: &str, level: Level, want: &[(&str, &str)]) {
    let (at, Fields(fields)) = line(house, id);
    assert_eq!(at, level, "{fields:?}");
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let all = "address bytes_in bytes_out client dry_run duration_ms error method path reason \
               request skipped status target text verdict who";
    assert_eq!(names.join(" "), all);
    assert_eq!(fields["text"], "proxied call");
    for (name, value) in want {
        assert_eq!(fields[*name], *value, "{name}: {fields:?}");
    }
    assert!(fields["duration_ms"].parse::<u64>().is_ok(), "{fields:?}");
    let text = format!("{fields:?}");
    assert!(!text.contains("secret"), "{text}");
}

/// A request of somebody, with something in each place that must not be shown.
#[allow(clippy::needless_pass_by_value)] // reads better at its uses
fn asking(more: Value) -> Value {
    let mut payload = json!({
        "path": "/a b", "query": "q=secret",
        "headers": {"Authorization": "Bearer secret", "X-Forwarded-For": "192.0.2.7"},
    });
    let fields = payload.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    payload
}

fn answer(house: &House, status: &str, body: &str) {
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send(format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
}

#[test]
fn a_read_is_at_debug_and_a_write_at_info() {
    listen();
    let (mut house, town) = house();
    house.request("audit-get", asking(json!({"path": "/api/v1/pods"})));
    answer(&house, "200 OK", "secret");
    house.expect("proxy_response", "audit-get");
    let want = [
        ("method", "GET"),
        ("path", "/api/v1/pods"),
        ("target", "kubernetes"),
        ("who", "caller"),
        ("client", "192.0.2.7"),
        ("verdict", "unasked"),
        ("status", "200"),
        ("bytes_in", "0"),
        ("bytes_out", "6"),
        ("error", ""),
    ];
    expect(&house, "audit-get", Level::Debug, &want);

    *town.dry_run.lock() = Some("denied by rule 1".to_owned());
    let more = json!({"method": "POST", "body": "secret", "supports_response_streaming": true});
    house.request("audit-post", to_web(asking(more)));
    answer(&house, "404 Not Found", "secret!");
    house.expect("proxy_response_header", "audit-post");
    house.expect_chunk("audit-post");
    house.expect("proxy_response_end", "audit-post");
    let want = [
        ("method", "POST"),
        ("path", "/a%20b"),
        ("target", "web.shop:80"),
        ("verdict", "allowed"),
        ("reason", "a Service of the cluster"),
        ("dry_run", "denied by rule 1"),
        ("status", "404"),
        ("bytes_in", "6"),
        ("bytes_out", "7"),
        ("error", ""),
    ];
    expect(&house, "audit-post", Level::Info, &want);
}

/// By name and by address; a body that nobody took was not sent.
#[test]
fn what_is_denied_is_at_warn() {
    listen();
    let (mut house, town) = house();
    for (id, denies) in ["audit-name", "audit-address"].iter().zip(&town.denies) {
        denies.store(true, Ordering::SeqCst);
        house.request(
            id,
            to_web(asking(json!({"method": "POST", "body": "secret"}))),
        );
        house.expect_error(id);
        let want = [
            ("method", "POST"),
            ("path", "/a%20b"),
            ("target", "web.shop:80"),
            ("verdict", "denied"),
            ("who", "caller"),
            ("status", "0"),
            ("bytes_in", "0"),
        ];
        expect(&house, id, Level::Warn, &want);
        house.request(
            "audit-socket",
            to_web(asking(json!({"is_websocket": true}))),
        );
        house.expect_error("audit-socket");
        let want = [("method", "GET"), ("verdict", "denied")];
        expect(&house, "audit-socket", Level::Warn, &want);
        denies.store(false, Ordering::SeqCst);
    }
}

#[test]
fn what_is_refused_or_fails_says_why() {
    listen();
    let (mut house, town) = house();
    house.request(
        "audit-bad",
        to_web(asking(json!({"path": "/../secret-not"}))),
    );
    house.expect_error("audit-bad");
    let (level, fields) = line(&house, "audit-bad");
    assert_eq!(level, Level::Debug);
    assert!(
        fields.0["error"].starts_with("invalid path: "),
        "{fields:?}"
    );
    town.addresses.lock().clear();
    house.request("audit-nobody", to_web(asking(json!({}))));
    house.expect_error("audit-nobody");
    let error = "service request failed: web.shop:80: no such host";
    let want = [("status", "0"), ("error", error)];
    expect(&house, "audit-nobody", Level::Debug, &want);
}

/// Who may exec may do anything: also what came to nothing is shown.
#[test]
fn each_websocket_is_at_info() {
    listen();
    let (mut house, _) = house();
    house.request("audit-app", to_web(asking(json!({"is_websocket": true}))));
    let mut leg = upgrade(house.upstream.accept(), None);
    house.expect("proxy_response", "audit-app");
    house.data("audit-app", 1, b"secret");
    leg.say(Said::text("secret!"));
    house.expect("proxy_websocket_data", "audit-app");
    assert_eq!(leg.read(), Said::text("secret"));
    house.close("audit-app");
    leg.expect_close();
    let want = [
        ("method", "GET"),
        ("path", "/a%20b"),
        ("target", "web.shop:80"),
        ("who", "caller"),
        ("client", "192.0.2.7"),
        ("verdict", "allowed"),
        ("status", "101"),
        ("bytes_in", "6"),
        ("bytes_out", "7"),
        ("error", ""),
    ];
    expect(&house, "audit-app", Level::Info, &want);

    house.start("audit-exec", EXEC);
    let mut leg = upgrade(house.upstream.accept(), Some(V4));
    leg.say(Said::binary(&b"\x01secret"[..]));
    house.expect_data("audit-exec");
    house.close("audit-exec");
    house.expect_close("audit-exec");
    let want = [
        ("path", EXEC),
        ("target", "kubernetes"),
        ("who", "nobody"),
        ("verdict", "unasked"),
        ("status", "101"),
        ("bytes_out", "6"),
    ];
    expect(&house, "audit-exec", Level::Info, &want);

    house.start("audit-forbidden", EXEC);
    let mut peer = house.upstream.accept();
    peer.head();
    peer.answer("403 Forbidden", "secret");
    house.expect("proxy_error", "audit-forbidden");
    house.expect_close("audit-forbidden");
    let error = "the target refused the upgrade";
    let want = [("path", EXEC), ("status", "403"), ("error", error)];
    expect(&house, "audit-forbidden", Level::Info, &want);

    // One that comes to no plan.
    house.start("audit-path", "/apis/../x");
    house.expect("proxy_error", "audit-path");
    let want = [("path", "/apis/../x"), ("status", "0")];
    expect(&house, "audit-path", Level::Info, &want);
}
