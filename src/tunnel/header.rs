//! The header that a gateway writes first on every stream (tunnels.md §3.1), and
//! version 2 of it, which our own plane may use: version 1 plus one string, the
//! client's `address:port` (decisions.md §6.6 "Client address").
//!
//! Pure: bytes in any split go in, a [`Header`] comes out.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::Protocol;
use crate::config::is_label;

/// What a stream asks for, as it was sent: whether the names can be names depends
/// on where they lead: [`Names::of_service`], [`Names::of_route`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub protocol: Protocol,
    /// Of the Service; without meaning where a route decides.
    pub port: u16,
    pub service: String,
    pub namespace: String,
    pub tunnel_id: String,
    /// Who is behind the stream; only version 2 says so.
    pub client: Option<SocketAddr>,
}

/// Which header a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    One = 1,
    /// Only where the feature was agreed on: a gateway of others never sends it.
    Two = 2,
}

/// Why a stream's header is refused. The stream ends; nobody was dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("tunnel header of version {0}, which was not agreed on")]
    Version(u8),
    #[error("tunnel header with protocol {0}; 1 is TCP, 2 is UDP")]
    Protocol(u8),
    #[error("tunnel header: the {field} has {length} bytes, at most {MAX_STRING} are allowed")]
    TooLong { field: &'static str, length: usize },
    #[error("tunnel header: the client is not an address with a port")]
    Client,
    #[error("tunnel header: {text:?} can't be the {field}")]
    Name { field: &'static str, text: String },
    #[error("tunnel header: port 0")]
    Port,
    #[error("the stream ended after {0} bytes of its tunnel header")]
    Ended(usize),
    #[error("no complete tunnel header in time, but {0} bytes of it")]
    Late(usize),
}

impl HeaderError {
    fn name(field: &'static str, text: &str) -> Self {
        Self::Name {
            field,
            text: text.to_owned(),
        }
    }
}

/// Collects a header from bytes that come in any split.
#[derive(Debug)]
pub struct HeaderParser {
    newest: Version,
    /// What has come of it, at most [`MAX_HEADER`] bytes.
    bytes: Vec<u8>,
}

impl HeaderParser {
    pub fn new(newest: Version) -> Self {
        Self {
            newest,
            bytes: Vec::new(),
        }
    }

    /// Takes from `input` what belongs to the header, and returns it once it is
    /// complete: what is left of `input` is payload. Not to be called after that,
    /// nor after an error.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Header>, HeaderError> {
        loop {
            let wanted = match self.scan()? {
                Scan::Complete(strings) => return self.header(&strings).map(Some),
                Scan::Wanted(wanted) => wanted,
            };
            let (ours, rest) = input.split_at(input.len().min(wanted - self.bytes.len()));
            if ours.is_empty() {
                return Ok(None);
            }
            self.bytes.extend_from_slice(ours);
            *input = rest;
        }
    }

    /// What to say of a stream that ends now.
    pub fn ended(&self) -> HeaderError {
        HeaderError::Ended(self.bytes.len())
    }

    /// What to say of a stream whose time for it is over.
    pub fn late(&self) -> HeaderError {
        HeaderError::Late(self.bytes.len())
    }

    /// What there is so far. Rubbish is seen as early as it can be.
    fn scan(&self) -> Result<Scan, HeaderError> {
        let bytes = &self.bytes[..];
        let fields = match bytes.first() {
            None => return Ok(Scan::Wanted(FIXED)),
            Some(1) => 3,
            Some(2) if self.newest == Version::Two => 4,
            Some(&version) => return Err(HeaderError::Version(version)),
        };
        match bytes.get(1) {
            Some(1 | 2) | None => {}
            Some(&other) => return Err(HeaderError::Protocol(other)),
        }
        let mut strings = [const { 0..0 }; FIELDS.len()];
        let mut at = FIXED;
        for (place, field) in strings.iter_mut().zip(FIELDS).take(fields) {
            let start = at + 2;
            let Some(length) = bytes.get(at..start) else {
                return Ok(Scan::Wanted(start));
            };
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            if length > MAX_STRING {
                return Err(HeaderError::TooLong { field, length });
            }
            at = start + length;
            if bytes.len() < at {
                return Ok(Scan::Wanted(at));
            }
            *place = start..at;
        }
        Ok(Scan::Complete(strings))
    }

    fn header(&self, strings: &Strings) -> Result<Header, HeaderError> {
        // Bytes that are no text fail where names are checked; elsewhere they are
        // only shown.
        let [service, namespace, tunnel_id, client] = strings
            .clone()
            .map(|place| String::from_utf8_lossy(&self.bytes[place]).into_owned());
        Ok(Header {
            protocol: if self.bytes[1] == Protocol::Udp.number() {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            port: u16::from_be_bytes([self.bytes[2], self.bytes[3]]),
            service,
            namespace,
            tunnel_id,
            client: match client.as_str() {
                "" => None,
                client => Some(client.parse().map_err(|_| HeaderError::Client)?),
            },
        })
    }
}

/// How much of a header there is.
enum Scan {
    /// It takes so many bytes to get further.
    Wanted(usize),
    Complete(Strings),
}

/// Where the strings lie; empty for those that the version doesn't have.
type Strings = [Range<usize>; FIELDS.len()];

/// Where a stream or a request wants to go, unchecked.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub namespace: &'a str,
    pub service: &'a str,
    pub port: u16,
}

impl Names<'_> {
    /// Checks that they can be those of a Service: DNS labels, and a port
    /// (tunnels.md T14). Dots have no place in them: a name must not reach beyond
    /// its namespace.
    pub fn of_service(&self) -> Result<(), HeaderError> {
        for (field, text) in [
            ("service name", self.service),
            ("namespace", self.namespace),
        ] {
            if !is_label(text) {
                return Err(HeaderError::name(field, text));
            }
        }
        if self.port == 0 {
            return Err(HeaderError::Port);
        }
        Ok(())
    }

    /// Checks that they can be keys of routes of a plain machine, namespace and name:
    /// those of hosts, dots allowed, or empty. The port means nothing there.
    pub fn of_route(&self) -> Result<(&str, &str), HeaderError> {
        for (field, text) in [
            ("service name", self.service),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() && !is_host_name(text) {
                return Err(HeaderError::name(field, text));
            }
        }
        Ok((self.namespace, self.service))
    }
}

impl Header {
    /// Where it wants to go.
    pub fn names(&self) -> Names<'_> {
        Names {
            namespace: &self.namespace,
            service: &self.service,
            port: self.port,
        }
    }

    /// The header's bytes. Version 1 leaves the client out.
    pub fn encode(&self, version: Version) -> Result<Vec<u8>, HeaderError> {
        let mut out = vec![version as u8, self.protocol.number()];
        out.extend(self.port.to_be_bytes());
        let client = self.client.map(|client| client.to_string());
        let strings = [
            self.service.as_str(),
            &self.namespace,
            &self.tunnel_id,
            client.as_deref().unwrap_or(""),
        ];
        let count = if version == Version::Two { 4 } else { 3 };
        for (text, field) in strings.into_iter().zip(FIELDS).take(count) {
            let length = text.len();
            if length > MAX_STRING {
                return Err(HeaderError::TooLong { field, length });
            }
            out.extend((length as u16).to_be_bytes());
            out.extend(text.as_bytes());
        }
        Ok(out)
    }
}

/// A name that an operator could have written as a route: labels with dots, in any
/// case, with underscores.
fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
}

/// For the fuzzer: any bytes, in splits that they choose themselves, are a header or
/// an error, the same as in one piece; and a header survives being written.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else {
        return;
    };
    let newest = if seed & 1 == 0 {
        Version::One
    } else {
        Version::Two
    };
    let step = usize::from(seed >> 1).max(1);
    let mut parser = HeaderParser::new(newest);
    let mut rest = bytes;
    let whole = parser.feed(&mut rest);
    let mut parser = HeaderParser::new(newest);
    let mut pieces = bytes.chunks(step);
    let mut left = 0;
    let split = loop {
        let Some(mut piece) = pieces.next() else {
            break Ok(None);
        };
        match parser.feed(&mut piece) {
            Ok(None) => assert!(piece.is_empty(), "took all there was"),
            done => {
                left = piece.len() + pieces.map(<[u8]>::len).sum::<usize>();
                break done;
            }
        }
    };
    assert_eq!(whole, split);
    if let Ok(Some(header)) = whole {
        assert_eq!(rest.len(), left);
        assert!(bytes.len() - rest.len() <= MAX_HEADER);
        // Bytes that are no text grow when they are replaced.
        if let Ok(encoded) = header.encode(Version::Two) {
            let again = HeaderParser::new(Version::Two).feed(&mut &encoded[..]);
            assert_eq!(again, Ok(Some(header)));
        }
    }
}

/// A header that isn't complete by then is refused (tunnels.md T12).
pub const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// Largest header, in bytes.
pub const MAX_HEADER: usize = FIXED + 4 * (2 + MAX_STRING);

/// Names of Kubernetes have at most 253 bytes; the wire could carry 65,535.
const MAX_STRING: usize = 255;

/// Version, protocol, port.
const FIXED: usize = 4;

/// The strings, in their order.
const FIELDS: [&str; 4] = ["service name", "namespace", "tunnel id", "client address"];

#[cfg(test)]
mod tests;
