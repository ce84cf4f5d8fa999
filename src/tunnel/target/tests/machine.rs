//! Targets of the machine itself: origins, forwards, local ports.

use super::*;

#[test]
fn routes_are_found_by_service_then_with_its_namespace() {
    let targets = machine(
        &[
            ("web", "localhost:1"),
            ("shop.example.test", "localhost:2"),
            ("db.team", "localhost:3"),
        ],
        Some("localhost:9"),
    );
    for (service, namespace, origin) in [
        ("web", "any", "localhost:1"),
        ("WEB", "", "localhost:1"),
        ("shop.example.test", "", "localhost:2"),
        ("shop", "example.test", "localhost:2"),
        ("db", "team", "localhost:3"),
        ("db", "other", "localhost:9"),
        ("grafana", "", "localhost:3000"),
        ("", "", "localhost:9"),
    ] {
        let admitted = targets
            .admit(&header(service, namespace, 0))
            .expect(service);
        assert_eq!(admitted.to_string(), origin, "{service} {namespace}");
    }
    let refusal = targets
        .admit(&header("../x", "", 0))
        .map(|_| ())
        .expect_err("no name");
    assert_eq!(refusal.kind, RefusalKind::Header);
    let refusal = machine(&[], None)
        .admit(&header("web", "", 80))
        .map(|_| ())
        .expect_err("no route");
    assert_eq!(refusal.reason, "no local address configured for \"web\"");
}

#[test]
fn an_origin_of_the_machine_is_dialled() {
    let (_listener, address) = listen();
    let targets = machine(&[("web", &format!("localhost:{}", address.port()))], None);
    // The header's port means nothing here.
    let connected = open(&targets, &header("web", "x", 1)).expect("connected");
    assert_eq!(connected.address, Some(address));
    assert_eq!(connected.verdict.reason, "a configured origin");
}

#[test]
fn a_unix_socket_is_an_origin_for_bytes_but_not_for_datagrams() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("app.sock");
    let text = format!("unix://{}", path.display());
    let targets = machine(&[("app", &text)], None);
    let refusal = open(&targets, &header("app", "", 0)).expect_err("nobody there");
    assert!(refusal.reason.starts_with(&text), "{refusal}");
    let listener = UnixListener::bind(&path).expect("bind");
    let connected = open(&targets, &header("app", "", 0)).expect("connected");
    assert_eq!((connected.kind, connected.address), (Kind::Unix, None));
    (&*connected.socket).write_all(b"hello").expect("written");
    let (mut far, _) = listener.accept().expect("accepted");
    far.read_exact(&mut [0; 5]).expect("there");
    let refusal = open(&targets, &udp(header("app", "", 0))).expect_err("UDP");
    assert_eq!(refusal.kind, RefusalKind::Dial);
    assert!(refusal.reason.contains("UDP"), "{refusal}");
}

#[test]
fn a_unix_server_that_accepts_nobody_is_waited_for_until_the_deadline() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("busy.sock");
    let server = Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("socket");
    server
        .bind(&socket2::SockAddr::unix(&path).expect("path"))
        .expect("bind");
    server.listen(0).expect("listen");
    let targets = machine(&[("app", &format!("unix://{}", path.display()))], None);
    let admitted = targets.admit(&header("app", "", 0)).expect("good");
    let dial = |deadline, cancel: &Cancel| admitted.dial(deadline, cancel);
    let mut waiting = Vec::new();
    let refusal = loop {
        match dial(Deadline::after(Duration::from_millis(5)), &Cancel::new()) {
            Ok(connected) => waiting.push(connected),
            Err(refusal) => break refusal,
        }
        assert!(waiting.len() < 64, "no queue is that long");
    };
    assert!(refusal.reason.contains("no answer in time"), "{refusal}");
    let cancel = Cancel::new();
    let (waiter, stream) = (cancel.clone(), admitted.clone());
    let thread = std::thread::spawn(move || stream.dial(far_deadline(), &waiter));
    cancel.cancel(Reason::ConnectionLost);
    let refusal = thread.join().expect("thread").expect_err("cancelled");
    assert_eq!(refusal.kind, RefusalKind::Cancelled(Reason::ConnectionLost));
    server.accept().expect("one of them");
    dial(far_deadline(), &Cancel::new()).expect("room again");
}

#[test]
fn outside_the_cluster_its_names_lead_nowhere() {
    let targets = Arc::new(Targets::new(Mode::Outside, no_file(), Routes::default()));
    let refusal = open(&targets, &header("a", "b", 1)).expect_err("nowhere");
    assert_eq!(refusal.kind, RefusalKind::Dial);
    assert!(refusal.reason.contains("outside the cluster"), "{refusal}");
}

#[test]
fn a_forward_is_reached_by_its_name_without_a_namespace() {
    let (_listener, address) = listen();
    let policy = no_file();
    // It may be the agent's own port.
    policy.set_own_ports(vec![address.port()]);
    let forward = Forward {
        name: "agent-http".into(),
        origin: Origin::parse(&format!("localhost:{}", address.port())).expect("origin"),
    };
    let routes = Routes {
        forwards: vec![forward],
        ..Routes::default()
    };
    let mode = Mode::Cluster {
        domain: "cluster.local".into(),
        external: None,
    };
    let targets = Arc::new(Targets::new(mode, policy, routes));
    let connected = open(&targets, &header("agent-http", "", 0)).expect("connected");
    assert_eq!(connected.address, Some(address));
    let admitted = targets
        .admit(&header("agent-http", "default", 80))
        .expect("a Service");
    assert_eq!(admitted.to_string(), "agent-http.default:80");
}

#[test]
fn local_targets_are_for_json_tunnels_that_are_switched_on() {
    let (_listener, address) = listen();
    let targets = |on| {
        let settings = Settings {
            local_targets: on,
            ..Settings::default()
        };
        let policy = Arc::new(Policy::open(settings).expect("no file"));
        let mode = Mode::Cluster {
            domain: "cluster.local".into(),
            external: None,
        };
        Arc::new(Targets::new(mode, policy, Routes::default()))
    };
    let refusal = targets(false)
        .admit_local(Protocol::Tcp, address.port())
        .map(|_| ())
        .expect_err("off");
    assert_eq!(refusal.reason, "tunnels.enabled is off");
    let admitted = targets(true).admit_local(Protocol::Tcp, address.port());
    let connected = admitted
        .expect("on")
        .dial(far_deadline(), &Cancel::new())
        .expect("connected");
    assert_eq!(connected.address, Some(address));
    assert!(targets(true).admit_local(Protocol::Tcp, 0).is_err());
}

/// Otherwise a client could pass as another name than the one that it reaches.
#[test]
fn a_request_is_judged_by_the_name_that_found_its_origin() {
    let rules = "rules:\n- {action: allow, services: [web], addresses: [127.0.0.0/8]}\n";
    let targets = machine(
        &[("web", "localhost:1"), ("admin.test", "localhost:2")],
        None,
    );
    let targets = Arc::new(Targets::new(
        Mode::Machine,
        policy(rules),
        targets.routes.clone(),
    ));
    let ask = |host, service| {
        let admitted = targets.admit_request(host, header(service, "", 0).names());
        admitted.map(|admitted| admitted.to_string())
    };
    assert_eq!(ask(None, "web").expect("allowed"), "localhost:1");
    assert_eq!(ask(Some("web"), "").expect("allowed"), "localhost:1");
    assert_eq!(ask(Some("unknown"), "web").expect("allowed"), "localhost:1");
    for (host, service) in [(Some("admin.test"), "web"), (None, "admin.test")] {
        let refusal = ask(host, service).expect_err("not allowed");
        assert_eq!(refusal.kind, RefusalKind::Denied, "{refusal}");
    }
}

/// Connections are shared by key.
#[test]
fn what_differs_in_name_or_place_has_another_key() {
    let targets = machine(
        &[
            ("a", "localhost:1"),
            ("tls", "https://localhost:1"),
            ("grafana2", "localhost:3000"),
        ],
        Some("localhost:9"),
    );
    let key = |service, namespace| {
        let admitted = targets.admit(&header(service, namespace, 0));
        admitted.expect(service).key()
    };
    assert_eq!(key("a", ""), key("a", ""));
    assert_ne!(key("x.y", "z"), key("x", "y.z"), "where a name ends");
    assert_ne!(key("a", ""), key("tls", ""));
    assert_ne!(
        key("grafana", ""),
        key("grafana2", ""),
        "a forward, an origin"
    );
}
