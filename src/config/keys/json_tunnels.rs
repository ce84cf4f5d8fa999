//! Keys of tunnels in JSON messages. Each limit has a default of its own, which 0
//! means as well (tunnels.md T28, T29).

use std::time::Duration;

use crate::config::table::{Key, Kind};

/// tunnels.md §8.6.
pub(super) const JSON_TUNNELS: &[Key] = &[
    Key::new(
        "tunnels.json_target",
        Kind::Choice {
            of: &["service", "gateway"],
            set: |c, v| c.tunnels.prefer_gateway_port = v == "gateway",
        },
        "Where a tunnel in JSON messages leads that names both: the Service or, as in the original, 127.0.0.1 at the Gateway's port",
    )
    .default("service"),
    Key::new(
        "tunnels.tcp.buffer_size",
        Kind::Size {
            min: 0,
            set: |c, v| {
                if v > 0 {
                    c.tunnels.tcp.buffer_size = v.min(MAX_BUFFER) as usize;
                }
            },
        },
        "Bytes in one tcp_tunnel_data at most (1 MiB is the most)",
    )
    .default("32KiB"),
    Key::new(
        "tunnels.tcp.keepalive",
        Kind::Bool(|c, v| c.tunnels.tcp.keepalive = v),
        "Probe targets of TCP tunnels that are idle",
    )
    .default("true"),
    Key::new(
        "tunnels.tcp.keepalive_period",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| {
                if !v.is_zero() {
                    c.tunnels.tcp.keepalive_period = v;
                }
            },
        },
        "After how long, and how often",
    )
    .default("30s"),
    Key::new(
        "tunnels.tcp.connection_timeout",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| {
                if !v.is_zero() {
                    c.tunnels.tcp.connection_timeout = v;
                }
            },
        },
        "How long reaching the target of a tunnel in JSON messages may take",
    )
    .default("30s"),
    Key::new(
        "tunnels.tcp.idle_timeout",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| {
                if !v.is_zero() {
                    c.tunnels.tcp.idle_timeout = v;
                }
            },
        },
        "Close a TCP tunnel in JSON messages that is idle for this long",
    )
    .default("5m"),
    Key::new(
        "tunnels.tcp.max_connections",
        Kind::Int {
            min: 0,
            max: 65_536,
            set: |c, v| {
                if v > 0 {
                    c.tunnels.tcp.max_connections = v as usize;
                }
            },
        },
        "TCP connections in JSON messages at once",
    )
    .default("1000"),
    Key::new(
        "tunnels.udp.buffer_size",
        Kind::Size {
            min: 0,
            set: |c, v| {
                if v > 0 {
                    c.tunnels.udp.buffer_size = v.min(MAX_DATAGRAM) as usize;
                }
            },
        },
        "The longest datagram of a target; longer ones are dropped",
    )
    .default("65507"),
    Key::new(
        "tunnels.udp.session_timeout",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| {
                if !v.is_zero() {
                    c.tunnels.udp.session_timeout = v;
                }
            },
        },
        "End a UDP session in JSON messages whose client is silent for this long",
    )
    .default("5m"),
    Key::new(
        "tunnels.udp.max_sessions",
        Kind::Int {
            min: 0,
            max: 65_536,
            set: |c, v| {
                if v > 0 {
                    c.tunnels.udp.max_sessions = v as usize;
                }
            },
        },
        "UDP sessions in JSON messages at once, over all tunnels",
    )
    .default("1000"),
];

/// A message of this size already delays all others.
const MAX_BUFFER: u64 = 1024 * 1024;

/// More doesn't fit into an IPv4 packet.
const MAX_DATAGRAM: u64 = 65_507;
