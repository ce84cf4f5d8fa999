use std::convert::Infallible;

use super::*;
use crate::wire::Envelope;

fn text(encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut buf = Vec::new();
    encode(&mut buf);
    String::from_utf8(buf).expect("text")
}

fn whole(
    buf: &mut Vec<u8>,
    id: &str,
    status: u16,
    headers: &Headers,
    body: &[u8],
    encoding: Encoding,
) {
    let written = proxy_response(buf, id, status, headers, |text| {
        text.push(body);
        Ok::<_, Infallible>(encoding)
    });
    let Ok(()) = written;
}

fn without_time(message: &str) -> &str {
    message.split(",\"timestamp\":\"").next().expect("a part")
}

#[test]
fn a_buffered_answer_has_the_shape_of_the_original() {
    let headers: Headers = [("content-type", "application/json")].into_iter().collect();
    let got = text(|buf| whole(buf, "px-81", 200, &headers, b"{}", Encoding::Base64));
    assert_eq!(
        without_time(&got),
        r#"{"type":"proxy_response","request_id":"px-81","payload":{"body":"e30=","encoding":"base64","headers":{"Content-Type":["application/json"]},"status":200}"#
    );
    assert!(got.ends_with("Z\"}\n"));
}

#[test]
fn an_empty_body_has_neither_body_nor_encoding() {
    let got = text(|buf| whole(buf, "r", 204, &Headers::new(), b"", Encoding::Gzip));
    let want =
        r#"{"type":"proxy_response","request_id":"r","payload":{"headers":null,"status":204}"#;
    assert_eq!(without_time(&got), want);
}

#[test]
fn a_chunk_has_the_shape_of_the_original() {
    let got = text(|buf| proxy_response_chunk(buf, "px-82", |data| data.push(b"world")));
    assert_eq!(
        without_time(&got),
        r#"{"type":"proxy_response_chunk","request_id":"px-82","payload":{"data":"d29ybGQ=","encoding":"base64","size":5}"#
    );
}

#[test]
fn ids_are_escaped() {
    let got = text(|buf| proxy_response_end(buf, "a\"\n"));
    let envelope = Envelope::parse(&got).expect("valid");
    assert_eq!(envelope.request_id.as_deref(), Some("a\"\n"));
}

#[test]
fn what_the_agent_writes_the_plane_reads() {
    let headers: Headers = [("A", "1")].into_iter().collect();
    let got = text(|buf| whole(buf, "r", 201, &headers, b"hi", Encoding::Gzip));
    let envelope = Envelope::parse(&got).expect("valid");
    match FromAgent::parse(&envelope) {
        FromAgent::ProxyResponse {
            status: 201,
            headers: h,
            body: ResponseBody::Gzip(body),
        } => {
            assert_eq!((h, body.as_ref()), (headers, "aGk="));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_fallback_strips_line_ends_from_the_id() {
    let got = text(|buf| protocol_fallback(buf, "x", Some("a\r\nb")));
    let envelope = Envelope::parse(&got).expect("valid");
    assert_eq!(
        envelope.payload.str("original_request_id").as_deref(),
        Some("ab")
    );
    assert_eq!(envelope.request_id, None);
}
