//! Application WebSockets: streams to an echo, each with one message under way
//! (control-channel.md §9.2).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pipeops_agent::http::Headers;
use pipeops_agent::link::{self, Lane, Link, Message};
use pipeops_agent::net::Cancel;
use pipeops_agent::wire::stream::{self, FrameKind};
use pipeops_agent::wire::{FromAgent, to_agent};

use crate::load::Outcome;

/// So many streams at once, with messages of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) size: usize,
    pub(crate) at_once: usize,
}

/// A Service that sends each message back; a thread for each connection.
pub(crate) struct Echo(SocketAddr);

impl Echo {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::Builder::new().name("echo".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        })?;
        Ok(Self(address))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0
    }
}

fn echo(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(mut socket) = tungstenite::accept(stream) else {
        return;
    };
    while let Ok(message) = socket.read() {
        if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
            return;
        }
    }
}

/// The streams of one agent. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    link: Option<Link>,
    streams: Vec<Stream>,
    payload: Vec<u8>,
    /// Ids are used once.
    generation: u64,
    until: Option<Instant>,
    /// Messages under way, or streams that aren't open yet.
    waiting: usize,
    latencies: Vec<u32>,
    failure: Option<String>,
}

struct Stream {
    sent: Instant,
    upgraded: bool,
}

impl Streams {
    pub(crate) fn connect(&self, link: Link) {
        self.0.0.lock().link = Some(link);
    }

    pub(crate) fn fail(&self, why: impl Into<String>) {
        let (state, changed) = &*self.0;
        state.lock().failure.get_or_insert(why.into());
        changed.notify_all();
    }

    /// Opens the streams of this cell.
    pub(crate) fn open(&self, cell: Cell) -> Result<(), String> {
        let mut state = self.0.0.lock();
        state.generation += 1;
        state.payload = (0..cell.size).map(|at| (at % 251) as u8).collect();
        state.streams.clear();
        for number in 0..cell.at_once {
            state.streams.push(Stream {
                sent: Instant::now(),
                upgraded: false,
            });
            let id = state.id(number);
            state.send(&id, |buf| {
                let request = to_agent::Request {
                    method: "GET",
                    path: "/echo",
                    query: "",
                    headers: &upgrade_headers(),
                    streamed_body: false,
                    stream_response: true,
                    scheme: "http",
                    timeout: None,
                };
                to_agent::proxy_request(buf, &id, &request);
            })?;
        }
        state.waiting = cell.at_once;
        drop(self.wait(state)?);
        Ok(())
    }

    /// Keeps a message under way on each stream for `window`.
    pub(crate) fn run(&self, window: Duration) -> Result<Outcome, String> {
        let mut state = self.0.0.lock();
        let started = Instant::now();
        state.until = Some(started + window);
        for number in 0..state.streams.len() {
            state.next(number)?;
        }
        state.waiting = state.streams.len();
        let mut state = self.wait(state)?;
        Ok(Outcome {
            latencies: std::mem::take(&mut state.latencies),
            elapsed: started.elapsed(),
        })
    }

    /// Ends the streams. An agent may answer that, or not.
    pub(crate) fn close(&self) -> Result<(), String> {
        let mut state = self.0.0.lock();
        for number in 0..state.streams.len() {
            let id = state.id(number);
            state.send(&id, |buf| stream::proxy_websocket_close(buf, &id))?;
        }
        state.streams.clear();
        Ok(())
    }

    /// Takes a message of the agent's.
    pub(crate) fn take(&self, id: &str, message: &FromAgent<'_>) {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        if let Err(failure) = state.take(id, message) {
            state.failure.get_or_insert(failure);
        }
        if state.waiting == 0 || state.failure.is_some() {
            changed.notify_all();
        }
    }

    fn wait<'a>(
        &self,
        mut state: parking_lot::MutexGuard<'a, State>,
    ) -> Result<parking_lot::MutexGuard<'a, State>, String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.waiting == 0 {
                return Ok(state);
            }
            if self.0.1.wait_until(&mut state, give_up).timed_out() {
                return Err(format!("streams without an answer after {PATIENCE:?}"));
            }
        }
    }
}

impl State {
    fn id(&self, number: usize) -> String {
        format!("{PREFIX}{}-{number}", self.generation)
    }

    /// The stream with this id; `None`: one of an earlier cell.
    fn number(&self, id: &str) -> Option<usize> {
        let (generation, number) = id.strip_prefix(PREFIX)?.split_once('-')?;
        let number: usize = number.parse().ok()?;
        let known = generation.parse() == Ok(self.generation) && number < self.streams.len();
        known.then_some(number)
    }

    fn take(&mut self, id: &str, message: &FromAgent<'_>) -> Result<(), String> {
        let Some(number) = self.number(id) else {
            return Ok(());
        };
        match message {
            FromAgent::ProxyResponseHeader { status: 101, .. } => {
                self.streams[number].upgraded = true;
            }
            FromAgent::ProxyResponseEnd if self.streams[number].upgraded => self.waiting -= 1,
            FromAgent::WebSocketData(data) => {
                let frame = data.frame().ok_or("data that can't be read")?;
                if frame.payload() != self.payload {
                    return Err(format!("{} other bytes came back", frame.payload().len()));
                }
                let now = Instant::now();
                let took = now.duration_since(self.streams[number].sent);
                self.latencies.push(took.as_micros() as u32);
                if self.until.is_some_and(|until| now < until) {
                    self.next(number)?;
                } else {
                    self.waiting -= 1;
                }
            }
            other => {
                let mut text = format!("{other:?}");
                text.truncate(text.floor_char_boundary(300));
                return Err(format!("a stream got {text}"));
            }
        }
        Ok(())
    }

    fn next(&mut self, number: usize) -> Result<(), String> {
        self.streams[number].sent = Instant::now();
        let id = self.id(number);
        self.send(&id, |buf| {
            to_agent::proxy_websocket_data(buf, &id, FrameKind::Binary, &self.payload);
        })
    }

    fn send(&self, id: &str, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), String> {
        let link = self.link.as_ref().ok_or("no connection")?;
        let message = Message::text(768 + self.payload.len() * 4 / 3, encode);
        // There is room: the bulk lane takes more than all that can be under way.
        link.send(Lane::Bulk(link::Slot::of(id)), message, &Cancel::new())
            .map_err(|error| error.to_string())
    }
}

/// True for ids that are given here.
pub(crate) fn is_ours(id: &str) -> bool {
    id.starts_with(PREFIX)
}

fn upgrade_headers() -> Headers {
    [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    .into_iter()
    .collect()
}

/// Bytes of a message.
pub(crate) const SIZES: [usize; 3] = [64, 4 * 1024, 64 * 1024];

const PREFIX: &str = "ws-";

/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(30);
