//! A raw client of exec: the protocol v5.channel.k8s.io, over a WebSocket.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::{Message, WebSocket};

use crate::LIMIT;

/// A command that runs in a container. It is read from by one thread, message by
/// message: while nobody reads, all that it says has to wait on its way.
pub(crate) struct Channels {
    socket: WebSocket<StreamOwned<ClientConnection, TcpStream>>,
}

impl Channels {
    /// In the container `app`, at `server`, as the holder of a token, with an input and
    /// two outputs.
    pub(crate) fn exec(server: &str, ca: &Path, token: &str, pod: &str, words: &[&str]) -> Self {
        let authority = server.trim_start_matches("https://");
        let authority = authority.split('/').next().expect("an authority");
        let tcp = TcpStream::connect(authority).expect("connected");
        tcp.set_read_timeout(Some(LIMIT)).expect("set");
        tcp.set_write_timeout(Some(LIMIT)).expect("set");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let tls = ClientConnection::new(trusting(ca), name).expect("TLS");

        let mut query = "container=app&stdin=true&stdout=true&stderr=true".to_owned();
        for word in words {
            query.push_str("&command=");
            for byte in word.bytes() {
                use std::fmt::Write as _;
                let _ = write!(query, "%{byte:02X}");
            }
        }
        let url = format!("{server}{pod}/exec?{query}").replacen("https", "wss", 1);
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            ("sec-websocket-protocol", "v5.channel.k8s.io".to_owned()),
        ] {
            let value = HeaderValue::try_from(value).expect("a value");
            let name = HeaderName::from_static(name);
            request.headers_mut().insert(name, value);
        }
        let (socket, _) = tungstenite::client(request, StreamOwned::new(tls, tcp))
            .unwrap_or_else(|error| panic!("no upgrade: {error}"));
        Self { socket }
    }

    /// To the command's input.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.send([&[STDIN], bytes].concat());
    }

    pub(crate) fn end_input(&mut self) {
        self.send(vec![CLOSE, STDIN]);
    }

    fn send(&mut self, message: Vec<u8>) {
        self.socket.send(message.into()).expect("sent");
    }

    /// What comes next on its standard output.
    pub(crate) fn hear(&mut self) -> Vec<u8> {
        match self.next() {
            (STDOUT, bytes) => bytes,
            (channel, bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                panic!("on channel {channel}: {text}");
            }
        }
    }

    /// The command's status, which is the last thing that comes; how many bytes came
    /// on its standard output before.
    pub(crate) fn end(mut self) -> (usize, Value) {
        let mut count = 0;
        loop {
            match self.next() {
                (STDOUT, bytes) => count += bytes.len(),
                (STATUS, bytes) => {
                    return (count, serde_json::from_slice(&bytes).expect("a Status"));
                }
                _ => {}
            }
        }
    }

    /// The next message that isn't empty or about the end of a channel.
    fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            let message = self.socket.read().expect("not the end");
            let Message::Binary(bytes) = message else {
                continue;
            };
            match bytes.split_first() {
                Some((&channel, rest)) if channel != CLOSE && !rest.is_empty() => {
                    return (channel, rest.to_vec());
                }
                _ => {}
            }
        }
    }
}

fn trusting(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("a file") {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STATUS: u8 = 3;
/// The next byte says which channel has ended.
const CLOSE: u8 = 255;
