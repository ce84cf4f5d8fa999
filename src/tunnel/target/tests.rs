//! Names, look-ups and dials; what is looked up is made up, what is dialled is
//! loopback.

mod machine;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use parking_lot::Mutex;

use super::*;
use crate::config::Forward;
use crate::net::Reason;
use crate::net::testing::{far_deadline, listen};
use crate::tunnel::policy::Settings;

/// Loopback has to be named, and these tests dial nothing else.
const LOOPBACK: &str = "rules:\n- {action: allow}\n- {action: allow, addresses: [127.0.0.0/8]}\n";

fn policy(rules: &str) -> Arc<Policy> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, rules).expect("written");
    let policy = Policy::open(Settings {
        file: Some(path),
        ..Settings::default()
    });
    Arc::new(policy.expect("good rules"))
}

fn no_file() -> Arc<Policy> {
    Arc::new(Policy::open(Settings::default()).expect("no file"))
}

fn header(service: &str, namespace: &str, port: u16) -> Header {
    Header {
        protocol: Protocol::Tcp,
        port,
        service: service.into(),
        namespace: namespace.into(),
        tunnel_id: "t".into(),
        client: None,
    }
}

fn udp(header: Header) -> Header {
    Header {
        protocol: Protocol::Udp,
        ..header
    }
}

fn cluster(
    policy: Arc<Policy>,
    lookup: impl Fn(&str) -> io::Result<Vec<&'static str>> + Send + Sync + 'static,
) -> Arc<Targets> {
    cluster_with(policy, None, lookup)
}

fn cluster_with(
    policy: Arc<Policy>,
    external: Option<Arc<dyn ExternalNames>>,
    lookup: impl Fn(&str) -> io::Result<Vec<&'static str>> + Send + Sync + 'static,
) -> Arc<Targets> {
    let mode = Mode::Cluster {
        domain: "cluster.local".into(),
        external,
    };
    let resolver = Resolver::new(move |host| {
        let found = lookup(host)?;
        Ok(found
            .into_iter()
            .map(|ip| SocketAddr::new(ip.parse().expect(ip), 0))
            .collect())
    });
    Arc::new(Targets::new(mode, policy, Routes::default()).with_resolver(resolver))
}

fn machine(routes: &[(&str, &str)], default: Option<&str>) -> Arc<Targets> {
    let origin = |text: &str| Origin::parse(text).expect(text);
    let routes = Routes {
        routes: routes
            .iter()
            .map(|(name, text)| ((*name).to_owned(), origin(text)))
            .collect(),
        default_origin: default.map(origin),
        forwards: vec![Forward {
            name: "grafana".into(),
            origin: origin("localhost:3000"),
        }],
    };
    Arc::new(Targets::new(Mode::Machine, no_file(), routes))
}

fn open(targets: &Arc<Targets>, header: &Header) -> Result<Connected, Refusal> {
    targets.admit(header)?.dial(far_deadline(), &Cancel::new())
}

fn denied(result: Result<Connected, Refusal>) -> String {
    let refusal = result.expect_err("connected");
    assert_eq!(refusal.kind, RefusalKind::Denied, "{refusal}");
    refusal.reason
}

#[test]
fn tt15_a_service_is_looked_up_by_its_absolute_name() {
    let (listener, address) = listen();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let targets = cluster(policy(LOOPBACK), move |host| {
        seen.lock().push(host.to_owned());
        Ok(vec!["127.0.0.1"])
    });
    let connected =
        open(&targets, &header("postgres", "databases", address.port())).expect("connected");
    assert_eq!(*asked.lock(), ["postgres.databases.svc.cluster.local."]);
    assert_eq!(
        (connected.kind, connected.address),
        (Kind::Tcp, Some(address))
    );
    assert!(connected.verdict.allowed);
    let (mut far, _) = listener.accept().expect("accepted");
    (&*connected.socket).write_all(b"hello").expect("written");
    far.read_exact(&mut [0; 5]).expect("blocking, and there");
}

#[test]
fn a_target_is_probed_sends_at_once_and_may_be_slow() {
    let (_listener, address) = listen();
    let targets = cluster(policy(LOOPBACK), |_| Ok(vec!["127.0.0.1"]));
    let connected = open(&targets, &header("a", "b", address.port())).expect("connected");
    assert!(connected.socket.tcp_nodelay().expect("option"));
    assert!(connected.socket.keepalive().expect("option"));
    assert_eq!(connected.socket.tcp_user_timeout().expect("option"), None);
    assert!(!connected.socket.nonblocking().expect("option"));
}

/// A name server that is the attacker's: the second answer would lead elsewhere.
#[test]
fn tt14_the_address_that_was_checked_is_the_one_that_is_dialled() {
    let (_listener, address) = listen();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let targets = cluster(policy(LOOPBACK), move |_| {
        Ok(match counted.fetch_add(1, Ordering::SeqCst) {
            0 => vec!["169.254.169.254", "::ffff:127.0.0.1", "::1"],
            _ => vec!["169.254.169.254"],
        })
    });
    let connected = open(&targets, &header("a", "b", address.port())).expect("connected");
    assert_eq!(
        connected.address,
        Some(address),
        "the one that passed, in plain form"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let reason = denied(open(&targets, &header("a", "b", address.port())));
    assert!(reason.contains("169.254.169.254"), "{reason}");
}

#[test]
fn tt14_a_service_that_leads_to_the_machine_itself_is_not_dialled() {
    let (listener, address) = listen();
    listener.set_nonblocking(true).expect("option");
    for answer in ["127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:0.0.0.0"] {
        let targets = cluster(no_file(), move |_| Ok(vec![answer]));
        let reason = denied(open(&targets, &header("a", "b", address.port())));
        assert!(reason.contains("loopback"), "{reason}");
    }
    // Nor is it when the rules allow loopback, but the port is the agent's own.
    let policy = policy(LOOPBACK);
    policy.set_own_ports(vec![address.port()]);
    let targets = cluster(policy, |_| Ok(vec!["127.0.0.1"]));
    let reason = denied(open(&targets, &header("a", "b", address.port())));
    assert!(reason.contains("agent itself"), "{reason}");
    let error = listener.accept().expect_err("somebody connected");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn tt14_names_that_can_be_none_are_refused_before_anything_is_asked() {
    let targets = cluster(policy("rules: []"), |_| panic!("looked up"));
    for (service, namespace, port) in [
        ("", "", 1),
        ("a.b", "c", 1),
        ("169.254.169.254", "", 80),
        ("a", "b", 0),
    ] {
        let refusal = targets
            .admit(&header(service, namespace, port))
            .map(|_| ())
            .expect_err(service);
        assert_eq!(refusal.kind, RefusalKind::Header, "{refusal}");
        assert_eq!(refusal.kind.label(), Some("header_error"));
    }
    // And what the policy denies by name is not looked up.
    denied(open(&targets, &header("a", "b", 1)));
}

#[test]
fn the_second_address_answers_when_the_first_does_not() {
    let (_listener, address) = listen();
    let targets = cluster(policy(LOOPBACK), |_| Ok(vec!["127.0.0.2", "127.0.0.1"]));
    let connected = open(&targets, &header("a", "b", address.port())).expect("connected");
    assert_eq!(connected.address, Some(address));
}

#[test]
fn tt16_a_dial_that_fails_says_why() {
    let (listener, address) = listen();
    drop(listener);
    let targets = cluster(policy(LOOPBACK), |_| Ok(vec!["127.0.0.1"]));
    let refusal = open(&targets, &header("a", "b", address.port())).expect_err("nobody there");
    assert_eq!(refusal.kind, RefusalKind::Dial);
    assert!(refusal.reason.contains("refused"), "{refusal}");
    let unknown = cluster(policy(LOOPBACK), |_| {
        Err(io::Error::other("Name or service not known"))
    });
    let refusal = open(&unknown, &header("a", "b", 1)).expect_err("no such name");
    assert_eq!(
        refusal.reason,
        "a.b:1: looking up a.b.svc.cluster.local.: Name or service not known"
    );
}

#[test]
fn hanging_name_servers_cost_the_deadline_and_bounded_threads() {
    let (release, hang): (_, Receiver<()>) = unbounded();
    let mut targets = Targets::new(
        Mode::Cluster {
            domain: "cluster.local".into(),
            external: None,
        },
        no_file(),
        Routes::default(),
    );
    targets = targets.with_resolver(Resolver::new(move |_| {
        let _ = hang.recv();
        Ok(Vec::new())
    }));
    let targets = Arc::new(targets);
    let mut late = 0;
    let full = loop {
        let admitted = targets
            .admit(&header(&format!("s{late}"), "n", 1))
            .expect("a good name");
        let soon = Deadline::after(Duration::from_millis(2));
        let refusal = admitted.dial(soon, &Cancel::new()).expect_err("hangs");
        assert_eq!(refusal.kind, RefusalKind::Dial);
        if !refusal.reason.contains("in time") {
            break refusal;
        }
        late += 1;
        assert!(late <= 64, "no bound");
    };
    assert!(full.reason.contains("hanging already"), "{full}");
    // Whoever ends the stream doesn't wait for the name server.
    let cancel = Cancel::new();
    let admitted = targets.admit(&header("s0", "n", 1)).expect("good");
    let waiter = cancel.clone();
    let thread = std::thread::spawn(move || admitted.dial(far_deadline(), &waiter));
    cancel.cancel(Reason::Cancelled);
    let refusal = thread.join().expect("thread").expect_err("cancelled");
    assert_eq!(refusal.kind, RefusalKind::Cancelled(Reason::Cancelled));
    assert_eq!(refusal.kind.label(), None);
    drop(release);
}

#[test]
fn a_datagram_socket_hears_its_peer_only() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let port = server.local_addr().expect("address").port();
    let targets = cluster(policy(LOOPBACK), |_| Ok(vec!["127.0.0.1"]));
    let connected = open(&targets, &udp(header("dns", "b", port))).expect("connected");
    assert_eq!(connected.kind, Kind::Udp);
    (&*connected.socket).write_all(b"ask").expect("sent");
    let mut buf = [0; 16];
    let (count, from) = server.recv_from(&mut buf).expect("received");
    assert_eq!(&buf[..count], b"ask");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("bind");
    stranger.send_to(b"lie", from).expect("sent");
    server.send_to(b"answer", from).expect("sent");
    let count = (&*connected.socket).read(&mut buf).expect("received");
    assert_eq!(&buf[..count], b"answer");
}

/// Services that are other names, as `namespace/service` to name.
struct Names(BTreeMap<&'static str, &'static str>);

impl ExternalNames for Names {
    fn external_name(
        &self,
        namespace: &str,
        service: &str,
        _: Deadline,
        _: &Cancel,
    ) -> Result<Option<String>, String> {
        if service == "broken" {
            return Err("the API server is away".to_owned());
        }
        let key = format!("{namespace}/{service}");
        Ok(self.0.get(&*key).map(|name| (*name).to_owned()))
    }
}

#[test]
fn tt14_what_a_service_points_to_is_judged_too() {
    let (_listener, address) = listen();
    let names = || -> Option<Arc<dyn ExternalNames>> {
        Some(Arc::new(Names(BTreeMap::from([
            ("a/outside", "evil.example.test"),
            ("a/alias", "secret.b.svc.cluster.local"),
            ("a/far", "alias.a.svc.cluster.local"),
            ("a/far-outside", "outside.a.svc.cluster.local"),
            ("a/loop", "loop.a.svc.cluster.local"),
            ("a/good", "web.a.svc.cluster.local."),
        ]))))
    };
    let rules = "rules:\n- {action: deny, namespaces: [b]}\n- {action: allow, namespaces: [a]}\n- {action: allow, namespaces: [a], addresses: [127.0.0.0/8]}\n";
    let targets = cluster_with(policy(rules), names(), |host| {
        assert!(host == "good.a.svc.cluster.local." || host == "web.a.svc.cluster.local.");
        Ok(vec!["127.0.0.1"])
    });
    let ask = |service: &str| open(&targets, &header(service, "a", address.port()));
    ask("web").expect("a plain Service");
    ask("good").expect("its other name");
    for (service, part) in [
        ("outside", "no rule names it"),
        ("far-outside", "evil.example.test"),
        ("alias", "denied by rule 1"),
        ("far", "denied by rule 1"),
    ] {
        let reason = denied(ask(service));
        assert!(reason.contains(part), "{service}: {reason}");
    }
    for (service, part) in [("loop", "point to each other"), ("broken", "is away")] {
        let refusal = ask(service).expect_err(service);
        assert_eq!(refusal.kind, RefusalKind::Dial);
        assert!(refusal.reason.contains(part), "{refusal}");
    }
    // Without a file, too.
    let targets = cluster_with(no_file(), names(), |_| panic!("looked up"));
    denied(open(&targets, &header("outside", "a", 1)));
}
