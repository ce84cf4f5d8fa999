//! `proxy.memory_limit` is a limit of memory: what the process really takes for
//! bodies, whatever the mix, stays near it. A process of its own, because it counts
//! all bytes of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64_simd::STANDARD as BASE64;
use pipeops_agent::http::Client;
use pipeops_agent::http::client;
use pipeops_agent::link::{Message, SendError};
use pipeops_agent::net::{Cancel, ClientTls, ClientTlsSettings, Dialer, Endpoint, Trust};
use pipeops_agent::proxy::{Executor, Outlet, Requests, Settings, Upstreams};
use pipeops_agent::wire::{Envelope, ProxyRequest};
use serde_json::json;

/// Counts the bytes that are in use, and their peak.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let used = USED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(used, Ordering::Relaxed);
}

// SAFETY: everything is the system's allocator's doing; this only counts. What is
// moved counts twice for as long as it takes: `realloc` is the default one.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A peer that takes nothing for a while: messages wait, as in a lane.
#[derive(Default)]
struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: bool,
    waiting: usize,
    answers: usize,
    refusals: usize,
    others: Vec<String>,
}

impl Outlet for Lane {
    fn send(&self, _: &str, _: Message, _: &Cancel) -> Result<(), SendError> {
        Ok(())
    }

    fn send_late(&self, _: &str, message: Message, _: &Cancel) -> Result<(), SendError> {
        let mut state = self.state.lock().expect("lock");
        state.waiting += 1;
        self.changed.notify_all();
        while !state.open {
            state = self.changed.wait(state).expect("lock");
        }
        let text = String::from_utf8_lossy(message.payload());
        if text.starts_with(r#"{"type":"proxy_response""#) {
            state.answers += 1;
        } else if text.contains("proxy.memory_limit") {
            state.refusals += 1;
        } else {
            state.others.push(text.into_owned());
        }
        self.changed.notify_all();
        Ok(())
    }

    fn abort(&self, why: &str) {
        panic!("the connection is given up: {why}");
    }
}

impl Lane {
    fn wait_until(&self, done: impl Fn(&State) -> bool) {
        let limit = Instant::now() + Duration::from_mins(2);
        let mut state = self.state.lock().expect("lock");
        while !done(&state) {
            assert!(Instant::now() < limit, "it never happened");
            let second = Duration::from_secs(1);
            state = self.changed.wait_timeout(state, second).expect("lock").0;
        }
    }
}

/// Answers as its path says: `/api/declared` or `/api/chunked`, text or not. Neither
/// reads nor answers what is posted.
fn serve(stream: &TcpStream, body: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::with_capacity(512, stream).lines();
    let line = lines.next().expect("a request")?;
    while !lines.next().expect("a head")?.is_empty() {}
    while line.starts_with("POST") {
        thread::park();
    }
    let kind = if line.contains("text") {
        "text/plain"
    } else {
        "application/octet-stream"
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n"
    )?;
    if line.contains("declared") {
        write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
        return stream.write_all(body);
    }
    write!(stream, "Transfer-Encoding: chunked\r\n\r\n")?;
    for piece in body.chunks(10_000) {
        write!(stream, "{:x}\r\n", piece.len())?;
        stream.write_all(piece)?;
        stream.write_all(b"\r\n")?;
    }
    stream.write_all(b"0\r\n\r\n")
}

/// An upstream that answers with `body`.
fn upstream(body: &'static [u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(&stream, body));
        }
    });
    let tls = ClientTlsSettings {
        trust: Trust::OnlyGiven,
        insecure_skip_verify: true,
        ..ClientTlsSettings::default()
    };
    let dialer = Dialer::new(Arc::new(ClientTls::new(tls).expect("settings")));
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port,
        tls: false,
    };
    Client::new(endpoint, "upstream", dialer, client::Settings::default())
}

fn hear(requests: &mut Requests, text: &str) {
    let envelope = Envelope::parse(text).expect("an envelope");
    let id = envelope.request_id.as_deref().expect("an id");
    match &*envelope.kind {
        "proxy_request" => {
            let request = ProxyRequest::parse(&envelope.payload, envelope.timestamp);
            requests.request(id, request);
        }
        _ => requests.chunk(id, envelope.payload.str("data").as_deref()),
    }
}

/// Text that doesn't compress much: base64 of noise.
fn noise(length: usize) -> String {
    let mut random = fastrand::Rng::with_seed(1);
    let bytes: Vec<u8> = (0..length / 4 * 3).map(|_| random.u8(..)).collect();
    BASE64.encode_to_string(bytes)
}

const LIMIT: usize = 48 << 20;
const BODY: usize = 2 << 20;

/// Read buffers of connections, what is small, and the 8 MiB of buffers that wait to be
/// used again (`proxy::Settings::memory_limit`): pieces of bodies go back there.
const BESIDE: usize = 12 << 20;

#[test]
fn the_worst_mix_stays_near_the_limit() {
    let body = noise(BODY).leak();
    let paths = ["declared", "chunked", "declared/text", "chunked/text"];
    let gets: Vec<String> = (0..60)
        .map(|n| {
            let path = format!("/api/{}", paths[n % 4]);
            json!({"type": "proxy_request", "request_id": format!("g{n}"), "payload": {"path": path}})
                .to_string()
        })
        .collect();
    let mut uploads = Vec::new();
    for n in 0..4 {
        let id = format!("u{n}");
        let request = json!({
            "type": "proxy_request", "request_id": id,
            "payload": {"method": "POST", "path": "/api/declared", "streaming": true, "timeout": "1h"},
        });
        uploads.push(request.to_string());
        for piece in [20_000, 300_000, 700, 1_000_000] {
            let chunk = json!({
                "type": "proxy_request_chunk", "request_id": id,
                "payload": {"data": &body[..piece]},
            });
            uploads.push(chunk.to_string());
        }
    }
    let whole = json!({
        "type": "proxy_request", "request_id": "w",
        "payload": {"method": "POST", "path": "/api/chunked", "body": &*body, "body_encoding": "base64"},
    })
    .to_string();

    let settings = Settings {
        memory_limit: LIMIT,
        ..Settings::default()
    };
    let upstreams = Upstreams {
        callers: upstream(body.as_bytes()),
        agent: None,
        base: String::new(),
    };
    let executor = Executor::new(settings, Some(upstreams));
    let lane = Arc::new(Lane::default());
    let mut requests = executor.connection(lane.clone());
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);

    hear(&mut requests, &whole);
    for text in uploads.iter().chain(&gets) {
        hear(&mut requests, text);
    }
    // Every one of them has an answer, or is refused, and can't get rid of it.
    lane.wait_until(|state| state.waiting >= gets.len());
    let held = executor.load().memory;
    let really = USED.load(Ordering::Relaxed) - before;
    let peak = PEAK.load(Ordering::Relaxed) - before;

    assert!(peak <= LIMIT + BESIDE, "{peak} bytes at the worst time");
    assert!(really <= held + BESIDE, "{really} bytes, {held} counted");
    // It was hard enough.
    assert!(held >= LIMIT / 2, "{held}");

    lane.state.lock().expect("lock").open = true;
    lane.changed.notify_all();
    lane.wait_until(|state| state.answers + state.refusals >= gets.len());
    let state = lane.state.lock().expect("lock");
    assert!(state.answers > 0 && state.refusals > 0);
    assert_eq!(state.others, [""; 0]);
}
