//! `agent`, `kubernetes`, `logging`, `state`: this process and its surroundings.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::config::table::{Key, Kind};
use crate::config::{LogFormat, LogOutput, StateBackend};

/// config-and-state.md §3.1.
pub(super) const AGENT: &[Key] = &[
    Key::new(
        "agent.id",
        Kind::Text(|c, v| c.agent.id = Some(v)),
        "Identity of this agent; overrides the stored one and is stored",
    )
    .env(&["PIPEOPS_AGENT_ID"])
    .flag("agent-id")
    .default_note("stored, else generated"),
    Key::new(
        "agent.cluster_name",
        Kind::Text(|c, v| c.agent.cluster_name = v),
        "Name under which the cluster registers",
    )
    .env(&["PIPEOPS_CLUSTER_NAME"])
    .flag("cluster-name")
    .default("default-cluster"),
    Key::new(
        "agent.labels",
        Kind::Map(|c, v| {
            c.agent.labels = v;
            Ok(())
        }),
        "Labels sent at registration (environment: k=v,k2=v2)",
    ),
    Key::new(
        "agent.port",
        Kind::Int {
            min: 0,
            max: u16::MAX as i64,
            set: |c, v| c.agent.port = v as u16,
        },
        "Port of the local server; 0 lets the system choose",
    )
    .env(&["PIPEOPS_PORT"])
    .flag("port")
    .default("8080"),
    Key::new(
        "agent.bind_address",
        Kind::Parsed {
            what: "address",
            set: |c, v| {
                let address: IpAddr = v
                    .parse()
                    .map_err(|_| format!("{v:?} is not an IP address"))?;
                c.agent.bind_address = Some(address);
                Ok(())
            },
        },
        "Address on which the local server listens",
    )
    .env(&["PIPEOPS_BIND_ADDRESS"])
    .default_note("0.0.0.0 in a pod, 127.0.0.1 elsewhere"),
    interval(
        "agent.heartbeat_interval_connected",
        |c, v| c.agent.heartbeat_interval_connected = v,
        "Time between heartbeats while connected (a bare number is seconds)",
    )
    .env(&["PIPEOPS_HEARTBEAT_INTERVAL_CONNECTED"])
    .default("30s"),
    interval(
        "agent.heartbeat_interval_reconnecting",
        |c, v| c.agent.heartbeat_interval_reconnecting = v,
        "Time between checks while reconnecting (a bare number is seconds)",
    )
    .env(&["PIPEOPS_HEARTBEAT_INTERVAL_RECONNECTING"])
    .default("60s"),
    interval(
        "agent.heartbeat_interval_disconnected",
        |c, v| c.agent.heartbeat_interval_disconnected = v,
        "Time between checks while disconnected (a bare number is seconds)",
    )
    .env(&["PIPEOPS_HEARTBEAT_INTERVAL_DISCONNECTED"])
    .default("15s"),
    // What it means is decided in `load`, where it is known which keys were given.
    interval(
        "agent.poll_interval",
        |_, _| {},
        "Old name of agent.heartbeat_interval_connected (at least 5s)",
    )
    .env(&["PIPEOPS_POLL_INTERVAL"]),
    Key::new(
        "agent.truthful_readiness_probe",
        Kind::Bool(|c, v| c.agent.truthful_readiness_probe = v),
        "/ready answers 503 while not connected; false: always 200, as the original",
    )
    .env(&["PIPEOPS_TRUTHFUL_READINESS_PROBE"])
    .default("true"),
    Key::new(
        "agent.report_worker_join",
        Kind::Bool(|c, v| c.agent.report_worker_join = v),
        "Send the k3s join token in heartbeats, where it is readable",
    )
    .env(&["PIPEOPS_REPORT_WORKER_JOIN"])
    .default("false"),
    Key::new(
        "agent.debug",
        Kind::Bool(|c, v| c.agent.debug = v),
        "Log at debug level where logging.level is not set",
    )
    .default("false"),
    Key::new(
        "agent.enable_ingress_sync",
        Kind::Bool(|c, v| c.agent.enable_ingress_sync = v),
        "Register the cluster's ingress hosts with the control plane",
    )
    .env(&["ENABLE_INGRESS_SYNC", "PIPEOPS_ENABLE_INGRESS_SYNC"])
    .default("false")
    .not_yet(),
    Key::new(
        "agent.gateway_route_refresh_interval",
        Kind::Interval {
            unit: Duration::from_hours(1),
            min: Duration::ZERO,
            set: |_, _| {},
        },
        "Time between full route refreshes (a bare number is hours)",
    )
    .env(&["GATEWAY_ROUTE_REFRESH_INTERVAL"])
    .default("4h")
    .not_yet(),
    Key::new(
        "agent.enable_websocket",
        Kind::Bool(|_, _| {}),
        "Offer /ws on the local server",
    )
    .env(&["PIPEOPS_ENABLE_WEBSOCKET"])
    .default("true")
    .not_yet(),
    Key::new(
        "agent.enable_sse",
        Kind::Bool(|_, _| {}),
        "Offer event streams on the local server",
    )
    .env(&["PIPEOPS_ENABLE_SSE"])
    .default("true")
    .not_yet(),
    Key::new(
        "agent.grafana_sub_path",
        Kind::Bool(|_, _| {}),
        "Serve Grafana under the proxy path",
    )
    .env(&["PIPEOPS_AGENT_GRAFANA_SUB_PATH"])
    .default("true")
    .not_yet(),
    Key::new(
        "agent.name",
        Kind::Text(|_, _| {}),
        "Name of the agent in the first releases",
    )
    .no_effect("the control plane's `name` is agent.cluster_name"),
    Key::new(
        "agent.version",
        Kind::Text(|_, _| {}),
        "Version to report in the first releases",
    )
    .no_effect("the version is that of the build"),
    Key::new(
        "agent.compatibility",
        Kind::Opaque,
        "Changes to an existing ingress controller",
    )
    .not_yet(),
];

/// config-and-state.md §3.3.
pub(super) const KUBERNETES: &[Key] = &[
    Key::new(
        "kubernetes.in_cluster",
        Kind::Bool(|c, v| c.kubernetes.in_cluster = Some(v)),
        "Says that the agent runs in a pod; it finds out by itself",
    )
    .flag("in-cluster")
    .default_note("detected"),
    Key::new(
        "kubernetes.namespace",
        Kind::Text(|c, v| c.kubernetes.namespace = v),
        "Namespace of the agent's own objects",
    )
    .default("pipeops-system")
    .not_yet(),
    Key::new(
        "kubernetes.kubeconfig",
        Kind::Path(|c, v| c.kubernetes.kubeconfig = Some(v)),
        "Kubeconfig to use instead of the pod's ServiceAccount",
    )
    .flag("kubeconfig")
    .default_note("in-cluster, $KUBECONFIG, ~/.kube/config, k3s"),
    Key::new(
        "kubernetes.context",
        Kind::Text(|c, v| c.kubernetes.context = Some(v)),
        "Context of the kubeconfig",
    )
    .flag("context")
    .default_note("its current-context"),
    Key::new(
        "kubernetes.service_token",
        Kind::Secret(|c, v| c.kubernetes.service_token = Some(v)),
        "Cluster token to hand over instead of the ServiceAccount's",
    )
    .env(&["PIPEOPS_K8S_SERVICE_TOKEN"]),
    Key::new(
        "kubernetes.ca_cert_data",
        Kind::Text(|c, v| c.kubernetes.ca_cert_data = Some(v)),
        "Cluster CA (base64 of PEM) to hand over instead of the mounted one",
    )
    .env(&["PIPEOPS_K8S_CERT_DATA"])
    .not_yet(),
    Key::new(
        "kubernetes.impersonate_agent",
        Kind::Bool(|c, v| c.kubernetes.impersonate_agent = v),
        "Lend the agent's credential to proxied requests without Authorization",
    )
    .default("false"),
];

/// config-and-state.md §3.4 and §13.
pub(super) const LOGGING: &[Key] = &[
    Key::new(
        "logging.level",
        Kind::Parsed {
            what: "level",
            set: |c, v| {
                c.logging.level = level(v)?;
                Ok(())
            },
        },
        "trace, debug, info, warning or error",
    )
    .env(&["PIPEOPS_LOG_LEVEL", "LOG_LEVEL"])
    .flag("log-level")
    .default("info"),
    Key::new(
        "logging.format",
        Kind::Choice {
            of: &["json", "text"],
            set: |c, v| {
                c.logging.format = Some(if v == "json" {
                    LogFormat::Json
                } else {
                    LogFormat::Text
                });
            },
        },
        "json or text",
    )
    .env(&["PIPEOPS_LOG_FORMAT"])
    .default_note("text on a terminal, else json"),
    Key::new(
        "logging.output",
        Kind::Parsed {
            what: "output",
            set: |c, v| {
                c.logging.output = match v {
                    "stdout" => LogOutput::Stdout,
                    "stderr" => LogOutput::Stderr,
                    path => LogOutput::File(PathBuf::from(path)),
                };
                Ok(())
            },
        },
        "stdout, stderr or the path of a file",
    )
    .env(&["PIPEOPS_LOG_OUTPUT"])
    .default("stdout"),
];

/// config-and-state.md §3.9 and §7.
pub(super) const STATE: &[Key] = &[
    Key::new(
        "state.backend",
        Kind::Choice {
            of: &["auto", "kubernetes", "file", "memory"],
            set: |c, v| {
                c.state.backend = match v {
                    "kubernetes" => StateBackend::Kubernetes,
                    "file" => StateBackend::File,
                    "memory" => StateBackend::Memory,
                    _ => StateBackend::Auto,
                };
            },
        },
        "Where ids are kept: auto, kubernetes, file or memory",
    )
    .env(&["PIPEOPS_STATE_BACKEND"])
    .default("auto"),
    // After the row above, because it overrules it.
    Key::new(
        "state.enabled",
        Kind::Bool(|c, v| {
            if !v {
                c.state.backend = StateBackend::Memory;
            }
        }),
        "false keeps ids in memory only",
    )
    .env(&["PIPEOPS_ENABLE_STATE_PERSISTENCE"])
    .default("true"),
    Key::new(
        "state.file",
        Kind::Path(|c, v| c.state.file = v),
        "The state file",
    )
    .env(&["PIPEOPS_STATE_FILE"])
    .flag("state-file")
    .default_note(
        "$STATE_DIRECTORY/state.yaml, ~/.pipeops-agent/state.yaml, /var/lib/pipeops-agent/state.yaml",
    ),
    Key::new(
        "state.configmap_name",
        Kind::Text(|c, v| c.state.configmap_name = v),
        "ConfigMap of the Kubernetes store",
    )
    .env(&["PIPEOPS_STATE_CONFIGMAP_NAME"])
    .default("pipeops-agent-state")
    .not_yet(),
    Key::new(
        "state.secret_name",
        Kind::Text(|c, v| c.state.secret_name = v),
        "Secret of the Kubernetes store",
    )
    .env(&["PIPEOPS_STATE_SECRET_NAME"])
    .default("pipeops-agent-secrets")
    .not_yet(),
    Key::new(
        "state.namespace",
        Kind::Text(|c, v| c.state.namespace = Some(v)),
        "Namespace of the Kubernetes store",
    )
    .env(&["PIPEOPS_STATE_NAMESPACE"])
    .default_note("the pod's")
    .not_yet(),
];

pub(super) const fn interval(
    name: &'static str,
    set: fn(&mut crate::config::Config, Duration),
    help: &'static str,
) -> Key {
    Key::new(
        name,
        Kind::Interval {
            unit: Duration::from_secs(1),
            min: Duration::from_secs(1),
            set,
        },
        help,
    )
}

/// The original's names, in any case; `fatal` and `panic` have no level of their
/// own here and mean `error`.
fn level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(LevelFilter::Trace),
        "debug" => Ok(LevelFilter::Debug),
        "info" => Ok(LevelFilter::Info),
        "warn" | "warning" => Ok(LevelFilter::Warn),
        "error" | "fatal" | "panic" => Ok(LevelFilter::Error),
        _ => Err(format!(
            "{text:?} is not a log level (trace, debug, info, warning, error)"
        )),
    }
}
