//! Requests through the executor, against an upstream that does as it is told and
//! a peer that remembers everything.

mod answers;
mod audited;
mod bodies;
mod endings;
mod limits;
mod services;
mod streams;
mod times;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::*;
use crate::http::testing::{FAR, Upstream};
use crate::link::Kind as MessageKind;
use crate::net::Deadline;
use crate::wire::{Envelope, ProxyRequest};

/// The peer's end.
#[derive(Default)]
struct Recorder {
    state: Mutex<Recorded>,
    changed: Condvar,
}

#[derive(Default)]
struct Recorded {
    messages: VecDeque<Value>,
    /// Messages that the lane takes before it is full.
    room: Option<usize>,
    /// Senders that wait for room.
    waiting: usize,
    gone: bool,
    late: Vec<Value>,
    aborted: Option<String>,
}

impl Recorder {
    fn queue(self: &Arc<Self>, message: &Message, cancel: &Cancel) -> Result<(), SendError> {
        assert_eq!(
            message.kind(),
            MessageKind::Text,
            "T7: nothing binary is sent"
        );
        let me = self.clone();
        let wake = move || {
            let _state = me.state.lock();
            me.changed.notify_all();
        };
        let _guard = cancel
            .on_wake(Arc::new(wake))
            .map_err(SendError::Cancelled)?;
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        let result = loop {
            if state.gone {
                break Err(SendError::Closed);
            }
            if let Some(reason) = cancel.reason() {
                break Err(SendError::Cancelled(reason));
            }
            match &mut state.room {
                None => break Ok(()),
                Some(0) => self.changed.wait(&mut state),
                Some(room) => {
                    *room -= 1;
                    break Ok(());
                }
            }
        };
        state.waiting -= 1;
        if result.is_ok() {
            let value = serde_json::from_slice(message.payload()).expect("JSON");
            state.messages.push_back(value);
        }
        self.changed.notify_all();
        result
    }

    fn next(&self) -> Value {
        let mut state = self.state.lock();
        let until = Instant::now() + FAR;
        loop {
            if let Some(message) = state.messages.pop_front() {
                return message;
            }
            let waited = self.changed.wait_until(&mut state, until);
            assert!(!waited.timed_out(), "no message came");
        }
    }

    fn wait_until(&self, done: impl Fn(&Recorded) -> bool) {
        let mut state = self.state.lock();
        let until = Instant::now() + FAR;
        while !done(&state) {
            let waited = self.changed.wait_until(&mut state, until);
            assert!(!waited.timed_out(), "it never happened");
        }
    }

    fn set_room(&self, room: Option<usize>) {
        self.state.lock().room = room;
        self.changed.notify_all();
    }
}

/// An [`Outlet`] onto a recorder.
struct Wire(Arc<Recorder>);

impl Outlet for Wire {
    fn send(&self, _: &str, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        self.0.queue(&message, cancel)
    }

    fn send_late(
        &self,
        request_id: &str,
        message: Message,
        cancel: &Cancel,
    ) -> Result<(), SendError> {
        match self.0.queue(&message, cancel) {
            Err(SendError::Closed) => {
                let value: Value = serde_json::from_slice(message.payload()).expect("JSON");
                assert_eq!(value["request_id"], request_id);
                self.0.state.lock().late.push(value);
                self.0.changed.notify_all();
                Ok(())
            }
            done => done,
        }
    }

    fn abort(&self, why: &str) {
        self.0.state.lock().aborted = Some(why.to_owned());
    }
}

/// An executor, one connection, an upstream.
struct House {
    upstream: Upstream,
    executor: Arc<Executor>,
    peer: Arc<Recorder>,
    requests: Option<Requests>,
}

impl House {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let upstream = Upstream::new();
        let upstreams = Upstreams {
            callers: upstream.client(),
            agent: None,
            base: String::new(),
        };
        Self::on(settings, upstream, Some(upstreams))
    }

    fn on(settings: Settings, upstream: Upstream, upstreams: Option<Upstreams>) -> Self {
        let executor = Executor::new(settings, upstreams);
        let mut house = Self {
            upstream,
            executor,
            peer: Arc::default(),
            requests: None,
        };
        house.reconnect();
        house
    }

    /// A new connection to the same peer; the old one is lost.
    fn reconnect(&mut self) {
        self.lose();
        self.peer = Arc::default();
        let outlet = Arc::new(Wire(self.peer.clone()));
        self.requests = Some(self.executor.connection(outlet));
    }

    fn lose(&mut self) {
        self.peer.state.lock().gone = true;
        self.peer.changed.notify_all();
        self.requests = None;
    }

    fn requests(&mut self) -> &mut Requests {
        self.requests.as_mut().expect("connected")
    }

    #[allow(clippy::needless_pass_by_value)] // reads better at its uses
    fn request(&mut self, id: &str, payload: Value) {
        self.request_at(id, &payload, "");
    }

    fn request_at(&mut self, id: &str, payload: &Value, timestamp: &str) {
        let text = json!({
            "type": "proxy_request", "request_id": id, "payload": payload, "timestamp": timestamp,
        })
        .to_string();
        let envelope = Envelope::parse(&text).expect("valid");
        let request = ProxyRequest::parse(&envelope.payload, envelope.timestamp);
        self.requests().text_arrived();
        self.requests().request(id, request);
    }

    /// A form B GET.
    fn get(&mut self, id: &str, path: &str) {
        self.request(id, json!({"path": path}));
    }

    /// A form S GET.
    fn stream(&mut self, id: &str, path: &str) {
        self.request(
            id,
            json!({"path": path, "supports_response_streaming": true}),
        );
    }

    fn next(&self) -> Value {
        self.peer.next()
    }

    /// The next message, which must be of this type and for this request.
    fn expect(&self, kind: &str, id: &str) -> Value {
        let mut message = self.next();
        assert_eq!(message["type"], kind, "{message}");
        assert_eq!(message["request_id"], id, "{message}");
        message["payload"].take()
    }

    fn expect_error(&self, id: &str) -> String {
        let payload = self.expect("proxy_error", id);
        payload["error"].as_str().expect("a text").to_owned()
    }

    fn expect_abort(&self, id: &str) -> String {
        let payload = self.expect("proxy_response_abort", id);
        payload["error"].as_str().expect("a text").to_owned()
    }

    fn expect_chunk(&self, id: &str) -> Vec<u8> {
        let payload = self.expect("proxy_response_chunk", id);
        assert_eq!(payload["encoding"], "base64");
        let data = decode(&payload["data"]);
        assert_eq!(payload["size"], data.len());
        assert!(!data.is_empty() && data.len() <= crate::wire::MAX_CHUNK);
        data
    }

    /// Nothing runs, waits or is held, and the peer has heard everything.
    fn expect_rest(&self) {
        let until = Instant::now() + FAR;
        loop {
            let load = self.executor.load();
            if (load.short, load.long, load.waiting, load.memory) == (0, 0, 0, 0) {
                break;
            }
            assert!(Instant::now() < until, "{load:?}");
            std::thread::yield_now();
        }
        let state = self.peer.state.lock();
        assert!(state.messages.is_empty(), "{:?}", state.messages);
        assert!(state.aborted.is_none(), "{:?}", state.aborted);
    }

    fn wait_for_load(&self, what: impl Fn(Load) -> bool) {
        let until = Instant::now() + FAR;
        while !what(self.executor.load()) {
            assert!(Instant::now() < until, "{:?}", self.executor.load());
            std::thread::yield_now();
        }
    }
}

fn decode(text: &Value) -> Vec<u8> {
    let text = text.as_str().expect("a text");
    base64_simd::STANDARD.decode_to_vec(text).expect("base64")
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}
