//! A line that is cut again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pipeops_agent::http::client::Body;
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use pipeops_agent::net::Cancel;

use crate::support::fault_proxy::FaultProxy;
use crate::support::front::{Front, streamed};
use crate::support::house::House;
use crate::support::process::{AgentProcess, AgentSettings, Process};
use crate::support::upstream::{Upstream, json};
use crate::support::wait::{figure, until};

const CUTS: u64 = 1000;
const WATCHES: usize = 4;
const HELD: usize = 2;
const SETTLED: Duration = Duration::from_secs(13);
/// In KiB.
const NOISE: u64 = 4096;

/// Watches go on until their client leaves; what is held gets no answer before that;
/// uploads are read to their end.
fn serve(request: &Request, mut body: RequestBody, responder: Responder, kept: &AtomicUsize) {
    if request.method == "PUT" {
        while matches!(body.chunk(usize::MAX), Ok(piece) if !piece.is_empty()) {}
        drop(body);
        let _ = responder.respond(200, &json(), b"{}");
        return;
    }
    if request.target.contains("quick") {
        let _ = responder.respond(200, &json(), &[b'x'; 2000]);
        return;
    }
    let gone = Cancel::new();
    let (wake, woken) = crossbeam_channel::bounded(1);
    let _guard = gone.on_wake(Arc::new(move || {
        let _ = wake.try_send(());
    }));
    let Ok(_watch) = responder.on_client_gone(&gone) else {
        return;
    };
    let writer = if request.target.contains("watch") {
        let Ok(mut writer) = responder.start(200, &json(), None) else {
            return;
        };
        if writer.write(b"{\"type\":\"ADDED\"}\n").is_err() {
            return;
        }
        Ok(writer)
    } else {
        Err(responder)
    };
    kept.fetch_add(1, Ordering::Relaxed);
    if gone.reason().is_none() {
        let _ = woken.recv();
    }
    drop(writer);
}

/// Clients that come again whenever they are cut off.
struct Clients {
    stop: Arc<AtomicBool>,
    /// Those that come and go rest for a moment.
    rest: Arc<AtomicBool>,
    resting: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    const COMING: u64 = 3;

    fn start(front: &Front) -> Self {
        let mut clients = Self {
            stop: Arc::default(),
            rest: Arc::default(),
            resting: Arc::default(),
            done: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..WATCHES {
            clients.keep(front, "/api/v1/pods?watch=1");
        }
        for _ in 0..HELD {
            clients.keep(front, "/api/v1/held");
        }
        clients.come_and_go(
            |front| {
                let _ = front.try_ask("GET", "/api/v1/quick", &[], Body::Empty);
            },
            front,
        );
        clients.come_and_go(
            |front| {
                let _ = front.try_ask("GET", "/api/v1/quick?2", &[], Body::Empty);
            },
            front,
        );
        clients.come_and_go(
            |front| {
                let mut left = 30;
                let body = streamed(None, move || {
                    left -= 1;
                    (left > 0).then(|| vec![7; 32 * 1024])
                });
                let _ = front.try_ask("PUT", "/api/v1/upload", &[], body);
            },
            front,
        );
        clients
    }

    fn keep(&mut self, front: &Front, target: &'static str) {
        let (front, stop) = (front.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let answer = front.open("GET", target, &[], Body::Empty, &Cancel::new());
                let Ok(mut answer) = answer else { continue };
                // A refusal has an end; a watch has none but the cut.
                while matches!(answer.body.chunk(4096), Ok(piece) if !piece.is_empty()) {}
            }
        }));
    }

    fn come_and_go(&mut self, once: impl Fn(&Front) + Send + 'static, front: &Front) {
        let (front, stop, rest) = (front.clone(), self.stop.clone(), self.rest.clone());
        let (resting, done) = (self.resting.clone(), self.done.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                once(&front);
                done.fetch_add(1, Ordering::Relaxed);
                if rest.load(Ordering::Relaxed) {
                    resting.fetch_add(1, Ordering::Relaxed);
                    while rest.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    resting.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }));
    }

    /// Waits until nobody comes or goes.
    fn pause(&self) {
        self.rest.store(true, Ordering::Relaxed);
        until("they rest", || {
            self.resting.load(Ordering::Relaxed) == Self::COMING
        });
    }

    fn go_on(&self) {
        self.rest.store(false, Ordering::Relaxed);
        until("they go on", || self.resting.load(Ordering::Relaxed) == 0);
    }

    fn end(self, proxy: &FaultProxy) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            until("they end", || {
                proxy.cut();
                thread.is_finished()
            });
            thread.join().expect("no panic");
        }
    }
}

/// What an agent holds: threads, descriptors, memory in KiB. Connections to the API
/// server are looked at by themselves: idle ones are kept, as many as were once used.
type Held = (usize, usize, u64);

fn held(process: &Process, upstream: &Upstream) -> Held {
    let descriptors = process.descriptors() - upstream.connections();
    (process.threads(), descriptors, process.resident())
}

/// Lets what comes and goes be gone: whoever is idle for ten seconds ends.
fn settled(process: &Process, upstream: &Upstream, enough: impl Fn(Held) -> bool) -> Held {
    let begun = Instant::now();
    loop {
        let now = held(process, upstream);
        if enough(now) || begun.elapsed() > SETTLED {
            return now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn t5_t43_after_a_thousand_cuts_the_agent_holds_what_it_held_after_ten() {
    let kept = Arc::new(AtomicUsize::new(0));
    let counting = kept.clone();
    let upstream = Upstream::start_tls(move |request, body, responder| {
        serve(&request, body, responder, &counting);
    });
    let house = House::new();
    let proxy = FaultProxy::start(house.address());
    let mut agent = AgentProcess::start(&AgentSettings {
        upstream: Some(&upstream),
        more: &[
            ("timeouts.websocket_reconnect", "1ms"),
            ("timeouts.websocket_reconnect_max", "3ms"),
            ("logging.level", "error"),
        ],
        // In the binary of a plain `cargo test`, the system's allocator keeps an arena
        // for each thread that ever had one.
        environment: &[("MALLOC_ARENA_MAX", "2")],
        ..house.settings(&proxy.address())
    });
    house.attached("edge");
    let front = house.front("edge");
    let clients = Clients::start(&front);
    let in_flight = || house.plane.clusters()[0].requests;
    let begun = Instant::now();
    let mut after_ten = None;
    let (mut accepted, mut seen) = (0, 0);
    for cut in 1..=CUTS {
        until("the agent dials", || proxy.accepted() > accepted);
        // Now and then in the middle of a dial.
        if cut % 7 != 0 {
            until("watches and requests have come through", || {
                kept.load(Ordering::Relaxed) >= seen + WATCHES + HELD
            });
        }
        accepted = proxy.accepted();
        seen = kept.load(Ordering::Relaxed);
        // It may have been accepted and not connected any further yet.
        until("it is cut", || proxy.cut() > 0);
        if cut == 10 || cut == CUTS {
            clients.pause();
            until("what stays has come again", || {
                kept.load(Ordering::Relaxed) >= seen + WATCHES + HELD
            });
            until("only what stays is in flight", || {
                in_flight() == WATCHES + HELD
            });
            let now = match after_ten {
                None => settled(&agent.process, &upstream, |_| false),
                Some(before) => settled(&agent.process, &upstream, |now| is_as(now, before)),
            };
            figure(
                &format!("after cut {cut}: threads, descriptors, KiB resident"),
                format!("{now:?}"),
            );
            let threads = agent.process.thread_names().join(" ");
            figure("its threads", &threads);
            if let Some(before) = after_ten.filter(|_| cut == CUTS) {
                assert!(
                    is_as(now, before),
                    "{before:?} after ten cuts, now {now:?}: {threads}"
                );
            }
            let connections = upstream.connections();
            figure("connections to the API server", connections);
            let used = WATCHES + HELD + Clients::COMING as usize;
            assert!(connections <= 2 * used, "{connections}");
            after_ten.get_or_insert(now);
            clients.go_on();
        }
    }
    figure("1,000 cuts took", format!("{:?}", begun.elapsed()));
    figure("requests meanwhile", clients.done.load(Ordering::Relaxed));
    // And it still works.
    until("requests go through", || {
        front.get("/api/v1/quick").status == 200
    });
    assert!(agent.process.is_running());
    clients.end(&proxy);
}

/// No more than before; in memory, noise of the allocator's: what an upload or two
/// needed at one time. 4 KiB that each cut left behind would be seen.
fn is_as(now: Held, before: Held) -> bool {
    now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2 + NOISE
}
