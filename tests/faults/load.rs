//! Many at once, slow ones among them: nobody else notices
//! (decisions.md §6.2 "At once", "Memory").

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pipeops_agent::http::server::{Request, RequestBody, Responder};

use crate::support::front::{Front, Watch, streamed};
use crate::support::house::House;
use crate::support::pattern::{Check, PIECE, piece};
use crate::support::process::{AgentProcess, AgentSettings, PlaneProcess, is_release};
use crate::support::sockets::patient;
use crate::support::upstream::{Upstream, content, json};
use crate::support::wait::{LIMIT, figure};

const WATCHES: usize = 256;

/// Ends what waits for it.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.changed.wait(&mut rung);
        }
    }
}

/// Bytes of each of the two large transfers.
pub(crate) fn bulk() -> u64 {
    let mib = std::env::var("PIPEOPS_TEST_BULK_MIB").ok();
    let default = if is_release() { 1024 } else { 64 };
    mib.map_or(default, |mib| mib.parse().expect("a number")) << 20
}

fn serve(request: &Request, body: RequestBody, responder: Responder, bell: &Bell) {
    let target = request.target.as_str();
    let size = target
        .split("size=")
        .nth(1)
        .and_then(|size| size.parse().ok());
    match target {
        _ if target.contains("watch=") => {
            // Whoever leaves early doesn't mind.
            let Ok(mut writer) = responder.start(200, &json(), None) else {
                return;
            };
            let _ = writer.write(b"{\"type\":\"ADDED\"}\n");
            bell.wait();
            let _ = writer.write(b"{\"type\":\"MODIFIED\"}\n");
            let _ = writer.finish();
        }
        _ if request.method == "PUT" => take(body, responder, target, bell),
        _ => match size {
            Some(size) => give(responder, size),
            None => drop(responder.respond(200, &json(), b"{}")),
        },
    }
}

pub(crate) fn give(responder: Responder, size: u64) {
    let kind = content("application/octet-stream");
    let Ok(mut writer) = responder.start(200, &kind, Some(size)) else {
        return;
    };
    let mut sent = 0;
    while sent < size {
        let piece = piece(sent, size);
        if writer.write(piece).is_err() {
            return;
        }
        sent += piece.len() as u64;
    }
    let _ = writer.finish();
}

/// `lazy`: not before the bell rings. `slow`: 10 KiB/s until then.
fn take(mut body: RequestBody, responder: Responder, target: &str, bell: &Bell) {
    if target.contains("lazy") {
        bell.wait();
    }
    let mut check = Check::default();
    loop {
        if target.contains("slow") && !*bell.rung.lock() {
            std::thread::sleep(Duration::from_millis(100));
        }
        let most = if target.contains("slow") { 1024 } else { PIECE };
        match body.chunk(most) {
            Ok([]) => break,
            Ok(bytes) => check.take(bytes),
            Err(_) => return,
        }
    }
    drop(body);
    let received = check.received.to_string();
    let _ = responder.respond(200, &content("text/plain"), received.as_bytes());
}

fn upload(front: &Front, path: &str, size: u64) -> u64 {
    upload_as(front, path, size, Some(size))
}

/// `length`: what is said of it; in chunks, if nothing is.
fn upload_as(front: &Front, path: &str, size: u64, length: Option<u64>) -> u64 {
    let mut sent = 0;
    let body = streamed(length, move || {
        let next = piece(sent, size).to_vec();
        sent += next.len() as u64;
        (!next.is_empty()).then_some(next)
    });
    let answer = front.ask("PUT", path, &[], body);
    assert_eq!(answer.status, 200, "PUT {path}");
    String::from_utf8_lossy(&answer.body)
        .parse()
        .expect("a number")
}

pub(crate) fn download(front: &Front, path: &str, mut pause: impl FnMut()) -> u64 {
    let mut answer = front.watch(path);
    let mut check = Check::default();
    loop {
        pause();
        let piece = answer.response.body.chunk(PIECE).expect("goes on");
        if piece.is_empty() {
            return check.received;
        }
        check.take(piece);
    }
}

/// Lets everybody come to an end, also when the test has failed.
struct Ending<'a> {
    done: &'a AtomicBool,
    bell: &'a Bell,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.bell.ring();
    }
}

#[test]
fn t9_watches_bulk_slow_clients_and_slow_upstreams_at_once() {
    let bell = Arc::new(Bell::default());
    let ringer = bell.clone();
    let upstream = Upstream::start_tls(move |request, body, responder| {
        serve(&request, body, responder, &ringer);
    });
    let plane = PlaneProcess::start();
    let mut agent = AgentProcess::ready_with(&AgentSettings {
        upstream: Some(&upstream),
        more: &[("logging.level", "info")],
        ..plane.settings()
    });
    plane.attached("edge");
    figure("agent, idle: KiB resident", agent.process.resident());
    let front = plane.front("edge").patient();
    let mut watches: Vec<Watch> = (0..WATCHES)
        .map(|number| front.watch(&format!("/api/v1/pods?watch={number}")))
        .collect();
    for watch in &mut watches {
        watch.expect("{\"type\":\"ADDED\"}\n");
    }
    // Watches take no place from anybody.
    assert_eq!(front.get("/api/v1/pods").status, 200);
    figure("agent, 256 watches: KiB resident", agent.process.resident());
    figure("agent, 256 watches: threads", agent.process.threads());
    figure("plane, 256 watches: KiB resident", plane.process.resident());

    let size = bulk();
    let done = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let _ending = Ending {
            done: &done,
            bell: &bell,
        };
        // One that reads nothing, one that reads 10 KiB/s; until the bell rings.
        let lazy = front.watch("/api/v1/large?size=33554432");
        let slow = scope.spawn(|| {
            download(&front, "/api/v1/large?size=4194304", || {
                if !*bell.rung.lock() {
                    std::thread::sleep(Duration::from_secs(6)); // for 64 KiB
                }
            })
        });
        // Targets of the same kind.
        let targets = ["/api/v1/upload?lazy", "/api/v1/upload?slow"].map(|path| {
            let front = &front;
            scope.spawn(move || upload(front, path, 4 << 20))
        });
        let up = scope.spawn(|| upload(&front, "/api/v1/upload", size));
        let down = scope.spawn(|| download(&front, &format!("/api/v1/large?size={size}"), || {}));
        let short = scope.spawn(|| {
            let (mut served, mut longest) = (0, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(front.get("/api/v1/pods").status, 200);
                longest = longest.max(asked.elapsed());
                served += 1;
            }
            (served, longest)
        });
        assert_eq!(up.join().expect("arrived"), size);
        figure("upload took", format!("{:?}", begun.elapsed()));
        assert_eq!(down.join().expect("arrived"), size);
        figure("both transfers took", format!("{:?}", begun.elapsed()));
        done.store(true, Ordering::Relaxed);
        let (served, longest) = short.join().expect("all served");
        figure("short requests meanwhile", served);
        figure("the longest of them", format!("{longest:?}"));
        assert!(longest < LIMIT && served > 0);
        figure("agent: KiB resident at most", agent.process.peak());
        figure("plane: KiB resident at most", plane.process.peak());
        figure("agent: threads", agent.process.threads());
        // Whoever was slow gets everything.
        bell.ring();
        let mut lazy = lazy;
        let mut check = Check::default();
        loop {
            let piece = lazy.piece().expect("goes on");
            if piece.is_empty() {
                break;
            }
            check.take(&piece);
        }
        assert_eq!(check.received, 32 << 20);
        assert_eq!(slow.join().expect("arrived"), 4 << 20);
        for target in targets {
            assert_eq!(target.join().expect("arrived"), 4 << 20);
        }
    });
    for watch in &mut watches {
        watch.expect("{\"type\":\"MODIFIED\"}\n");
        assert_eq!(watch.piece().expect("a good end"), b"");
    }
    let peak = agent.process.peak();
    figure("agent: KiB resident at most, in the end", peak);
    if is_release() {
        assert!(peak < 64 * 1024, "{peak} KiB");
    }
    let peak = plane.process.peak();
    figure("plane: KiB resident at most, in the end", peak);
    if is_release() {
        assert!(peak < 64 * 1024, "{peak} KiB in the plane");
    }
    let clusters = plane.clusters();
    assert_eq!(agent.process.terminate(), Some(0), "{clusters}");
}

/// Nobody says how much it will be; an origin stands for a Service. Some 9 MiB were seen in
/// each, whatever the size.
fn upload_to_a_service(way: &str, upload: impl FnOnce(&PlaneProcess, u64) -> u64) {
    let origin = Upstream::start(|request, body, responder| {
        assert_eq!(request.headers.get("Transfer-Encoding"), Some("chunked"));
        take(body, responder, "", &Bell::default());
    });
    let plane = PlaneProcess::start();
    let address = format!("http://{}", origin.address());
    let mut agent = AgentProcess::ready_with(&AgentSettings {
        more: &[("daemon.default_origin", &address)],
        forwards: &[("web", origin.address())],
        ..plane.settings()
    });
    plane.attached("edge");
    let size = bulk();
    assert_eq!(upload(&plane, size), size);
    for (name, process) in [("agent", &agent.process), ("plane", &plane.process)] {
        let peak = process.peak();
        let what = format!("{name}, chunked upload by the {way}: KiB resident at most");
        figure(&what, peak);
        if is_release() {
            assert!(peak < 24 * 1024, "{peak} KiB in the {name}");
        }
    }
    assert_eq!(agent.process.terminate(), Some(0));
}

#[test]
fn a_chunked_upload_to_a_service_takes_constant_memory() {
    upload_to_a_service("front door", |plane, size| {
        let front = plane.front("edge").patient();
        upload_as(&front, "/upload", size, None)
    });
}

#[test]
fn a_chunked_upload_to_an_exposed_host_takes_constant_memory() {
    upload_to_a_service("exposed host", |plane, size| {
        let at = plane.expose_host("web.example.test", "web:1");
        let mut client = patient(TcpStream::connect(at).expect("connected"));
        let head = "PUT /upload HTTP/1.1\r\nHost: web.example.test\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).expect("sent");
        let mut sent = 0;
        while sent < size {
            let piece = piece(sent, size);
            let length = format!("{:x}\r\n", piece.len());
            let chunk = [length.as_bytes(), piece, b"\r\n"].concat();
            client.write_all(&chunk).expect("sent");
            sent += piece.len() as u64;
        }
        client.write_all(b"0\r\n\r\n").expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let received = answer.rsplit("\r\n").next().expect("a body");
        received.parse().expect("a number")
    });
}

/// The kernel must not take who is slow for dead (`TCP_USER_TIMEOUT` is 20 s).
#[test]
fn a_client_and_a_target_that_take_nothing_for_25_seconds_get_everything_in_the_end() {
    const STALL: Duration = Duration::from_secs(25);
    let upstream = Upstream::start_tls(|request, body, responder| {
        if request.method == "PUT" {
            std::thread::sleep(STALL); // the fault itself
        }
        let bell = Bell::default();
        bell.ring();
        serve(&request, body, responder, &bell);
    });
    let house = House::new();
    let agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge").patient();
    std::thread::scope(|scope| {
        let up = scope.spawn(|| upload(&front, "/api/v1/upload", 16 << 20));
        let mut stalled = false;
        let down = download(&front, "/api/v1/large?size=16777216", || {
            if !std::mem::replace(&mut stalled, true) {
                std::thread::sleep(STALL);
            }
        });
        assert_eq!(down, 16 << 20);
        assert_eq!(up.join().expect("arrived"), 16 << 20);
    });
    assert_eq!(agent.status().connections, 1);
}
