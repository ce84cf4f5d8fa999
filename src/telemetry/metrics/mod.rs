//! What is counted while the agent runs (local-server.md §10, tunnels.md §8.5).
//!
//! Each metric is a static that is counted where the thing happens; `FAMILIES` gives
//! it its name, and [`snapshot`] reads them all: for a test, for the demo's closing
//! table, and later for `/metrics`. They belong to the process: a test that runs
//! beside others can only say that one has grown.

mod kinds;
mod snapshot;

use std::time::Duration;

pub use kinds::{Counter, Entered, Gauge, GaugeEach, GaugeOfOne, Histogram, Part};
pub use snapshot::{Series, Snapshot, snapshot};

use crate::threads;
use snapshot::{Family, Metric};

// Tunnels of every kind.

/// Sessions of yamux with the control plane: one, or none.
pub static TUNNEL_SESSIONS: Gauge = Gauge::new();
/// Streams, connections and sessions of UDP that have their target.
pub static TUNNEL_FORWARDS: Gauge = Gauge::new();

// Streams of yamux.

pub static YAMUX_ACCEPTED: Counter = Counter::new();
pub static YAMUX_ACTIVE: Gauge = Gauge::new();
pub static YAMUX_DURATION: Histogram<15> = Histogram::doubling(Duration::from_millis(100));
/// From the gateway to the target, per chunk.
pub static YAMUX_BYTES_IN: Counter = Counter::new();
/// From the target to the gateway, per chunk.
pub static YAMUX_BYTES_OUT: Counter = Counter::new();
/// There was no place (`tunnels.max_streams`) or no thread for them.
pub static YAMUX_REFUSED: Counter = Counter::new();
pub static YAMUX_HEADER_ERRORS: Counter = Counter::new();
pub static YAMUX_DENIED: Counter = Counter::new();
pub static YAMUX_DIAL_ERRORS: Counter = Counter::new();
pub static YAMUX_COPY_ERRORS: Counter = Counter::new();
/// Streams that wait for room: the peer grants no window, or the link takes nothing.
pub static YAMUX_PAUSED: Gauge = Gauge::new();
/// What a session takes of the memory for tunnels: bytes it holds, or has granted beyond
/// what yamux gives each stream.
pub static YAMUX_WINDOW_BYTES: GaugeEach = GaugeEach::new();

// TCP tunnels in JSON messages. "Sent" and "received" are seen from the target's
// side of the agent: sent to the target, received from it.

pub static TCP_ACTIVE: Gauge = Gauge::new();
pub static TCP_CONNECTIONS: Counter = Counter::new();
pub static TCP_BYTES_SENT: Counter = Counter::new();
pub static TCP_BYTES_RECEIVED: Counter = Counter::new();
pub static TCP_CONNECTION_FAILED: Counter = Counter::new();
pub static TCP_DENIED: Counter = Counter::new();
pub static TCP_WRITE_ERRORS: Counter = Counter::new();
pub static TCP_READ_ERRORS: Counter = Counter::new();
pub static TCP_DURATION: Histogram<12> = Histogram::doubling(Duration::from_secs(1));

// Sessions of UDP, on streams and in JSON messages.

pub static UDP_ACTIVE: Gauge = Gauge::new();
pub static UDP_SESSIONS: Counter = Counter::new();
/// To the target.
pub static UDP_PACKETS_SENT: Counter = Counter::new();
/// From the target.
pub static UDP_PACKETS_RECEIVED: Counter = Counter::new();
pub static UDP_CONNECTION_FAILED: Counter = Counter::new();
pub static UDP_DENIED: Counter = Counter::new();
/// ICMP says that nobody listens.
pub static UDP_REFUSED: Counter = Counter::new();
pub static UDP_WRITE_ERRORS: Counter = Counter::new();
pub static UDP_READ_ERRORS: Counter = Counter::new();
/// There was no room for the datagram.
pub static UDP_DROPPED: Counter = Counter::new();
/// A stream can't say it, either way (decisions.md §6.6).
pub static UDP_EMPTY: Counter = Counter::new();

// Proxied requests to Services and origins.

pub static SERVICE_ALLOWED: Counter = Counter::new();
pub static SERVICE_DENIED: Counter = Counter::new();
/// Of both: those that rules that run dry would have judged otherwise.
pub static SERVICE_DRY_RUN: Counter = Counter::new();

// Proxied requests to the origins of a plain machine: those that had a connection, and
// those that got none.

pub static ORIGIN_TCP_OK: Counter = Counter::new();
pub static ORIGIN_TCP_FAILED: Counter = Counter::new();
pub static ORIGIN_UNIX_OK: Counter = Counter::new();
pub static ORIGIN_UNIX_FAILED: Counter = Counter::new();
/// No origin is configured for what they name.
pub static ORIGIN_UNKNOWN: Counter = Counter::new();

// The link to the peer.

/// Bytes of messages on the agent's links, and of streams' frames, that aren't
/// written yet. Those of streams are as they were when their session last looked.
pub static LINK_QUEUED_BYTES: Gauge = Gauge::new();

/// Every name, in the order in which they are written out.
static FAMILIES: &[Family] = &[
    Family {
        name: "pipeops_tunnel_status",
        help: "1 while there is a session of tunnels with the control plane.",
        metric: Metric::Read(|| u64::from(TUNNEL_SESSIONS.value() > 0)),
    },
    Family {
        name: "pipeops_tunnel_forwards_active",
        help: "Streams, connections and UDP sessions of tunnels that have their target, now.",
        metric: Metric::Gauge(&TUNNEL_FORWARDS),
    },
    Family {
        name: "pipeops_agent_yamux_streams_accepted_total",
        help: "Streams that the gateway opened.",
        metric: Metric::Counter(&YAMUX_ACCEPTED),
    },
    Family {
        name: "pipeops_agent_yamux_active_streams",
        help: "Streams open now.",
        metric: Metric::Gauge(&YAMUX_ACTIVE),
    },
    Family {
        name: "pipeops_agent_yamux_stream_duration_seconds",
        help: "How long streams lived.",
        metric: Metric::Histogram(&YAMUX_DURATION),
    },
    Family {
        name: "pipeops_agent_yamux_bytes_total",
        help: "Bytes carried: in is from the gateway to the target, out from the target to the gateway.",
        metric: Metric::Counters(
            "direction",
            &[("in", &YAMUX_BYTES_IN), ("out", &YAMUX_BYTES_OUT)],
        ),
    },
    Family {
        name: "pipeops_agent_yamux_stream_errors_total",
        help: "Streams that failed, by the step at which they did.",
        metric: Metric::Counters(
            "type",
            &[
                ("refused", &YAMUX_REFUSED),
                ("header_error", &YAMUX_HEADER_ERRORS),
                ("policy_denied", &YAMUX_DENIED),
                ("dial_error", &YAMUX_DIAL_ERRORS),
                ("copy_error", &YAMUX_COPY_ERRORS),
            ],
        ),
    },
    Family {
        name: "pipeops_agent_yamux_paused_streams",
        help: "Streams that wait for the peer to take what was sent.",
        metric: Metric::Gauge(&YAMUX_PAUSED),
    },
    Family {
        name: "pipeops_agent_yamux_window_bytes",
        help: "Memory that tuned windows and queues of each session take.",
        metric: Metric::Gauges("session", &YAMUX_WINDOW_BYTES),
    },
    Family {
        name: "pipeops_agent_tcp_tunnel_active_connections",
        help: "Connections of TCP tunnels in JSON messages, now.",
        metric: Metric::Gauge(&TCP_ACTIVE),
    },
    Family {
        name: "pipeops_agent_tcp_tunnel_connections_total",
        help: "Connections of TCP tunnels in JSON messages that reached their target.",
        metric: Metric::Counter(&TCP_CONNECTIONS),
    },
    Family {
        name: "pipeops_agent_tcp_tunnel_bytes_total",
        help: "Bytes sent to targets and received from them.",
        metric: Metric::Counters(
            "direction",
            &[("sent", &TCP_BYTES_SENT), ("received", &TCP_BYTES_RECEIVED)],
        ),
    },
    Family {
        name: "pipeops_agent_tcp_tunnel_errors_total",
        help: "Connections that failed, by the step at which they did.",
        metric: Metric::Counters(
            "error_type",
            &[
                ("connection_failed", &TCP_CONNECTION_FAILED),
                ("policy_denied", &TCP_DENIED),
                ("write_error", &TCP_WRITE_ERRORS),
                ("read_error", &TCP_READ_ERRORS),
            ],
        ),
    },
    Family {
        name: "pipeops_agent_tcp_tunnel_connection_duration_seconds",
        help: "How long connections lived.",
        metric: Metric::Histogram(&TCP_DURATION),
    },
    Family {
        name: "pipeops_agent_udp_tunnel_active_sessions",
        help: "UDP sessions now.",
        metric: Metric::Gauge(&UDP_ACTIVE),
    },
    Family {
        name: "pipeops_agent_udp_tunnel_sessions_total",
        help: "UDP sessions that reached their target.",
        metric: Metric::Counter(&UDP_SESSIONS),
    },
    Family {
        name: "pipeops_agent_udp_tunnel_packets_total",
        help: "Datagrams sent to targets and received from them.",
        metric: Metric::Counters(
            "direction",
            &[
                ("sent", &UDP_PACKETS_SENT),
                ("received", &UDP_PACKETS_RECEIVED),
            ],
        ),
    },
    Family {
        name: "pipeops_agent_udp_tunnel_errors_total",
        help: "Sessions that failed and datagrams that were lost, by why.",
        metric: Metric::Counters(
            "error_type",
            &[
                ("connection_failed", &UDP_CONNECTION_FAILED),
                ("policy_denied", &UDP_DENIED),
                ("refused", &UDP_REFUSED),
                ("write_error", &UDP_WRITE_ERRORS),
                ("read_error", &UDP_READ_ERRORS),
                ("dropped", &UDP_DROPPED),
                ("empty", &UDP_EMPTY),
            ],
        ),
    },
    Family {
        name: "pipeops_agent_service_requests_total",
        help: "Proxied requests to Services and origins, by what the policy said.",
        metric: Metric::Counters(
            "verdict",
            &[("allowed", &SERVICE_ALLOWED), ("denied", &SERVICE_DENIED)],
        ),
    },
    Family {
        name: "pipeops_agent_service_requests_dry_run_total",
        help: "Of these: requests that the policy, if it didn't run dry, would have judged otherwise.",
        metric: Metric::Counter(&SERVICE_DRY_RUN),
    },
    Family {
        name: "pipeops_agent_daemon_origin_requests_total",
        help: "Proxied requests to origins of a plain machine, by whether they were reached.",
        metric: Metric::CountersOfTwo(
            ["network", "result"],
            &[
                (["tcp", "ok"], &ORIGIN_TCP_OK),
                (["tcp", "dial_error"], &ORIGIN_TCP_FAILED),
                (["unix", "ok"], &ORIGIN_UNIX_OK),
                (["unix", "dial_error"], &ORIGIN_UNIX_FAILED),
                (["unknown", "resolve_error"], &ORIGIN_UNKNOWN),
            ],
        ),
    },
    Family {
        name: "pipeops_agent_link_queue_bytes",
        help: "Bytes that wait to be written to the control plane.",
        metric: Metric::Gauge(&LINK_QUEUED_BYTES),
    },
    Family {
        name: "pipeops_agent_threads",
        help: "Threads that the agent has started and that run now.",
        metric: Metric::Read(|| threads::live() as u64),
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_of_the_specification_that_is_counted_yet_is_there_once() {
        let text = snapshot().to_string();
        let types: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        for wanted in [
            "pipeops_tunnel_status gauge",
            "pipeops_tunnel_forwards_active gauge",
            "pipeops_agent_daemon_origin_requests_total counter",
            "pipeops_agent_yamux_streams_accepted_total counter",
            "pipeops_agent_yamux_stream_duration_seconds histogram",
            "pipeops_agent_yamux_bytes_total counter",
            "pipeops_agent_yamux_active_streams gauge",
            "pipeops_agent_yamux_stream_errors_total counter",
            "pipeops_agent_tcp_tunnel_active_connections gauge",
            "pipeops_agent_tcp_tunnel_connections_total counter",
            "pipeops_agent_tcp_tunnel_bytes_total counter",
            "pipeops_agent_tcp_tunnel_errors_total counter",
            "pipeops_agent_tcp_tunnel_connection_duration_seconds histogram",
            "pipeops_agent_udp_tunnel_active_sessions gauge",
            "pipeops_agent_udp_tunnel_sessions_total counter",
            "pipeops_agent_udp_tunnel_packets_total counter",
            "pipeops_agent_udp_tunnel_errors_total counter",
            "pipeops_agent_link_queue_bytes gauge",
            "pipeops_agent_yamux_paused_streams gauge",
            "pipeops_agent_threads gauge",
        ] {
            assert!(types.contains(&wanted), "{wanted}");
        }
        // Of each session, so not here when there is none.
        let each = "pipeops_agent_yamux_window_bytes";
        assert!(FAMILIES.iter().any(|family| family.name == each));
        let names: HashSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
    }

    /// local-server.md §10.3.
    #[test]
    fn the_buckets_are_the_specifications() {
        let text = snapshot().to_string();
        let bounds = |name: &str| -> Vec<&str> {
            let begin = format!("pipeops_agent_{name}_seconds_bucket{{le=\"");
            text.lines()
                .filter_map(|line| line.strip_prefix(begin.as_str())?.split('"').next())
                .collect()
        };
        let streams = bounds("yamux_stream_duration");
        assert_eq!(streams.len(), 16);
        assert_eq!(streams[..3], ["0.1", "0.2", "0.4"]);
        assert_eq!(streams[14..], ["1638.4", "+Inf"]);
        let connections = bounds("tcp_tunnel_connection_duration");
        assert_eq!(connections.len(), 13);
        assert_eq!(connections[..3], ["1", "2", "4"]);
        assert_eq!(connections[11..], ["2048", "+Inf"]);
    }

    #[test]
    fn what_is_counted_is_seen() {
        let series = "pipeops_agent_yamux_bytes_total{direction=\"in\"}";
        let before = snapshot().value(series).expect("there");
        YAMUX_BYTES_IN.add(1000);
        assert!(snapshot().value(series).expect("there") >= before + 1000.0);
        assert!(snapshot().value("pipeops_agent_threads").is_some());
    }
}
