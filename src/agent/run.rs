//! From the configuration to a running agent (config-and-state.md §10.1).

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;

use super::cluster::{find_cluster, reach};
use super::error::AgentError;
use super::parts::{Parts, Proxying};
use super::status::{Status, Watch};
use super::{Agent, agent_id, open_store};
use crate::config::{Config, Transport};
use crate::control::facts::ClusterFacts;
use crate::control::host::Host;
use crate::control::registration::Registrant;
use crate::control::session::ConnectionState;
use crate::control::{heartbeat, session};
use crate::link;
use crate::net::{
    Cancel, ClientTls, ClientTlsSettings, ConnectOptions, Dialer, PemSource, ProxyRules,
};
use crate::server::{HealthState, LocalServer};
use crate::threads::{self, SpawnError, Stack};

/// Runs the agent until `stop` is cancelled or the control plane refuses it. The
/// caller has installed the signals and started logging before.
pub fn run(config: &Config, stop: &Cancel) -> Result<(), AgentError> {
    let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
    // The port is open before the first dial, so that probes get an answer.
    let server = LocalServer::start(&config.agent, health.clone())?;
    let (proxy, facts) = reach(find_cluster(&config.kubernetes)?, config)?;
    let parts = parts(config, health, proxy, facts)?;
    let agent = Agent::start(parts)?;
    notify(&[NotifyState::Ready]);
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
    let timeouts = &config.timeouts;
    let reconnect = &config.pipeops.reconnect;
    Ok(Parts {
        session: session::Settings {
            reconnect_first: timeouts.websocket_reconnect,
            reconnect_cap: timeouts.websocket_reconnect_max,
            register_cap: config.registration.retry_interval,
            reconnect_jitter: timeouts.websocket_reconnect_jitter,
            give_up_after: config.registration.give_up_after,
            dial_limit: timeouts.websocket_handshake,
            register_limit: timeouts.registration,
            http_only: config.pipeops.transport == Transport::Http,
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
        api_url: config.pipeops.api_url.to_string(),
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
        // The answer to a registration is the answer to the call.
        http_limit: timeouts.registration,
        heartbeat_limit: timeouts.heartbeat,
        shutdown_limit: timeouts.shutdown,
        dialer: dialer(config)?,
        proxy,
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
    let proxy = &config.pipeops.proxy;
    let rules = ProxyRules::from_env(|name| match name {
        "HTTPS_PROXY" => proxy.https.as_ref().map(|url| url.expose().to_owned()),
        "HTTP_PROXY" => proxy.http.as_ref().map(|url| url.expose().to_owned()),
        "NO_PROXY" => Some(proxy.no_proxy.join(",")),
        _ => None,
    })?;
    let options = ConnectOptions {
        user_timeout: Some(config.timeouts.tcp_user),
        ..ConnectOptions::default()
    };
    Ok(Dialer::new(Arc::new(tls))
        .with_proxy(rules)
        .with_options(options))
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

/// For local requests that are being answered when everything else has ended.
const SERVER_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::NoProxy;
    use crate::agent::cluster::{connections, limits};
    use crate::config::{ApiUrl, StateBackend};
    use crate::control::facts::NoCluster;
    use crate::net::{Deadline, Endpoint};

    #[test]
    fn t04_every_documented_time_limit_reaches_what_it_limits() {
        let seconds = Duration::from_secs;
        let mut config = Config::defaults();
        config.pipeops.api_url = ApiUrl::parse("http://127.0.0.1:1").expect("a URL");
        config.state.backend = StateBackend::Memory;
        config.registration.retry_interval = Some(seconds(101));
        config.registration.give_up_after = Some(seconds(102));
        let timeouts = &mut config.timeouts;
        for (nth, limit) in [
            &mut timeouts.websocket_handshake,
            &mut timeouts.websocket_ping,
            &mut timeouts.websocket_read,
            &mut timeouts.websocket_write,
            &mut timeouts.websocket_reconnect,
            &mut timeouts.websocket_reconnect_max,
            &mut timeouts.tcp_user,
            &mut timeouts.registration,
            &mut timeouts.heartbeat,
            &mut timeouts.proxy_request,
            &mut timeouts.proxy_dial,
            &mut timeouts.proxy_idle,
            &mut timeouts.shutdown,
        ]
        .into_iter()
        .enumerate()
        {
            *limit = seconds(201 + nth as u64);
        }
        let health = Arc::new(HealthState::new(seconds(30)));
        let parts = parts(&config, health, Arc::new(NoProxy), Arc::new(NoCluster));
        let parts = parts.expect("valid");
        assert_eq!(parts.session.dial_limit, seconds(201));
        assert_eq!(parts.link.ping_interval, seconds(202));
        assert_eq!(parts.link.read_limit, seconds(203));
        assert_eq!(parts.link.write_limit, seconds(204));
        assert_eq!(parts.session.reconnect_first, seconds(205));
        assert_eq!(parts.session.reconnect_cap, seconds(206));
        assert_eq!(parts.session.register_cap, Some(seconds(101)));
        assert_eq!(parts.session.give_up_after, Some(seconds(102)));
        assert_eq!(parts.session.register_limit, seconds(208));
        assert_eq!(parts.http_limit, seconds(208));
        assert_eq!(parts.heartbeat_limit, seconds(209));
        assert_eq!(limits(&config).default_timeout, seconds(210));
        assert_eq!(connections(&config).dial_limit, seconds(211));
        assert_eq!(connections(&config).idle_limit, seconds(212));
        assert_eq!(parts.shutdown_limit, seconds(213));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = Endpoint {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().expect("its address").port(),
            tls: false,
        };
        let by = Deadline::after(seconds(60));
        let dialled = parts.dialer.dial(&endpoint, by, &Cancel::new());
        let socket = dialled.expect("connected").socket;
        let limit = socket.tcp_user_timeout().expect("option");
        assert_eq!(limit, Some(seconds(207)));
    }
}
