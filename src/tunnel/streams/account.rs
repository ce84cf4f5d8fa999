//! Who keeps count of a stream.

use std::borrow::Cow;

use crate::yamux::Cut;

/// What is told of a stream while bytes flow: at the agent its [`Record`], at the
/// plane what the listener counts. It is dropped with the stream. Called by both
/// threads.
///
/// [`Record`]: super::record::Record
pub(crate) trait Account: Send + Sync {
    /// So many more bytes went from the stream to the socket.
    fn moved_in(&self, bytes: usize);

    /// So many more bytes went from the socket to the stream.
    fn moved_out(&self, bytes: usize);

    /// A direction has come to its end as it should.
    fn ended(&self, how: &'static str);

    /// It ended otherwise.
    fn failed(&self, why: Cow<'static, str>);

    /// As [`failed`](Self::failed), by an error of the socket.
    fn copy_failed(&self, why: String);

    /// By whom the stream was cut. By us, that was said before, unless the session
    /// did it: the drain, memory, the half-close limit.
    fn cut(&self, cut: Cut);
}
