//! Requests to Services: the same executor, beside somebody who knows where they are.

mod connections;
mod faults;
mod records;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use socket2::Socket;

use super::*;
use crate::config::ServicePort;
use crate::http::testing::Peer;

/// Knows what a test tells it.
#[derive(Default)]
pub(super) struct Town {
    pub(super) addresses: Mutex<HashMap<String, SocketAddr>>,
    /// By name, and by address.
    pub(super) denies: [AtomicBool; 2],
    pub(super) dials: AtomicUsize,
    /// Everything is only another name.
    aliases: AtomicBool,
    /// What rules that run dry say.
    pub(super) dry_run: Mutex<Option<String>>,
    /// What `https()` says.
    configured: Mutex<Option<bool>>,
    pub(super) noted: Mutex<Vec<Noted>>,
}

/// What was noted of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) target: String,
    pub(super) denied: bool,
    pub(super) dry_run: Option<String>,
    pub(super) end: String,
}

/// A Service of the town.
struct Building {
    town: Arc<Town>,
    name: String,
}

struct Townhall(Arc<Town>);

impl Services for Townhall {
    fn admit(&self, target: &Target) -> Result<Arc<dyn Service>, Unreached> {
        if self.0.denies[0].load(Ordering::SeqCst) {
            return Err(denied("no rule allows it"));
        }
        let name = match target {
            Target::Service(service) => service.to_string(),
            Target::Origin { host, .. } => host.clone().unwrap_or_default(),
        };
        Ok(Arc::new(Building {
            town: self.0.clone(),
            name,
        }))
    }

    fn is_own_credential(&self, authorization: &str) -> bool {
        authorization == "Bearer agents-own"
    }

    fn note(&self, call: JudgedCall<'_>) {
        self.0.noted.lock().push(Noted {
            target: call.target.to_owned(),
            denied: call.denied,
            dry_run: call.verdict.dry_run.clone(),
            end: call.end.to_owned(),
        });
    }
}

impl Service for Building {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn key(&self) -> String {
        self.name.clone()
    }
    fn authority(&self) -> String {
        self.name.clone()
    }
    fn https(&self) -> Option<bool> {
        *self.town.configured.lock()
    }
    fn verdict(&self) -> Verdict {
        Verdict {
            reason: "a Service of the cluster".to_owned(),
            dry_run: self.town.dry_run.lock().clone(),
            address: None,
        }
    }
    fn dial(&self, limit: Deadline, _: &Cancel) -> Result<Arc<Socket>, Unreached> {
        if !self.allows(None) {
            return Err(denied("10.0.0.1 is not allowed"));
        }
        assert_ne!(self.name, "panics.shop:80", "for the test");
        self.town.dials.fetch_add(1, Ordering::SeqCst);
        if self.name == "hangs.shop:80" {
            std::thread::sleep(limit.remaining().unwrap_or_default());
            return Err(Unreached::Failed(format!("{}: no answer", self.name)));
        }
        let addresses = self.town.addresses.lock();
        let address = addresses.get(&self.name);
        let address =
            address.ok_or_else(|| Unreached::Failed(format!("{}: no such host", self.name)))?;
        let stream = std::net::TcpStream::connect(address);
        let stream = stream.map_err(|error| Unreached::Failed(error.to_string()))?;
        Ok(Arc::new(stream.into()))
    }
    fn allows(&self, _: Option<SocketAddr>) -> bool {
        !self.town.denies[1].load(Ordering::SeqCst)
    }
    fn keeps(&self) -> bool {
        !self.town.aliases.load(Ordering::SeqCst)
    }
}

fn denied(reason: &str) -> Unreached {
    Unreached::Denied(Verdict {
        reason: reason.to_owned(),
        ..Verdict::default()
    })
}

/// An executor whose `web.shop:80` is the house's upstream.
pub(super) fn house_with(settings: Settings) -> (House, Arc<Town>) {
    house_within(settings, ConnectionLimits::default())
}

pub(super) fn house_within(
    settings: Settings,
    connections: ConnectionLimits,
) -> (House, Arc<Town>) {
    let house = House::with(settings);
    let town = Arc::<Town>::default();
    let addresses = [("web.shop:80".to_owned(), house.upstream.address)];
    town.addresses.lock().extend(addresses);
    house.executor.use_services(ServiceUpstreams {
        services: Arc::new(Townhall(town.clone())),
        routes: Arc::new(StaticRoutes {
            controller: Some(ServicePort::parse("web.shop:80").expect("one")),
            ..StaticRoutes::default()
        }),
        connections,
    });
    (house, town)
}

pub(super) fn house() -> (House, Arc<Town>) {
    house_with(Settings::default())
}

/// A request for `web.shop:80`.
pub(super) fn to_web(mut payload: Value) -> Value {
    payload["service_name"] = "web".into();
    payload["namespace"] = "shop".into();
    payload["service_port"] = 80.into();
    payload
}

pub(super) fn streamed(payload: Value) -> Value {
    let mut payload = to_web(payload);
    payload["supports_response_streaming"] = true.into();
    payload
}

fn status(house: &House, id: &str) -> Value {
    house.expect("proxy_response", id)["status"].take()
}

#[test]
fn a_service_is_called_under_the_clients_host_and_keeps_its_connection() {
    let (mut house, town) = house();
    let headers =
        json!({"Host": "shop.test", "X-Forwarded-For": "192.0.2.7", "Authorization": "Basic dTpw"});
    house.request(
        "a",
        to_web(json!({"path": "/b c", "query": "b=1&a", "headers": headers})),
    );
    let mut peer = house.upstream.accept();
    let raw = peer.request();
    assert_eq!(raw.line, "GET /b%20c?b=1&a HTTP/1.1");
    assert_eq!(raw.headers.get("Host"), Some("shop.test"));
    assert_eq!(raw.headers.get("Authorization"), Some("Basic dTpw"));
    assert_eq!(raw.headers.get("X-Forwarded-For"), Some("192.0.2.7"));
    // A redirect is an answer.
    peer.send("HTTP/1.1 302 Found\r\nLocation: http://evil.test/\r\nContent-Length: 0\r\n\r\n");
    let answer = house.expect("proxy_response", "a");
    assert_eq!(answer["status"], 302);
    assert_eq!(answer["headers"]["Location"], json!(["http://evil.test/"]));
    house.request("b", to_web(json!({"path": "/2"})));
    let raw = peer.request();
    assert_eq!(raw.headers.get("Host"), Some("web.shop:80"));
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "b"), 200);
    // Not the fields' way, and not the API server's.
    house.request("c", json!({"path": "/shop"}));
    assert_eq!(peer.request().line, "GET /shop HTTP/1.1");
    peer.answer("204 No Content", "");
    assert_eq!(status(&house, "c"), 204);
    assert_eq!(town.dials.load(Ordering::SeqCst), 1);
    house.expect_rest();
}

#[test]
fn connections_of_one_service_are_not_anothers() {
    let (mut house, town) = house();
    let address = house.upstream.address;
    town.addresses
        .lock()
        .insert("db.shop:80".to_owned(), address);
    house.request("a", to_web(json!({"path": "/"})));
    let mut first = house.upstream.accept();
    first.request();
    first.answer("200 OK", "");
    status(&house, "a");
    let mut other = to_web(json!({"path": "/"}));
    other["service_name"] = "db".into();
    house.request("b", other);
    let mut second = house.upstream.accept();
    assert_eq!(second.request().headers.get("Host"), Some("db.shop:80"));
    second.answer("200 OK", "");
    status(&house, "b");
    assert!(first.is_quiet(), "nobody used it");
    // The same address as the API server's: nor its connections.
    house.get("c", "/api");
    let mut third = house.upstream.accept();
    third.request();
    third.answer("200 OK", "");
    status(&house, "c");
    house.expect_rest();
}

#[test]
fn t41_a_body_has_its_true_length_and_a_streamed_one_comes_in_chunks() {
    let (mut house, _) = house();
    let mut peer: Option<Peer> = None;
    for (index, method) in ["POST", "PUT", "PATCH", "DELETE", "GET"]
        .into_iter()
        .enumerate()
    {
        for said in [None, Some("3")] {
            let id = format!("{index}{said:?}");
            let mut payload = to_web(json!({"method": method, "path": "/", "body": "hello"}));
            if let Some(said) = said {
                payload["headers"] = json!({"content-length": said});
            }
            house.request(&id, payload);
            let peer = peer.get_or_insert_with(|| house.upstream.accept());
            let raw = peer.request();
            assert_eq!(
                (raw.body.as_slice(), raw.chunked),
                (&b"hello"[..], false),
                "{method}"
            );
            peer.answer("200 OK", "");
            status(&house, &id);
        }
    }
    let mut peer = peer.expect("used");
    house.request(
        "s",
        to_web(json!({"method": "PUT", "path": "/", "use_streaming": true})),
    );
    house.requests().chunk("s", Some(&encode("he")));
    house.requests().chunk("s", Some(&encode("llo")));
    house.requests().end("s");
    let raw = peer.request();
    assert_eq!((raw.body.as_slice(), raw.chunked), (&b"hello"[..], true));
    peer.answer("200 OK", "");
    status(&house, "s");
    house.expect_rest();
}

#[test]
fn t42_a_second_request_under_a_live_id_is_refused_and_the_services_answer_comes() {
    let (mut house, _) = house();
    house.request("a", to_web(json!({"path": "/1"})));
    let mut peer = house.upstream.accept();
    peer.request();
    house.request("a", to_web(json!({"path": "/2"})));
    assert!(house.expect_error("a").contains("still being executed"));
    peer.answer("200 OK", "");
    assert_eq!(status(&house, "a"), 200);
    house.expect_rest();
}

#[test]
fn what_the_policy_denies_is_not_called_also_on_a_connection_that_was_kept() {
    let (mut house, town) = house();
    let [by_name, by_address] = &town.denies;
    by_name.store(true, Ordering::SeqCst);
    house.request("a", to_web(json!({"path": "/?secret"})));
    let text = house.expect_error("a");
    assert_eq!(
        text,
        "service request failed: the agent's policy denies it: no rule allows it"
    );
    by_name.store(false, Ordering::SeqCst);
    by_address.store(true, Ordering::SeqCst);
    house.request("b", streamed(json!({"path": "/"})));
    assert!(house.expect_abort("b").contains("10.0.0.1 is not allowed"));
    assert_eq!(town.dials.load(Ordering::SeqCst), 0);
    assert!(!house.upstream.is_wanted());
    by_address.store(false, Ordering::SeqCst);
    house.request("c", to_web(json!({"path": "/"})));
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    status(&house, "c");
    // The rules have changed since it was dialled.
    by_address.store(true, Ordering::SeqCst);
    house.request("d", to_web(json!({"path": "/"})));
    assert!(house.expect_error("d").contains("10.0.0.1 is not allowed"));
    peer.wait_for_end();
    house.expect_rest();
}

/// A gateway, or our plane, may put the token there that it was handed over.
#[test]
fn the_agents_own_token_is_shown_to_no_service() {
    let (mut house, _) = house();
    for (id, given, seen) in [
        ("a", "Bearer agents-own", None),
        ("b", "Bearer somebodys", Some("Bearer somebodys")),
    ] {
        let headers = json!({"Authorization": given});
        house.request(id, to_web(json!({"path": "/", "headers": headers})));
        let mut peer = house.upstream.accept();
        assert_eq!(peer.request().headers.get("Authorization"), seen);
        peer.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        status(&house, id);
    }
    house.expect_rest();
}

#[test]
fn what_cannot_be_meant_is_refused_in_the_originals_words() {
    let (mut house, _) = house();
    for (change, start) in [
        (json!({"service_name": "a.b"}), "invalid service name: "),
        (json!({"namespace": "../x"}), "invalid namespace: "),
        (json!({"service_port": 70_000}), "invalid service port: "),
        (json!({"path": "x"}), "invalid path: "),
        (json!({"query": "a b"}), "invalid query string: "),
        (
            json!({"headers": {"Host": "a/b"}}),
            "failed to create service request: invalid or more",
        ),
        (
            json!({"service_name": "nowhere"}),
            "service request failed: nowhere.shop:80: no such host",
        ),
    ] {
        let mut payload = to_web(json!({"path": "/"}));
        let fields = payload.as_object_mut().expect("an object");
        fields.extend(change.as_object().expect("an object").clone());
        house.request("r", payload);
        let text = house.expect_error("r");
        assert!(text.starts_with(start), "{text}");
    }
    house.expect_rest();
}
