//! A small Kubernetes API server for proxied requests: it remembers what it was
//! asked, answers as the path says, and notices when the agent goes away.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pipeops_agent::agent::{self, Proxying};
use pipeops_agent::config::Config;
use pipeops_agent::control::facts::ClusterFacts;
use pipeops_agent::http::server::{Handler, Request, RequestBody, Responder, Server, Settings};
use pipeops_agent::http::{Headers, decode_query};
use pipeops_agent::net::Cancel;
use serde_json::json;
use tempfile::NamedTempFile;

/// A request as it arrived, with its whole body.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    /// As much as came; `whole` says whether it came to its end.
    pub(crate) body: Vec<u8>,
    pub(crate) whole: bool,
    /// `Content-Length`, as read by the server.
    pub(crate) length: Option<u64>,
}

pub(crate) struct Upstream {
    server: Server,
    shared: Arc<Shared>,
    kubeconfig: NamedTempFile,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Targets of the requests that have begun, apart from the agent's own.
    begun: Vec<String>,
    /// Those whose body has come to its end, good or bad.
    seen: Vec<Seen>,
    /// Requests whose client left before their end.
    gone: usize,
    /// Answers that wait may go on.
    lines: usize,
    over: bool,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let shared = Arc::new(Shared::default());
        let settings = Settings {
            name: "upstream",
            ..Settings::default()
        };
        let server = Server::start(listener, settings, Arc::new(Api(shared.clone())));
        let server = server.expect("a server");
        let mut kubeconfig = NamedTempFile::new().expect("a file");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", server.address())}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
            "users": [{"name": "agent", "user": {"token": "the-agents-own"}}],
        });
        kubeconfig
            .write_all(text.to_string().as_bytes())
            .expect("written");
        Self {
            server,
            shared,
            kubeconfig,
        }
    }

    /// `host:port`, as an origin.
    pub(crate) fn authority(&self) -> String {
        self.server.address().to_string()
    }

    /// What an agent needs to know of it.
    pub(crate) fn reach(&self, config: &Config) -> (Arc<dyn Proxying>, Arc<dyn ClusterFacts>) {
        let mut config = config.clone();
        config.kubernetes.kubeconfig = Some(self.kubeconfig.path().to_owned());
        let found = agent::find_cluster(&config).expect("a kubeconfig");
        agent::reach(found, &config).expect("a cluster")
    }

    /// Waits until the head of a request for this has arrived.
    pub(crate) fn begun(&self, target: &str) {
        let mut state = self.shared.state.lock();
        while !state.begun.iter().any(|begun| begun == target) {
            self.wait(&mut state);
        }
    }

    /// The only request for this path, once it has arrived.
    pub(crate) fn seen(&self, path: &str) -> Seen {
        let mut state = self.shared.state.lock();
        loop {
            let found: Vec<&Seen> = state
                .seen
                .iter()
                .filter(|seen| seen.target.split('?').next() == Some(path))
                .collect();
            match found[..] {
                [] => {}
                [seen] => return seen.clone(),
                _ => panic!("{path} was asked for {} times", found.len()),
            }
            self.wait(&mut state);
        }
    }

    /// How often this path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        let state = self.shared.state.lock();
        let asked = |seen: &&Seen| seen.target.split('?').next() == Some(path);
        state.seen.iter().filter(asked).count()
    }

    /// Waits until so many clients have left in the middle of their request.
    pub(crate) fn gone(&self, count: usize) {
        let mut state = self.shared.state.lock();
        while state.gone < count {
            self.wait(&mut state);
        }
    }

    /// Waits until the clients of all requests so far have left in the middle.
    pub(crate) fn all_gone(&self) {
        let mut state = self.shared.state.lock();
        while state.gone < state.begun.len() {
            self.wait(&mut state);
        }
    }

    /// Lets every watch say so many lines altogether.
    pub(crate) fn lines(&self, count: usize) {
        self.shared.state.lock().lines = count;
        self.shared.changed.notify_all();
    }

    /// Ends watches, and lets those answer that wait.
    pub(crate) fn go_on(&self) {
        self.shared.state.lock().over = true;
        self.shared.changed.notify_all();
    }

    fn wait(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        let waited = self.shared.changed.wait_for(state, Duration::from_mins(1));
        assert!(
            !waited.timed_out(),
            "the API server waits; it has seen {:#?}",
            state.seen
        );
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.go_on();
        self.server.stop(Duration::from_secs(5));
    }
}

/// What a path answers with: `/api/v1/…`
///
/// * `echo…`: JSON, small
/// * `bytes/N/TYPE`: N bytes of that type (`text`, `json`, `png`)
/// * `empty`: 204; `missing`: 404 with a Status; `bare`: 200 without a body
/// * `watch`: a line each time the test allows one, until it ends it
/// * `slow…`: nothing before the test lets it
/// * `cut`: half of what its head announces
struct Api(Arc<Shared>);

impl Handler for Api {
    fn handle(&self, request: Request, mut body: RequestBody, responder: Responder) {
        let target = request.target.clone();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/version" => {
                return answer(
                    responder,
                    200,
                    "application/json",
                    br#"{"gitVersion":"v1.36.2"}"#,
                );
            }
            "/api/v1/nodes" | "/api/v1/pods"
                if decode_query(query).iter().any(|(name, _)| name == "limit") =>
            {
                let list = br#"{"metadata":{"remainingItemCount":2},"items":[{}]}"#;
                return answer(responder, 200, "application/json", list);
            }
            _ => {}
        }
        self.change(|state| state.begun.push(target.clone()));
        let gone = Cancel::new();
        let guard = responder.on_client_gone(&gone).expect("watched");
        let mut seen = Seen {
            method: request.method,
            target: request.target.clone(),
            length: body.length(),
            headers: request.headers,
            body: Vec::new(),
            whole: false,
        };
        while let Ok(chunk) = body.chunk(usize::MAX) {
            if chunk.is_empty() {
                seen.whole = true;
                break;
            }
            seen.body.extend_from_slice(chunk);
        }
        let whole = seen.whole;
        self.change(|state| state.seen.push(seen));
        if !whole {
            return self.change(|state| state.gone += 1);
        }
        drop(body);
        self.answer(path, responder, &gone);
        drop(guard);
    }
}

impl Api {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock());
        self.0.changed.notify_all();
    }

    fn answer(&self, path: &str, responder: Responder, gone: &Cancel) {
        let path = path.strip_prefix("/api/v1/").unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["bytes", length, kind] => {
                let length = length.parse().expect("a number");
                answer(responder, 200, content_type(kind), &bytes(length));
            }
            ["empty"] => answer(responder, 204, "text/plain", b""),
            ["bare"] => answer(responder, 200, "text/plain", b""),
            ["missing"] => answer(responder, 404, "application/json", MISSING),
            ["watch"] => self.watch(responder, gone),
            ["slow", ..] => {
                let heard = self.until(gone, |state| state.over);
                if heard {
                    answer(responder, 200, "text/plain", b"at last");
                }
            }
            ["cut"] => {
                let started = responder.start(200, &Headers::new(), Some(1000));
                let mut writer = started.expect("a head");
                writer.write(&bytes(500)).expect("half of it");
            }
            _ => {
                let headers = [
                    ("content-type", "application/json"),
                    ("X-Several", "one"),
                    ("x-several", "two"),
                    ("Proxy-Authenticate", "Basic"),
                    ("TE", "trailers"),
                ];
                let _ = responder.respond(200, &headers.into_iter().collect(), ECHO);
            }
        }
    }

    /// One line per permission, each in a chunk of its own.
    fn watch(&self, responder: Responder, gone: &Cancel) {
        let headers: Headers = [("Content-Type", "application/json")].into_iter().collect();
        let mut writer = responder.start(200, &headers, None).expect("a head");
        let mut said = 0;
        while self.until(gone, |state| state.lines > said || state.over) {
            if self.0.state.lock().over {
                let _ = writer.finish();
                return;
            }
            let line = format!("{{\"type\":\"ADDED\",\"line\":{said}}}\n");
            if writer.write(line.as_bytes()).is_err() {
                return;
            }
            said += 1;
        }
    }

    /// False, and noted, when the client has left before.
    fn until(&self, gone: &Cancel, ready: impl Fn(&State) -> bool) -> bool {
        let shared = self.0.clone();
        let waker = gone.on_wake(Arc::new(move || {
            let _state = shared.state.lock();
            shared.changed.notify_all();
        }));
        let mut state = self.0.state.lock();
        loop {
            if gone.reason().is_some() || waker.is_err() {
                state.gone += 1;
                self.0.changed.notify_all();
                return false;
            }
            if ready(&state) {
                return true;
            }
            self.0.changed.wait(&mut state);
        }
    }
}

fn answer(responder: Responder, status: u16, kind: &str, body: &[u8]) {
    let headers: Headers = [("Content-Type", kind)].into_iter().collect();
    // A client that has left is not waited for.
    let _ = responder.respond(status, &headers, body);
}

fn content_type(kind: &str) -> &'static str {
    match kind {
        "json" => "application/json",
        "png" => "image/png",
        _ => "text/plain; charset=utf-8",
    }
}

/// Bytes that neither repeat within a chunk nor are all text.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at % 251) as u8 ^ (at / 4096) as u8)
        .collect()
}

pub(crate) const ECHO: &[u8] = br#"{"kind":"Echo","text":"<&> \u00e9"}"#;
pub(crate) const MISSING: &[u8] = br#"{"kind":"Status","code":404}"#;
