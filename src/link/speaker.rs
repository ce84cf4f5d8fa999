//! Who has a queue of its own, and what is reminded of the time.

use std::time::Instant;

use super::message::Message;

/// Somebody who keeps what he has to say himself until it is his turn: a stream, or
/// the session of many. [`Link::enter`] and [`Link::enter_control`] tell the writer
/// that he has something; he sees to it that he is in each list once.
///
/// Both methods are called on the `link-writer` thread, which holds no lock then:
/// they may take locks of their own for a moment, and may speak to the link
/// (nobody speaks to the link while he holds a lock that these take). They must not
/// wait. When the link ends, it drops its speakers, with locks of the link held: a
/// `Drop` must neither wait nor speak to the link.
///
/// [`Link::enter`]: super::Link::enter
/// [`Link::enter_control`]: super::Link::enter_control
pub trait Speaker: Send + Sync {
    /// Appends what goes before everybody's turns: complete yamux frames without a
    /// payload, a few KiB at most. The writer sends what several speakers say here as
    /// one binary message. Being asked is leaving the list: who has more to say
    /// enters again.
    fn control(&self, out: &mut Vec<u8>);

    /// A turn: appends messages, up to [`TURN`](crate::turns::TURN) bytes or one
    /// larger, and a few dozen at most. False: he leaves the list of turns; so he
    /// does when there was nothing to append. True: he may have more to say, and has
    /// another turn when the others had theirs.
    fn turn(&self, out: &mut Vec<Message>) -> bool;
}

/// What a link carries that has to know how time passes.
pub trait Carrier: Send + Sync {
    /// Called once a second on the `link-clock` thread, which holds no lock then.
    /// Must not wait: it is the thread that notices a dead link.
    fn tick(&self, now: Instant);
}
