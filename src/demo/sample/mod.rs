//! The sample cluster: a small API server of ours with nodes, namespaces and pods,
//! lists and tables, watches, and logs that can be followed. Read-only, on
//! loopback, and nothing but something to look at.

mod objects;
mod render;

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use crate::http::server::{
    Handler, Request, RequestBody, Responder, ResponseWriter, Server, Settings,
};
use crate::http::{Headers, decode_query};
use crate::net::{Cancel, Deadline, Reason};
use crate::threads::{self, Stack};
use objects::{Changes, Kind, Store, TICKER};

/// A running sample cluster; dropping it stops it.
pub struct SampleCluster {
    server: Server,
    store: Arc<Store>,
    stop: Arc<Stop>,
}

/// Ends the ticker.
#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl SampleCluster {
    /// Listens on a loopback port that the system chooses.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let store = Arc::new(Store::new());
        let settings = Settings {
            name: "sample",
            write_limit: None,
            ..Settings::default()
        };
        let server = Server::start(
            listener,
            settings,
            Arc::new(Api {
                store: store.clone(),
            }),
        )?;
        let stop = Arc::new(Stop::default());
        let (ticks, ends) = (store.clone(), stop.clone());
        threads::spawn("sample-ticker", Stack::Work, move || tick(&ticks, &ends))
            .map_err(io::Error::other)?;
        Ok(Self {
            server,
            store,
            stop,
        })
    }

    /// Where it listens, in clear text.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The name of the pod (in `default`) that changes every second.
    pub fn ticker() -> &'static str {
        TICKER
    }
}

impl Drop for SampleCluster {
    fn drop(&mut self) {
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
        self.store.close();
    }
}

fn tick(store: &Store, stop: &Stop) {
    let mut stopped = stop.stopped.lock();
    for count in 1.. {
        // A spurious wake-up only ticks early.
        if !*stopped {
            stop.changed.wait_for(&mut stopped, TICK);
        }
        if *stopped {
            return;
        }
        store.tick(count);
    }
}

struct Api {
    store: Arc<Store>,
}

impl Handler for Api {
    fn handle(&self, request: Request, _body: RequestBody, responder: Responder) {
        // A client that has gone away is no failure of ours.
        let _ = self.answer(&request, responder);
    }
}

impl Api {
    fn answer(&self, request: &Request, responder: Responder) -> io::Result<()> {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return fail(
                responder,
                405,
                "MethodNotAllowed",
                "the sample cluster is read-only",
            );
        }
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let query = Query(decode_query(query));
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        match segments.as_slice() {
            ["healthz" | "readyz" | "livez"] => {
                responder.respond(200, &content("text/plain"), b"ok")
            }
            ["version"] => reply(responder, 200, &render::version()),
            ["api"] => reply(responder, 200, &render::api_versions()),
            ["apis"] => reply(responder, 200, &render::api_groups()),
            ["api", "v1"] => reply(responder, 200, &render::resources()),
            ["api", "v1", "namespaces", namespace, "pods", name, "log"] => {
                self.log(responder, namespace, name, &query)
            }
            ["api", "v1", "namespaces", namespace, "pods", rest @ ..] => {
                self.objects(request, responder, Kind::Pod, Some(namespace), rest, &query)
            }
            ["api", "v1", plural, rest @ ..] => {
                match Kind::ALL.into_iter().find(|kind| kind.plural() == *plural) {
                    Some(kind) => self.objects(request, responder, kind, None, rest, &query),
                    None => not_found(responder),
                }
            }
            _ => not_found(responder),
        }
    }

    fn objects(
        &self,
        request: &Request,
        responder: Responder,
        kind: Kind,
        namespace: Option<&str>,
        rest: &[&str],
        query: &Query,
    ) -> io::Result<()> {
        let as_table = request
            .headers
            .list("Accept")
            .any(|accept| accept.contains("as=Table"));
        match rest {
            [] if query.flag("watch") => self.watch(responder, kind, namespace, as_table, query),
            [] => {
                let (version, mut items) = self.store.list(kind, namespace);
                if let Some(name) = query.field_name() {
                    items.retain(|item| item["metadata"]["name"] == name);
                }
                let total = items.len();
                if let Some(limit) = query.number("limit").filter(|limit| *limit > 0) {
                    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                }
                let remaining = Some((total - items.len()) as u64);
                let render = if as_table {
                    render::table
                } else {
                    render::list
                };
                reply(responder, 200, &render(kind, version, &items, remaining))
            }
            [name] => match self.store.get(kind, namespace.unwrap_or_default(), name) {
                Some(object) if as_table => {
                    let (version, _) = self.store.list(kind, namespace);
                    reply(
                        responder,
                        200,
                        &render::table(kind, version, &[object], None),
                    )
                }
                Some(object) => reply(responder, 200, &object),
                None => {
                    let message = format!("{} \"{name}\" not found", kind.plural());
                    fail(responder, 404, "NotFound", &message)
                }
            },
            _ => not_found(responder),
        }
    }

    fn watch(
        &self,
        responder: Responder,
        kind: Kind,
        namespace: Option<&str>,
        as_table: bool,
        query: &Query,
    ) -> io::Result<()> {
        let (now, items) = self.store.list(kind, namespace);
        let from = query
            .number("resourceVersion")
            .filter(|version| *version > 0);
        let mut version = from.unwrap_or(now);
        let name = query.field_name();
        let limit = query
            .number("timeoutSeconds")
            .map_or(MAX_WATCH, Duration::from_secs)
            .min(MAX_WATCH);
        let deadline = Deadline::after(limit);
        let gone = Cancel::new();
        let _watch = responder.on_client_gone(&gone)?;
        let mut writer = responder.start(200, &content("application/json"), None)?;
        let mut send = |what: &str, object: &Value| -> io::Result<()> {
            let ours = namespace.is_none_or(|ns| object["metadata"]["namespace"] == ns)
                && name
                    .as_ref()
                    .is_none_or(|name| object["metadata"]["name"] == name.as_str());
            if !ours {
                return Ok(());
            }
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|v| v.parse().ok());
            let table = as_table.then(|| {
                render::table(
                    kind,
                    version.unwrap_or_default(),
                    std::slice::from_ref(object),
                    None,
                )
            });
            let event = json!({ "type": what, "object": table.as_ref().unwrap_or(object) });
            writer.write(format!("{event}\n").as_bytes())
        };
        if from.is_none() {
            items.iter().try_for_each(|object| send("ADDED", object))?;
        }
        while deadline.remaining().is_some() && gone.reason().is_none() {
            match self.store.after(version, kind, LOOK) {
                Changes::Some(changes) => {
                    for change in changes {
                        version = change.version;
                        send(change.what, &change.object)?;
                    }
                }
                Changes::None => {}
                Changes::Closed => break,
                Changes::Gone => {
                    let status = render::failure(410, "Expired", "too old resource version");
                    let event = json!({ "type": "ERROR", "object": status });
                    writer.write(format!("{event}\n").as_bytes())?;
                    break;
                }
            }
        }
        writer.finish()
    }

    fn log(
        &self,
        responder: Responder,
        namespace: &str,
        name: &str,
        query: &Query,
    ) -> io::Result<()> {
        if self.store.get(Kind::Pod, namespace, name).is_none() {
            return fail(
                responder,
                404,
                "NotFound",
                &format!("pods \"{name}\" not found"),
            );
        }
        if !query.flag("follow") {
            let mut lines = String::new();
            for count in 1..=3 {
                let _ = writeln!(lines, "{name}: line {count}"); // a String takes all
            }
            return responder.respond(200, &content("text/plain"), lines.as_bytes());
        }
        let gone = Cancel::new();
        let _watch = responder.on_client_gone(&gone)?;
        let mut writer = responder.start(200, &content("text/plain"), None)?;
        self.follow(&mut writer, name, &gone)?;
        writer.finish()
    }

    /// A line a second, paced by the ticker, until somebody has enough.
    fn follow(&self, writer: &mut ResponseWriter, name: &str, gone: &Cancel) -> io::Result<()> {
        let (mut version, _) = self.store.list(Kind::Pod, None);
        for count in 1.. {
            writer.write(format!("{name}: line {count}\n").as_bytes())?;
            loop {
                match self.store.after(version, Kind::Pod, LOOK) {
                    Changes::Some(changes) => {
                        version = changes.last().map_or(version, |change| change.version);
                        break;
                    }
                    Changes::None if gone.reason().is_none() => {}
                    _ => return Ok(()),
                }
            }
            if gone.reason() == Some(Reason::Cancelled) {
                break;
            }
        }
        Ok(())
    }
}

/// The decoded parameters of a query.
struct Query(Vec<(String, String)>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// `fieldSelector=metadata.name=X`, the one selector that kubectl needs here.
    fn field_name(&self) -> Option<String> {
        Some(
            self.get("fieldSelector")?
                .strip_prefix("metadata.name=")?
                .to_owned(),
        )
    }
}

fn content(kind: &str) -> Headers {
    [("Content-Type", kind)].into_iter().collect()
}

fn reply(responder: Responder, status: u16, body: &Value) -> io::Result<()> {
    responder.respond(
        status,
        &content("application/json"),
        body.to_string().as_bytes(),
    )
}

fn fail(responder: Responder, status: u16, reason: &str, message: &str) -> io::Result<()> {
    reply(responder, status, &render::failure(status, reason, message))
}

fn not_found(responder: Responder) -> io::Result<()> {
    fail(
        responder,
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}

const TICK: Duration = Duration::from_secs(1);
/// How often a quiet watch looks whether its client is still there.
const LOOK: Duration = Duration::from_secs(2);
const MAX_WATCH: Duration = Duration::from_secs(3600);
