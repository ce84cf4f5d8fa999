//! Writing messages straight into the buffer that goes out.
//!
//! The order is that of the original (captures): `type`, `request_id`, `payload`,
//! `timestamp`, payload keys alphabetical, a newline at the end.

use std::io::Write;

use serde::Serialize;

use crate::http::{Headers, canonical_name};

/// Writes a whole message: envelope around what `payload` appends (a JSON object).
pub(super) fn message(
    buf: &mut Vec<u8>,
    kind: &str,
    id: Option<&str>,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    buf.extend_from_slice(b"{\"type\":");
    string(buf, kind);
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        buf.extend_from_slice(b",\"request_id\":");
        string(buf, id);
    }
    buf.extend_from_slice(b",\"payload\":");
    payload(buf);
    buf.extend_from_slice(b",\"timestamp\":\"");
    // Writing to a Vec can't fail.
    let _ = write!(buf, "{}", jiff::Timestamp::now());
    buf.extend_from_slice(b"\"}\n");
}

/// A message whose payload is a serde type (its fields in alphabetical order).
pub(super) fn serialized(
    buf: &mut Vec<u8>,
    kind: &str,
    id: Option<&str>,
    payload: &impl Serialize,
) {
    message(buf, kind, id, |buf| value(buf, payload));
}

/// A message with an empty payload.
pub(super) fn empty(buf: &mut Vec<u8>, kind: &str, id: Option<&str>) {
    message(buf, kind, id, |buf| buf.extend_from_slice(b"{}"));
}

pub(super) fn value(buf: &mut Vec<u8>, value: &impl Serialize) {
    let start = buf.len();
    if serde_json::to_writer(&mut *buf, value).is_err() {
        // Only a map with keys that aren't text can get here; none of ours has.
        debug_assert!(false, "a wire type that JSON can't say");
        buf.truncate(start);
        buf.extend_from_slice(b"{}");
    }
}

/// A JSON string. `<`, `>` and `&` stay as they are: either form is valid JSON.
pub(super) fn string(buf: &mut Vec<u8>, text: &str) {
    value(buf, &text);
}

/// A JSON string of standard base64 with padding.
pub(super) fn base64(buf: &mut Vec<u8>, bytes: &[u8]) {
    buf.push(b'"');
    base64_simd::STANDARD.encode_append(bytes, buf);
    buf.push(b'"');
}

/// Headers as an object of string arrays, names in canonical form and sorted;
/// `null` when there are none (control-channel.md §8.6).
pub(super) fn headers(buf: &mut Vec<u8>, headers: &Headers) {
    if headers.is_empty() {
        buf.extend_from_slice(b"null");
        return;
    }
    let mut fields: Vec<(String, &str)> = headers
        .iter()
        .map(|(n, v)| (canonical_name(n), v))
        .collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0)); // stable: values keep their order
    buf.push(b'{');
    for (i, group) in fields.chunk_by(|a, b| a.0 == b.0).enumerate() {
        if i > 0 {
            buf.push(b',');
        }
        string(buf, &group[0].0);
        buf.extend_from_slice(b":[");
        for (j, (_, value)) in group.iter().enumerate() {
            if j > 0 {
                buf.push(b',');
            }
            string(buf, value);
        }
        buf.push(b']');
    }
    buf.push(b'}');
}

pub(super) fn number(buf: &mut Vec<u8>, number: impl Into<u64>) {
    let _ = write!(buf, "{}", number.into());
}

/// Now, as the wire writes times: RFC 3339, up to nine decimals, UTC.
pub fn now_rfc3339() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_appended_in_place() {
        for (bytes, want) in [
            (&b""[..], "\"\""),
            (b"h", "\"aA==\""),
            (b"hello ", "\"aGVsbG8g\""),
        ] {
            let mut buf = b"x".to_vec();
            base64(&mut buf, bytes);
            assert_eq!(String::from_utf8(buf).expect("text"), format!("x{want}"));
        }
    }

    #[test]
    fn headers_are_grouped_sorted_and_canonical() {
        let list: Headers = [("x-b", "1"), ("Content-type", "a/b"), ("X-B", "2")]
            .into_iter()
            .collect();
        let mut buf = Vec::new();
        headers(&mut buf, &list);
        assert_eq!(
            String::from_utf8(buf).expect("text"),
            r#"{"Content-Type":["a/b"],"X-B":["1","2"]}"#
        );
    }

    #[test]
    fn times_are_utc_with_trailing_zeros_dropped() {
        let time: jiff::Timestamp = "2026-03-01T10:00:00.120000+05:30".parse().expect("a time");
        assert_eq!(time.to_string(), "2026-03-01T04:30:00.12Z");
    }
}
