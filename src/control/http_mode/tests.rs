mod properties;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::super::facts::Facts;
use super::super::heartbeat::Reporter;
use super::super::registration::Attempt;
use super::super::registration::tests::registrant;
use super::super::session::ConnectionState;
use super::*;
use crate::net::{ClientTls, ClientTlsSettings, Reason};

/// Takes one request, gives `answer` byte for byte, and returns what it was asked.
fn server(answer: &str) -> (String, JoinHandle<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let answer = answer.to_owned();
    let handle = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let asked = read_request(&stream);
        (&stream).write_all(answer.as_bytes()).expect("written");
        asked
    });
    (url, handle)
}

fn read_request(stream: &TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    (head, serde_json::from_slice(&body).expect("JSON"))
}

fn dialer() -> Dialer {
    let tls = ClientTls::new(ClientTlsSettings::default()).expect("settings");
    Dialer::new(Arc::new(tls))
}

fn api(url: &str) -> HttpApi {
    HttpApi {
        dialer: dialer(),
        api_url: Url::parse(url).expect("a URL"),
        limit: Duration::from_secs(30),
    }
}

fn register(url: &str) -> Result<Registered, Failure> {
    let token = Secret::new("t-1");
    registrant().http_payload(&Attempt::default(), |payload| {
        api(url).register(payload, &token, &Cancel::new())
    })
}

fn answer(status: u16, json: bool, body: &str) -> Answer {
    Answer {
        status,
        is_json: json,
        is_page: false,
        retry_after: None,
        body: body.to_owned(),
    }
}

#[test]
fn a_registration_goes_out_and_its_answer_is_read() {
    let (url, server) = server(
        "HTTP/1.1 201 Created\r\nContent-Type: application/json; charset=utf-8\r\n\
         Transfer-Encoding: chunked\r\n\r\n10\r\n{\"cluster_id\":\"c\r\n4\r\n-1\"}\r\n0\r\n\r\n",
    );
    let registered = register(&format!("{url}/base?x=1")).expect("registered");
    assert_eq!(registered.cluster_id.as_deref(), Some("c-1"));
    let (head, body) = server.join().expect("server");
    assert!(
        head.starts_with("POST /base/api/v1/clusters/agent/register HTTP/1.1\r\n"),
        "{head}"
    );
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nauthorization: bearer t-1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json\r\n"));
    assert_eq!(body["agent_id"], "bench-agent");
    assert_eq!(body["server_specs"]["memory_gb"], 23);
    // Empty members are left out, the token never goes into the body.
    assert!(body.get("k8s_version").is_none() && !body.to_string().contains("t-1"));
    assert!(body.get("cluster_cert_data").is_none());
    assert_eq!(body["cluster_name"], body["name"]);
}

/// A box in between that forbids is not the control plane that refuses us.
#[test]
fn a_forbidding_page_for_people_is_no_refusal() {
    for page in [
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html; charset=utf-8\r\n\
         Content-Length: 6\r\n\r\n<html>",
    ] {
        let (url, server) = server(page);
        let failure = register(&url).expect_err("not registered");
        assert!(matches!(failure, Failure::Other(_)), "{failure:?}");
        server.join().expect("server");
    }
}

#[test]
fn a_heartbeat_has_its_own_shape() {
    let (url, server) = server("HTTP/1.1 204 No Content\r\n\r\n");
    let reporter = Reporter {
        agent_id: "a".into(),
        agent_version: "1".into(),
        is_private: true,
    };
    let facts = Facts::default();
    let payload = reporter.payload("c/1", ConnectionState::Connected, &facts, None);
    let sent = api(&url).heartbeat(&payload, &Secret::new("t"), &Cancel::new());
    assert_eq!(sent, Ok(()));
    let (head, body) = server.join().expect("server");
    assert!(
        head.starts_with("POST /api/v1/clusters/agent/c%2F1/heartbeat "),
        "{head}"
    );
    let fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
    let want = [
        "agent_id",
        "cluster_id",
        "metadata",
        "status",
        "timestamp",
        "tunnel_status",
    ];
    assert_eq!(fields, want);
}

#[test]
fn every_shape_of_an_answer() {
    for body in [
        r#"{"cluster_id":"c"}"#,
        r#"{"success":true,"cluster":{"id":"c"}}"#,
        r#"{"data":{"cluster_id":"c"},"message":"hi"}"#,
    ] {
        for status in [200, 201, 409] {
            let registered = registered(&answer(status, true, body)).expect(body);
            assert_eq!(registered.cluster_id.as_deref(), Some("c"));
        }
    }
    for body in ["{}", "[]", "no", r#"{"cluster_id":""}"#] {
        let failure = registered(&answer(200, true, body)).expect_err(body);
        assert!(matches!(failure, Failure::Unusable(_)), "{failure:?}");
    }
    // A page of a box in between is no refusal.
    let failure = registered(&answer(200, false, "<html>login</html>")).expect_err("a page");
    assert!(matches!(failure, Failure::Other(_)));
    for status in [302, 401, 404, 409, 500] {
        let failure = registered(&answer(status, false, "why\nnot")).expect_err("an error");
        assert!(
            matches!(failure, Failure::Status { code, ref text, .. } if code == status && text == "why not")
        );
    }
}

/// It is the agent's last line, and goes into the log.
#[test]
fn an_answer_that_is_one_long_text_is_not_repeated_whole() {
    let body = format!("\"{}\"", "a".repeat(1 << 20));
    let failure = registered(&answer(200, true, &body)).expect_err("no object");
    let line = failure.to_string();
    assert!(line.len() < 500, "{} bytes", line.len());
}

#[test]
fn redirects_are_not_followed_with_our_token() {
    let (url, server) = server(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    );
    let failure = register(&url).expect_err("an error");
    assert!(
        matches!(failure, Failure::Status { code: 307, .. }),
        "{failure:?}"
    );
    server.join().expect("server");
}

/// The seconds that an answer with this `Retry-After` asks for.
fn asked_to_wait(value: &str) -> Option<Duration> {
    let (url, server) = server(&format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {value}\r\nContent-Length: 4\r\n\r\nbusy",
    ));
    let failure = register(&url);
    server.join().expect("server");
    match failure {
        Err(Failure::Status {
            code: 503,
            retry_after,
            text,
        }) if text == "busy" => retry_after,
        other => panic!("{other:?}"),
    }
}

#[test]
fn retry_after_is_read_in_both_its_forms() {
    assert_eq!(asked_to_wait("17"), Some(Duration::from_secs(17)));
    // Dates count from now, and at most a day.
    let date = asked_to_wait("Tue, 19 Jan 2038 03:14:07 GMT");
    assert_eq!(date, Some(Duration::from_hours(24)));
    let past = asked_to_wait("Wed, 21 Oct 2015 07:28:00 GMT");
    assert_eq!(past, Some(Duration::ZERO));
    assert_eq!(asked_to_wait("soon"), None);
}

#[test]
fn t31_an_endless_answer_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        read_request(&stream);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("head");
        let blanks = vec![b' '; 65_536];
        while stream.write_all(&blanks).is_ok() {}
    });
    let failure = register(&url).expect_err("cut");
    assert_eq!(
        failure.to_string(),
        "the answer is larger than 1048576 bytes"
    );
    server.join().expect("server");
}

#[test]
fn nobody_there_and_garbage_are_errors_of_the_way() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    drop(listener);
    assert!(matches!(register(&url), Err(Failure::Other(_))));
    let (url, server) = server("SSH-2.0-OpenSSH\r\n\r\n");
    assert!(matches!(register(&url), Err(Failure::Other(_))));
    server.join().expect("server");
}

#[test]
fn cancelling_ends_a_call_that_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let cancel = Cancel::new();
    let calling = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            registrant().http_payload(&Attempt::default(), |payload| {
                api(&url).register(payload, &Secret::new("t"), &cancel)
            })
        }
    });
    let (stream, _) = listener.accept().expect("accept");
    read_request(&stream);
    cancel.cancel(Reason::Shutdown);
    assert!(calling.join().expect("returned").is_err());
}
