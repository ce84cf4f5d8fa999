//! Messages of TCP and UDP tunnels (tunnels.md §4), on whatever connection they come
//! (T20), and what is said where there are none (T21).

use std::time::Duration;

use super::dispatch::known;
use crate::link::Message;
use crate::telemetry::RateLimit;
use crate::tunnel::json::{Tunnels, refusal};
use crate::wire::ToAgent;
use crate::wire::tunnel::CloseReason;

/// Hands a message on; never waits. What it gives is to be sent, with other refusals.
pub(super) fn json_tunnel(
    tunnels: Option<&mut Tunnels>,
    id: Option<&str>,
    message: &ToAgent<'_>,
) -> Option<Message> {
    match message {
        ToAgent::TcpTunnelStart(start) => {
            let id = known("tcp_tunnel_start", id)?;
            match tunnels {
                Some(tunnels) => tunnels.start(id, start),
                None => Some(refusal(id, CloseReason::RegistrationFailed, DISABLED)),
            }
        }
        ToAgent::TcpTunnelData { data } => {
            let id = known("tcp_tunnel_data", id)?;
            tunnels?.data(id, data.as_deref())
        }
        ToAgent::TcpTunnelClose { reason } => {
            let id = known("tcp_tunnel_close", id)?;
            tunnels?.close(id, reason.as_deref());
            None
        }
        ToAgent::UdpTunnelData(datagram) => {
            // There is no negative answer to a datagram.
            static UDP: RateLimit = RateLimit::new(1, Duration::from_mins(10));
            if let Some(tunnels) = tunnels {
                tunnels.datagram(datagram);
            } else if let Some(skipped) = UDP.pass() {
                log::warn!(skipped; "udp_tunnel_data dropped: {DISABLED}");
            }
            None
        }
        _ => None,
    }
}

const DISABLED: &str = "tunnels disabled";
