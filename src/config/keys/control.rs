//! `pipeops`, `registration`, `timeouts`, `proxy`: the way to the control plane and
//! what is done for it.

use std::path::PathBuf;
use std::time::Duration;

use super::agent::interval;
use crate::config::table::{Key, Kind};
use crate::config::types::ClientCertificate;
use crate::config::{Config, ServicePort, TokenSource, Transport};
use crate::url::Url;

/// config-and-state.md §3.2.
pub(super) const PIPEOPS: &[Key] = &[
    Key::new(
        "pipeops.api_url",
        Kind::Parsed {
            what: "url",
            set: |c, v| {
                c.pipeops.api_url = Url::parse_configured(v).map_err(|error| error.to_string())?;
                Ok(())
            },
        },
        "URL of the control plane",
    )
    .flag("pipeops-url")
    .default("https://api.pipeops.io"),
    Key::new(
        "pipeops.token",
        Kind::Secret(|c, v| c.pipeops.token = TokenSource::Literal(v)),
        "Token for the control plane; a flag shows in the process list, prefer a file",
    )
    .flag("token"),
    Key::new(
        "pipeops.token_file",
        Kind::Path(|c, v| c.pipeops.token = TokenSource::File(v)),
        "File that holds the token; it is read again when needed",
    )
    .flag("token-file")
    .default_note("the systemd credential pipeops-token"),
    Key::new(
        "pipeops.transport",
        Kind::Choice {
            of: &["auto", "websocket", "http"],
            set: |c, v| {
                c.pipeops.transport = match v {
                    "websocket" => Transport::WebSocket,
                    "http" => Transport::Http,
                    _ => Transport::Auto,
                };
            },
        },
        "How to register: auto, websocket or http",
    )
    .default("auto"),
    Key::new(
        "pipeops.allow_plaintext_gateway",
        Kind::Bool(|c, v| c.pipeops.allow_plaintext_gateway = v),
        "Use a gateway without TLS although the control plane has it (development)",
    )
    .default("false"),
    Key::new(
        "pipeops.gateway_hosts",
        Kind::List(|c, v| c.pipeops.gateway_hosts = v),
        "Hosts of gateways that may be dialled; .example.com stands for all below it",
    )
    .default_note("any"),
    Key::new(
        "pipeops.tls.insecure_skip_verify",
        Kind::Bool(|c, v| c.pipeops.tls.insecure_skip_verify = v),
        "Do not verify the control plane's certificate",
    )
    .default("false"),
    Key::new(
        "pipeops.tls.ca_file",
        Kind::Path(|c, v| c.pipeops.tls.ca_file = Some(v)),
        "Further CA certificates (PEM), besides the system's",
    ),
    Key::new(
        "pipeops.tls.cert_file",
        Kind::Path(|c, v| client_certificate(c).cert_file = v),
        "Client certificate (PEM)",
    ),
    Key::new(
        "pipeops.tls.key_file",
        Kind::Path(|c, v| client_certificate(c).key_file = v),
        "Key of the client certificate (PEM)",
    ),
    // After the rows above, because it overrules them.
    Key::new(
        "pipeops.tls.enabled",
        Kind::Bool(|c, v| {
            if !v {
                c.pipeops.tls = crate::config::Tls::default();
            }
        }),
        "false ignores the other pipeops.tls keys; it does not switch TLS off",
    )
    .default("true"),
    Key::new(
        "pipeops.proxy.https",
        Kind::Secret(|c, v| c.pipeops.proxy.https = Some(v)),
        "Proxy for https and wss URLs (http://user:password@host:port)",
    )
    .env(&["PIPEOPS_PROXY_HTTPS", "HTTPS_PROXY", "https_proxy"]),
    Key::new(
        "pipeops.proxy.http",
        Kind::Secret(|c, v| c.pipeops.proxy.http = Some(v)),
        "Proxy for http and ws URLs",
    )
    .env(&["PIPEOPS_PROXY_HTTP", "HTTP_PROXY", "http_proxy"]),
    Key::new(
        "pipeops.proxy.no_proxy",
        Kind::List(|c, v| c.pipeops.proxy.no_proxy = v),
        "Hosts that are reached without a proxy",
    )
    .env(&["PIPEOPS_PROXY_NO_PROXY", "NO_PROXY", "no_proxy"]),
    Key::new(
        "pipeops.max_message_bytes",
        Kind::Size {
            min: 64 * 1024,
            set: |c, v| c.pipeops.max_message_bytes = usize::try_from(v).unwrap_or(usize::MAX),
        },
        "Largest WebSocket message and frame",
    )
    .env(&["AGENT_MAX_WS_FRAME_BYTES"])
    .default("96MiB"),
    Key::new(
        "pipeops.reconnect.enabled",
        Kind::Bool(|c, v| c.pipeops.reconnect.enabled = v),
        "Repeat a heartbeat that failed; the connection itself always comes back",
    )
    .default("true"),
    Key::new(
        "pipeops.reconnect.max_attempts",
        Kind::Int {
            min: i64::MIN,
            max: i64::MAX,
            set: |c, v| {
                // 0 and less meant 3 in the original.
                let attempts = if v <= 0 { 3 } else { v };
                c.pipeops.reconnect.max_attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            },
        },
        "Attempts per heartbeat; never of the connection itself",
    )
    .default("3"),
    Key::new(
        "pipeops.reconnect.interval",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| {
                c.pipeops.reconnect.interval = if v.is_zero() {
                    Duration::from_secs(5)
                } else {
                    v
                };
            },
        },
        "First delay between those attempts; it doubles up to 30s",
    )
    .default("5s"),
    Key::new(
        "pipeops.reconnect.backoff",
        Kind::Duration {
            min: Duration::ZERO,
            set: |_, _| {},
        },
        "Back-off of the first releases",
    )
    .no_effect("delays double; see timeouts.websocket_reconnect"),
    Key::new(
        "pipeops.timeout",
        Kind::Duration {
            min: Duration::from_nanos(1),
            set: |_, _| {},
        },
        "General limit of the first releases",
    )
    .no_effect("each step has its own limit, see timeouts"),
];

/// config-and-state.md §3.9, decisions.md §6.1.
pub(super) const REGISTRATION: &[Key] = &[
    Key::new(
        "registration.give_up_after",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| c.registration.give_up_after = (!v.is_zero()).then_some(v),
        },
        "End with an error when registration failed for this long (0: never)",
    )
    .default_note("never"),
    Key::new(
        "registration.retry_interval",
        Kind::Interval {
            unit: Duration::from_secs(1),
            min: Duration::from_millis(1),
            set: |c, v| c.registration.retry_interval = Some(v),
        },
        "Longest wait between attempts to register",
    )
    .env(&["PIPEOPS_REGISTRATION_RETRY_INTERVAL"])
    .default_note("timeouts.websocket_reconnect_max"),
    Key::new(
        "registration.max_attempts",
        Kind::Int {
            min: i64::MIN,
            max: i64::MAX,
            set: |_, _| {},
        },
        "Attempts to register in the first releases",
    )
    .env(&["PIPEOPS_REGISTRATION_MAX_ATTEMPTS"])
    .no_effect("an unreachable control plane is tried for ever; see registration.give_up_after"),
    Key::new(
        "registration.deduplicate",
        Kind::Bool(|_, _| {}),
        "Deduplication in the first releases",
    )
    .env(&["PIPEOPS_REGISTRATION_DEDUPLICATE"])
    .no_effect("the stored id prevents duplicates"),
];

/// config-and-state.md §3.8, decisions.md §6.3.
pub(super) const TIMEOUTS: &[Key] = &[
    limit(
        "timeouts.websocket_handshake",
        |c, v| c.timeouts.websocket_handshake = v,
        "The whole dial: resolve, TCP, proxy, TLS, upgrade",
    )
    .default("30s"),
    limit(
        "timeouts.websocket_ping",
        |c, v| c.timeouts.websocket_ping = v,
        "Time between pings",
    )
    .default("10s"),
    limit(
        "timeouts.websocket_read",
        |c, v| c.timeouts.websocket_read = v,
        "A connection on which no byte arrived for this long is dead",
    )
    .default("25s"),
    limit(
        "timeouts.websocket_write",
        |c, v| c.timeouts.websocket_write = v,
        "A write without progress for this long ends the connection",
    )
    .default("30s"),
    limit(
        "timeouts.websocket_reconnect",
        |c, v| c.timeouts.websocket_reconnect = v,
        "First delay before connecting again; it doubles",
    )
    .default("500ms"),
    limit(
        "timeouts.websocket_reconnect_max",
        |c, v| c.timeouts.websocket_reconnect_max = v,
        "Longest delay before connecting again",
    )
    .default("15s"),
    Key::new(
        "timeouts.websocket_reconnect_jitter",
        Kind::Parsed {
            what: "fraction",
            set: |c, v| {
                c.timeouts.websocket_reconnect_jitter = fraction(v)?;
                Ok(())
            },
        },
        "How far each of these delays may vary, up and down (25% or 0.25)",
    )
    .default("25%"),
    limit(
        "timeouts.tcp_user",
        |c, v| c.timeouts.tcp_user = v,
        "TCP_USER_TIMEOUT of the control channel",
    )
    .default("20s"),
    limit(
        "timeouts.registration",
        |c, v| c.timeouts.registration = v,
        "Waiting for the answer to a registration",
    )
    .default("30s"),
    limit(
        "timeouts.heartbeat",
        |c, v| c.timeouts.heartbeat = v,
        "Sending one heartbeat",
    )
    .default("10s"),
    limit(
        "timeouts.k8s_operation",
        |c, v| c.timeouts.k8s_operation = v,
        "The agent's own calls to the cluster's API",
    )
    .default("30s"),
    limit(
        "timeouts.proxy_request",
        |c, v| c.timeouts.proxy_request = v,
        "A proxied request that names no limit itself",
    )
    .default("2m"),
    limit(
        "timeouts.proxy_body",
        |c, v| c.timeouts.proxy_body = v,
        "A request body on its way in that makes no progress, where no deadline was given",
    )
    .default("1m"),
    limit(
        "timeouts.proxy_dial",
        |c, v| c.timeouts.proxy_dial = v,
        "Connecting to the target of a proxied request",
    )
    .default("30s"),
    limit(
        "timeouts.proxy_first_byte",
        |c, v| c.timeouts.proxy_first_byte = v,
        "From a whole request to the head of a Service's streamed answer, where it names no limit itself",
    )
    .default("2m"),
    limit(
        "timeouts.proxy_stall",
        |c, v| c.timeouts.proxy_stall = v,
        "A Service's streamed answer of which nothing comes, where no deadline was given; never a watch or an event stream",
    )
    .default("5m"),
    limit(
        "timeouts.proxy_idle",
        |c, v| c.timeouts.proxy_idle = v,
        "How long an idle connection to a target is kept",
    )
    .default("90s"),
    interval(
        "timeouts.service_ping",
        |c, v| c.timeouts.service_ping = v,
        "Time between pings to a Service whose WebSocket is proxied",
    )
    .env(&["AGENT_WS_PING_INTERVAL_SECONDS"])
    .default("30s"),
    interval(
        "timeouts.service_pong",
        |c, v| c.timeouts.service_pong = v,
        "Such a Service that says nothing for so long, and still nothing at three pings, is given up",
    )
    .env(&["AGENT_WS_PONG_TIMEOUT_SECONDS"])
    .default("90s"),
    limit(
        "timeouts.shutdown",
        |c, v| c.timeouts.shutdown = v,
        "From the first signal to the end of the process",
    )
    .default("25s"),
    limit(
        "timeouts.k8s_deployment",
        |_, _| {},
        "Waiting for a Deployment to become ready",
    )
    .default("3m")
    .not_yet(),
    limit(
        "timeouts.k8s_resource_watch",
        |_, _| {},
        "Watching resources of the cluster",
    )
    .default("5m")
    .not_yet(),
    limit("timeouts.helm_install", |_, _| {}, "Installing a component")
        .default("5m")
        .not_yet(),
    limit("timeouts.helm_upgrade", |_, _| {}, "Upgrading a component")
        .default("5m")
        .not_yet(),
];

/// decisions.md §6.2 "Memory".
pub(super) const PROXY: &[Key] = &[
    Key::new(
        "proxy.memory_limit",
        Kind::Size {
            min: 1024 * 1024,
            set: |c, v| c.proxy.memory_limit = usize::try_from(v).unwrap_or(usize::MAX),
        },
        "Memory for all buffered bodies of proxied requests and their answers together",
    )
    .default("256MiB"),
    Key::new(
        "proxy.ws_channel_capacity",
        Kind::Int {
            min: i64::MIN,
            max: i64::MAX,
            set: |_, _| {},
        },
        "Messages that may wait for the Service of a proxied WebSocket",
    )
    .env(&["AGENT_WS_CHANNEL_CAPACITY"])
    .default("100")
    .no_effect("what waits is counted in bytes: 8 MiB for each WebSocket"),
    Key::new(
        "proxy.ingress_controller",
        Kind::Parsed {
            what: "Service",
            set: |c, v| {
                c.proxy.ingress_controller = Some(ServicePort::parse(v)?);
                Ok(())
            },
        },
        "Service of the ingress controller, as name.namespace:port: it gets requests by a known host, \
         and those that name no Service and are none of the Kubernetes API's",
    )
    .default_note("none"),
    Key::new(
        "proxy.ingress_routes",
        Kind::Map(|c, map| {
            for (host, service) in map {
                let service = ServicePort::parse(&service)?;
                let routes = &mut c.proxy.ingress_routes;
                routes.insert(host.trim().to_ascii_lowercase(), service);
            }
            Ok(())
        }),
        "Known hosts, as a map of host to name.namespace:port: where its requests go that name no Service, \
         unless there is an ingress controller",
    ),
];

const fn limit(name: &'static str, set: fn(&mut Config, Duration), help: &'static str) -> Key {
    Key::new(
        name,
        Kind::Duration {
            // Socket options read zero as "no limit".
            min: Duration::from_millis(1),
            set,
        },
        help,
    )
}

fn client_certificate(config: &mut Config) -> &mut ClientCertificate {
    config
        .pipeops
        .tls
        .client
        .get_or_insert_with(|| ClientCertificate {
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
        })
}

/// `25%` or `0.25`, from 0 to 1.
fn fraction(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|value| value / 100.0),
        None => text.parse(),
    };
    value
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| format!("{text:?} is not a fraction between 0 and 1 (write 25% or 0.25)"))
}
