//! The Kubernetes API of the benchmark, and its Service: they answer from memory, on
//! kept-alive connections, and cost as little as they can.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use pipeops_agent::http::Headers;
use pipeops_agent::http::server::{Handler, Request, RequestBody, Responder, Server, Settings};
use pipeops_agent::net::ServerTls;

use crate::body::{Body, Content};

/// The sizes of bodies that can be asked for.
pub(crate) const SIZES: [usize; 3] = [1024, 64 * 1024, 1024 * 1024];

/// What callers must show; the agent passes it on.
pub(crate) const CALLER_TOKEN: &str = "Bearer caller";

pub(crate) struct Cluster {
    server: Server,
    bodies: Arc<[Arc<Body>]>,
}

impl Cluster {
    /// Without TLS it is the Service.
    pub(crate) fn start(tls: Option<ServerTls>) -> io::Result<Self> {
        let bodies: Arc<[Arc<Body>]> = SIZES.map(|size| Arc::new(Body::of_size(size))).into();
        let settings = Settings {
            name: "cluster",
            tls,
            ..Settings::default()
        };
        let api = Api {
            bodies: bodies.clone(),
            json: answer_headers("application/json"),
            octets: answer_headers("application/octet-stream"),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = Server::start(listener, settings, Arc::new(api))?;
        Ok(Self { server, bodies })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What is at [`path`] of that size, one of [`SIZES`].
    pub(crate) fn body(&self, size: usize) -> Option<Arc<Body>> {
        let found = self.bodies.iter().find(|body| body.bytes.len() == size);
        found.cloned()
    }
}

/// Where a body of that size is.
pub(crate) fn path(content: Content, size: usize) -> String {
    let kind = match content {
        Content::Json => "bench",
        Content::Octets => "octets",
    };
    format!("/api/{kind}/{size}")
}

struct Api {
    bodies: Arc<[Arc<Body>]>,
    json: Headers,
    octets: Headers,
}

impl Handler for Api {
    fn handle(&self, request: Request, _body: RequestBody, responder: Responder) {
        // A client that is gone has nothing to be told.
        let _ = self.answer(&request, responder);
    }
}

impl Api {
    fn answer(&self, request: &Request, responder: Responder) -> io::Result<()> {
        let path = request.target.split('?').next().unwrap_or_default();
        if let Some((headers, body)) = self.find(path) {
            // A caller that isn't who it should be must not go unnoticed.
            return match request.headers.get("Authorization") {
                Some(CALLER_TOKEN) => responder.respond(200, headers, &body.bytes),
                _ => responder.respond(401, &self.json, b"{}"),
            };
        }
        // What an agent asks for itself, about the cluster.
        let body = match path {
            "/version" => r#"{"major":"1","minor":"36","gitVersion":"v1.36.3"}"#,
            _ => r#"{"kind":"List","apiVersion":"v1","metadata":{},"items":[]}"#,
        };
        responder.respond(200, &self.json, body.as_bytes())
    }

    fn find(&self, path: &str) -> Option<(&Headers, &Body)> {
        let (headers, size) = if let Some(size) = path.strip_prefix("/api/bench/") {
            (&self.json, size)
        } else {
            (&self.octets, path.strip_prefix("/api/octets/")?)
        };
        let size: usize = size.parse().ok()?;
        let body = self.bodies.iter().find(|body| body.bytes.len() == size)?;
        Some((headers, body))
    }
}

/// As many headers as a real API server sends.
fn answer_headers(content_type: &str) -> Headers {
    [
        ("Audit-Id", "6f0e2f0c-54a3-4c59-9a53-2f4f7a4d9d5e"),
        ("Cache-Control", "no-cache, private"),
        ("Content-Type", content_type),
        (
            "X-Kubernetes-Pf-Flowschema-Uid",
            "5c7c6a3e-0f2b-4d9e-9a73-2e6f8c1b7d40",
        ),
        (
            "X-Kubernetes-Pf-Prioritylevel-Uid",
            "b1c9f6d2-7e3a-4f58-8c21-6d0a9e5f4b37",
        ),
    ]
    .into_iter()
    .collect()
}
