//! TCP and UDP tunnels in JSON messages (tunnels.md §4): what the gateway says, and
//! what the agent answers. Our own plane doesn't speak them: it has yamux.

use std::borrow::Cow;
use std::time::Duration;

use super::encode::{base64, message, number, string};
use super::envelope::Payload;

/// `tcp_tunnel_start`. The envelope's `request_id` is the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpStart<'a> {
    pub tunnel_id: Cow<'a, str>,
    /// `address:port`, for people.
    pub client: Cow<'a, str>,
    pub target: Target<'a>,
}

/// Where a tunnel leads. What is absent is empty, or port 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target<'a> {
    pub service: Cow<'a, str>,
    pub namespace: Cow<'a, str>,
    pub port: u16,
    /// On this machine.
    pub gateway_port: u16,
}

/// `udp_tunnel_data` of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub tunnel_id: Cow<'a, str>,
    pub client_address: Cow<'a, str>,
    pub client_port: u16,
    /// Base64; absent, the datagram is empty.
    pub data: Cow<'a, str>,
    pub target: Target<'a>,
}

impl<'a> TcpStart<'a> {
    pub(super) fn parse(payload: &Payload<'a>) -> Self {
        Self {
            tunnel_id: payload.str("tunnel_id").unwrap_or_default(),
            client: payload.str("client_addr").unwrap_or_default(),
            target: Target::parse(payload),
        }
    }
}

impl<'a> Target<'a> {
    fn parse(payload: &Payload<'a>) -> Self {
        Self {
            service: payload.str("service_name").unwrap_or_default(),
            namespace: payload.str("service_namespace").unwrap_or_default(),
            port: port(payload, "service_port"),
            gateway_port: port(payload, "gateway_port"),
        }
    }
}

impl<'a> Datagram<'a> {
    pub(super) fn parse(payload: &Payload<'a>) -> Self {
        Self {
            tunnel_id: payload.str("tunnel_id").unwrap_or_default(),
            client_address: payload.str("client_addr").unwrap_or_default(),
            client_port: port(payload, "client_port"),
            data: payload.str("data").unwrap_or_default(),
            target: Target::parse(payload),
        }
    }
}

/// What can't be a port counts as absent.
fn port(payload: &Payload<'_>, name: &str) -> u16 {
    let number = payload.integer(name).unwrap_or(0);
    u16::try_from(number).unwrap_or(0)
}

/// Why the agent closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    ConnectionFailed,
    RegistrationFailed,
    WriteError,
    ServiceClosed,
}

impl CloseReason {
    pub fn word(self) -> &'static str {
        match self {
            Self::ConnectionFailed => "connection_failed",
            Self::RegistrationFailed => "registration_failed",
            Self::WriteError => "write_error",
            Self::ServiceClosed => "service_closed",
        }
    }
}

/// `tcp_tunnel_close` of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpClose<'a> {
    pub reason: CloseReason,
    pub error: Option<&'a str>,
    /// `None` where there was no connection.
    pub totals: Option<Totals>,
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// To the target.
    pub bytes_sent: u64,
    /// From the target.
    pub bytes_received: u64,
    pub duration: Duration,
}

/// Bytes that came from the target.
pub fn tcp_tunnel_data(buf: &mut Vec<u8>, id: &str, data: &[u8]) {
    message(buf, "tcp_tunnel_data", Some(id), |buf| {
        buf.extend_from_slice(b"{\"data\":");
        base64(buf, data);
        buf.extend_from_slice(b",\"direction\":\"agent_to_gateway\"}");
    });
}

pub fn tcp_tunnel_close(buf: &mut Vec<u8>, id: &str, close: &TcpClose<'_>) {
    message(buf, "tcp_tunnel_close", Some(id), |buf| {
        buf.push(b'{');
        if let Some(totals) = close.totals {
            let millis = totals.duration.as_millis().try_into().unwrap_or(u64::MAX);
            for (name, value) in [
                ("bytes_received", totals.bytes_received),
                ("bytes_sent", totals.bytes_sent),
                ("duration_ms", millis),
            ] {
                string(buf, name);
                buf.push(b':');
                number(buf, value);
                buf.push(b',');
            }
        }
        if let Some(error) = close.error {
            buf.extend_from_slice(b"\"error\":");
            string(buf, error);
            buf.push(b',');
        }
        buf.extend_from_slice(b"\"reason\":");
        string(buf, close.reason.word());
        buf.push(b'}');
    });
}

/// A datagram that came from the target, for one client.
pub fn udp_tunnel_data(
    buf: &mut Vec<u8>,
    tunnel_id: &str,
    (client_address, client_port): (&str, u16),
    data: &[u8],
) {
    message(buf, "udp_tunnel_data", None, |buf| {
        buf.extend_from_slice(b"{\"client_addr\":");
        string(buf, client_address);
        buf.extend_from_slice(b",\"client_port\":");
        number(buf, client_port);
        buf.extend_from_slice(b",\"data\":");
        base64(buf, data);
        buf.extend_from_slice(b",\"direction\":\"agent_to_gateway\",\"tunnel_id\":");
        string(buf, tunnel_id);
        buf.push(b'}');
    });
}

#[cfg(test)]
mod tests;
