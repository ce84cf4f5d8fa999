//! What the rest of the agent sees of its configuration: plain structs of typed
//! values, built once. Defaults stand in the table of keys, not here; a
//! `Default` of these structs is only the blank sheet that the table fills.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Origin, Secret, ServicePort, TokenSource};
use crate::url::Url;

/// The whole configuration, immutable once loaded. Share it in an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file it was read from, if there was one.
    pub file: Option<PathBuf>,
    pub agent: Agent,
    pub pipeops: PipeOps,
    pub kubernetes: Kubernetes,
    pub logging: Logging,
    pub timeouts: Timeouts,
    pub state: State,
    pub registration: Registration,
    pub proxy: Proxy,
    pub tunnels: Tunnels,
    pub daemon: Daemon,
}

/// `agent.*` (config-and-state.md §3.1).
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// The id that the operator gave; `None` means stored or generated (§8).
    pub id: Option<String>,
    pub cluster_name: String,
    pub labels: BTreeMap<String, String>,
    /// Port of the local server; 0 lets the system choose.
    pub port: u16,
    /// Address of the local server: all in a pod, loopback elsewhere
    /// (decisions.md §2); always set after loading.
    pub bind_address: Option<IpAddr>,
    pub debug: bool,
    pub enable_ingress_sync: bool,
    pub heartbeat_interval_connected: Duration,
    pub heartbeat_interval_reconnecting: Duration,
    pub heartbeat_interval_disconnected: Duration,
    pub truthful_readiness_probe: bool,
    pub report_worker_join: bool,
}

/// `pipeops.*` (§3.2): the way to the control plane.
#[derive(Clone, Debug, Default)]
pub struct PipeOps {
    pub api_url: Url,
    pub token: TokenSource,
    pub transport: Transport,
    pub reconnect: Reconnect,
    pub tls: Tls,
    pub proxy: OutboundProxy,
    /// Lets a controller that is reached over TLS name a gateway without
    /// (control-channel.md T30).
    pub allow_plaintext_gateway: bool,
    /// Hosts that a gateway may have; empty: any.
    pub gateway_hosts: Vec<String>,
    /// Largest WebSocket message and frame, in bytes (decisions.md §6.2).
    pub max_message_bytes: usize,
}

/// How to register (decisions.md §6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket, and HTTP where the controller has none.
    #[default]
    Auto,
    WebSocket,
    Http,
}

/// `pipeops.reconnect.*`: retries within one heartbeat cycle, never of the socket
/// (control-channel.md T40).
#[derive(Clone, Debug, Default)]
pub struct Reconnect {
    pub enabled: bool,
    /// Attempts per heartbeat cycle, at least 1.
    pub max_attempts: u32,
    pub interval: Duration,
}

/// `pipeops.tls.*`: one TLS configuration for every connection to the control plane.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub insecure_skip_verify: bool,
    /// PEM, added to the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key; both or neither.
    pub client: Option<ClientCertificate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// `HTTPS_PROXY` and its kin, as given. They may carry credentials.
#[derive(Clone, Debug, Default)]
pub struct OutboundProxy {
    pub https: Option<Secret>,
    pub http: Option<Secret>,
    pub no_proxy: Vec<String>,
}

impl OutboundProxy {
    /// The value under its usual variable's name: what `net::ProxyRules::from_env`
    /// asks for.
    pub fn var(&self, name: &str) -> Option<String> {
        match name {
            "HTTPS_PROXY" => self.https.as_ref().map(|url| url.expose().to_owned()),
            "HTTP_PROXY" => self.http.as_ref().map(|url| url.expose().to_owned()),
            "NO_PROXY" => Some(self.no_proxy.join(",")),
            _ => None,
        }
    }
}

/// `kubernetes.*` (§3.3).
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    /// What the operator said; the agent detects it by itself (§9.1).
    pub in_cluster: Option<bool>,
    pub namespace: String,
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// Token to hand over instead of the ServiceAccount's (§9.3).
    pub service_token: Option<Secret>,
    /// Base64 of a PEM bundle, to hand over instead of the mounted one (§9.3).
    pub ca_cert_data: Option<String>,
    /// Lend the agent's credential to requests without `Authorization`
    /// (decisions.md §6.2).
    pub impersonate_agent: bool,
}

/// `logging.*` (§13).
#[derive(Clone, Debug)]
pub struct Logging {
    pub level: log::LevelFilter,
    /// `None`: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    pub output: LogOutput,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: log::LevelFilter::Info,
            format: None,
            output: LogOutput::Stdout,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// `timeouts.*` (§3.8, decisions.md §6.3).
#[derive(Clone, Debug, Default)]
pub struct Timeouts {
    /// The whole dial: resolve, TCP, proxy, TLS, upgrade.
    pub websocket_handshake: Duration,
    pub websocket_ping: Duration,
    /// Without a byte for this long a connection is dead.
    pub websocket_read: Duration,
    /// A write without progress for this long ends the connection.
    pub websocket_write: Duration,
    /// First reconnect delay, and the cap of its doubling.
    pub websocket_reconnect: Duration,
    pub websocket_reconnect_max: Duration,
    /// Jitter of each wait, as a fraction: 0.25 is plus or minus a quarter.
    pub websocket_reconnect_jitter: f64,
    /// `TCP_USER_TIMEOUT` of the control channel.
    pub tcp_user: Duration,
    /// From `register` sent to its answer.
    pub registration: Duration,
    /// Sending one heartbeat.
    pub heartbeat: Duration,
    /// The agent's own calls to the cluster's API.
    pub k8s_operation: Duration,
    /// A proxied request that brings neither `timeout` nor `deadline`.
    pub proxy_request: Duration,
    /// A request body on its way in that makes no progress.
    pub proxy_body: Duration,
    pub proxy_dial: Duration,
    /// A Service's answer that doesn't begin, or of which nothing comes, where the
    /// request has no total limit.
    pub proxy_first_byte: Duration,
    pub proxy_stall: Duration,
    /// How long an idle pooled connection is kept.
    pub proxy_idle: Duration,
    /// A Service at the other end of a WebSocket: between pings, and without a sign of
    /// life before misses are counted.
    pub service_ping: Duration,
    pub service_pong: Duration,
    /// From a signal to the end of the process.
    pub shutdown: Duration,
}

/// `state.*` (§7.4).
#[derive(Clone, Debug, Default)]
pub struct State {
    pub backend: StateBackend,
    /// The state file, by the order of §7.4; always set after loading.
    pub file: PathBuf,
    /// Somebody has named it. Such a file must be usable; the default places may
    /// turn out not to be (a read-only root file system).
    pub file_given: bool,
    pub configmap_name: String,
    pub secret_name: String,
    /// `None`: the ServiceAccount's, else the pod's, else `pipeops-system` (§7.2).
    pub namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateBackend {
    #[default]
    Auto,
    Kubernetes,
    File,
    Memory,
}

/// `registration.*` (decisions.md §6.1).
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// End the process when no registration succeeded for this long.
    pub give_up_after: Option<Duration>,
    /// Cap of the wait between attempts; `None`: `timeouts.websocket_reconnect_max`.
    pub retry_interval: Option<Duration>,
}

/// `proxy.*` (decisions.md §6.2).
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    /// All buffered bodies together, in bytes.
    pub memory_limit: usize,
    /// Gets what names no Service (control-channel.md §8.3).
    pub ingress_controller: Option<ServicePort>,
    /// By host, in lower case.
    pub ingress_routes: BTreeMap<String, ServicePort>,
}

/// `tunnel.*` and `tunnels.*` (§3.5, decisions.md §6.6).
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// TCP and UDP in JSON messages; with it 127.0.0.1 may be reached by them.
    pub enabled: bool,
    /// Also what `is_private` of a heartbeat says (decisions.md §6.1).
    pub force_tunnel_mode: bool,
    /// As configured; `tunnel::limits` says what the machine grants.
    pub max_streams: usize,
    /// Queues and enlarged windows of all streams, in bytes.
    pub memory_limit: usize,
    /// What a stream whose target has ended may live on for.
    pub half_close_timeout: Duration,
    /// What streams may live on for when the agent ends.
    pub drain_timeout: Duration,
    /// `None`: never for TCP, 5 minutes for UDP. Zero: never.
    pub inactivity_timeout: Option<Duration>,
    pub dial_failure: DialFailure,
    pub policy_file: Option<PathBuf>,
    pub audit: Audit,
    /// By `service.namespace`, `service.namespace:port` or the name of a route or
    /// forward, in lower case.
    pub proxy_protocol: BTreeMap<String, ProxyProtocol>,
    pub forwards: Vec<Forward>,
    /// JSON tunnels go to 127.0.0.1 even where they name a Service (tunnels.md T23).
    pub prefer_gateway_port: bool,
    pub tcp: TcpTunnels,
    pub udp: UdpTunnels,
}

/// `tunnels.tcp`: TCP in JSON messages, and what all targets have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpTunnels {
    /// Bytes that are read from a target at once.
    pub buffer_size: usize,
    pub keepalive: bool,
    pub keepalive_period: Duration,
    pub connection_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_connections: usize,
}

/// `tunnels.udp`: UDP in JSON messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpTunnels {
    /// The longest datagram.
    pub buffer_size: usize,
    pub session_timeout: Duration,
    pub max_sessions: usize,
}

/// How a stream ends whose target can't be reached (decisions.md §6.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialFailure {
    #[default]
    Reset,
    /// As the original.
    Fin,
}

/// The file of one line per stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub file: Option<PathBuf>,
    /// In bytes; then it is rotated.
    pub max_size: u64,
    /// Rotated files that stay.
    pub keep: usize,
}

/// How a target is told the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// `tunnel.forwards[]`: a target with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// In lower case.
    pub name: String,
    pub origin: Origin,
}

/// `daemon.*` (§12.1).
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    pub enabled: bool,
    pub default_origin: Option<Origin>,
    /// By host, service or `service.namespace`, in lower case.
    pub routes: BTreeMap<String, Origin>,
    /// Besides being configured an origin must be in it, unless it is empty.
    pub allowed_origins: Vec<String>,
}
