//! The API server behind the agent, as a test wants it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use pipeops_agent::http::Headers;
use pipeops_agent::http::server::{Handler, Request, RequestBody, Responder, Server, Settings};
use pipeops_agent::kube::{Auth, Credentials, Material, ServerUrl};
use pipeops_agent::net::ServerTls;

use super::ca::Ca;
use super::wait::LIMIT;

/// Answers with a function of the test's; what agents ask for themselves is answered
/// here.
pub(crate) struct Upstream {
    server: Server,
    ca: Option<Ca>,
}

impl Upstream {
    /// In clear text.
    pub(crate) fn start(
        handle: impl Fn(Request, RequestBody, Responder) + Send + Sync + 'static,
    ) -> Self {
        Self::with(None, None, handle)
    }

    pub(crate) fn start_tls(
        handle: impl Fn(Request, RequestBody, Responder) + Send + Sync + 'static,
    ) -> Self {
        let ca = Ca::new("the cluster's");
        let tls = ca.server(None);
        Self::with(Some(tls), Some(ca), handle)
    }

    fn with(
        tls: Option<ServerTls>,
        ca: Option<Ca>,
        handle: impl Fn(Request, RequestBody, Responder) + Send + Sync + 'static,
    ) -> Self {
        let settings = Settings {
            name: "upstream",
            tls,
            max_connections: 4096,
            // A slow client is told from a dead one elsewhere.
            write_limit: None,
            body_idle_limit: None,
            // It is the agent that lets go of idle connections.
            idle_limit: LIMIT * 60,
            ..Settings::default()
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let server = Server::start(listener, settings, Arc::new(Api(handle))).expect("started");
        Self { server, ca }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Connections now.
    pub(crate) fn connections(&self) -> usize {
        self.server.connections()
    }

    /// What an agent needs to be this one's.
    pub(crate) fn credentials(&self) -> Credentials {
        let ca = self.ca.as_ref().map(|ca| Material::Pem(ca.pem().into()));
        credentials(self.address(), ca)
    }

    /// The same for a process: the text of a kubeconfig.
    pub(crate) fn kubeconfig(&self) -> String {
        let address = self.address();
        let cluster = match &self.ca {
            None => format!("server: 'http://{address}'"),
            Some(ca) => {
                let ca = base64_simd::STANDARD.encode_to_string(ca.pem().as_bytes());
                format!("server: 'https://{address}', certificate-authority-data: {ca}")
            }
        };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{{cluster}}}}}]\n\
             users: [{{name: test, user: {{}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n"
        )
    }
}

/// An API server at this address that needs no credential.
pub(crate) fn credentials(address: SocketAddr, ca: Option<Material>) -> Credentials {
    let scheme = if ca.is_some() { "https" } else { "http" };
    Credentials {
        server: ServerUrl::parse(&format!("{scheme}://{address}")).expect("a URL"),
        ca,
        insecure: false,
        server_name: None,
        proxy: None,
        client: None,
        auth: Auth::None,
    }
}

struct Api<F>(F);

impl<F: Fn(Request, RequestBody, Responder) + Send + Sync + 'static> Handler for Api<F> {
    fn handle(&self, request: Request, body: RequestBody, responder: Responder) {
        let own = match request.target.as_str() {
            "/version" => r#"{"gitVersion":"v1.36.3"}"#,
            "/api/v1/nodes?limit=1" | "/api/v1/pods?limit=1" => {
                r#"{"metadata":{"remainingItemCount":2},"items":[{}]}"#
            }
            _ => return (self.0)(request, body, responder),
        };
        // An agent that has gone doesn't mind.
        let _ = responder.respond(200, &json(), own.as_bytes());
    }
}

pub(crate) fn json() -> Headers {
    content("application/json")
}

pub(crate) fn content(kind: &str) -> Headers {
    [("Content-Type", kind)].into_iter().collect()
}

/// An upstream that says, byte for byte, what no server of ours would: each
/// connection is given to `serve` with the head of its first request read.
pub(crate) fn scripted(
    serve: impl Fn(String, TcpStream) + Send + Sync + 'static,
) -> (SocketAddr, Script) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let serve = Arc::new(serve);
    let stopping = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = stopping.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let serve = serve.clone();
            thread::spawn(move || {
                stream.set_read_timeout(Some(LIMIT)).expect("set");
                if let Some(head) = read_head(&stream) {
                    serve(head, stream);
                }
            });
        }
    });
    (address, Script { address, stopping })
}

/// Ends the upstream when dropped.
pub(crate) struct Script {
    address: SocketAddr,
    stopping: Arc<std::sync::atomic::AtomicBool>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.stopping
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn read_head(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    for (path, body) in [
        ("/version", r#"{"gitVersion":"v1.36.3"}"#),
        ("/api/v1/nodes?limit=1", r#"{"metadata":{},"items":[]}"#),
        ("/api/v1/pods?limit=1", r#"{"metadata":{},"items":[]}"#),
    ] {
        if head.starts_with(&format!("GET {path} ")) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
            return None;
        }
    }
    Some(head)
}
