//! Clients of the plane's front door: one that knows HTTP, one that sends what it is
//! given.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pipeops_agent::http::client::{Body, Call, CallError, Client, Response, Settings, Source};
use pipeops_agent::http::{Headers, ResponseHead};
use pipeops_agent::net::{
    Cancel, ClientTls, ClientTlsSettings, ConnectOptions, Deadline, Dialer, Endpoint, Halves,
    Reason, Trust,
};
use serde_json::Value;

use super::ca::given;
use super::wait::{LIMIT, far};

/// A user at the front door.
#[derive(Clone)]
pub(crate) struct Front {
    address: SocketAddr,
    dialer: Dialer,
    client: Client,
    token: String,
    pub(crate) cluster: String,
    /// For each request, its whole answer included.
    limit: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The message of a Kubernetes `Status`, which must carry the answer's code.
    pub(crate) fn status_message(&self) -> String {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["code"], self.status, "{status}");
        status["message"].as_str().expect("a message").to_owned()
    }
}

impl Front {
    pub(crate) fn new(address: SocketAddr, ca_pem: &str, token: &str, cluster: &str) -> Self {
        let tls = ClientTls::new(ClientTlsSettings {
            trust: Trust::OnlyGiven,
            ca: vec![given("the plane's certificate", ca_pem)],
            ..ClientTlsSettings::default()
        })
        .expect("usable");
        // It may stop reading for as long as a test wants.
        let dialer = Dialer::new(Arc::new(tls)).with_options(ConnectOptions {
            user_timeout: None,
            ..ConnectOptions::default()
        });
        let client = Client::new(
            endpoint(address),
            address.to_string(),
            dialer.clone(),
            Settings::default(),
        );
        Self {
            address,
            dialer,
            client,
            token: token.to_owned(),
            cluster: cluster.to_owned(),
            limit: LIMIT,
        }
    }

    /// The same user, for what takes longer.
    pub(crate) fn patient(&self) -> Self {
        Self {
            limit: LIMIT * 10,
            ..self.clone()
        }
    }

    /// The same user at another cluster.
    pub(crate) fn at(&self, cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            ..self.clone()
        }
    }

    /// Another user.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    pub(crate) fn target(&self, path: &str) -> String {
        format!("/clusters/{}{path}", self.cluster)
    }

    /// A request; the head of its answer has come.
    pub(crate) fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
        cancel: &Cancel,
    ) -> Result<Response, CallError> {
        let mut all: Headers = headers.iter().copied().collect();
        if !all.contains("Authorization") {
            all.push("Authorization", format!("Bearer {}", self.token));
        }
        let call = Call {
            method,
            target: &self.target(path),
            host: None,
            headers: &all,
            body,
            deadline: Some(Deadline::after(self.limit)),
        };
        self.client.call(&call, cancel)
    }

    /// A request and its whole answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        self.try_ask(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer, CallError> {
        let mut response = self.open(method, path, headers, body, &Cancel::new())?;
        Ok(Answer {
            status: response.status,
            body: response.body.read_all(256 << 20)?,
            headers: response.headers,
        })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], Body::Empty)
    }

    /// A GET whose answer goes on.
    pub(crate) fn watch(&self, path: &str) -> Watch {
        let cancel = Cancel::new();
        let response = self
            .open("GET", path, &[], Body::Empty, &cancel)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(response.status, 200, "GET {path}");
        Watch { response, cancel }
    }

    /// A connection of its own, for bytes that no client would send.
    pub(crate) fn raw(&self) -> Raw {
        let mut halves = self
            .dialer
            .dial(&endpoint(self.address), far(), &Cancel::new())
            .expect("connected");
        halves.set_deadline(Some(far()));
        Raw { halves }
    }

    /// A request line and the fields that every request needs.
    pub(crate) fn head(&self, method: &str, path: &str, more: &str) -> String {
        format!(
            "{method} {} HTTP/1.1\r\nHost: plane\r\nAuthorization: Bearer {}\r\n{more}\r\n",
            self.target(path),
            self.token
        )
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        tls: true,
    }
}

/// An answer that goes on.
pub(crate) struct Watch {
    pub(crate) response: Response,
    cancel: Cancel,
}

impl Watch {
    /// The next piece as it comes; empty at the good end.
    pub(crate) fn piece(&mut self) -> Result<Vec<u8>, CallError> {
        self.response.body.chunk(64 * 1024).map(<[u8]>::to_vec)
    }

    /// Reads `text`, in whatever pieces, and nothing else.
    pub(crate) fn expect(&mut self, text: &str) {
        let mut got = Vec::new();
        while got.len() < text.len() {
            let left = text.len() - got.len();
            let piece = self.response.body.chunk(left).expect("goes on");
            assert!(!piece.is_empty(), "it ended before {text:?}");
            got.extend_from_slice(piece);
        }
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// As Ctrl-C does.
    pub(crate) fn leave(self) {
        self.cancel.cancel(Reason::Cancelled);
    }
}

/// A connection to the front door, byte by byte.
pub(crate) struct Raw {
    halves: Halves,
}

impl Raw {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sent");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.halves.write.write_all(&[IoSlice::new(bytes.as_ref())])
    }

    /// The raw bytes of the next head, interim ones included.
    pub(crate) fn head_bytes(&mut self) -> Vec<u8> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte().expect("a head"));
        }
        head
    }

    pub(crate) fn head(&mut self) -> ResponseHead {
        ResponseHead::parse(&self.head_bytes()).expect("a head")
    }

    /// One chunk of a chunked body; `None` when the connection broke off instead.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.byte()?);
        }
        let line = std::str::from_utf8(&line).expect("text").trim_end();
        let length = usize::from_str_radix(line, 16).expect("a length");
        let chunk = self.exactly(length)?;
        assert_eq!(self.exactly(2)?, b"\r\n");
        Some(chunk)
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let filled = self.halves.read.fill().ok()?;
            let count = filled.len().min(length - bytes.len());
            if count == 0 {
                return None;
            }
            bytes.extend_from_slice(&filled[..count]);
            self.halves.read.consume(count);
        }
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.exactly(1).map(|bytes| bytes[0])
    }

    /// Closes without another word.
    pub(crate) fn cut(self) {
        // It may have been cut from the other side.
        let _ = self.halves.socket.shutdown(Shutdown::Both);
    }
}

/// A body that is there as a whole.
pub(crate) fn full(bytes: impl Into<Vec<u8>>) -> Body {
    Body::Full(Arc::new(bytes.into()))
}

/// A body that is made as it is sent.
pub(crate) fn streamed(
    length: Option<u64>,
    next: impl FnMut() -> Option<Vec<u8>> + Send + 'static,
) -> Body {
    struct Made<F>(parking_lot::Mutex<F>);

    impl<F: FnMut() -> Option<Vec<u8>> + Send> Source for Made<F> {
        fn next(&self) -> io::Result<Option<Vec<u8>>> {
            Ok((self.0.lock())())
        }

        fn stop(&self) {}
    }

    Body::Stream {
        length,
        source: Arc::new(Made(parking_lot::Mutex::new(next))),
    }
}

/// A body whose pieces come from the other end of a channel; it ends when that is
/// dropped.
pub(crate) fn piped(length: Option<u64>) -> (crossbeam_channel::Sender<Vec<u8>>, Body) {
    struct Piped(
        crossbeam_channel::Receiver<Vec<u8>>,
        crossbeam_channel::Receiver<()>,
        parking_lot::Mutex<Option<crossbeam_channel::Sender<()>>>,
    );

    impl Source for Piped {
        fn next(&self) -> io::Result<Option<Vec<u8>>> {
            crossbeam_channel::select! {
                recv(self.0) -> piece => Ok(piece.ok()),
                recv(self.1) -> _ => Err(io::ErrorKind::Interrupted.into()),
            }
        }

        fn stop(&self) {
            self.2.lock().take();
        }
    }

    let (sender, pieces) = crossbeam_channel::bounded(1);
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let source = Arc::new(Piped(pieces, stopped, parking_lot::Mutex::new(Some(stop))));
    (sender, Body::Stream { length, source })
}
