//! Services and origins for proxied requests: what the tunnels' targets and policy say
//! of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;

use crate::config::{Config, Secret, ServicePort};
use crate::control::facts::ClusterFacts;
use crate::http::client;
use crate::net::{Cancel, Deadline};
use crate::proxy::{Refused, Service, ServiceUpstreams, Services, StaticRoutes, Target};
use crate::tunnel::Protocol;
use crate::tunnel::header::Header;
use crate::tunnel::target::{Admitted, Refusal, RefusalKind, Targets};

/// Everything that proxied requests reach but the API server.
pub(super) fn services(
    config: &Config,
    targets: Arc<Targets>,
    facts: Arc<dyn ClusterFacts>,
) -> ServiceUpstreams {
    let routes = StaticRoutes {
        controller: config.proxy.ingress_controller.clone(),
        hosts: config.proxy.ingress_routes.clone(),
    };
    ServiceUpstreams {
        services: Arc::new(PolicedServices { targets, facts }),
        routes: Arc::new(routes),
        connections: client::Settings {
            // As many as the original keeps (control-channel.md §8.5).
            max_idle: 20,
            idle_limit: config.timeouts.proxy_idle,
            dial_limit: config.timeouts.proxy_dial,
        },
    }
}

struct PolicedServices {
    targets: Arc<Targets>,
    facts: Arc<dyn ClusterFacts>,
}

impl Services for PolicedServices {
    fn admit(&self, target: &Target) -> Result<Arc<dyn Service>, Refused> {
        let (host, header) = match target {
            Target::Api => return Err(Refused::Unknown("it is for the API server".to_owned())),
            Target::Service(ServicePort {
                name,
                namespace,
                port,
            }) => (None, header(name, namespace, *port)),
            Target::Origin {
                host,
                service,
                namespace,
            } => (host.as_deref(), header(service, namespace, 0)),
        };
        let admitted = self.targets.admit_request(host, &header).map_err(refused)?;
        Ok(Arc::new(PolicedService {
            admitted,
            is_alias: AtomicBool::new(false),
        }))
    }

    fn is_own_credential(&self, authorization: &str) -> bool {
        let Some((scheme, token)) = authorization.trim().split_once([' ', '\t']) else {
            return false;
        };
        let token = token.trim();
        let is_same = |own: &Secret| {
            let own = own.expose().trim();
            own == token || subject(own).is_some_and(|who| subject(token) == Some(who))
        };
        scheme.eq_ignore_ascii_case("bearer") && self.facts.service_tokens().iter().any(is_same)
    }
}

struct PolicedService {
    admitted: Admitted,
    /// What it leads to was judged, too, which takes a look at the cluster: each call
    /// dials anew.
    is_alias: AtomicBool,
}

impl Service for PolicedService {
    fn name(&self) -> String {
        self.admitted.to_string()
    }

    fn key(&self) -> String {
        self.admitted.key()
    }

    fn authority(&self) -> String {
        self.admitted.authority()
    }

    fn https(&self) -> Option<bool> {
        self.admitted.origin()?.https
    }

    fn reason(&self) -> String {
        self.admitted.verdict().reason.clone()
    }

    fn dial(&self, deadline: Deadline, cancel: &Cancel) -> Result<Arc<Socket>, Refused> {
        let connected = self.admitted.dial(deadline, cancel).map_err(refused)?;
        if connected.is_alias {
            self.is_alias.store(true, Ordering::Relaxed);
        }
        Ok(connected.socket)
    }

    fn allows(&self, address: Option<SocketAddr>) -> bool {
        !self.is_alias.load(Ordering::Relaxed) && self.admitted.allows(address)
    }
}

/// Whose token it is, if it says so (RFC 7519): the one before a rotation is as good as
/// the one after. Its signature doesn't matter here.
fn subject(token: &str) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Claims {
        iss: String,
        sub: String,
    }
    let claims = token.split('.').nth(1)?.trim_end_matches('=');
    let claims = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Some((claims.iss, claims.sub))
}

fn header(service: &str, namespace: &str, port: u16) -> Header {
    Header {
        protocol: Protocol::Tcp,
        port,
        service: service.to_owned(),
        namespace: namespace.to_owned(),
        tunnel_id: String::new(),
        client: None,
    }
}

fn refused(refusal: Refusal) -> Refused {
    match refusal.kind {
        RefusalKind::Header => Refused::Unknown(refusal.reason),
        RefusalKind::Denied => Refused::Denied(refusal.reason),
        RefusalKind::Dial | RefusalKind::Cancelled(_) => Refused::Unreachable(refusal.reason),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;
    use crate::net::Resolver;
    use crate::net::testing::{far_deadline, listen};
    use crate::tunnel::policy::{self, Policy};
    use crate::tunnel::target::{ExternalNames, Mode, Routes};

    /// Where every Service is another name.
    struct Aliases;

    impl ExternalNames for Aliases {
        fn external_name(
            &self,
            _: &str,
            _: &str,
            _: Deadline,
            _: &Cancel,
        ) -> Result<Option<String>, String> {
            Ok(Some("db.example.test".to_owned()))
        }
    }

    struct Mounted;

    impl ClusterFacts for Mounted {
        fn service_tokens(&self) -> Vec<Secret> {
            let rotated = jwt(r#"{"iss":"k","sub":"system:serviceaccount:a:agent","exp":2}"#);
            vec![
                Secret::new("t-given"),
                Secret::new("t-mounted\n"),
                Secret::new(rotated),
            ]
        }
    }

    fn jwt(claims: &str) -> String {
        let claims = base64_simd::URL_SAFE_NO_PAD.encode_to_string(claims);
        format!("e30.{claims}.c2ln")
    }

    /// In a pod, where every name is loopback's.
    fn pod(rules: &str) -> (PolicedServices, Arc<Policy>, tempfile::TempDir) {
        pod_with(rules, None)
    }

    fn pod_with(
        rules: &str,
        external: Option<Arc<dyn ExternalNames>>,
    ) -> (PolicedServices, Arc<Policy>, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, rules).expect("written");
        let policy = Arc::new(
            Policy::open(policy::Settings {
                file: Some(file),
                ..policy::Settings::default()
            })
            .expect("good rules"),
        );
        let mode = Mode::Cluster {
            domain: "corp.test".to_owned(),
            external,
        };
        let targets = Targets::new(mode, policy.clone(), Routes::default());
        let targets = targets.with_resolver(Resolver::new(|host| {
            assert_eq!(host, "web.shop.svc.corp.test.");
            Ok(vec!["127.0.0.1:0".parse().expect("an address")])
        }));
        let services = PolicedServices {
            targets: Arc::new(targets),
            facts: Arc::new(Mounted),
        };
        (services, policy, folder)
    }

    fn web(port: u16) -> Target {
        Target::Service(ServicePort {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            port,
        })
    }

    #[test]
    fn a_service_is_reached_by_its_absolute_name_where_name_and_address_pass() {
        let rules = "rules:\n- {action: allow, namespaces: [shop], addresses: [127.0.0.0/8]}\n";
        let (services, policy, folder) = pod(rules);
        let (listener, address) = listen();
        let service = services.admit(&web(address.port())).expect("allowed");
        let port = address.port();
        assert_eq!(service.name(), format!("web.shop:{port}"));
        assert_eq!(
            service.authority(),
            format!("web.shop.svc.corp.test:{port}")
        );
        assert_eq!(service.https(), None);
        let socket = service
            .dial(far_deadline(), &Cancel::new())
            .expect("dialled");
        let (mut accepted, _) = listener.accept().expect("there");
        assert!(service.allows(Some(address)));
        // Other rules count at once, for what is open already, too.
        let other = "rules:\n- {action: allow, namespaces: [elsewhere]}\n";
        std::fs::write(folder.path().join("policy.yaml"), other).expect("written");
        policy.reload().expect("good rules");
        assert!(!service.allows(Some(address)));
        let again = service.dial(far_deadline(), &Cancel::new());
        assert!(matches!(again, Err(Refused::Denied(_))), "{again:?}");
        assert!(matches!(
            services.admit(&web(port)).err(),
            Some(Refused::Denied(_))
        ));
        drop(socket);
        let limit = Some(Duration::from_mins(1));
        accepted.set_read_timeout(limit).expect("set");
        assert_eq!(accepted.read(&mut [0]).expect("its end"), 0);
    }

    /// Where it leads may change, and the rules about that.
    #[test]
    fn a_connection_to_an_alias_is_not_kept() {
        let rules = "rules:\n- {action: allow, external_names: ['*.example.test'], addresses: [127.0.0.0/8]}\n\
                     - {action: allow, addresses: [127.0.0.0/8]}\n";
        let (services, ..) = pod_with(rules, Some(Arc::new(Aliases)));
        let (_listener, address) = listen();
        let service = services.admit(&web(address.port())).expect("allowed");
        assert!(service.allows(Some(address)));
        service
            .dial(far_deadline(), &Cancel::new())
            .expect("dialled");
        assert!(!service.allows(Some(address)));
    }

    #[test]
    fn an_address_that_must_be_named_is_not_dialled() {
        let (services, ..) = pod("rules:\n- {action: allow}\n");
        let (listener, address) = listen();
        listener.set_nonblocking(true).expect("set");
        let service = services.admit(&web(address.port())).expect("by name");
        let denied = service.dial(far_deadline(), &Cancel::new());
        let Err(Refused::Denied(why)) = denied else {
            panic!("{denied:?}");
        };
        assert!(why.contains("127.0.0.1"), "{why}");
        assert!(listener.accept().is_err(), "nobody came");
    }

    #[test]
    fn the_agents_own_tokens_are_known() {
        let (services, ..) = pod("rules: []\n");
        for own in ["Bearer t-given", "bearer  t-mounted ", "Bearer\tt-given"] {
            assert!(services.is_own_credential(own), "{own}");
        }
        let before = r#"{"iss":"k","sub":"system:serviceaccount:a:agent","exp":1}"#;
        let before = format!("Bearer {}", jwt(before));
        assert!(services.is_own_credential(&before), "a rotation ago");
        let another = r#"{"iss":"k","sub":"system:serviceaccount:a:other","exp":2}"#;
        let another = format!("Bearer {}", jwt(another));
        for other in [
            "Bearer t",
            "Basic t-given",
            "t-given",
            "",
            "Bearer e30.e30.e30",
            "Bearer e30.!.e30",
            &another,
        ] {
            assert!(!services.is_own_credential(other), "{other}");
        }
    }
}
