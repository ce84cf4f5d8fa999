//! What tests of callers need: a server that does as it is told, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::client::Settings;
use super::{Client, Headers};
use crate::net::testing::listen;
use crate::net::{ClientTls, ClientTlsSettings, Dialer, Endpoint, Trust};

/// A listener that accepts when the test says so.
pub(crate) struct Upstream {
    listener: Socket,
    pub(crate) address: SocketAddr,
}

impl Upstream {
    pub(crate) fn new() -> Self {
        let (listener, address) = listen();
        let listener = Socket::from(listener);
        listener.set_read_timeout(Some(FAR)).expect("limit");
        Self { listener, address }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            tls: false,
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(Settings::default())
    }

    pub(crate) fn client_with(&self, settings: Settings) -> Client {
        let host = self.address.to_string();
        Client::new(self.endpoint(), host, plain_dialer(), settings)
    }

    pub(crate) fn accept(&self) -> Peer {
        let (socket, _) = self.listener.accept().expect("nobody came");
        Peer::new(socket.into())
    }

    /// True when a connection waits to be accepted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.listener.set_nonblocking(true).expect("option");
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).expect("option");
        accepted.is_ok()
    }
}

pub(crate) fn plain_dialer() -> Dialer {
    let settings = ClientTlsSettings {
        trust: Trust::OnlyGiven,
        insecure_skip_verify: true, // no TLS here, so no authorities to read
        ..ClientTlsSettings::default()
    };
    Dialer::new(Arc::new(ClientTls::new(settings).expect("settings")))
}

/// The server's end of a connection.
pub(crate) struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A request as it came, parsed by rules of its own: strictly.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) line: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) chunked: bool,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(FAR)).expect("limit");
        stream.set_write_timeout(Some(FAR)).expect("limit");
        stream.set_nodelay(true).expect("option");
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// For a test that speaks TLS on it.
    pub(crate) fn into_socket(self) -> Socket {
        self.stream.into()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("written");
    }

    /// Sends as much as the other end takes before it closes.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The request line, if a request comes.
    pub(crate) fn try_head(&mut self) -> Option<String> {
        let mut first = [0; 1];
        if self.stream.peek(&mut first).ok()? == 0 {
            return None;
        }
        Some(self.head().0)
    }

    /// Sends an answer with its length.
    pub(crate) fn answer(&mut self, status: &str, body: &str) {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }

    pub(crate) fn head(&mut self) -> (String, Headers) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte());
        }
        let head = String::from_utf8(head).expect("the head is text");
        let mut lines = head
            .strip_suffix("\r\n\r\n")
            .expect("its end")
            .split("\r\n");
        let line = lines.next().expect("a request line").to_owned();
        let field = |line: &str| {
            assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
            let (name, value) = line.split_once(':').expect("a colon");
            assert!(!name.is_empty() && !name.contains([' ', '\t']), "{line:?}");
            (name.to_owned(), value.trim().to_owned())
        };
        (line, lines.map(field).collect())
    }

    pub(crate) fn request(&mut self) -> Raw {
        let (line, headers) = self.head();
        let one = |name: &str| {
            let values: Vec<_> = headers.get_all(name).collect();
            assert!(values.len() <= 1, "{name}: {values:?}");
            values.first().map(|value| (*value).to_owned())
        };
        assert!(one("Host").is_some(), "no Host");
        let coding = one("Transfer-Encoding");
        let length = one("Content-Length");
        assert!(coding.is_none() || length.is_none(), "two lengths");
        let body = match (&coding, length) {
            (None, None) => Vec::new(),
            (None, Some(length)) => self.exactly(length.parse().expect("a number")),
            (Some(coding), _) => {
                assert_eq!(coding, "chunked");
                self.chunks()
            }
        };
        Raw {
            line,
            headers,
            body,
            chunked: coding.is_some(),
        }
    }

    /// The next chunk of a chunked body; empty is the last.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line.push(char::from(self.byte()));
        }
        let size = usize::from_str_radix(line.trim_end(), 16).expect("a size");
        let data = self.exactly(size);
        assert_eq!(self.exactly(2), b"\r\n");
        data
    }

    pub(crate) fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                return body;
            }
            body.extend_from_slice(&chunk);
        }
    }

    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// Waits for the end of the connection, throwing away what comes before.
    pub(crate) fn wait_for_end(&mut self) {
        self.unread.clear();
        let mut buf = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    assert!(
                        !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                        "the connection is still open"
                    );
                    return;
                }
            }
        }
    }

    /// Nothing has come that was not read, and the connection is open.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("option");
        let got = self.stream.read(&mut [0; 1]);
        self.stream.set_nonblocking(false).expect("option");
        self.unread.is_empty() && matches!(got, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    fn byte(&mut self) -> u8 {
        if self.unread.is_empty() {
            let mut buf = vec![0; 16 * 1024];
            let count = self.stream.read(&mut buf).expect("read");
            assert_ne!(count, 0, "the connection has ended");
            buf.truncate(count);
            buf.reverse();
            self.unread = buf;
        }
        self.unread.pop().expect("just read")
    }
}

/// Only a hung test waits for so long.
pub(crate) const FAR: Duration = Duration::from_mins(1);
