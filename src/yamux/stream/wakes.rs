//! What a change of a stream means for others.

/// Things to be done by whoever changed a stream, when its lock is free again.
/// They are bits that add up: doing one of them once for several changes is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "somebody waits for it"]
pub struct Wakes {
    /// Who reads has something to read, or learns that it is over.
    pub reader: bool,
    /// Who sends may find room, or learns that it is over.
    pub sender: bool,
    /// To be put into the list of who has control frames, which go before all turns.
    pub control: bool,
    /// To be put into [`Turns::enter`](crate::turns::Turns::enter).
    pub turn: bool,
    /// A SYN of ours is answered, or needs no answer any more:
    /// [`Session::note`](crate::yamux::Session::note).
    pub answered: bool,
    /// The wire knows the stream no more: [`Session::note`](crate::yamux::Session::note),
    /// before the frame that ended it is written. What was received can still be read.
    pub forget: bool,
}

impl Wakes {
    /// [`Session::note`](crate::yamux::Session::note) wants to know.
    pub fn concern_session(self) -> bool {
        self.answered || self.forget
    }
}
