//! Executes `proxy_request`s. (Stub: signatures only.)

use std::sync::Arc;

use crate::link::{Message, SendError};
use crate::net::Cancel;
use crate::wire::ProxyRequest;

/// The way back to the peer, for the requests of one connection.
pub trait Outlet: Send + Sync {
    /// Queues a message in the bulk lane; waits for room.
    fn send(&self, message: Message, cancel: &Cancel) -> Result<(), SendError>;

    /// The whole answer of a form B request. Outlives the connection: when that is
    /// gone, it goes to the next one to the same endpoint within 30 s, or is
    /// dropped and counted (decisions.md §6.2 "Lost connection").
    fn send_late(&self, request_id: &str, message: Message);
}

/// Executes requests, within limits that hold for the whole process.
pub struct Executor {}

impl Executor {
    /// The requests of one connection, answered through `outlet`.
    pub fn connection(self: &Arc<Self>, _outlet: Arc<dyn Outlet>) -> Requests {
        unimplemented!()
    }
}

/// The requests of one connection. Its methods are called on the `link-reader`
/// thread and never block. Dropping it is the loss of the connection: everything
/// ends but the form B requests whose body is complete.
pub struct Requests {}

impl Requests {
    pub fn request(&mut self, _id: &str, _request: ProxyRequest<'_>) {
        unimplemented!()
    }

    /// A binary message while a `body_binary` request waits for its body; false
    /// when none does (the message then means something else).
    pub fn binary(&mut self, _message: &[u8]) -> bool {
        unimplemented!()
    }

    /// Called for every text message before it is handled: a `body_binary` request
    /// that still waits for its body fails (decisions.md §6.2 "Outcomes").
    pub fn text_arrived(&mut self) {
        unimplemented!()
    }

    /// `proxy_request_chunk`; base64.
    pub fn chunk(&mut self, _id: &str, _data: Option<&str>) {
        unimplemented!()
    }

    /// `proxy_request_stream_end`.
    pub fn end(&mut self, _id: &str) {
        unimplemented!()
    }

    /// `proxy_cancel`.
    pub fn cancel(&mut self, _id: &str) {
        unimplemented!()
    }

    /// Feature `flow`: from now on answers wait for credit (1 MiB to begin with).
    pub fn use_flow_control(&mut self) {
        unimplemented!()
    }

    /// `proxy_flow`.
    pub fn credit(&mut self, _id: &str, _bytes: u64) {
        unimplemented!()
    }
}
