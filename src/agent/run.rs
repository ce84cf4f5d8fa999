//! From the configuration to a running agent (config-and-state.md §10.1).

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;

use super::cluster::{find_cluster, reach};
use super::error::AgentError;
use super::parts::{Parts, Proxying};
use super::services::services;
use super::status::{Status, Watch};
use super::tunnels::{Surroundings, Tunnelling};
use super::{Agent, agent_id, open_store};
use crate::config::{Config, Transport};
use crate::control::facts::ClusterFacts;
use crate::control::host::Host;
use crate::control::registration::Registrant;
use crate::control::session::ConnectionState;
use crate::control::worker_join::NODE_TOKEN;
use crate::control::{heartbeat, session};
use crate::link;
use crate::net::{
    Cancel, ClientTls, ClientTlsSettings, ConnectOptions, Dialer, PemSource, ProxyRules,
};
use crate::resident;
use crate::server::{HealthState, LocalServer};
use crate::threads::{self, SpawnError, Stack};

/// Runs the agent until `stop` is cancelled or the control plane refuses it. The
/// caller has installed the signals and started logging before.
pub fn run(config: &Config, stop: &Cancel) -> Result<(), AgentError> {
    let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
    // The port is open before the first dial, so that probes get an answer.
    let server = LocalServer::start(&config.agent, health.clone())?;
    // The port that it really is: no tunnel may reach it.
    let mut config = config.clone();
    config.agent.port = server.address().port();
    let (proxy, facts) = reach(find_cluster(&config)?, &config)?;
    let parts = parts(&config, health, proxy, facts)?;
    let agent = Agent::start(parts)?;
    notify(&[NotifyState::Ready]);
    // What reading settings and certificates took, on this thread.
    resident::give_back();
    let follower = follow(agent.watch())?;
    let stopper = agent.stopper();
    let guard = stop.on_wake(Arc::new(move || {
        notify(&[NotifyState::Stopping]);
        stopper.stop();
    }));
    if guard.is_err() {
        agent.stop();
    }
    let outcome = agent.wait();
    drop(guard);
    // It follows the status, which has come to its end.
    let _ = follower.join();
    server.stop(SERVER_GRACE);
    if matches!(outcome, Err(AgentError::Panicked)) {
        // A panic of the conductor ends the process as one (exit code 2).
        std::panic::resume_unwind(Box::new("the conductor panicked"));
    }
    outcome
}

/// Everything that the configuration says, as parts. The caller brings what talks
/// to the cluster.
pub fn parts(
    config: &Config,
    health: Arc<HealthState>,
    proxy: Arc<dyn Proxying>,
    facts: Arc<dyn ClusterFacts>,
) -> Result<Parts, AgentError> {
    let store = open_store(&config.state)?;
    let agent_id = agent_id(config.agent.id.as_deref(), store.as_ref());
    log::info!(agent_id = agent_id.as_str(), state = store.location().as_str(); "identity");
    let surroundings = match (facts.exists(), facts.in_pod()) {
        (false, _) => Surroundings::Machine,
        (true, true) => Surroundings::Pod,
        (true, false) => Surroundings::Outside,
    };
    let tunnels = Tunnelling::start(config, surroundings, facts.external_names())?;
    proxy.use_services(services(
        config,
        tunnels.targets,
        tunnels.audit,
        facts.clone(),
    ));
    let timeouts = &config.timeouts;
    let reconnect = &config.pipeops.reconnect;
    Ok(Parts {
        session: session::Settings {
            reconnect_first: timeouts.websocket_reconnect,
            reconnect_cap: timeouts.websocket_reconnect_max,
            reconnect_jitter: timeouts.websocket_reconnect_jitter,
            give_up_after: config.registration.give_up_after,
            dial_limit: timeouts.websocket_handshake,
            register_limit: timeouts.registration,
            registration_cap: config.registration.retry_interval,
            http_only: config.pipeops.transport == Transport::Http,
            websocket_only: config.pipeops.transport == Transport::WebSocket,
            allow_plaintext_gateway: config.pipeops.allow_plaintext_gateway,
            gateway_hosts: config.pipeops.gateway_hosts.clone(),
            ..session::Settings::default()
        },
        heartbeat: heartbeat::Settings {
            connected: config.agent.heartbeat_interval_connected,
            reconnecting: config.agent.heartbeat_interval_reconnecting,
            disconnected: config.agent.heartbeat_interval_disconnected,
            attempts: if reconnect.enabled {
                reconnect.max_attempts
            } else {
                1
            },
            retry: reconnect.interval,
        },
        link: link::Settings {
            ping_interval: timeouts.websocket_ping,
            read_limit: timeouts.websocket_read,
            write_limit: timeouts.websocket_write,
            max_message: config.pipeops.max_message_bytes,
            ..link::Settings::new(link::Role::Client)
        },
        api_url: config.pipeops.api_url.clone(),
        token: config.pipeops.token.clone(),
        registrant: Registrant {
            agent_id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_name: config.agent.cluster_name.clone(),
            labels: config.agent.labels.clone(),
            host: Host::read(),
            has_cluster: facts.exists(),
        },
        is_private: config.tunnels.force_tunnel_mode,
        report_worker_join: config.agent.report_worker_join,
        node_token: NODE_TOKEN.into(),
        http_limit: HTTP_LIMIT,
        heartbeat_limit: timeouts.heartbeat,
        shutdown_limit: timeouts.shutdown,
        dialer: dialer(config)?,
        proxy,
        tunnels: tunnels.streams,
        json_tunnels: tunnels.json,
        facts,
        store,
        health,
    })
}

/// The way to the control plane: its TLS settings, and `HTTPS_PROXY` and its kin.
fn dialer(config: &Config) -> Result<Dialer, AgentError> {
    let tls = &config.pipeops.tls;
    let (certificate, key) = match &tls.client {
        Some(client) => (
            Some(PemSource::File(client.cert_file.clone())),
            Some(PemSource::File(client.key_file.clone())),
        ),
        None => (None, None),
    };
    let tls = ClientTls::new(ClientTlsSettings {
        ca: tls.ca_file.iter().cloned().map(PemSource::File).collect(),
        certificate,
        key,
        insecure_skip_verify: tls.insecure_skip_verify,
        ..ClientTlsSettings::default()
    })?;
    let rules = ProxyRules::from_env(|name| config.pipeops.proxy.var(name))?;
    let options = ConnectOptions {
        user_timeout: Some(config.timeouts.tcp_user),
        ..ConnectOptions::default()
    };
    let dialer = Dialer::new(Arc::new(tls)).with_proxy(rules);
    Ok(dialer.with_options(options))
}

/// Tells systemd how it goes, in a line.
fn follow(watch: Watch) -> Result<JoinHandle<Option<()>>, SpawnError> {
    threads::spawn("status", Stack::Work, move || {
        let mut told = None;
        while let Some(status) =
            watch.wait_for(|status| !status.ended && told.as_ref() != Some(&summary(status)))
        {
            let line = summary(&status);
            notify(&[NotifyState::Status(&line)]);
            told = Some(line);
        }
    })
}

fn summary(status: &Status) -> String {
    let id = status.cluster_id.as_deref().unwrap_or("no cluster id yet");
    match (status.state, &status.endpoint) {
        (ConnectionState::Connected, Some(endpoint)) => format!("connected to {endpoint} ({id})"),
        (ConnectionState::Connected, None) => format!("connected ({id})"),
        (ConnectionState::Connecting, _) => "connecting to the control plane".to_owned(),
        (ConnectionState::Reconnecting, _) => format!("reconnecting ({id})"),
        (ConnectionState::Disconnected, _) => "disconnected".to_owned(),
    }
}

/// Does nothing where there is no systemd.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("systemd could not be told: {error}");
    }
}

/// One call of HTTP mode (control-channel.md §12.8).
const HTTP_LIMIT: Duration = Duration::from_secs(30);

/// For local requests that are being answered when everything else has ended.
const SERVER_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StateBackend;
    use crate::control::facts::NoCluster;
    use crate::proxy::{self, Executor};

    /// Several were read, documented, and then forgotten here; the original forgot
    /// nearly all of its `timeouts`.
    #[test]
    fn t4_what_is_configured_arrives() {
        let mut config = Config::defaults();
        let seconds = Duration::from_secs;
        config.state.backend = StateBackend::Memory;
        config.agent.report_worker_join = true;
        config.registration.retry_interval = Some(seconds(41));
        config.registration.give_up_after = Some(seconds(42));
        config.pipeops.transport = Transport::WebSocket;
        config.pipeops.allow_plaintext_gateway = true;
        config.pipeops.gateway_hosts = vec!["g.test".to_owned()];
        config.timeouts.heartbeat = seconds(43);
        config.timeouts.websocket_handshake = seconds(44);
        config.timeouts.websocket_ping = seconds(45);
        config.timeouts.websocket_read = seconds(46);
        config.timeouts.websocket_write = seconds(47);
        config.timeouts.websocket_reconnect = seconds(48);
        config.timeouts.websocket_reconnect_max = seconds(49);
        config.timeouts.registration = seconds(50);
        config.timeouts.shutdown = seconds(51);
        let health = Arc::new(HealthState::new(seconds(30)));
        let proxy = Arc::new(Executor::new(proxy::Settings::default(), None));
        let parts = parts(&config, health, proxy, Arc::new(NoCluster));
        let parts = parts.expect("valid");
        assert!(parts.report_worker_join);
        let session = &parts.session;
        assert_eq!(session.registration_cap, Some(seconds(41)));
        assert_eq!(session.give_up_after, Some(seconds(42)));
        assert!(session.websocket_only && !session.http_only);
        assert!(session.allow_plaintext_gateway);
        assert_eq!(session.gateway_hosts, ["g.test"]);
        assert_eq!(parts.heartbeat_limit, seconds(43));
        assert_eq!(session.dial_limit, seconds(44));
        assert_eq!(parts.link.ping_interval, seconds(45));
        assert_eq!(parts.link.read_limit, seconds(46));
        assert_eq!(parts.link.write_limit, seconds(47));
        assert_eq!(session.reconnect_first, seconds(48));
        assert_eq!(session.reconnect_cap, seconds(49));
        assert_eq!(session.register_limit, seconds(50));
        assert_eq!(parts.shutdown_limit, seconds(51));
    }
}
