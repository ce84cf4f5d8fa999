//! Services of the cluster, by their names: through the front door, and through a host
//! that the plane exposes.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use pipeops_agent::http::Headers;
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::api_server::{ApiServer, shared};
use crate::http::Http;
use crate::installed::Installed;
use crate::pod::{self, DOMAIN};
use crate::support::upstream::{Upstream, content};
use crate::{LIMIT, wait_until};

/// What is behind the Service `web`.
struct Web {
    upstream: Upstream,
    /// Lets it say its next event.
    go_on: Sender<()>,
}

impl Web {
    fn start() -> Self {
        let (go_on, next) = bounded(1);
        let next = Arc::new(next);
        let upstream = Upstream::start(move |request, body, responder| {
            // Who breaks off has its own account of it.
            let _ = serve(&request, body, responder, &next);
        });
        Self { upstream, go_on }
    }
}

fn serve(
    request: &Request,
    mut body: RequestBody,
    responder: Responder,
    next: &Receiver<()>,
) -> std::io::Result<()> {
    match request.target.as_str() {
        "/events" => {
            let mut writer = responder.start(200, &content("text/event-stream"), None)?;
            for number in 1..=2 {
                writer.write(format!("data: {number}\n\n").as_bytes())?;
                // The second one isn't there before the first has arrived.
                let _ = next.recv_timeout(LIMIT);
            }
            writer.finish()
        }
        "/shop.Carts/Add" => {
            let message = body.read_all(1 << 20).expect("a body");
            drop(body);
            let kind = request.headers.get("content-type").expect("a type");
            let mut writer = responder.start(200, &content(kind), None)?;
            writer.write(&message)?;
            writer.write(TRAILERS)?;
            writer.finish()
        }
        "/file" => {
            let range = request.headers.get("range");
            let range = range.and_then(|range| range.strip_prefix("bytes="));
            let (from, to) = range.and_then(|range| range.split_once('-')).expect("one");
            let (from, to): (usize, usize) = (from.parse().expect("a"), to.parse().expect("b"));
            let mut headers = content("application/octet-stream");
            headers.push("Accept-Ranges", "bytes");
            let file = file();
            let Some(part) = file.get(from..=to) else {
                headers.push("Content-Range", format!("bytes */{}", file.len()));
                return responder.respond(416, &headers, b"");
            };
            headers.push("Content-Range", format!("bytes {from}-{to}/{}", file.len()));
            responder.respond(206, &headers, part)
        }
        target => {
            let fields: Vec<(&str, &str)> = request.headers.iter().collect();
            let seen = json!({"method": request.method, "target": target, "fields": fields});
            responder.respond(
                200,
                &content("application/json"),
                seen.to_string().as_bytes(),
            )
        }
    }
}

fn file() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_be_bytes).collect()
}

/// Of gRPC-web: a frame of trailers, with its length.
const TRAILERS: &[u8] = b"\x80\x00\x00\x00\x10grpc-status: 0\r\n";

/// A namespace with Services, and plane and agent: that one in a pod.
struct Stage {
    web: Web,
    installed: Installed,
    /// Where hosts are that the plane exposes.
    hosts: String,
    /// `web.NAMESPACE:PORT`
    service: String,
    _policy: NamedTempFile,
}

impl Stage {
    fn new(namespace: &str) -> Self {
        let api = shared();
        let namespace = api.namespace(namespace);
        let web = Web::start();
        let port = web.upstream.address().port();
        let ports = json!([{"port": port}]);
        create(api, &namespace, "web", &json!({"ports": ports}));
        let alias = |to: &str| json!({"type": "ExternalName", "externalName": to});
        let inside = format!("web.{namespace}.svc.{DOMAIN}");
        create(api, &namespace, "inside", &alias(&inside));
        create(api, &namespace, "outside", &alias("db.example.test"));

        let reads = json!([{"apiGroups": [""], "resources": ["services"], "verbs": ["get"]}]);
        api.service_account(&namespace, "agent", &reads);
        let token = api.token(&namespace, "agent");
        // Rights count a moment after they were given.
        let (reader, path) = (api.with_token(Some(&token)), services(&namespace));
        wait_until("the right to read Services", || {
            reader.get(&format!("{path}/web")).status == 200
        });
        let service = format!("web.{namespace}:{port}");
        let policy = NamedTempFile::new().expect("a file");
        let rules = format!(
            "rules:\n- action: allow\n  namespaces: [{namespace}]\n  addresses: [127.0.0.0/8]\n"
        );
        std::fs::write(policy.path(), rules).expect("written");
        let mut config = format!("proxy:\n  ingress_controller: {service}\n");
        let _ = writeln!(
            config,
            "tunnels:\n  policy_file: {}",
            policy.path().display()
        );
        let hosts = free();
        let names = ["web", "inside", "outside"];
        let installed = Installed::with(&["--http", &hosts], &config, |home, config| {
            pod::agent(api, (&namespace, &token), &names, home, config)
        });
        Self {
            web,
            installed,
            hosts,
            service,
            _policy: policy,
        }
    }

    /// A client of a host that leads to this Service.
    fn exposed(&self, host: &str, service: &str) -> Http {
        self.installed.expose("http", host, service);
        Http::plain(&self.hosts, host)
    }

    /// What passes, whichever way.
    fn works(&self, client: &Http) {
        let path = "/page?b=1&a=%2F";
        let page = client.get(path);
        assert_eq!(page.status, 200, "{}", page.text());
        let seen = page.json();
        assert_eq!(seen["target"], path);
        let has = |name: &str| {
            let fields = seen["fields"].as_array().expect("a list").iter();
            let mut names = fields.filter_map(|field| field[0].as_str());
            names.any(|other| other.eq_ignore_ascii_case(name))
        };
        // Neither the user's token nor the agent's own.
        assert!(!has("authorization"), "{seen}");
        assert!(has("x-forwarded-for"), "{seen}");

        let mut events = client.open("/events");
        for number in 1..=2 {
            let line = events.next().expect("goes on");
            assert_eq!(line, Some(format!("data: {number}")));
            assert_eq!(events.next().expect("goes on"), Some(String::new()));
            self.web.go_on.send(()).expect("it waits");
        }
        assert_eq!(events.next().expect("a good end"), None);

        let grpc = [
            ("Content-Type", "application/grpc-web+proto"),
            ("X-Grpc-Web", "1"),
        ];
        let message = b"\x00\x00\x00\x00\x05\x00\xff\x0a\r\n".to_vec();
        let answer = client.ask("POST", "/shop.Carts/Add", &grpc, message.clone());
        assert_eq!(kind(&answer.headers), Some("application/grpc-web+proto"));
        assert_eq!(answer.body, [&message, TRAILERS].concat());

        let part = |range| client.ask("GET", "/file", &[("Range", range)], Vec::new());
        let middle = part("bytes=70001-139999");
        assert_eq!(middle.status, 206);
        let said = middle.headers.get("content-range");
        assert_eq!(said, Some("bytes 70001-139999/400000"));
        assert!(middle.body == file()[70_001..140_000]);
        let beyond = part("bytes=400000-400001");
        assert_eq!(beyond.status, 416);
        assert_eq!(beyond.headers.get("content-range"), Some("bytes */400000"));
    }
}

fn kind(headers: &Headers) -> Option<&str> {
    headers.get("content-type")
}

fn create(api: &ApiServer, namespace: &str, name: &str, spec: &Value) {
    let service = json!({"metadata": {"name": name}, "spec": spec});
    let made = api.as_admin().post(&services(namespace), &service);
    assert_eq!(made.status, 201, "{}", made.text());
}

fn services(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/services")
}

/// An address where nobody listens.
fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_service_through_the_front_door() {
    let stage = Stage::new("service-front");
    stage.works(&stage.installed.http());
    // What is the API server's stays so.
    let pods = stage
        .installed
        .http()
        .get("/api/v1/namespaces/default/pods");
    assert_eq!(pods.status, 403, "the agent's ServiceAccount may not");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_service_through_a_host_that_is_exposed() {
    let stage = Stage::new("service-host");
    let client = stage.exposed("shop.example.test", &stage.service);
    stage.works(&client);
}

/// Which Services are only another name the API server knows.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_service_that_is_another_name_is_what_it_names() {
    let stage = Stage::new("service-alias");
    let named = |name: &str| stage.service.replacen("web.", &format!("{name}."), 1);
    let inside = stage.exposed("inside.example.test", &named("inside"));
    assert_eq!(inside.get("/").status, 200);
    // Its address would be allowed.
    let outside = stage.exposed("outside.example.test", &named("outside"));
    let answer = outside.try_ask("GET", "/", &[], Vec::new());
    let answer = answer.map(|answer| (answer.status, answer.text()));
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(inside.get("/").status, 200);
}
