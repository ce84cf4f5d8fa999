//! Where a request goes (control-channel.md §8.3, without its step 1). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::services::Service;
use crate::config::{ServicePort, is_label};
use crate::http::Headers;
use crate::wire::ProxyRequest;

/// Ingress routes: what hosts lead to. Asked on the `link-reader` thread.
pub trait RouteTable: Send + Sync {
    /// The Service of the ingress controller, if there is one.
    fn controller(&self) -> Option<ServicePort>;

    /// The Service behind this host, which is in lower case.
    fn service_of(&self, host: &str) -> Option<ServicePort>;
}

/// Routes that don't change (`proxy.ingress_controller`, `proxy.ingress_routes`).
#[derive(Clone, Debug, Default)]
pub struct StaticRoutes {
    pub controller: Option<ServicePort>,
    /// By host, in lower case.
    pub hosts: BTreeMap<String, ServicePort>,
}

impl RouteTable for StaticRoutes {
    fn controller(&self) -> Option<ServicePort> {
        self.controller.clone()
    }

    fn service_of(&self, host: &str) -> Option<ServicePort> {
        self.hosts.get(host).cloned()
    }
}

/// Where a request goes that isn't for the Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Service(ServicePort),
    /// On a plain machine: the origin that is configured for the first of these names.
    /// Not checked, but short.
    Origin {
        /// In lower case, without port.
        host: Option<String>,
        service: String,
        namespace: String,
    },
}

/// Which of the two ways to make a call.
#[derive(Clone)]
pub(super) enum Upstream {
    Api,
    Service(ServiceUpstream),
}

/// A Service or an origin, as it is called.
#[derive(Clone)]
pub(super) struct ServiceUpstream {
    pub(super) service: Arc<dyn Service>,
    /// By TLS: as it is configured, else as the client came.
    pub(super) https: bool,
}

impl Upstream {
    /// What the text of a failed call begins with (control-channel.md §8.7).
    pub(super) fn failure(&self) -> &'static str {
        match self {
            Self::Api => "kubernetes API request failed",
            Self::Service(_) => "service request failed",
        }
    }

    /// What shares its places, where not everything does.
    pub(super) fn crowd(&self) -> Option<Arc<str>> {
        match self {
            Self::Api => None,
            Self::Service(upstream) => Some(upstream.crowd()),
        }
    }
}

impl ServiceUpstream {
    pub(super) fn crowd(&self) -> Arc<str> {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme} {}", self.service.key()).into()
    }
}

/// Why there is no target. The texts are those of control-channel.md §8.7.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// An upgrade that is neither for the Kubernetes API nor for a Service.
    #[error("missing service routing information for WebSocket")]
    Nowhere,
    #[error("invalid service name: it is no DNS label")]
    Name,
    #[error("invalid namespace: it is no DNS label")]
    Namespace,
    #[error("invalid service port: it is not between 1 and 65535")]
    Port,
}

impl Target {
    /// `None`: the Kubernetes API. `cluster`: there is one; without, everything is for the
    /// origins.
    pub(super) fn of(
        request: &ProxyRequest<'_>,
        cluster: bool,
        routes: &dyn RouteTable,
    ) -> Result<Option<Self>, TargetError> {
        let given = &request.service;
        let (name, namespace) = (given.name.as_deref(), given.namespace.as_deref());
        let host = || named_host(&request.headers);
        if !cluster {
            let short = |text: Option<&str>, error| match text.unwrap_or_default() {
                text if text.len() > MAX_NAME => Err(error),
                text => Ok(text.to_owned()),
            };
            return Ok(Some(Self::Origin {
                host: host().map(|host| bare(&host).to_owned()),
                service: short(name, TargetError::Name)?,
                namespace: short(namespace, TargetError::Namespace)?,
            }));
        }
        if name.is_none()
            && let Some(host) = host()
            && let Some(service) = by_host(routes, &host)
        {
            let service = routes.controller().unwrap_or(service);
            return Ok(Some(Self::Service(service)));
        }
        match (name, namespace, given.port) {
            (Some(name), Some(namespace), Some(port)) if port > 0 => {
                Ok(Some(Self::Service(ServicePort {
                    name: label(name, TargetError::Name)?,
                    namespace: label(namespace, TargetError::Namespace)?,
                    port: port.try_into().map_err(|_| TargetError::Port)?,
                })))
            }
            (None, None, None) if !is_kubernetes_path(&request.path) => {
                Ok(routes.controller().map(Self::Service))
            }
            _ => Ok(None),
        }
    }
}

/// Whether the API server is meant, by the path alone (§8.3 step 5).
pub(super) fn is_kubernetes_path(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    ["api", "apis"].contains(&path)
        || [
            "api/", "apis/", "healthz", "readyz", "livez", "version", "openapi",
        ]
        .iter()
        .any(|start| path.starts_with(start))
}

/// The host that the client asked for, in lower case.
fn named_host(headers: &Headers) -> Option<String> {
    ["Host", "X-Forwarded-Host"]
        .into_iter()
        .filter_map(|name| headers.get(name))
        .map(str::trim)
        .find(|host| !host.is_empty() && host.len() <= MAX_NAME)
        .map(str::to_ascii_lowercase)
}

fn by_host(routes: &dyn RouteTable, host: &str) -> Option<ServicePort> {
    let found = routes.service_of(host);
    found.or_else(|| routes.service_of(bare(host)))
}

/// Without its port, and without the dot of an absolute name.
fn bare(host: &str) -> &str {
    let host = without_port(host);
    host.strip_suffix('.').unwrap_or(host)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // `[::1]` has colons and no port.
        Some((name, port)) if !name.is_empty() && !port.ends_with(']') => name,
        _ => host,
    }
}

fn label(text: &str, error: TargetError) -> Result<String, TargetError> {
    if is_label(text) {
        Ok(text.to_owned())
    } else {
        Err(error)
    }
}

/// A host name of 253 bytes and a port.
const MAX_NAME: usize = 260;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Envelope;

    fn service(text: &str) -> ServicePort {
        ServicePort::parse(text).expect(text)
    }

    fn routes(controller: Option<&str>) -> StaticRoutes {
        StaticRoutes {
            controller: controller.map(service),
            hosts: [("shop.test".to_owned(), service("web.shop:8080"))].into(),
        }
    }

    fn target_in(
        payload: &str,
        cluster: bool,
        routes: &StaticRoutes,
    ) -> Result<Option<Target>, TargetError> {
        let text = format!(r#"{{"type":"proxy_request","request_id":"r","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        let request = ProxyRequest::parse(&envelope.payload, None);
        Target::of(&request, cluster, routes)
    }

    fn target(payload: &str, controller: Option<&str>) -> Result<Option<Target>, TargetError> {
        target_in(payload, true, &routes(controller))
    }

    #[allow(clippy::unnecessary_wraps)] // as what it is compared with
    fn to(text: &str) -> Result<Option<Target>, TargetError> {
        Ok(Some(Target::Service(service(text))))
    }

    const TRAEFIK: Option<&str> = Some("traefik.kube-system:80");

    #[test]
    fn a_service_that_is_named_goes_first() {
        let named = r#"{"path":"/api/v1/pods","headers":{"Host":"shop.test"},
            "service_name":"grafana","namespace":"monitoring","service_port":3000}"#;
        assert_eq!(target(named, TRAEFIK), to("grafana.monitoring:3000"));
    }

    #[test]
    fn a_known_host_leads_to_the_ingress_controller_or_to_its_service() {
        for host in [
            r#""Host":"shop.test""#,
            r#""host":["Shop.Test:443"]"#,
            r#""Host":"shop.test.""#,
            r#""Host":"shop.test.:443""#,
            r#""X-Forwarded-Host":"shop.test""#,
            r#""Host":"","x-forwarded-host":"shop.test""#,
        ] {
            for path in ["/", "/api/v1/pods"] {
                let payload = format!(r#"{{"path":"{path}","headers":{{{host}}}}}"#);
                assert_eq!(target(&payload, None), to("web.shop:8080"), "{host}");
                assert_eq!(target(&payload, TRAEFIK), to("traefik.kube-system:80"));
            }
        }
        for host in [
            "x.shop.test",
            "shop.test..",
            "shop.test:1:2",
            "[::1]:80",
            ":80",
        ] {
            let payload = format!(r#"{{"path":"/","headers":{{"Host":"{host}"}}}}"#);
            assert_eq!(target(&payload, None), Ok(None), "{host}");
        }
    }

    /// `kubectl get --raw /` was taken for a request to an ingress controller.
    #[test]
    fn what_names_nothing_is_for_the_ingress_controller_if_there_is_one() {
        for path in ["", "/", "/shop", "/apifoo", "/apis2/x", "/metrics"] {
            let payload = format!(r#"{{"path":"{path}"}}"#);
            assert_eq!(
                target(&payload, TRAEFIK),
                to("traefik.kube-system:80"),
                "{path}"
            );
            assert_eq!(target(&payload, None), Ok(None), "{path}");
        }
        for path in [
            "/api",
            "/apis",
            "/api/v1",
            "/apis/x",
            "api/v1",
            "/healthz",
            "/healthz/ping",
            "/readyz",
            "/livez/ping",
            "/version",
            "/openapi/v3",
        ] {
            let payload = format!(r#"{{"path":"{path}"}}"#);
            assert_eq!(target(&payload, TRAEFIK), Ok(None), "{path}");
        }
        // A part of the fields is no Service, and no nothing (§8.3 step 6).
        for part in [
            r#""service_name":"a""#,
            r#""namespace":"b""#,
            r#""service_port":80"#,
            r#""service_name":"a","namespace":"b""#,
            r#""service_name":"a","namespace":"b","service_port":0"#,
            r#""service_name":"a","namespace":"b","service_port":-80"#,
        ] {
            let payload = format!(r#"{{"path":"/x",{part}}}"#);
            assert_eq!(target(&payload, TRAEFIK), Ok(None), "{part}");
        }
    }

    #[test]
    fn t20_names_and_ports_that_cannot_be_a_service_are_refused() {
        let long = "a".repeat(64);
        for name in [
            "A",
            "a.b",
            "a/b",
            "-a",
            "a-",
            "a b",
            "a@evil.test",
            "evil.test#",
            "127.0.0.1",
            "a\\\\n",
            &long,
        ] {
            let with = |name: &str, namespace: &str, port: u64| {
                format!(
                    r#"{{"path":"/","service_name":"{name}","namespace":"{namespace}","service_port":{port}}}"#
                )
            };
            assert_eq!(
                target(&with(name, "b", 80), None),
                Err(TargetError::Name),
                "{name}"
            );
            let namespace = target(&with("a", name, 80), None);
            assert_eq!(namespace, Err(TargetError::Namespace), "{name}");
            let port = target(&with("a", "b", 65_536), None);
            assert_eq!(port, Err(TargetError::Port));
        }
    }

    #[test]
    fn on_a_plain_machine_everything_is_for_the_origins() {
        let payload = r#"{"path":"/api/v1/pods","headers":{"Host":"Shop.Test.:8443"},
            "service_name":"web","namespace":"default"}"#;
        let want = Target::Origin {
            host: Some("shop.test".to_owned()),
            service: "web".to_owned(),
            namespace: "default".to_owned(),
        };
        assert_eq!(target_in(payload, false, &routes(None)), Ok(Some(want)));
    }
}
