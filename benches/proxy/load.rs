//! The load: a fixed number of requests in flight, each answer followed by the
//! next request. It runs on the thread that reads the agent's messages, so that
//! it costs two wake-ups less than anything with threads of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pipeops_agent::http::Headers;
use pipeops_agent::link::{self, Lane, Link, Message};
use pipeops_agent::net::Cancel;
use pipeops_agent::wire::from_agent::ResponseBody;
use pipeops_agent::wire::{FromAgent, to_agent};

use crate::body::{Body, Content};
use crate::cluster::{self, CALLER_TOKEN};

/// The two forms of an answer (control-channel.md §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One message.
    B,
    /// Header, chunks as they come, end.
    S,
}

/// What requests are for (control-channel.md §8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The Kubernetes API, over TLS.
    Api,
    /// A Service, over plain HTTP.
    Service,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) target: Target,
    pub(crate) form: Form,
    pub(crate) content: Content,
    /// Bytes of a body.
    pub(crate) size: usize,
    pub(crate) at_once: usize,
}

/// What a run has seen.
#[derive(Default)]
pub(crate) struct Outcome {
    /// From handing a request over to the end of its answer, in µs.
    pub(crate) latencies: Vec<u32>,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
}

/// The load on one agent. Clones are handles to the same one.
#[derive(Clone, Default)]
pub(crate) struct Load(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    link: Option<Link>,
    run: Option<Run>,
    failure: Option<String>,
}

struct Run {
    cell: Cell,
    path: String,
    headers: Headers,
    body: Arc<Body>,
    slots: Vec<Slot>,
    /// No request is sent after this.
    until: Instant,
    in_flight: usize,
    latencies: Vec<u32>,
}

/// A place for one request in flight.
struct Slot {
    number: u64,
    sent: Instant,
    started: bool,
    received: usize,
    /// Compare every byte.
    thorough: bool,
}

impl Load {
    /// Where requests go from now on.
    pub(crate) fn connect(&self, link: Link) {
        self.0.0.lock().link = Some(link);
    }

    /// The connection is lost: whatever runs has failed.
    pub(crate) fn fail(&self, why: impl Into<String>) {
        let (state, changed) = &*self.0;
        state.lock().failure.get_or_insert(why.into());
        changed.notify_all();
    }

    /// Keeps `cell.at_once` requests in flight for `window`, then waits for the
    /// answers to the last ones. Any wrong answer is an error.
    pub(crate) fn run(
        &self,
        cell: Cell,
        body: Arc<Body>,
        window: Duration,
    ) -> Result<Outcome, String> {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        let started = Instant::now();
        let give_up = started + window + PATIENCE;
        state.run = Some(Run::new(cell, body, started + window));
        for slot in 0..cell.at_once {
            state.send(slot)?;
        }
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.run.as_ref().is_none_or(|run| run.in_flight == 0) {
                break;
            }
            if changed.wait_until(&mut state, give_up).timed_out() {
                return Err(format!("requests without an answer after {PATIENCE:?}"));
            }
        }
        let run = state.run.take().ok_or("the run is gone")?;
        Ok(Outcome {
            latencies: run.latencies,
            elapsed: started.elapsed(),
        })
    }

    /// Takes a message of the agent's.
    pub(crate) fn take(&self, id: Option<&str>, message: &FromAgent<'_>) {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        match state.take(id, message) {
            Ok(false) => {}
            Ok(true) => {
                changed.notify_all();
            }
            Err(failure) => {
                state.failure.get_or_insert(failure);
                changed.notify_all();
            }
        }
    }
}

impl State {
    /// True when the last request of the run has its answer.
    fn take(&mut self, id: Option<&str>, message: &FromAgent<'_>) -> Result<bool, String> {
        let id = id.ok_or("an answer without an id")?;
        let run = self.run.as_mut().ok_or("an answer that nobody waits for")?;
        let slot = run.slot(id).ok_or_else(|| format!("an answer to {id}"))?;
        if !run.slots[slot].take(run.cell, &run.body, message)? {
            return Ok(false);
        }
        let now = Instant::now();
        let took = now.duration_since(run.slots[slot].sent);
        run.latencies.push(took.as_micros() as u32);
        run.in_flight -= 1;
        if now < run.until {
            self.send(slot)?;
            return Ok(false);
        }
        Ok(run.in_flight == 0)
    }

    fn send(&mut self, slot: usize) -> Result<(), String> {
        let (Some(run), Some(link)) = (&mut self.run, &self.link) else {
            return Err("no connection".into());
        };
        let number = run.slots[slot].number + 1;
        run.slots[slot] = Slot {
            number,
            sent: Instant::now(),
            started: false,
            received: 0,
            thorough: (slot as u64 + number).is_multiple_of(THOROUGH),
        };
        run.in_flight += 1;
        let id = format!("{slot}-{number}");
        let message = Message::text(768, |buf| {
            let request = to_agent::Request {
                method: "GET",
                path: &run.path,
                query: "limit=500",
                headers: &run.headers,
                streamed_body: false,
                stream_response: run.cell.form == Form::S,
                scheme: match run.cell.target {
                    Target::Api => "https",
                    Target::Service => "http",
                },
                timeout: Some(PATIENCE),
            };
            to_agent::proxy_request(buf, &id, &request);
        });
        // There is always room for it: more than all that can be in flight.
        let lane = Lane::Bulk(link::Slot::of(&id));
        link.send(lane, message, &Cancel::new())
            .map_err(|error| error.to_string())
    }
}

impl Run {
    fn new(cell: Cell, body: Arc<Body>, until: Instant) -> Self {
        let now = Instant::now();
        let slots = (0..cell.at_once).map(|_| Slot {
            number: 0,
            sent: now,
            started: false,
            received: 0,
            thorough: false,
        });
        Self {
            cell,
            path: cluster::path(cell.content, cell.size),
            headers: [
                ("Accept", "application/json"),
                ("Authorization", CALLER_TOKEN),
                (
                    "User-Agent",
                    "kubectl/v1.36.3 (linux/amd64) kubernetes/0000000",
                ),
            ]
            .into_iter()
            .collect(),
            body,
            slots: slots.collect(),
            until,
            in_flight: 0,
            latencies: Vec::with_capacity(32 * 1024),
        }
    }

    /// The slot of the request with this id, if that is in flight.
    fn slot(&self, id: &str) -> Option<usize> {
        let (slot, number) = id.split_once('-')?;
        let slot: usize = slot.parse().ok()?;
        let number: u64 = number.parse().ok()?;
        (self.slots.get(slot)?.number == number).then_some(slot)
    }
}

impl Slot {
    /// True at the end of the answer.
    fn take(&mut self, cell: Cell, body: &Body, message: &FromAgent<'_>) -> Result<bool, String> {
        match (cell.form, message) {
            (Form::S, FromAgent::ProxyResponseHeader { status: 200, .. }) if !self.started => {
                self.started = true;
                Ok(false)
            }
            (Form::S, FromAgent::ProxyResponseChunk { data }) if self.started => {
                let length = body.matches(data, self.received, self.thorough);
                self.received += length.ok_or("a chunk that isn't part of the body")?;
                Ok(false)
            }
            (Form::S, FromAgent::ProxyResponseEnd) if self.received == body.bytes.len() => Ok(true),
            (
                Form::B,
                FromAgent::ProxyResponse {
                    status: 200,
                    body: got,
                    ..
                },
            ) => {
                let right = match got {
                    ResponseBody::Base64(text) => {
                        body.matches(text, 0, self.thorough) == Some(body.bytes.len())
                    }
                    ResponseBody::Gzip(text) => {
                        cell.content == Content::Json && body.matches_gzip(text, self.thorough)
                    }
                    ResponseBody::Empty => false,
                };
                right.then_some(true).ok_or_else(|| "a wrong body".into())
            }
            (_, other) => {
                let mut text = format!("{other:?}");
                text.truncate(text.floor_char_boundary(300));
                Err(format!("not the answer that was asked for: {text}"))
            }
        }
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One answer in so many is compared byte by byte; the others by length, gzipped
/// ones by length and checksum.
const THOROUGH: u64 = 32;
