//! Loading as a whole, in a world of two maps.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::{Level, LevelFilter};
use proptest::prelude::*;

use super::surroundings::fake::Fake;
use super::*;

const FILE: &str = "/etc/pipeops/config.yaml";

fn world() -> Fake {
    Fake::default()
        .var("PIPEOPS_TOKEN", "t0ken-t0ken")
        .var("PIPEOPS_CLUSTER_NAME", "prod")
}

fn flags(pairs: &[(&'static str, &str)]) -> Args {
    Args {
        config_file: None,
        flags: pairs
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
    }
}

fn load(world: &Fake) -> (Config, Vec<String>) {
    load_with(&Args::default(), world)
}

fn load_with(args: &Args, world: &Fake) -> (Config, Vec<String>) {
    let (config, warnings) = Config::load(args, world).expect("a good configuration");
    let texts = warnings.into_iter().map(|warning| warning.text).collect();
    (config, texts)
}

fn refused(args: &Args, world: &Fake) -> String {
    Config::load(args, world)
        .expect_err("a bad configuration")
        .to_string()
}

#[test]
fn defaults_are_those_of_the_decisions() {
    let (config, warnings) = load(&world());
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.pipeops.api_url.to_string(), "https://api.pipeops.io");
    assert_eq!(config.agent.port, 8080);
    assert_eq!(
        config.agent.heartbeat_interval_connected,
        Duration::from_secs(30)
    );
    assert_eq!(
        config.agent.heartbeat_interval_reconnecting,
        Duration::from_mins(1)
    );
    assert_eq!(
        config.agent.heartbeat_interval_disconnected,
        Duration::from_secs(15)
    );
    assert!(!config.agent.enable_ingress_sync);
    assert!(config.agent.truthful_readiness_probe);
    assert!(!config.agent.report_worker_join);
    assert!(!config.kubernetes.impersonate_agent);
    assert_eq!(config.kubernetes.in_cluster, None);
    assert_eq!(config.kubernetes.namespace, "pipeops-system");
    let limits = &config.timeouts;
    assert_eq!(limits.websocket_handshake, Duration::from_secs(30));
    assert_eq!(limits.websocket_ping, Duration::from_secs(10));
    assert_eq!(limits.websocket_read, Duration::from_secs(25));
    assert_eq!(limits.websocket_reconnect, Duration::from_millis(500));
    assert_eq!(limits.websocket_reconnect_max, Duration::from_secs(15));
    assert!((limits.websocket_reconnect_jitter - 0.25).abs() < 1e-9);
    assert_eq!(limits.tcp_user, Duration::from_secs(20));
    assert_eq!(limits.proxy_body, Duration::from_mins(1));
    assert_eq!(limits.shutdown, Duration::from_secs(25));
    assert_eq!(config.pipeops.max_message_bytes, 96 << 20);
    assert_eq!(config.proxy.memory_limit, 256 << 20);
    assert_eq!(config.pipeops.reconnect.max_attempts, 3);
    assert_eq!(config.registration.give_up_after, None);
    assert_eq!(config.registration.retry_interval, None);
    assert_eq!(config.state.backend, StateBackend::Auto);
    assert_eq!(config.logging.level, LevelFilter::Info);
    assert_eq!(config.logging.output, LogOutput::Stdout);
    assert_eq!(config.logging.format, None);
    assert!(config.tunnels.force_tunnel_mode);
}

#[test]
fn precedence_is_flag_explicit_automatic_file_default() {
    let file = world().file(FILE, "agent: {port: 1}");
    assert_eq!(load(&world()).0.agent.port, 8080);
    assert_eq!(load(&file).0.agent.port, 1);
    let automatic = file.var("AGENT_PORT", "2");
    assert_eq!(load(&automatic).0.agent.port, 2);
    let explicit = automatic.var("PIPEOPS_PORT", "3");
    assert_eq!(load(&explicit).0.agent.port, 3);
    let args = flags(&[("agent.port", "4")]);
    assert_eq!(load_with(&args, &explicit).0.agent.port, 4);
}

#[test]
fn an_empty_value_is_no_value() {
    let world = world()
        .file(FILE, "agent: {port: 1, id: ''}")
        .var("PIPEOPS_PORT", "")
        .var("AGENT_PORT", "  ");
    let (config, _) = load_with(&flags(&[("agent.port", "")]), &world);
    assert_eq!(config.agent.port, 1);
    assert_eq!(config.agent.id, None);
}

/// config-and-state.md §5 row 4; in the original only the flag worked.
#[test]
fn the_log_level_is_read_from_every_documented_place() {
    let level = |world: &Fake| load(world).0.logging.level;
    let lowest = world().file(FILE, "logging: {level: error}");
    assert_eq!(level(&lowest), LevelFilter::Error);
    let world = lowest.var("LOGGING_LEVEL", "WARN");
    assert_eq!(level(&world), LevelFilter::Warn);
    let world = world.var("LOG_LEVEL", "debug");
    assert_eq!(level(&world), LevelFilter::Debug);
    let world = world.var("PIPEOPS_LOG_LEVEL", "trace");
    assert_eq!(level(&world), LevelFilter::Trace);
    let args = flags(&[("logging.level", "info")]);
    assert_eq!(load_with(&args, &world).0.logging.level, LevelFilter::Info);
    assert!(refused(&flags(&[("logging.level", "loud")]), &world).contains("--log-level"));
}

/// config-and-state.md §2.1, §16.3: a Service called `agent` ended the original.
#[test]
fn a_service_link_variable_does_not_end_the_agent() {
    let world = world()
        .var("AGENT_PORT", "tcp://10.96.0.7:8080")
        .var("PIPEOPS_AGENT_PORT", "tcp://10.96.0.8:8080")
        .var("PIPEOPS_AGENT_SERVICE_PORT", "9999")
        .var("AGENT", "x");
    assert_eq!(load(&world).0.agent.port, 8080);
    // And it doesn't hide the file either.
    let world = world.file(FILE, "agent: {port: 7}");
    assert_eq!(load(&world).0.agent.port, 7);
}

/// config-and-state.md §2.2, §16.3: the original went on without its file.
#[test]
fn a_broken_or_missing_file_is_fatal() {
    let broken = world().file(FILE, "agent:\n  port: [1\n");
    let error = refused(&Args::default(), &broken);
    assert!(error.starts_with("/etc/pipeops/config.yaml:"), "{error}");
    let args = Args {
        config_file: Some("/nowhere.yaml".into()),
        ..Args::default()
    };
    assert!(refused(&args, &world()).contains("/nowhere.yaml"));
    let large = world().file(FILE, &"#".repeat(1024 * 1024 + 1));
    assert!(refused(&Args::default(), &large).contains("cannot read"));
}

#[test]
fn the_file_is_searched_in_order() {
    let mut world = world().var("HOME", "/home/me");
    for (port, path) in [
        (5, ".pipeops-agent.yaml"),
        (4, "config.yaml"),
        (3, "/etc/pipeops/.pipeops-agent.yaml"),
        (2, "/etc/pipeops/config.yaml"),
        (1, "/home/me/.pipeops-agent.yaml"),
    ] {
        world = world.file(path, &format!("agent: {{port: {port}}}"));
        let (config, _) = load(&world);
        assert_eq!(config.agent.port, port);
        assert_eq!(config.file, Some(PathBuf::from(path)));
    }
    world.vars.remove("HOME");
    assert_eq!(load(&world).0.agent.port, 2, "no HOME is no reason to fail");
}

#[test]
fn all_problems_are_reported_at_once() {
    let world = Fake::default()
        .file(
            FILE,
            "agent: {port: many, bind_address: here}\nlogging: {format: xml}",
        )
        .var("PIPEOPS_API_URL", "ftp://x")
        .var("TIMEOUTS_WEBSOCKET_READ", "soon")
        .var("PIPEOPS_TLS_CA_FILE", "/no/ca.pem")
        .var("PIPEOPS_TLS_CERT_FILE", "/no/cert.pem");
    let errors = Config::load(&flags(&[("kubernetes.in_cluster", "maybe")]), &world)
        .expect_err("a bad configuration");
    for part in [
        "agent.port (/etc/pipeops/config.yaml): \"many\" is not a whole number",
        "agent.bind_address",
        "logging.format",
        "pipeops.api_url (PIPEOPS_API_URL)",
        "timeouts.websocket_read (TIMEOUTS_WEBSOCKET_READ)",
        "pipeops.tls.ca_file",
        "go together",
        "kubernetes.in_cluster (--in-cluster)",
        "no token",
    ] {
        let found = errors
            .problems()
            .iter()
            .any(|problem| problem.contains(part));
        assert!(found, "{part}: {errors}");
    }
    assert_eq!(errors.problems().len(), 9, "{errors}");
}

#[test]
fn bare_numbers_are_seconds_with_a_warning_where_a_unit_was_expected() {
    let world = world().file(
        FILE,
        "agent: {heartbeat_interval_connected: 45}\ntimeouts: {websocket_handshake: 7}",
    );
    let (config, warnings) = load(&world);
    assert_eq!(
        config.agent.heartbeat_interval_connected,
        Duration::from_secs(45)
    );
    assert_eq!(config.timeouts.websocket_handshake, Duration::from_secs(7));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("websocket_handshake"), "{warnings:?}");
}

/// config-and-state.md §2.3: randomly fatal in the original, or lower-cased.
#[test]
fn labels_keep_their_dots_case_and_values() {
    let world = world().file(
        FILE,
        "agent:\n  labels:\n    app.kubernetes.io/Name: Shop\n    v: 1.10\n    b: yes\n    t: true\n",
    );
    let labels = load(&world).0.agent.labels;
    assert_eq!(labels["app.kubernetes.io/Name"], "Shop");
    assert_eq!(
        (labels["v"].as_str(), labels["b"].as_str()),
        ("1.10", "yes")
    );
    assert_eq!(labels["t"], "true");
    let world = world.var("AGENT_LABELS", "a=b,c.d/e=f");
    let labels = load(&world).0.agent.labels;
    assert_eq!((labels["a"].as_str(), labels["c.d/e"].as_str()), ("b", "f"));
    assert!(refused(&Args::default(), &world.var("AGENT_LABELS", "x")).contains("agent.labels"));
}

#[test]
fn an_unknown_key_is_one_warning_with_the_nearest_name() {
    let (_, warnings) = load(&world().file(FILE, "agent: {prot: 1}\nsecurity: {tls: {a: 1}}"));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("did you mean agent.port?"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("\"security\""), "{warnings:?}");
}

#[test]
fn what_has_no_effect_says_so_unless_it_says_the_default() {
    let world = world().file(
        FILE,
        "gateway: {enabled: true, istio: {enabled: False}}\nregistration: {max_attempts: 5}\nupgrade: {enabled: true}\ntunnel: {poll_interval: 5s}",
    );
    let (_, warnings) = Config::load(&Args::default(), &world).expect("loaded");
    let found: Vec<_> = warnings
        .iter()
        .map(|warning| (warning.level, warning.text.split(' ').next().unwrap_or("")))
        .collect();
    assert_eq!(
        found,
        [
            (Level::Info, "registration.max_attempts"),
            (Level::Info, "tunnel.poll_interval"),
            (Level::Warn, "gateway.enabled"),
            (Level::Warn, "upgrade"),
        ]
    );
}

#[test]
fn the_poll_interval_is_an_old_name() {
    let old = world().var("PIPEOPS_POLL_INTERVAL", "2s");
    let (config, warnings) = load(&old);
    assert_eq!(
        config.agent.heartbeat_interval_connected,
        Duration::from_secs(5)
    );
    assert!(warnings[0].contains("deprecated"), "{warnings:?}");
    let both = old.var("PIPEOPS_HEARTBEAT_INTERVAL_CONNECTED", "50");
    assert_eq!(
        load(&both).0.agent.heartbeat_interval_connected,
        Duration::from_secs(50)
    );
}

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

proptest! {
    #[test]
    fn any_file_is_loaded_or_refused(text in "\\PC{0,120}", json in any::<bool>()) {
        let name = if json { "/c.json" } else { "/c.yaml" };
        let args = Args { config_file: Some(name.into()), ..Args::default() };
        let _ = Config::load(&args, &world().file(name, &text));
    }

    #[test]
    fn any_value_of_any_key_is_loaded_or_refused(
        value in prop_oneof!["\\PC{0,12}", "-?[0-9]{1,25}", "[\\[\\]{}:,a-z ]{0,12}"],
        index in any::<prop::sample::Index>(),
    ) {
        let all: Vec<_> = keys().collect();
        let key = all[index.index(all.len())];
        let text = format!("{}: {value}\n", key.name);
        let _ = Config::load(&Args::default(), &world().file(FILE, &text));
        if let Some(name) = key.env_names().first() {
            let _ = Config::load(&Args::default(), &world().var(name, &value));
        }
    }
}
