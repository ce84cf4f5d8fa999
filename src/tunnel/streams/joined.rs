//! For the plane, whose streams lead to sockets of clients: the agent's way of copying.

use std::sync::Arc;

use socket2::Socket;

use super::account::Account;
pub(crate) use super::flow::Activity;
use super::flow::{Flow, copy};
use super::tcp::{self, Tcp};
use super::{Settings, Stream};
use crate::workers::Workers;

/// Copies between a stream and a socket that is connected, each direction on a thread
/// of `copiers`, by the rules of [`flow`](super::flow). Returns at once.
pub(crate) fn join(
    stream: Stream,
    socket: Arc<Socket>,
    account: Box<dyn Account>,
    settings: &Settings,
    copiers: &Workers,
) {
    stream.join_frames();
    let tcp = Tcp::new(&socket, &[], settings);
    let flow = Flow::new(stream, socket, account, settings.tcp_idle, tcp);
    copy(copiers, flow, [tcp::to_target, tcp::from_target]);
}
