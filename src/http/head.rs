//! The head of a message: its first line and its fields. Pure.
//!
//! Parsing is httparse's, under limits; what the fields say about the body is
//! RFC 9112 §6.3, read strictly: whatever two parsers could understand
//! differently is an error.

use super::body::Framing;
use super::headers::{Headers, is_field_value, is_token, trim_blanks};

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    /// As it came: a path with query mostly.
    pub target: String,
    pub headers: Headers,
    /// The minor version: 1.0 or 1.1.
    pub minor: u8,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
    pub minor: u8,
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the head has more than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("the head has more than {MAX_FIELDS} fields")]
    TooManyFields,
    #[error("not HTTP/1.1: {0}")]
    Syntax(httparse::Error),
    #[error("not HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error("the length of the body is ambiguous: {0}")]
    Length(&'static str),
    #[error("Transfer-Encoding {0}")]
    Encoding(&'static str),
}

impl RequestHead {
    /// Parses a complete head, the empty line included.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        check_lines(head)?;
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        complete(request.parse(head))?;
        Ok(Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            minor: request.version.unwrap_or_default(),
            headers: collect(request.headers),
        })
    }

    /// How long the body is.
    pub fn framing(&self) -> Result<Framing, HeadError> {
        framing(&self.headers, self.minor).map(|framing| framing.unwrap_or(Framing::Length(0)))
    }

    /// The client is willing to send another request on this connection.
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(&self.headers, self.minor)
    }
}

impl ResponseHead {
    /// Parses a complete head, the empty line included.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        check_lines(head)?;
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        complete(response.parse(head))?;
        let status = response.code.unwrap_or_default();
        if !(100..=999).contains(&status) {
            return Err(HeadError::Malformed("the status is out of range"));
        }
        Ok(Self {
            status,
            minor: response.version.unwrap_or_default(),
            headers: collect(response.headers),
        })
    }

    /// How long the body is, in answer to a request of that method.
    pub fn framing(&self, method: &str) -> Result<Framing, HeadError> {
        if method == "HEAD" || !allows_body(self.status) {
            return Ok(Framing::Length(0));
        }
        framing(&self.headers, self.minor).map(|framing| framing.unwrap_or(Framing::UntilClose))
    }

    /// An answer before the answer (RFC 9110 §15.2); 101 is none of these.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// The connection can carry another exchange.
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(&self.headers, self.minor)
    }
}

/// An answer of this status may have a body (RFC 9110 §6.4.1).
pub fn allows_body(status: u16) -> bool {
    !(status < 200 || status == 204 || status == 304)
}

/// Appends the head of a request, the empty line included. `headers` must not
/// have a field that says how long the body is; one that can't be written is left
/// out, and so is any `Host` of theirs.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    host: &str,
    headers: &Headers,
    framing: Option<Framing>,
) {
    debug_assert!(is_token(method) && target.bytes().all(|b| b.is_ascii_graphic()));
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_field(out, "Host", host);
    write_fields(out, headers, &["Host"]);
    if let Some(framing) = framing {
        write_framing(out, framing);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends all fields but those named in `except` and those of framing.
pub(super) fn write_fields(out: &mut Vec<u8>, headers: &Headers, except: &[&str]) {
    for (name, value) in headers.iter() {
        let ours = FRAMING_FIELDS.iter().chain(except);
        if ours.into_iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
            continue;
        }
        write_field(out, name, value);
    }
}

/// Appends one field. A name or value that would end the line is left out: that
/// it can't be written was to be noticed earlier.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    if !is_token(name) || !is_field_value(value) {
        return;
    }
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

pub(super) fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => write_field(out, "Content-Length", &length.to_string()),
        Framing::Chunked => write_field(out, "Transfer-Encoding", "chunked"),
        Framing::UntilClose => {}
    }
}

/// Looks for the end of a head in bytes that come piece by piece; what was looked
/// at once isn't looked at again.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    seen: usize,
    /// Bytes since the last line feed, apart from a CR.
    in_line: bool,
    any: bool,
}

impl HeadScanner {
    /// Looks at the next bytes. The length of the head from its beginning, once
    /// its empty line is there. Empty lines in front of it are allowed
    /// (RFC 9112 §2.2).
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        for &byte in bytes {
            self.seen += 1;
            match byte {
                b'\n' if !self.in_line && self.any => return Ok(Some(self.seen)),
                b'\n' => self.in_line = false,
                b'\r' => {}
                _ => {
                    self.in_line = true;
                    self.any = true;
                }
            }
            if self.seen >= MAX_HEAD {
                return Err(HeadError::TooLarge);
            }
        }
        Ok(None)
    }

    /// Something but empty lines has been seen.
    pub(super) fn has_begun(&self) -> bool {
        self.any
    }
}

/// What the fields say about the body; `None` when they say nothing.
fn framing(headers: &Headers, minor: u8) -> Result<Option<Framing>, HeadError> {
    let mut length: Option<u64> = None;
    for value in headers.get_all("Content-Length") {
        // Several values are one only if they are the same (RFC 9110 §8.6).
        for value in value.split(',') {
            let value = trim_blanks(value);
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(HeadError::Length("Content-Length is not a number"));
            }
            let value: u64 = value
                .parse()
                .map_err(|_| HeadError::Length("Content-Length is too large"))?;
            if length.is_some_and(|length| length != value) {
                return Err(HeadError::Length("several different Content-Length"));
            }
            length = Some(value);
        }
    }
    let mut codings = headers.get_all("Transfer-Encoding");
    let Some(coding) = codings.next() else {
        return Ok(length.map(Framing::Length));
    };
    if length.is_some() {
        return Err(HeadError::Length(
            "both Content-Length and Transfer-Encoding",
        ));
    }
    if minor == 0 {
        return Err(HeadError::Encoding("in HTTP/1.0"));
    }
    if codings.next().is_some() || !trim_blanks(coding).eq_ignore_ascii_case("chunked") {
        return Err(HeadError::Encoding("is something else than \"chunked\""));
    }
    Ok(Some(Framing::Chunked))
}

fn keeps_alive(headers: &Headers, minor: u8) -> bool {
    let says = |what: &str| {
        headers
            .list("Connection")
            .any(|option| option.eq_ignore_ascii_case(what))
    };
    !says("close") && (minor >= 1 || says("keep-alive"))
}

/// httparse takes a bare LF for the end of a line. Others don't, so we don't.
fn check_lines(head: &[u8]) -> Result<(), HeadError> {
    let mut before = 0;
    for &byte in head {
        if byte == b'\n' && before != b'\r' {
            return Err(HeadError::Malformed("a line that ends without CR"));
        }
        before = byte;
    }
    Ok(())
}

fn complete(parsed: httparse::Result<usize>) -> Result<(), HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(HeadError::Malformed("the head has no end")),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyFields),
        Err(error) => Err(HeadError::Syntax(error)),
    }
}

/// Values that aren't UTF-8 can't be carried as they are in JSON; what is wrong
/// in them is replaced, as the original's encoder does.
fn collect(fields: &[httparse::Header<'_>]) -> Headers {
    let text = |value| trim_blanks(&String::from_utf8_lossy(value)).to_owned();
    fields
        .iter()
        .map(|field| (field.name.to_owned(), text(field.value)))
        .collect()
}

/// Fields that say how long a body is: written from [`Framing`], never copied.
const FRAMING_FIELDS: [&str; 2] = ["Content-Length", "Transfer-Encoding"];

/// Largest head in bytes: more than the API server's answers ever have, and as
/// much as common servers take.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most fields in a head.
pub const MAX_FIELDS: usize = 256;

#[cfg(test)]
mod tests;
