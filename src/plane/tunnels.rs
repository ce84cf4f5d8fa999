//! What the plane asks of an agent's tunnels (tunnels.md §1, decisions.md §6.6).

use std::time::Duration;

use crate::wire::to_agent::YamuxConfig;
use crate::yamux::{Config, MAX_WINDOW, Role};

/// What `gateway_hello` suggests.
pub(super) const SUGGESTED: YamuxConfig = YamuxConfig {
    max_stream_window_size: MAX_WINDOW,
    keep_alive_interval_seconds: 30,
    connection_timeout_seconds: 30,
};

/// Our side of the same.
pub(super) fn config() -> Config {
    Config {
        max_window: MAX_WINDOW,
        keepalive: Duration::from_secs(SUGGESTED.keep_alive_interval_seconds),
        timeout: Duration::from_secs(SUGGESTED.connection_timeout_seconds),
        ..Config::new(Role::Server)
    }
}

/// What all streams of all agents may hold here, in bytes: the agent's
/// `tunnels.memory_limit` has the same default.
pub(super) const MEMORY_LIMIT: usize = 64 * 1024 * 1024;
