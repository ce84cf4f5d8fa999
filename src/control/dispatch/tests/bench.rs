//! A dispatch between a recorded channel and sinks that note what they are asked.

use parking_lot::Mutex;
use serde_json::Value;

use crate::control::channel::tests::Recorder;
use crate::control::dispatch::*;
use crate::control::sinks::TunnelSink;
use crate::wire::ProxyRequest;
use crate::wire::stream::{CloseText, StreamData, StreamIds, StreamStart};
use crate::wire::to_agent::GatewayHello;

/// Notes what it is asked.
#[derive(Clone, Default)]
pub(super) struct Sink {
    pub(super) calls: Arc<Mutex<Vec<String>>>,
    pub(super) wants_binary: bool,
}

impl Sink {
    fn note(&self, call: String) {
        self.calls.lock().push(call);
    }
}

impl RequestSink for Sink {
    fn request(&mut self, id: &str, request: ProxyRequest<'_>) {
        self.note(format!("request {id} {}", request.path));
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        if self.wants_binary {
            self.note(format!("binary {}", message.len()));
        }
        std::mem::take(&mut self.wants_binary)
    }

    fn text_arrived(&mut self) {}

    fn chunk(&mut self, id: &str, data: Option<&str>) {
        self.note(format!("chunk {id} {data:?}"));
    }

    fn end(&mut self, id: &str) {
        self.note(format!("end {id}"));
    }

    fn cancel(&mut self, id: &str) {
        self.note(format!("cancel {id}"));
    }

    fn use_flow_control(&mut self) {
        self.note("flow".into());
    }

    fn refuse_binary_bodies(&mut self) {
        self.wants_binary = false;
        self.note("no binary bodies".into());
    }

    fn credit(&mut self, id: &str, bytes: u64) {
        self.note(format!("credit {id} {bytes}"));
    }

    fn start_stream(&mut self, start: &StreamStart<'_>) {
        self.note(format!("start {:?} {}", start.stream_id, start.path));
    }

    fn stream_data(&mut self, data: &StreamData<'_>) {
        let ids: Vec<&str> = data.ids.candidates().collect();
        self.note(format!("data {ids:?} {:?}", data.data));
    }

    fn close_stream(&mut self, ids: &StreamIds<'_>, said: Option<CloseText<'_>>) {
        let ids: Vec<&str> = ids.candidates().collect();
        self.note(format!("close {ids:?} {:?}", said.map(|said| said.code)));
    }

    fn use_raw_streams(&mut self) {
        self.note("raw streams".into());
    }
}

/// Notes likewise, and what was sent before.
pub(super) struct Sessions {
    pub(super) calls: Arc<Mutex<Vec<String>>>,
    pub(super) channel: Arc<Recorder>,
    pub(super) live: bool,
}

impl Sessions {
    fn note(&self, call: &str) {
        let sent = self.channel.types().join(", ");
        self.calls.lock().push(format!("{call} after [{sent}]"));
    }
}

impl TunnelSink for Sessions {
    fn replace(&mut self, hello: &GatewayHello) {
        self.live = true;
        self.note(&format!("session of {:?}", hello.max_stream_window));
    }

    fn begin(&mut self) {
        self.note("begin");
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        if self.live {
            let bytes = message.len();
            self.calls.lock().push(format!("yamux {bytes}"));
        }
        self.live
    }

    fn is_active(&self) -> bool {
        self.live
    }

    fn use_client_addresses(&mut self) {
        self.calls.lock().push("clients".into());
    }
}

pub(super) struct Bench {
    pub(super) dispatch: Dispatch<Sink>,
    pub(super) channel: Arc<Recorder>,
    calls: Arc<Mutex<Vec<String>>>,
    heard: Arc<Mutex<Vec<PeerMessage>>>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Sink::default())
    }

    pub(super) fn with(sink: Sink) -> Self {
        let (channel, heard) = (Recorder::new(), Arc::new(Mutex::new(Vec::new())));
        let (calls, hears) = (sink.calls.clone(), heard.clone());
        let hear = Box::new(move |said| hears.lock().push(said));
        let late = LateAnswers::new();
        let tunnels = Box::new(Sessions {
            calls: calls.clone(),
            channel: channel.clone(),
            live: false,
        });
        Self {
            dispatch: Dispatch::new(1, channel.clone(), sink, tunnels, None, late, hear),
            channel,
            calls,
            heard,
        }
    }

    pub(super) fn text(&mut self, message: &Value) {
        self.dispatch.text(&message.to_string());
    }

    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock())
    }

    pub(super) fn heard(&self) -> Vec<PeerMessage> {
        std::mem::take(&mut self.heard.lock())
    }

    /// Waits for `count` answers of the request of this id.
    pub(super) fn answers_to(&self, id: &str, count: usize) -> Vec<Value> {
        self.answers(Lane::Bulk(Slot::of(id)), count)
    }

    /// Waits for `count` answers; each must have come in `lane`.
    pub(super) fn answers(&self, lane: Lane, count: usize) -> Vec<Value> {
        let sent = self.channel.take(count);
        assert_eq!(sent.len(), count, "{sent:?}");
        let value = |(by, text): (Lane, String)| {
            assert_eq!(by, lane, "{text}");
            serde_json::from_str(&text).expect("JSON")
        };
        sent.into_iter().map(value).collect()
    }
}
