//! What using a stream can give.

/// Why a stream can't be read or written any more. What was buffered is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    #[error("reset by the peer")]
    ByPeer,
    #[error("reset by us")]
    ByUs,
    /// Never to be taken for an end of the stream (tunnels.md T9).
    #[error("the session is gone")]
    SessionLost,
}

/// How an RST goes with data that is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It takes the place of the data.
    AtOnce,
    /// It follows the data: the target failed after it had answered.
    AfterData,
}

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<T> {
    Some(T),
    /// Nothing yet.
    Wait,
    /// The peer's FIN: nothing any more.
    End,
}

/// A datagram: what one Data frame carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// It was appended; so many bytes.
    Whole(usize),
    /// It has so many bytes, more than allowed, and was passed over.
    TooLong(usize),
}

/// Why a payload wasn't queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No slot is free, the window is too small, or the payload is empty.
    #[error("no room")]
    NoRoom,
    #[error("finished before")]
    Finished,
    #[error(transparent)]
    Cut(#[from] Cut),
}
