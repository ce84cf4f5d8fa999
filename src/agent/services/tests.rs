//! Policy, dial and own tokens; what is dialled is loopback.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
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

#[derive(Default)]
struct Mounted {
    reads: AtomicUsize,
}

impl ClusterFacts for Mounted {
    fn service_tokens(&self) -> Vec<Secret> {
        self.reads.fetch_add(1, Ordering::SeqCst);
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

fn audit(file: Option<PathBuf>) -> Audit {
    let settings = crate::config::Audit {
        file,
        max_size: 1 << 20,
        keep: 1,
    };
    Audit::start(&settings).expect("an audit")
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
        audit: Arc::new(audit(None)),
        own: OwnTokens::new(
            Arc::<Mounted>::default(),
            TokenSource::Literal(Secret::new("t-control")),
        ),
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
fn t4_the_limits_and_routes_of_services_arrive() {
    let mut config = Config::defaults();
    config.timeouts.proxy_idle = Duration::from_secs(41);
    config.timeouts.proxy_dial = Duration::from_secs(42);
    let service = |text| ServicePort::parse(text).expect("one");
    config.proxy.ingress_controller = Some(service("traefik.kube-system:80"));
    config.proxy.ingress_routes = [("shop.test".to_owned(), service("web.shop:8080"))].into();
    let PolicedServices { targets, audit, .. } = pod("rules: []\n").0;
    let got = services(&config, targets, audit, Arc::<Mounted>::default());
    assert_eq!(got.connections.idle_limit, Duration::from_secs(41));
    assert_eq!(got.connections.dial_limit, Duration::from_secs(42));
    let controller = service("traefik.kube-system:80");
    assert_eq!(got.routes.controller(), Some(controller));
    let web = service("web.shop:8080");
    assert_eq!(got.routes.service_of("shop.test"), Some(web));
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
    assert!(matches!(again, Err(Unreached::Denied(_))), "{again:?}");
    assert!(matches!(
        services.admit(&web(port)).err(),
        Some(Unreached::Denied(_))
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
    assert!(service.keeps());
    service
        .dial(far_deadline(), &Cancel::new())
        .expect("dialled");
    assert!(!service.keeps());
}

#[test]
fn an_address_that_must_be_named_is_not_dialled() {
    let (services, ..) = pod("rules:\n- {action: allow}\n");
    let (listener, address) = listen();
    listener.set_nonblocking(true).expect("set");
    let service = services.admit(&web(address.port())).expect("by name");
    let denied = service.dial(far_deadline(), &Cancel::new());
    let Err(Unreached::Denied(Verdict { reason: why, .. })) = denied else {
        panic!("{denied:?}");
    };
    assert!(why.contains("127.0.0.1"), "{why}");
    assert_eq!(service.verdict().reason, why, "as the audit has it");
    assert!(listener.accept().is_err(), "nobody came");
}

#[test]
fn the_agents_own_tokens_are_known() {
    let (services, ..) = pod("rules: []\n");
    for own in [
        "Bearer t-given",
        "bearer  t-mounted ",
        "Bearer\tt-given",
        // The one that the control plane knows the agent by.
        "Bearer t-control",
    ] {
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

/// For each request with a token, a file was read.
#[test]
fn the_agents_own_tokens_are_not_read_for_each_request() {
    let facts = Arc::<Mounted>::default();
    let own = OwnTokens::new(facts.clone(), TokenSource::Missing);
    for _ in 0..10 {
        assert!(own.has("t-given"));
        assert!(!own.has("t"));
    }
    assert_eq!(facts.reads.load(Ordering::SeqCst), 1);
    // But again when they may be others.
    let long_ago = Instant::now().checked_sub(TOKENS_AGE);
    if let Some((since, _)) = &mut *own.known.lock() {
        *since = long_ago.expect("the machine runs for longer");
    }
    assert!(own.has("t-given"));
    assert_eq!(facts.reads.load(Ordering::SeqCst), 2);
}

/// The file that keeps what streams reached keeps what requests didn't.
#[test]
fn a_denied_request_is_in_the_policys_audit() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("audit");
    let (mut services, ..) = pod("rules: []\n");
    services.audit = Arc::new(audit(Some(file.clone())));
    let Err(Unreached::Denied(verdict)) = services.admit(&web(80)) else {
        panic!("allowed");
    };
    services.note(JudgedCall {
        id: "r-1",
        client: "192.0.2.7".parse().ok(),
        target: "web.shop:80",
        verdict: &verdict,
        denied: true,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        end: "refused",
    });
    services.audit.finish(far_deadline());
    let line = std::fs::read_to_string(file).expect("a file");
    let line: serde_json::Value = serde_json::from_str(line.trim()).expect("one line");
    assert_eq!(line["kind"], "request");
    assert_eq!(line["verdict"], "denied");
    assert_eq!(line["reason"], "no rule allows it");
    assert_eq!(
        (&line["target"], &line["id"]),
        (&"web.shop:80".into(), &"r-1".into())
    );
}

/// Each call once, by what came of its last connection.
#[test]
fn calls_to_origins_are_counted_by_what_came_of_them() {
    let (listener, address) = listen();
    let (nobody, closed) = listen();
    drop(nobody);
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("socket");
    let unix = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let origin = |text: String| Origin::parse(&text).expect("an origin");
    let unix_at = |path: &std::path::Path| origin(format!("unix://{}", path.display()));
    let routes = Routes {
        routes: [
            ("web".to_owned(), origin(address.to_string())),
            ("closed".to_owned(), origin(closed.to_string())),
            ("socket".to_owned(), unix_at(&socket)),
            ("missing".to_owned(), unix_at(&folder.path().join("none"))),
        ]
        .into(),
        ..Routes::default()
    };
    let (mut services, policy, _folder) = pod("rules: [{action: allow}]\n");
    services.targets = Arc::new(Targets::new(Mode::Machine, policy, routes));
    let target = |service: &str| Target::Origin {
        host: None,
        service: service.to_owned(),
        namespace: String::new(),
    };
    let call = |service: &str, dials: usize| {
        let service = services.admit(&target(service)).expect("allowed");
        for _ in 0..dials {
            // Half of them fail; that is what is counted.
            drop(service.dial(far_deadline(), &Cancel::new()));
        }
        service
    };
    let counts = || {
        let snapshot = metrics::snapshot();
        [
            "tcp\",result=\"ok",
            "tcp\",result=\"dial_error",
            "unix\",result=\"ok",
            "unix\",result=\"dial_error",
            "unknown\",result=\"resolve_error",
        ]
        .map(|labels| {
            let name = "pipeops_agent_daemon_origin_requests_total";
            snapshot.value(&format!("{name}{{network=\"{labels}\"}}"))
        })
    };
    assert_eq!(counts(), [Some(0.0); 5]);
    drop(call("web", 2));
    drop(call("closed", 2));
    drop(call("socket", 1));
    drop(call("missing", 1));
    // On a connection that was kept.
    assert!(call("web", 0).allows(Some(address)));
    // One that came to nothing, and none at all.
    drop(call("web", 0));
    assert!(services.admit(&target("nobody")).is_err());
    let want = [2.0, 1.0, 1.0, 1.0, 1.0];
    assert_eq!(counts(), want.map(Some));
    drop((listener, unix));
}
