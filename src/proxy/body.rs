//! The body of a form B answer on its way into its message.

use super::memory::{OverBudget, Reservation};
use crate::buffers::{Buffer, FRAME};
use crate::wire::BodyText;

/// Writes a body as text into a message, and pays for what that takes.
///
/// A body that the message was made for goes there at once. What comes beyond that
/// (its length wasn't said, or it compresses badly) is held in pieces until all of it
/// has come; then the message becomes as large as it must be, once, and each piece is
/// given back when it has been encoded. So nothing is moved again and again, and what
/// waits to be sent is not larger than what is sent.
pub(super) struct BodyWriter<'a, 'b> {
    text: &'a mut BodyText<'b>,
    /// For all that the message can hold, and the pieces.
    room: &'a mut Reservation,
    /// What follows the body in the message, at most.
    behind: usize,
    pieces: Vec<Buffer>,
}

impl<'a, 'b> BodyWriter<'a, 'b> {
    /// `room` pays for the message already.
    pub(super) fn new(
        text: &'a mut BodyText<'b>,
        room: &'a mut Reservation,
        behind: usize,
    ) -> Self {
        Self {
            text,
            room,
            behind,
            pieces: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), OverBudget> {
        if self.pieces.is_empty() && self.text.has_room(bytes.len(), self.behind) {
            self.text.push(bytes);
            return Ok(());
        }
        while !bytes.is_empty() {
            let space = |piece: &Buffer| piece.capacity() - piece.len();
            if self.pieces.last().map_or(0, space) == 0 {
                self.room.grow(PIECE)?;
                self.pieces.push(Buffer::with_capacity(PIECE));
            }
            if let Some(piece) = self.pieces.last_mut() {
                let (now, later) = bytes.split_at(bytes.len().min(space(piece)));
                piece.extend_from_slice(now);
                bytes = later;
            }
        }
        Ok(())
    }

    /// All of the body has come.
    pub(super) fn finish(self) -> Result<(), OverBudget> {
        let (room, behind) = (self.room, self.behind);
        let held = self.pieces.iter().map(|piece| piece.len()).sum();
        self.text
            .make_room(held, |buf, more| room.extend(buf, more + behind))?;
        for piece in self.pieces {
            self.text.push(&piece);
            drop(piece);
            room.shrink(PIECE);
        }
        Ok(())
    }
}

/// Size of a piece, in bytes: that of buffers that are at hand.
const PIECE: usize = FRAME;
