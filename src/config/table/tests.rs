use std::collections::BTreeSet;

use super::*;

#[test]
fn names_are_unique_lower_case_and_explained() {
    let mut seen = BTreeSet::new();
    for key in keys() {
        for name in key.aliases.iter().chain([&key.name]) {
            assert!(seen.insert(*name), "{name} stands twice in the table");
            assert_eq!(*name, name.to_ascii_lowercase());
        }
        assert!(
            key.help.len() > 10 && !key.help.ends_with('.'),
            "{}",
            key.name
        );
        assert!(
            sections()
                .iter()
                .any(|section| section.name == key.section()),
            "{} has no section",
            key.name
        );
    }
}

#[test]
fn no_key_is_the_parent_of_another() {
    for key in keys() {
        assert!(!is_parent(key.name), "{}", key.name);
    }
}

#[test]
fn flags_and_environment_names_are_unique() {
    let mut seen = BTreeSet::new();
    for key in keys() {
        assert!(key.flag.is_none_or(|flag| seen.insert(flag.to_owned())));
        for name in key.env_names() {
            assert!(seen.insert(name.clone()), "{name} stands twice");
        }
    }
}

/// config-and-state.md §2.1: the manifest's own Service injects this one.
#[test]
fn the_service_link_of_our_own_service_is_never_read() {
    for key in keys() {
        for name in key.env_names() {
            assert!(!name.starts_with("PIPEOPS_AGENT_PORT"), "{}", key.name);
            assert!(!name.starts_with("PIPEOPS_AGENT_SERVICE"), "{}", key.name);
        }
    }
}

/// config-and-state.md §1: a replacement must take every flag of the original.
#[test]
fn every_flag_of_the_original_is_in_the_table() {
    for flag in [
        "log-level",
        "pipeops-url",
        "token",
        "cluster-name",
        "agent-id",
        "kubeconfig",
        "in-cluster",
        "gateway-enabled",
        "gateway-namespace",
        "gateway-release-name",
        "gateway-env-mode",
        "gateway-env-vm-ip",
        "gateway-gwapi-enabled",
        "gateway-gwapi-gateway-class",
        "gateway-istio-enabled",
        "gateway-istio-service-create",
        "gateway-istio-service-namespace",
        "gateway-gwapi-listeners-json",
        "gateway-gwapi-tcp-routes-json",
        "gateway-gwapi-udp-routes-json",
        "gateway-istio-servers-json",
        "gateway-istio-tcp-routes-json",
        "gateway-istio-tls-routes-json",
        "daemon",
        "daemon-default-origin",
        "port",
        "state-file",
    ] {
        assert!(keys().any(|key| key.flag == Some(flag)), "--{flag}");
    }
}

/// config-and-state.md §4: the variables that the keys promise.
#[test]
fn the_variables_of_the_union_table_are_read() {
    let known: BTreeSet<String> = keys().flat_map(Key::env_names).collect();
    for name in [
        "PIPEOPS_API_URL",
        "PIPEOPS_TOKEN",
        "PIPEOPS_TOKEN_FILE",
        "PIPEOPS_CLUSTER_NAME",
        "PIPEOPS_AGENT_ID",
        "PIPEOPS_LOG_LEVEL",
        "LOG_LEVEL",
        "LOGGING_LEVEL",
        "PIPEOPS_PORT",
        "AGENT_PORT",
        "PIPEOPS_ENABLE_WEBSOCKET",
        "PIPEOPS_ENABLE_SSE",
        "PIPEOPS_POLL_INTERVAL",
        "PIPEOPS_TRUTHFUL_READINESS_PROBE",
        "PIPEOPS_HEARTBEAT_INTERVAL_CONNECTED",
        "PIPEOPS_HEARTBEAT_INTERVAL_RECONNECTING",
        "PIPEOPS_HEARTBEAT_INTERVAL_DISCONNECTED",
        "GATEWAY_ROUTE_REFRESH_INTERVAL",
        "PIPEOPS_AGENT_GRAFANA_SUB_PATH",
        "ENABLE_INGRESS_SYNC",
        "PIPEOPS_ENABLE_INGRESS_SYNC",
        "PIPEOPS_K8S_SERVICE_TOKEN",
        "PIPEOPS_K8S_CERT_DATA",
        "GATEWAY_ENABLED",
        "GATEWAY_ENVIRONMENT_MODE",
        "GATEWAY_ENVIRONMENT_VM_IP",
        "GATEWAY_ISTIO_ENABLED",
        "GATEWAY_ISTIO_SERVICE_CREATE",
        "GATEWAY_ISTIO_SERVICE_NAMESPACE",
        "GATEWAY_GATEWAY_API_ENABLED",
        "GATEWAY_GATEWAY_API_GATEWAY_CLASS",
        "GATEWAY_RELEASE_NAME",
        "GATEWAY_NAMESPACE",
        "GATEWAY_GWAPI_LISTENERS_JSON",
        "GATEWAY_GWAPI_TCP_ROUTES_JSON",
        "GATEWAY_GWAPI_UDP_ROUTES_JSON",
        "GATEWAY_ISTIO_SERVERS_JSON",
        "GATEWAY_ISTIO_TCP_ROUTES_JSON",
        "GATEWAY_ISTIO_TLS_ROUTES_JSON",
        "PIPEOPS_STATE_CONFIGMAP_NAME",
        "PIPEOPS_STATE_SECRET_NAME",
        "PIPEOPS_STATE_NAMESPACE",
        "PIPEOPS_STATE_FILE",
        "PIPEOPS_ENABLE_STATE_PERSISTENCE",
        "PIPEOPS_REGISTRATION_RETRY_INTERVAL",
        "PIPEOPS_REGISTRATION_MAX_ATTEMPTS",
        "PIPEOPS_REGISTRATION_DEDUPLICATE",
        "AGENT_MAX_WS_FRAME_BYTES",
        "PIPEOPS_DAEMON_ENABLED",
        "PIPEOPS_DAEMON_ORIGIN",
        "PIPEOPS_TIMEOUT",
        "PIPEOPS_TLS_ENABLED",
        "PIPEOPS_TLS_INSECURE_SKIP_VERIFY",
        "PIPEOPS_TLS_CA_FILE",
        "PIPEOPS_TLS_CERT_FILE",
        "PIPEOPS_TLS_KEY_FILE",
        "PIPEOPS_RECONNECT_ENABLED",
        "PIPEOPS_RECONNECT_MAX_ATTEMPTS",
        "PIPEOPS_RECONNECT_INTERVAL",
        "PIPEOPS_RECONNECT_BACKOFF",
        "AGENT_ID",
        "AGENT_CLUSTER_NAME",
        "AGENT_DEBUG",
        "AGENT_VERSION",
        "AGENT_GRAFANA_SUB_PATH",
        "AGENT_ENABLE_INGRESS_SYNC",
        "AGENT_LABELS",
        "KUBERNETES_IN_CLUSTER",
        "KUBERNETES_NAMESPACE",
        "KUBERNETES_KUBECONFIG",
        "KUBERNETES_SERVICE_TOKEN",
        "KUBERNETES_CA_CERT_DATA",
        "TIMEOUTS_WEBSOCKET_READ",
        "TIMEOUTS_WEBSOCKET_RECONNECT_MAX",
        "HTTPS_PROXY",
        "NO_PROXY",
    ] {
        assert!(known.contains(name), "{name}");
    }
}

#[test]
fn a_near_name_is_found_and_a_far_one_is_not() {
    let names = || keys().map(|key| key.name);
    assert_eq!(nearest("agent.prot", names()), Some("agent.port"));
    assert_eq!(nearest("pipeops.tokn", names()), Some("pipeops.token"));
    assert_eq!(nearest("xxxxxxxx", names()), None);
    assert_eq!(distance("ab", "ba"), 1);
    assert_eq!(distance("", "abc"), 3);
}
