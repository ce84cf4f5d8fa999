//! Loading as a whole, in a world of two maps.

mod settings;

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
