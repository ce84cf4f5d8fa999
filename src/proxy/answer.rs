//! The way back: exactly one outcome for each request, unless the peer cancelled it
//! before anything was sent, or is gone: then none.

use std::sync::Arc;

use super::body::BodyWriter;
use super::connection::send_failure;
use super::memory::{Budget, OverBudget};
use super::ticket::{Ticket, too_late};
use crate::http::Headers;
use crate::link::{Message, SendError};
use crate::net::Reason;
use crate::wire::BodyText;
use crate::wire::from_agent::{self, Encoding};

/// The answer to one request. Whatever happens to its owner, the peer hears of
/// one end, where it is owed one: dropped without one, it sends the bad one
/// (decisions.md §6.2 "Outcomes").
pub(super) struct Answer {
    ticket: Arc<Ticket>,
    /// The head of a form S answer is on its way.
    begun: bool,
    ended: bool,
}

impl Answer {
    pub(super) fn new(ticket: Arc<Ticket>) -> Self {
        Self {
            ticket,
            begun: false,
            ended: false,
        }
    }

    /// Form S: the head.
    pub(super) fn header(&mut self, status: u16, headers: &Headers) -> Result<(), SendError> {
        let id = &*self.ticket.id;
        let message = Message::text(256 + id.len() + size_of(headers), |buf| {
            from_agent::proxy_response_header(buf, id, status, headers);
        });
        self.send(message)?;
        self.begun = true;
        Ok(())
    }

    /// Form S: a piece of the body, which `data` writes, `expected` bytes or so, at
    /// least one, [`MAX_CHUNK`](crate::wire::MAX_CHUNK) at most.
    pub(super) fn chunk(
        &self,
        expected: usize,
        data: impl FnOnce(&mut BodyText<'_>),
    ) -> Result<(), SendError> {
        let id = &*self.ticket.id;
        let message = Message::text(192 + id.len() + expected.div_ceil(3) * 4, |buf| {
            from_agent::proxy_response_chunk(buf, id, data);
        });
        self.send(message)
    }

    /// Form S: the good end.
    pub(super) fn end(&mut self) -> Result<(), SendError> {
        self.ticket.finish();
        let id = &*self.ticket.id;
        let message = Message::text(128 + id.len(), |buf| {
            from_agent::proxy_response_end(buf, id);
        });
        self.send(message)?;
        self.close();
        Ok(())
    }

    /// Form B: the whole answer. `body` writes its body, `expected` bytes of text or
    /// as many as it takes; nothing is sent when it fails. The message has room in
    /// `budget` as long as it exists.
    pub(super) fn buffered<E: From<SendError> + From<OverBudget>>(
        &mut self,
        status: u16,
        headers: &Headers,
        budget: &Arc<Budget>,
        expected: usize,
        body: impl FnOnce(&mut BodyWriter<'_, '_>) -> Result<Encoding, E>,
    ) -> Result<(), E> {
        let id = &*self.ticket.id;
        // What JSON escapes: of an id anything, of a field value quotes, backslashes
        // and tabs.
        let fields = headers.iter().map(|(n, v)| n.len() + 2 * v.len() + 8);
        let before = 128 + 6 * id.len();
        let behind = 160 + fields.sum::<usize>();
        let size = before + expected + behind;
        let mut room = budget.reserve(size)?;
        let mut written: Result<(), E> = Ok(());
        let message = Message::text(size, |buf| {
            written = from_agent::proxy_response(buf, id, status, headers, |text| {
                let mut writer = BodyWriter::new(text, &mut room, behind);
                let encoding = body(&mut writer)?;
                writer.finish()?;
                Ok(encoding)
            });
        });
        written?;
        self.ticket.finish();
        debug_assert!(
            message.len() <= room.bytes(),
            "it takes more than was reserved"
        );
        let message = message.holding(room);
        if !self.ticket.is_superseded() {
            let outlet = &self.ticket.connection.outlet;
            outlet.send_late(id, message, &self.ticket.cancel)?;
        }
        self.close();
        Ok(())
    }

    /// The bad end, where one is due: a request that the peer cancelled before
    /// anything was sent ends with nothing.
    pub(super) fn fail(&mut self, text: &str) {
        if self.ended {
            return;
        }
        self.ticket.finish();
        if self.owes_an_end() {
            let Ticket { id, form, .. } = &*self.ticket;
            let outlet = &*self.ticket.connection.outlet;
            send_failure(outlet, id, *form, text, &self.ticket.silence);
        }
        self.close();
    }

    /// As [`fail`](Self::fail), for a thread that must not wait.
    pub(super) fn refuse(mut self, text: &str) {
        if self.owes_an_end() {
            let ticket = &self.ticket;
            ticket.connection.refuse(&ticket.id, ticket.form, text);
        }
        self.close();
    }

    fn owes_an_end(&self) -> bool {
        let nothing = match self.ticket.cancel.reason() {
            Some(Reason::Cancelled) => !self.begun,
            Some(Reason::ConnectionLost) => true,
            _ => false,
        };
        !nothing && self.ticket.silence.reason().is_none()
    }

    fn send(&self, message: Message) -> Result<(), SendError> {
        let connection = &self.ticket.connection;
        let id = &*self.ticket.id;
        connection.outlet.send(id, message, &self.ticket.cancel)
    }

    fn close(&mut self) {
        self.ended = true;
        self.ticket.retire();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.fail("internal error of the agent");
    }
}

/// How a request failed, for its last message.
pub(super) fn failure_text(ticket: &Ticket, error: &dyn std::fmt::Display) -> String {
    match ticket.cancel.reason() {
        Some(Reason::Deadline) => too_late(ticket.failure_prefix),
        Some(Reason::Failed) => ticket.failure().unwrap_or_else(|| error.to_string()),
        Some(reason) => reason.to_string(),
        None => format!("{}: {error}", ticket.failure_prefix),
    }
}

fn size_of(headers: &Headers) -> usize {
    headers.iter().map(|(n, v)| n.len() + v.len() + 8).sum()
}
