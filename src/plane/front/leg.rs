//! The two directions of a client's WebSocket that is open.
//!
//! ```text
//!  client ── messages ──► [plane-leg] ── credit, room ──► agent
//!         ◄── messages ── this thread ◄── Stream ◄── link-reader ◄── agent
//!                              └──────── proxy_flow (credit) ────────► agent
//! ```
//!
//! Neither direction waits for the other. The reader answers pings and closes; a message
//! for which the agent has no credit keeps it waiting, and the client with it.

use std::ops::ControlFlow;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::http::server::Responder;
use crate::net::{Halves, Reason};
use crate::plane::WRITE_LIMIT;
use crate::plane::exchange::Failure;
use crate::plane::live_stream::StreamSender;
use crate::plane::stream::{End, Stream};
use crate::threads::{self, Stack};
use crate::websocket::{self, Limits, Reader, Role, Writer};
use crate::wire::stream::CloseText;

/// Answers 101 (`switch` does) and carries messages both ways until one side has ended.
pub(super) fn carry(
    sender: &StreamSender,
    responder: Responder,
    switch: impl FnOnce(Responder) -> Option<Halves>,
) {
    let (give, given) = bounded::<Reader>(1);
    // Nothing is sent on these two: that they end says it all.
    let (writing, written) = bounded::<()>(0);
    let (reading, read) = bounded::<()>(0);
    let up = sender.clone();
    // First: without the thread the client is still to be answered in HTTP.
    let reader = threads::spawn("plane-leg", Stack::Work, move || {
        let Ok(reader) = given.recv() else { return };
        upload(&up, reader);
        drop(reading);
        cut_unless(&written, up.stream());
    });
    let Ok(reader_thread) = reader.inspect_err(|error| log::warn!("{error}")) else {
        return; // the responder says 500
    };
    let opened = switch(responder).and_then(|halves| {
        let opened = websocket::open(halves, Role::Server, LIMITS);
        let opened = opened.inspect_err(|error| log::debug!("a client's WebSocket: {error}"));
        opened.ok()
    });
    if let Some((reader, writer)) = opened
        && give.send(reader).is_ok()
    {
        download(sender, &writer);
        drop(writing);
        cut_unless(&read, sender.stream());
    }
    drop(give);
    let _ = reader_thread.join();
}

/// Cuts the client when the other direction doesn't end in time: this one has.
fn cut_unless(other: &Receiver<()>, stream: &Stream) {
    if other.recv_timeout(CLOSE_LIMIT) == Err(RecvTimeoutError::Timeout) {
        stream.end(Reason::Cancelled);
    }
}

/// From the client to the agent.
fn upload(sender: &StreamSender, reader: Reader) {
    let stream = sender.stream();
    let mut takes = true;
    let end = reader.run(|message| {
        // When the agent's side has ended, what still comes is dropped: the client is
        // about to read a close frame, and would lose it if nobody read on.
        takes = takes
            && stream.take_credit(message.payload.len()).is_ok()
            && sender.data(message.kind, message.payload).is_ok();
        ControlFlow::Continue(())
    });
    let said = match end {
        // An empty close frame is a good end.
        websocket::End::Closed { code, reason } => Some(CloseText {
            code: code.unwrap_or(1000),
            reason: reason.into(),
        }),
        end => {
            log::debug!("a client's WebSocket broke off: {end:?}");
            None
        }
    };
    stream.on_client_end(said);
}

/// From the agent to the client, and the close frame behind it.
fn download(sender: &StreamSender, writer: &Writer) {
    let stream: &Stream = sender.stream();
    let end = loop {
        let mut pack = match stream.next() {
            Ok(pack) => pack,
            Err(end) => break end,
        };
        while let Some((kind, payload)) = pack.next() {
            let size = payload.len();
            if writer.send(kind, payload).is_err() {
                // The client has closed, which the reader knows; or it takes nothing.
                return;
            }
            if let Some(credit) = stream.passed_on(size) {
                // Without the link its loss is what comes next.
                let _ = sender.grant(credit);
            }
        }
    };
    let (code, reason) = match end {
        End::Closed(Some(CloseText { code, reason })) => (code, reason.into_owned()),
        End::Closed(None) => (1011, "the other end broke off".to_owned()),
        // The client's side has ended: whoever found out has answered.
        End::Failed(Failure::Ended(_)) => return,
        End::Failed(failure) => (1011, failure.to_string()),
    };
    writer.close(code, &reason, CLOSE_LIMIT);
}

/// Of a client's WebSocket.
const LIMITS: Limits = Limits {
    max_message: MAX_MESSAGE,
    write_limit: Some(WRITE_LIMIT),
    // A client that has gone without a word is found out by TCP's keepalive; one whose
    // terminal is stopped answers no ping.
    keepalive: None,
};

/// What a client sends in one message at most, in bytes: kubectl sends 32 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;

/// For the close frame to go out, and for the client's to come back.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
