//! What single settings mean, and where they may stand.

use super::*;

#[test]
fn tokens_come_from_flag_environment_file_and_credential() {
    let token = |args: &Args, world: &Fake| {
        let (config, _) = load_with(args, world);
        let secret = config.pipeops.token.read_from(world).expect("a token");
        secret.expose().to_owned()
    };
    let none = Args::default();
    let world = Fake::default()
        .var("CREDENTIALS_DIRECTORY", "/run/cred")
        .file("/run/cred/pipeops-token", "from-systemd\n");
    assert_eq!(token(&none, &world), "from-systemd");
    let world = world
        .file("/etc/token", "from-a-file\n")
        .file(FILE, "pipeops: {token_file: /etc/token}");
    assert_eq!(token(&none, &world), "from-a-file");
    let world = world.file(
        FILE,
        "pipeops: {token_file: /etc/token, token: from-the-config}",
    );
    assert_eq!(token(&none, &world), "from-the-config");
    let world = world
        .file("/etc/other", "from-another-file")
        .var("PIPEOPS_TOKEN_FILE", "/etc/other");
    assert_eq!(token(&none, &world), "from-another-file");
    let world = world.var("PIPEOPS_TOKEN", "from-the-environment");
    assert_eq!(token(&none, &world), "from-the-environment");
    let args = flags(&[("pipeops.token_file", "/etc/token")]);
    assert_eq!(token(&args, &world), "from-a-file");
    let args = flags(&[("pipeops.token", "from-a-flag")]);
    assert_eq!(token(&args, &world), "from-a-flag");
    let args = flags(&[("pipeops.token_file", "/none")]);
    assert!(refused(&args, &world).contains("/none"));
}

#[test]
fn a_placeholder_or_an_unset_variable_is_no_token() {
    for text in [
        "your-token-here",
        "<YOUR_PIPEOPS_TOKEN>",
        "'${NOT_SET}'",
        "'sat_${NOT_SET}'",
        "'${broken'",
    ] {
        let world = Fake::default().file(FILE, &format!("pipeops: {{token: {text}}}"));
        let error = refused(&Args::default(), &world);
        assert!(error.contains("no token"), "{text}: {error}");
        // The next source counts.
        load(&world.var("PIPEOPS_TOKEN", "real"));
    }
    let world = Fake::default()
        .var("MY_TOKEN", "real")
        .file(FILE, "pipeops: {token: '${MY_TOKEN}'}");
    load(&world);
}

#[test]
fn no_error_warning_or_debug_output_shows_the_token() {
    let secret = "sat_s3cr3t s3cr3t";
    let world = Fake::default()
        .file(FILE, &format!("pipeops: {{token: '{secret}'}}"))
        .var("PIPEOPS_K8S_SERVICE_TOKEN", "k8s-hidden")
        .var("HTTPS_PROXY", "http://me:hidden@proxy:3128");
    assert!(!refused(&Args::default(), &world).contains("s3cr3t"));
    let (config, warnings) = load(&world.var("PIPEOPS_TOKEN", "hidden-too"));
    let shown = format!("{config:?} {warnings:?}");
    assert!(
        !shown.contains("hidden") && !shown.contains("s3cr3t"),
        "{shown}"
    );
}

#[test]
fn the_local_server_listens_everywhere_only_in_a_pod() {
    let address = |world: &Fake| load(world).0.agent.bind_address.expect("always set");
    assert_eq!(address(&world()), IpAddr::from([127, 0, 0, 1]));
    let pod = world()
        .var("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .var("KUBERNETES_SERVICE_PORT", "443");
    assert_eq!(address(&pod), IpAddr::from([0, 0, 0, 0]));
    let given = pod.var("PIPEOPS_BIND_ADDRESS", "::1");
    assert_eq!(address(&given), "::1".parse::<IpAddr>().expect("address"));
}

#[test]
fn the_state_file_is_found_by_its_order() {
    let file = |args: &Args, world: &Fake| load_with(args, world).0.state.file;
    let none = Args::default();
    let world = world();
    assert_eq!(
        file(&none, &world),
        PathBuf::from("/var/lib/pipeops-agent/state.yaml")
    );
    let world = world.var("HOME", "/home/me");
    assert_eq!(
        file(&none, &world),
        PathBuf::from("/home/me/.pipeops-agent/state.yaml")
    );
    let world = world.var("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    assert_eq!(file(&none, &world), PathBuf::from("/var/lib/a/state.yaml"));
    let world = world.var("PIPEOPS_STATE_FILE", "/s");
    assert_eq!(file(&none, &world), PathBuf::from("/s"));
    let world = world.file(FILE, "daemon: {state_file: /d}");
    assert_eq!(file(&none, &world), PathBuf::from("/d"));
    let args = flags(&[("state.file", "/f")]);
    assert_eq!(file(&args, &world), PathBuf::from("/f"));
}

#[test]
fn state_persistence_can_be_switched_off() {
    let off = world().var("PIPEOPS_ENABLE_STATE_PERSISTENCE", "false");
    assert_eq!(load(&off).0.state.backend, StateBackend::Memory);
}

#[test]
fn tls_disabled_ignores_the_files_and_says_so() {
    let world = world().file("/ca.pem", "x").file(
        FILE,
        "pipeops: {tls: {ca_file: /ca.pem, insecure_skip_verify: true}}",
    );
    let (config, warnings) = load(&world);
    assert_eq!(config.pipeops.tls.ca_file, Some("/ca.pem".into()));
    assert!(warnings[0].contains("insecure_skip_verify"), "{warnings:?}");
    let (config, warnings) = load(&world.var("PIPEOPS_TLS_ENABLED", "false"));
    assert_eq!(config.pipeops.tls.ca_file, None);
    assert!(!config.pipeops.tls.insecure_skip_verify);
    assert!(warnings[0].contains("ignored"), "{warnings:?}");
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let world = world().var("TIMEOUTS_WEBSOCKET_READ", "10s");
    assert!(refused(&Args::default(), &world).contains("websocket_ping"));
    let world = world
        .var("TIMEOUTS_WEBSOCKET_READ", "1m")
        .var("TIMEOUTS_WEBSOCKET_RECONNECT", "20s");
    assert!(refused(&Args::default(), &world).contains("reconnect_max"));
    let world = world.var("TIMEOUTS_WEBSOCKET_RECONNECT", "0");
    assert!(refused(&Args::default(), &world).contains("least"));
}

#[test]
fn clear_text_to_another_machine_is_warned_about() {
    let warned = |url: &str| {
        load(&world().var("PIPEOPS_API_URL", url))
            .1
            .iter()
            .any(|warning| warning.contains("clear text"))
    };
    assert!(warned("http://control.example.test"));
    assert!(!warned("http://127.0.0.1:9000"));
    assert!(!warned("wss://control.example.test"));
}

#[test]
fn a_json_list_that_is_none_is_fatal() {
    let args = flags(&[("gateway.gateway_api.listeners", "[{\"port\": 1}]")]);
    assert_eq!(load_with(&args, &world()).1.len(), 1);
    let args = flags(&[("gateway.gateway_api.listeners", "[{")]);
    assert!(refused(&args, &world()).contains("--gateway-gwapi-listeners-json"));
}

/// Lower case only was ignored by half of the programs that an operator knows.
#[test]
fn proxies_are_read_from_every_usual_name() {
    let world = world()
        .var("https_proxy", "http://small:1")
        .var("NO_PROXY", "a.test, .b.test");
    let proxy = load(&world).0.pipeops.proxy;
    assert_eq!(proxy.var("HTTPS_PROXY").as_deref(), Some("http://small:1"));
    assert_eq!(proxy.var("HTTP_PROXY"), None);
    assert_eq!(proxy.var("NO_PROXY").as_deref(), Some("a.test,.b.test"));
    let world = world.var("HTTPS_PROXY", "http://large:1");
    let proxy = load(&world).0.pipeops.proxy;
    assert_eq!(proxy.var("HTTPS_PROXY").as_deref(), Some("http://large:1"));
}

#[test]
fn origins_come_from_list_map_and_environment() {
    let world = world()
        .var("PIPEOPS_DAEMON_ROUTES", "web=localhost:1,DB=db.local:5432,empty=")
        .var("PIPEOPS_ORIGIN_MODE", "Host")
        .file(
            FILE,
            "daemon:\n  default_origin: unix:///run/app.sock\n  allowed_origins: [localhost, 'db.local:5432']\n  ingress:\n  - {hostname: web, origin: 'localhost:2'}\n  - {HostName: Shop.Example.Test, origin: 'http://[::1]:80'}\n  - {hostname: nothing}\n",
        );
    let daemon = load(&world).0.daemon;
    assert!(daemon.enabled);
    let routes: Vec<_> = daemon
        .routes
        .iter()
        .map(|(name, origin)| format!("{name}={origin}"))
        .collect();
    // The list wins for the same name.
    assert_eq!(
        routes,
        [
            "db=db.local:5432",
            "shop.example.test=[::1]:80",
            "web=localhost:2"
        ]
    );
    let default = daemon.default_origin.expect("given").to_string();
    assert_eq!(default, "unix:///run/app.sock");
    assert_eq!(daemon.allowed_origins, ["localhost", "db.local:5432"]);
    for bad in [
        "daemon: {default_origin: localhost}",
        "daemon: {ingress: [{hostname: a, origin: 'b:1/x'}]}",
        "daemon: {ingress: [a]}",
        "daemon: {ingress: {a: b}}",
        "daemon: {ingress: [{hostname: [a], origin: 'b:1'}]}",
        "tunnel: {forwards: [{local_addr: 'a:1'}]}",
        "tunnels: {proxy_protocol: {a.b: v3}}",
    ] {
        let error = refused(&Args::default(), &world.clone().file(FILE, bad));
        assert!(error.contains(FILE), "{bad}: {error}");
    }
}

#[test]
fn settings_of_tunnels() {
    let tunnels = load(&world()).0.tunnels;
    assert_eq!(tunnels.max_streams, 4096);
    assert_eq!(tunnels.memory_limit, 64 << 20);
    assert_eq!(tunnels.dial_failure, DialFailure::Reset);
    assert_eq!(tunnels.half_close_timeout, Duration::from_mins(5));
    assert_eq!(tunnels.inactivity_timeout, None);
    assert!(!tunnels.enabled && tunnels.policy_file.is_none());
    assert_eq!((tunnels.audit.max_size, tunnels.audit.keep), (10 << 20, 5));
    let world = world().file(
        FILE,
        "tunnel:\n  inactivity_timeout: 5m\n  forwards: [{name: Agent-HTTP, local_addr: 'localhost:8080', remote_port: 0, extra: 1}]\ntunnels: {dial_failure: fin, proxy_protocol: {'Web.shop': V2, 'db.data:5432': v1}}",
    );
    let (config, warnings) = load(&world);
    let tunnels = config.tunnels;
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("tunnel.forwards.extra")),
        "{warnings:?}"
    );
    assert_eq!(tunnels.inactivity_timeout, Some(Duration::from_mins(5)));
    assert_eq!(tunnels.dial_failure, DialFailure::Fin);
    assert_eq!(tunnels.forwards[0].name, "agent-http");
    assert_eq!(tunnels.forwards[0].origin.to_string(), "localhost:8080");
    assert_eq!(tunnels.proxy_protocol["web.shop"], ProxyProtocol::V2);
    assert_eq!(tunnels.proxy_protocol["db.data:5432"], ProxyProtocol::V1);
    let world = world.var(
        "TUNNEL_FORWARDS",
        "[{\"name\": \"a\", \"local_addr\": \"b:1\"}]",
    );
    let forwards = load(&world).0.tunnels.forwards;
    assert_eq!((forwards.len(), forwards[0].name.as_str()), (1, "a"));
}

#[test]
fn tt28_tt29_each_setting_of_json_tunnels_has_its_own_default() {
    let default = load(&world()).0.tunnels;
    assert_eq!(default.tcp.buffer_size, 32 << 10);
    assert!(default.tcp.keepalive);
    assert_eq!(default.tcp.keepalive_period, Duration::from_secs(30));
    assert_eq!(default.tcp.connection_timeout, Duration::from_secs(30));
    assert_eq!(default.tcp.idle_timeout, Duration::from_mins(5));
    assert_eq!(default.tcp.max_connections, 1000);
    assert_eq!(default.udp.buffer_size, 65_507);
    assert_eq!(default.udp.session_timeout, Duration::from_mins(5));
    assert_eq!(default.udp.max_sessions, 1000);
    let tunnels = |text: &str| load(&world().file(FILE, text)).0.tunnels;
    // One that is given, as in the original's own example, leaves the others alone.
    let one = tunnels(
        "tunnels: {discovery: {tcp: {gateway_label: a.test/b}}, tcp: {buffer_size: 65536}, udp: {buffer_size: 65535}}",
    );
    let want = TcpTunnels {
        buffer_size: 64 << 10,
        ..default.tcp.clone()
    };
    assert_eq!((&one.tcp, &one.udp), (&want, &default.udp));
    // Zero has always meant the default.
    let zero = tunnels(
        "tunnels: {tcp: {buffer_size: 0, keepalive_period: 0s, connection_timeout: 0, idle_timeout: 0s, max_connections: 0}, udp: {buffer_size: 0, session_timeout: 0s, max_sessions: 0}}",
    );
    assert_eq!((&zero.tcp, &zero.udp), (&default.tcp, &default.udp));
    let all = tunnels(
        "tunnels: {json_target: gateway, tcp: {keepalive: false, idle_timeout: 1h, max_connections: 7, buffer_size: 100MiB}, udp: {session_timeout: 1m, max_sessions: 10000}}",
    );
    assert!(all.prefer_gateway_port && !all.tcp.keepalive);
    assert_eq!(all.tcp.idle_timeout, Duration::from_hours(1));
    assert_eq!((all.tcp.max_connections, all.tcp.buffer_size), (7, 1 << 20));
    assert_eq!(all.udp.max_sessions, 10_000);
}

#[test]
fn t4_each_limit_of_proxying_is_read_from_file_and_environment() {
    let names = [
        "proxy_request",
        "proxy_body",
        "proxy_dial",
        "proxy_first_byte",
        "proxy_stall",
        "proxy_idle",
    ];
    let numbered = || names.iter().zip(41..);
    let lines = numbered().map(|(name, n)| format!("  {name}: {n}s\n"));
    let file = world().file(FILE, &format!("timeouts:\n{}", lines.collect::<String>()));
    let environment = numbered().fold(world(), |world, (name, n)| {
        let name = format!("TIMEOUTS_{}", name.to_ascii_uppercase());
        world.var(&name, &format!("{n}s"))
    });
    for world in [file, environment] {
        let got = load(&world).0.timeouts;
        let got = [
            got.proxy_request,
            got.proxy_body,
            got.proxy_dial,
            got.proxy_first_byte,
            got.proxy_stall,
            got.proxy_idle,
        ];
        assert_eq!(got.map(|limit| limit.as_secs()), [41, 42, 43, 44, 45, 46]);
    }
}

#[test]
fn ingress_routes_are_read_from_file_and_environment() {
    let file = world().file(
        FILE,
        "proxy:\n  ingress_controller: traefik.kube-system:80\n  ingress_routes: {Shop.Test: 'web.shop:8080'}\n",
    );
    let environment = world()
        .var("PROXY_INGRESS_CONTROLLER", "traefik.kube-system:80")
        .var("PROXY_INGRESS_ROUTES", "Shop.Test=web.shop:8080");
    for world in [file, environment] {
        let got = load(&world).0.proxy;
        let controller = got.ingress_controller.expect("one").to_string();
        assert_eq!(controller, "traefik.kube-system:80");
        let routes: Vec<_> = got.ingress_routes.iter().collect();
        let [(host, service)] = routes[..] else {
            panic!("{routes:?}");
        };
        assert_eq!(
            (host.as_str(), &*service.to_string()),
            ("shop.test", "web.shop:8080")
        );
    }
    for (name, value) in [
        ("PROXY_INGRESS_CONTROLLER", "traefik"),
        ("PROXY_INGRESS_ROUTES", "shop.test=web"),
    ] {
        let error = refused(&Args::default(), &world().var(name, value));
        assert!(error.contains(name), "{error}");
    }
}

/// It would have been a limit in messages.
#[test]
fn the_queues_old_capacity_is_known_and_says_that_it_has_no_effect() {
    let world = world().var("AGENT_WS_CHANNEL_CAPACITY", "7");
    let (_, warnings) = load(&world);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("AGENT_WS_CHANNEL_CAPACITY"),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("counted in bytes"), "{warnings:?}");
}

/// As the original's names say, in seconds.
#[test]
fn services_are_asked_for_signs_of_life_as_often_as_the_environment_says() {
    let times = |world: &Fake| {
        let timeouts = load(world).0.timeouts;
        (timeouts.service_ping, timeouts.service_pong)
    };
    let seconds = Duration::from_secs;
    assert_eq!(times(&world()), (seconds(30), seconds(90)));
    let world = world().var("AGENT_WS_PING_INTERVAL_SECONDS", "7");
    assert_eq!(times(&world), (seconds(7), seconds(90)));
    let world = world.var("AGENT_WS_PONG_TIMEOUT_SECONDS", "8");
    assert_eq!(times(&world), (seconds(7), seconds(8)));
    let world = world.var("AGENT_WS_PING_INTERVAL_SECONDS", "0");
    assert!(refused(&Args::default(), &world).contains("AGENT_WS_PING_INTERVAL_SECONDS"));
}
