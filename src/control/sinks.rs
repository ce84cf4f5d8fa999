//! What [`Dispatch`](super::dispatch::Dispatch) hands things to, as it sees it.

use crate::proxy::Requests;
use crate::tunnel::ConnectionTunnels;
use crate::tunnel::connection::Terms;
use crate::tunnel::header::Version;
use crate::wire::ProxyRequest;
use crate::wire::stream::{CloseText, StreamData, StreamIds, StreamStart};
use crate::wire::to_agent::GatewayHello;

/// The requests of one connection: in production [`Requests`], made in
/// `agent/parts.rs`; in tests a stand-in. None of its methods may block.
pub trait RequestSink: Send {
    fn request(&mut self, id: &str, request: ProxyRequest<'_>);
    fn binary(&mut self, message: &[u8]) -> bool;
    fn text_arrived(&mut self);
    fn chunk(&mut self, id: &str, data: Option<&str>);
    fn end(&mut self, id: &str);
    fn cancel(&mut self, id: &str);
    fn use_flow_control(&mut self);
    /// Binary messages are something else from now on.
    fn refuse_binary_bodies(&mut self);
    fn credit(&mut self, id: &str, bytes: u64);
    fn start_stream(&mut self, start: &StreamStart<'_>);
    fn stream_data(&mut self, data: &StreamData<'_>);
    fn close_stream(&mut self, ids: &StreamIds<'_>, said: Option<CloseText<'_>>);
    /// A stream may pass everything on untouched from now on.
    fn use_raw_streams(&mut self);
}

impl<R: RequestSink + ?Sized> RequestSink for Box<R> {
    fn request(&mut self, id: &str, request: ProxyRequest<'_>) {
        (**self).request(id, request);
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        (**self).binary(message)
    }

    fn text_arrived(&mut self) {
        (**self).text_arrived();
    }

    fn chunk(&mut self, id: &str, data: Option<&str>) {
        (**self).chunk(id, data);
    }

    fn end(&mut self, id: &str) {
        (**self).end(id);
    }

    fn cancel(&mut self, id: &str) {
        (**self).cancel(id);
    }

    fn use_flow_control(&mut self) {
        (**self).use_flow_control();
    }

    fn refuse_binary_bodies(&mut self) {
        (**self).refuse_binary_bodies();
    }

    fn credit(&mut self, id: &str, bytes: u64) {
        (**self).credit(id, bytes);
    }

    fn start_stream(&mut self, start: &StreamStart<'_>) {
        (**self).start_stream(start);
    }

    fn stream_data(&mut self, data: &StreamData<'_>) {
        (**self).stream_data(data);
    }

    fn close_stream(&mut self, ids: &StreamIds<'_>, said: Option<CloseText<'_>>) {
        (**self).close_stream(ids, said);
    }

    fn use_raw_streams(&mut self) {
        (**self).use_raw_streams();
    }
}

impl RequestSink for Requests {
    fn request(&mut self, id: &str, request: ProxyRequest<'_>) {
        Self::request(self, id, request);
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        Self::binary(self, message)
    }

    fn text_arrived(&mut self) {
        Self::text_arrived(self);
    }

    fn chunk(&mut self, id: &str, data: Option<&str>) {
        Self::chunk(self, id, data);
    }

    fn end(&mut self, id: &str) {
        Self::end(self, id);
    }

    fn cancel(&mut self, id: &str) {
        Self::cancel(self, id);
    }

    fn use_flow_control(&mut self) {
        Self::use_flow_control(self);
    }

    fn refuse_binary_bodies(&mut self) {
        Self::refuse_binary_bodies(self);
    }

    fn credit(&mut self, id: &str, bytes: u64) {
        Self::credit(self, id, bytes);
    }

    fn start_stream(&mut self, start: &StreamStart<'_>) {
        Self::start_stream(self, start);
    }

    fn stream_data(&mut self, data: &StreamData<'_>) {
        Self::stream_data(self, data);
    }

    fn close_stream(&mut self, ids: &StreamIds<'_>, said: Option<CloseText<'_>>) {
        Self::close_stream(self, ids, said);
    }

    fn use_raw_streams(&mut self) {
        Self::use_raw_streams(self);
    }
}

/// The tunnels of one connection: in production [`ConnectionTunnels`], made in
/// `agent/parts.rs`; in tests a stand-in. None of its methods may block.
pub trait TunnelSink: Send {
    /// A hello asks for yamux. A session that is there ends: nothing of it is
    /// written any more. A new one takes its place and gets what comes from now on,
    /// but says nothing yet. Whatever the hello suggests, this doesn't fail.
    fn replace(&mut self, hello: &GatewayHello);

    /// The hello's ack is in its lane: the session may speak.
    fn begin(&mut self);

    /// A binary message; false when there is no session (the message then means
    /// something else).
    fn binary(&mut self, message: &[u8]) -> bool;

    /// There is a session: [`binary`](Self::binary) takes messages in pieces, too.
    fn is_active(&self) -> bool;

    /// The peer may say in a stream's header who its client is
    /// ([`TUNNEL_HEADER_2`](crate::wire::TUNNEL_HEADER_2)).
    fn use_client_addresses(&mut self);
}

impl TunnelSink for ConnectionTunnels {
    fn replace(&mut self, hello: &GatewayHello) {
        Self::replace(
            self,
            &Terms {
                max_window: hello.max_stream_window,
                keepalive: hello.keep_alive_interval,
                timeout: hello.connection_timeout,
            },
        );
    }

    fn begin(&mut self) {
        Self::begin(self);
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        Self::binary(self, message)
    }

    fn is_active(&self) -> bool {
        Self::is_active(self)
    }

    fn use_client_addresses(&mut self) {
        self.expect_headers(Version::Two);
    }
}
