//! Keys of parts that are not built yet: accepted, so that a file of the original
//! passes, and said so once. Their rows move to a room of their own when the part
//! comes.

use crate::config::table::{Key, Kind};

/// config-and-state.md §3.6.
pub(super) const GATEWAY: &[Key] = &[
    Key::new(
        "gateway.enabled",
        Kind::Bool(|_, _| {}),
        "Install the TCP/UDP gateway",
    )
    .flag("gateway-enabled")
    .default("false")
    .not_yet(),
    Key::new(
        "gateway.namespace",
        Kind::Text(|_, _| {}),
        "Namespace of the gateway",
    )
    .flag("gateway-namespace")
    .default("pipeops-system")
    .not_yet(),
    Key::new(
        "gateway.release_name",
        Kind::Text(|_, _| {}),
        "Release name of the gateway",
    )
    .flag("gateway-release-name")
    .default("pipeops-gateway")
    .not_yet(),
    Key::new(
        "gateway.environment.mode",
        Kind::Choice {
            of: &["managed", "single-vm"],
            set: |_, _| {},
        },
        "managed or single-vm",
    )
    .flag("gateway-env-mode")
    .default_note("detected")
    .not_yet(),
    Key::new(
        "gateway.environment.vm_ip",
        Kind::Text(|_, _| {}),
        "Address of the machine in single-vm mode",
    )
    .aliases(&["gateway.environment.vmip"])
    .flag("gateway-env-vm-ip")
    .default_note("detected")
    .not_yet(),
    Key::new(
        "gateway.gateway_api.enabled",
        Kind::Bool(|_, _| {}),
        "Use the Gateway API",
    )
    .flag("gateway-gwapi-enabled")
    .default("false")
    .not_yet(),
    Key::new(
        "gateway.gateway_api.gateway_class",
        Kind::Text(|_, _| {}),
        "Gateway class",
    )
    .flag("gateway-gwapi-gateway-class")
    .default("istio")
    .not_yet(),
    json(
        "gateway.gateway_api.listeners",
        &["GATEWAY_GWAPI_LISTENERS_JSON"],
        "gateway-gwapi-listeners-json",
        "Listeners, as a JSON array",
    ),
    json(
        "gateway.gateway_api.tcp_routes",
        &["GATEWAY_GWAPI_TCP_ROUTES_JSON"],
        "gateway-gwapi-tcp-routes-json",
        "TCP routes, as a JSON array",
    ),
    json(
        "gateway.gateway_api.udp_routes",
        &["GATEWAY_GWAPI_UDP_ROUTES_JSON"],
        "gateway-gwapi-udp-routes-json",
        "UDP routes, as a JSON array",
    ),
    Key::new(
        "gateway.istio.enabled",
        Kind::Bool(|_, _| {}),
        "Use Istio's own objects",
    )
    .flag("gateway-istio-enabled")
    .default("false")
    .not_yet(),
    Key::new(
        "gateway.istio.service.create",
        Kind::Bool(|_, _| {}),
        "Create the Service of the ingress gateway",
    )
    .flag("gateway-istio-service-create")
    .default("false")
    .not_yet(),
    Key::new(
        "gateway.istio.service.namespace",
        Kind::Text(|_, _| {}),
        "Namespace of that Service",
    )
    .flag("gateway-istio-service-namespace")
    .default("istio-system")
    .not_yet(),
    opaque(
        "gateway.istio.gateway.selector",
        "Pods of the ingress gateway",
    ),
    json(
        "gateway.istio.gateway.servers",
        &["GATEWAY_ISTIO_SERVERS_JSON"],
        "gateway-istio-servers-json",
        "Servers, as a JSON array",
    ),
    json(
        "gateway.istio.virtual_service.tcp_routes",
        &["GATEWAY_ISTIO_TCP_ROUTES_JSON"],
        "gateway-istio-tcp-routes-json",
        "TCP routes of Istio, as a JSON array",
    ),
    json(
        "gateway.istio.virtual_service.tls_routes",
        &["GATEWAY_ISTIO_TLS_ROUTES_JSON"],
        "gateway-istio-tls-routes-json",
        "TLS routes of Istio, as a JSON array",
    ),
];

/// config-and-state.md §14, §15.
pub(super) const REST: &[Key] = &[
    opaque("upgrade", "Upgrades of k3s"),
    opaque("encryption", "Encryption of k3s secrets"),
];

const fn opaque(name: &'static str, help: &'static str) -> Key {
    Key::new(name, Kind::Opaque, help).not_yet()
}

/// A list in the file, a JSON array in the flag and in the environment. Invalid
/// JSON is an error, where the original went on without (§3.6).
const fn json(
    name: &'static str,
    env: &'static [&'static str],
    flag: &'static str,
    help: &'static str,
) -> Key {
    let kind = Kind::JsonList(|text| {
        serde_json::from_str::<Vec<serde_json::Value>>(text)
            .map(drop)
            .map_err(|error| format!("not a JSON array: {error}"))
    });
    Key::new(name, kind, help).env(env).flag(flag).not_yet()
}
