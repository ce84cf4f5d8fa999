//! Limits of JSON tunnels (tunnels.md §8.6).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Config, ProxyProtocol};

/// Which of the two targets of a message counts (tunnels.md T23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The Service, where all of it is named.
    #[default]
    Service,
    /// 127.0.0.1 at the Gateway's port, as the original.
    Gateway,
}

/// Limits; the defaults are the specification's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub prefer: Preference,
    /// See [`proxy_protocol::configured`](crate::tunnel::proxy_protocol::configured).
    pub proxy_protocol: BTreeMap<String, ProxyProtocol>,
    /// Bytes that are read from a target at once: one message each.
    pub tcp_buffer: usize,
    pub connection_timeout: Duration,
    /// Without a byte in either direction.
    pub tcp_idle: Duration,
    pub max_connections: usize,
    /// Bytes that wait for targets, of all tunnels together: half of
    /// `tunnels.memory_limit`, so that streams of yamux find the rest. With its default
    /// that is 32 MiB, and the 64 MiB that one may have (decisions.md §6.6) aren't
    /// reached.
    pub memory: usize,
    /// The longest datagram of a target.
    pub udp_buffer: usize,
    /// Without a datagram of the client.
    pub udp_idle: Duration,
    /// Of all UDP tunnels together.
    pub max_sessions: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_config(&Config::defaults())
    }
}

impl Settings {
    pub fn from_config(config: &Config) -> Self {
        let tunnels = &config.tunnels;
        Self {
            prefer: if tunnels.prefer_gateway_port {
                Preference::Gateway
            } else {
                Preference::Service
            },
            proxy_protocol: tunnels.proxy_protocol.clone(),
            tcp_buffer: tunnels.tcp.buffer_size,
            connection_timeout: tunnels.tcp.connection_timeout,
            tcp_idle: tunnels.tcp.idle_timeout,
            max_connections: tunnels.tcp.max_connections,
            memory: tunnels.memory_limit / 2,
            udp_buffer: tunnels.udp.buffer_size,
            udp_idle: tunnels.udp.session_timeout,
            max_sessions: tunnels.udp.max_sessions,
        }
    }
}
