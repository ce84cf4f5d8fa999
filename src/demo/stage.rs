//! The actors of the demo, and what they play.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::figures::Figures;
use super::sample::SampleCluster;
use super::service::Services;
use super::steps::Steps;
use super::tunnel::{self, Entries};
use super::{DemoError, Options};
use crate::agent::{self, Agent};
use crate::config::{Config, Forward, Origin, OutboundProxy, Secret, StateBackend, TokenSource};
use crate::http::Headers;
use crate::http::client::{Body, Call, Client, Response, Settings};
use crate::kube::{Auth, Credentials, Search, ServerUrl};
use crate::net::{
    Cancel, ClientTls, ClientTlsSettings, Deadline, Dialer, Endpoint, PemSource, Trust,
};
use crate::plane::{
    Access, CertificateSource, ClusterName, GatewayUrl, Grant, Plane, PlaneConfig, PlaneError,
    Scope,
};
use crate::server::HealthState;
use crate::url::Url;

/// Everything that runs, in the order in which it ends.
pub(super) struct Stage {
    agent: Agent,
    plane: Plane,
    sample: Option<SampleCluster>,
    _services: Services,
    user_token: String,
    client: Client,
}

impl Stage {
    /// Starts plane, cluster and agent.
    pub(super) fn set(
        options: &Options,
        folder: &Path,
        steps: &mut Steps,
    ) -> Result<Self, DemoError> {
        let real = options.kubeconfig.is_some() || options.context.is_some();
        let (sample, credentials) = if real {
            let search = Search {
                explicit: options.kubeconfig.clone(),
                environment: std::env::var("KUBECONFIG").ok(),
                home: std::env::var_os("HOME").map(Into::into),
                context: options.context.clone(),
            };
            let credentials = search.load()?.ok_or(DemoError::NoKubeconfig)?;
            steps.done(&format!(
                "the cluster is the one at {}",
                credentials.server.authority()
            ));
            (None, credentials)
        } else {
            let sample = SampleCluster::start().map_err(DemoError::Sample)?;
            steps.done(&format!(
                "a sample cluster is at http://{}",
                sample.address()
            ));
            let credentials = sample_credentials(sample.address())?;
            (Some(sample), credentials)
        };

        let plane = Plane::start(PlaneConfig {
            data_dir: folder.join("plane"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            certificate: CertificateSource::Generated { names: Vec::new() },
            gateway: GatewayUrl::SameHost,
            http: ([127, 0, 0, 1], 0).into(),
        })?;
        steps.done(&format!("the control plane listens on {}", plane.url()));
        let cluster = ClusterName::parse(CLUSTER).map_err(PlaneError::Name)?;
        let (_, agent_token) = plane.create_token(Grant::Agent { cluster })?;
        let grant = Grant::User {
            scope: Scope::All,
            access: Access::Use,
        };
        let (_, user_token) = plane.create_token(grant)?;

        let services = Services::start().map_err(DemoError::Services)?;
        let mut config = agent_config(&plane, agent_token.reveal(), folder)?;
        for (name, address) in [
            (tunnel::BYTES, services.bytes),
            (tunnel::ECHO, services.echo),
        ] {
            let origin = Origin::parse(&address.to_string()).map_err(DemoError::Step)?;
            let name = name.to_owned();
            config.tunnels.forwards.push(Forward { name, origin });
        }
        let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
        let (proxy, facts) = agent::reach(Some(credentials), &config)?;
        let agent = Agent::start(agent::parts(&config, health, proxy, facts)?)?;

        let client = front_door(&plane)?;
        let user_token = user_token.reveal().to_owned();
        Ok(Self {
            agent,
            plane,
            sample,
            _services: services,
            user_token,
            client,
        })
    }

    /// Shows that it works. When `stop` is cancelled, it ends with some error.
    pub(super) fn play(&self, steps: &mut Steps, stop: &Cancel) -> Result<(), DemoError> {
        let deadline = Deadline::after(STEP_LIMIT);
        // Waiting for the agent ends with it.
        let stopper = self.agent.stopper();
        let guard = stop
            .on_wake(Arc::new(move || stopper.stop()))
            .map_err(|_| DemoError::Interrupted)?;
        let registered = self
            .agent
            .wait_until(deadline, |status| status.cluster_id.is_some());
        let status = registered.ok_or_else(|| self.stuck("the agent did not register"))?;
        let id = status.cluster_id.unwrap_or_default();
        steps.done(&format!(
            "the agent {} is registered as {CLUSTER:?} ({id})",
            status.agent_id
        ));
        let acked = self
            .agent
            .wait_until(deadline, |status| status.heartbeat_acks > 0);
        acked.ok_or_else(|| self.stuck("no heartbeat was acknowledged"))?;
        drop(guard);
        steps.done("its first heartbeat is acknowledged");

        let nodes = self.json("/api/v1/nodes?limit=50", stop)?;
        let names = names(&nodes);
        steps.done(&format!(
            "{} nodes listed through the tunnel: {}",
            names.len(),
            listed(&names)
        ));

        let event = self.live_event(stop)?;
        steps.done(&format!("a watch event arrived live: {event}"));
        Ok(())
    }

    /// Shows tunnels, `size` bytes each way.
    pub(super) fn play_tunnels(
        &self,
        size: u64,
        steps: &mut Steps,
        figures: &mut Figures,
        stop: &Cancel,
    ) -> Result<(), DemoError> {
        let cluster = ClusterName::parse(CLUSTER).map_err(PlaneError::Name)?;
        let entries = Entries::expose(&self.plane, &cluster, stop)?;
        steps.done(&entries.described());
        entries.transfers(size, steps, figures, stop)?;
        entries.datagrams(steps, figures, stop)?;
        entries.close(&self.plane)
    }

    /// Watches something that changes by itself, from now on, and waits for the
    /// first change.
    fn live_event(&self, stop: &Cancel) -> Result<String, DemoError> {
        // The sample has a pod that ticks; in a real cluster the API server renews
        // its own lease every ten seconds.
        let path = if self.sample.is_some() {
            "/api/v1/pods"
        } else {
            "/apis/coordination.k8s.io/v1/leases"
        };
        let list = self.json(&format!("{path}?limit=1"), stop)?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let mut watch = self.get(
            &format!("{path}?watch=true&resourceVersion={version}"),
            stop,
        )?;
        let mut line = Vec::new();
        loop {
            let chunk = watch.body.chunk(16 * 1024)?;
            if chunk.is_empty() {
                return Err(DemoError::Step(
                    "the watch ended before anything changed".to_owned(),
                ));
            }
            line.extend_from_slice(chunk);
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let event: Value = serde_json::from_slice(&line[..end])
                    .map_err(|e| DemoError::Step(format!("a watch event can't be read: {e}")))?;
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let metadata = &event["object"]["metadata"];
                return Ok(format!(
                    "{} {} {}/{}",
                    text(&event["type"]),
                    text(&event["object"]["kind"]),
                    text(&metadata["namespace"]),
                    text(&metadata["name"]),
                ));
            }
        }
    }

    fn json(&self, path: &str, stop: &Cancel) -> Result<Value, DemoError> {
        let mut response = self.get(path, stop)?;
        let body = response.body.read_all(MAX_ANSWER)?;
        serde_json::from_slice(&body).map_err(|e| DemoError::Step(format!("{path}: not JSON: {e}")))
    }

    /// One request through the front door, the tunnel and the agent.
    fn get(&self, path: &str, stop: &Cancel) -> Result<Response, DemoError> {
        let bearer = format!("Bearer {}", self.user_token);
        let headers: Headers = [
            ("Authorization", bearer.as_str()),
            ("Accept", "application/json"),
        ]
        .into_iter()
        .collect();
        let call = Call {
            method: "GET",
            target: &format!("/clusters/{CLUSTER}{path}"),
            host: None,
            headers: &headers,
            body: Body::Empty,
            deadline: Some(Deadline::after(STEP_LIMIT)),
        };
        let mut response = self.client.call(&call, stop)?;
        if response.status != 200 {
            let body = response.body.read_all(MAX_ANSWER).unwrap_or_default();
            let body = String::from_utf8_lossy(&body)
                .chars()
                .take(500)
                .collect::<String>();
            return Err(DemoError::Step(format!(
                "{path} was answered with {}: {body}",
                response.status
            )));
        }
        Ok(response)
    }

    fn stuck(&self, what: &str) -> DemoError {
        let status = self.agent.status();
        DemoError::Step(format!(
            "{what} within {} s; the agent is {}",
            STEP_LIMIT.as_secs(),
            status.state.as_str()
        ))
    }

    /// Stays up until `stop` is cancelled or the agent ends, then ends everything
    /// in order.
    pub(super) fn end(self, stop: Option<&Cancel>) -> Result<(), DemoError> {
        let stopper = self.agent.stopper();
        let guard = stop.map(|stop| {
            let stopper = stopper.clone();
            stop.on_wake(Arc::new(move || stopper.stop()))
        });
        if !matches!(guard, Some(Ok(_))) {
            stopper.stop();
        }
        let outcome = self.agent.wait();
        self.plane.stop();
        Ok(outcome?)
    }

    pub(super) fn ca_pem(&self) -> &str {
        self.plane.ca_pem()
    }

    pub(super) fn user_token(&self) -> &str {
        &self.user_token
    }

    /// What kubectl takes for the API server.
    pub(super) fn cluster_url(&self) -> String {
        format!("{}/clusters/{CLUSTER}", self.plane.url())
    }

    /// Namespace and pod for a `logs -f` to paste.
    pub(super) fn something_to_follow(&self) -> (&'static str, &'static str) {
        if self.sample.is_some() {
            ("default", SampleCluster::ticker())
        } else {
            ("NAMESPACE", "POD")
        }
    }
}

/// An agent of this plane whose state is in `folder`.
fn agent_config(plane: &Plane, token: &str, folder: &Path) -> Result<Config, DemoError> {
    let mut config = Config::defaults();
    CLUSTER.clone_into(&mut config.agent.cluster_name);
    config.pipeops.api_url =
        Url::parse(&plane.url()).map_err(|error| DemoError::Step(error.to_string()))?;
    config.pipeops.token = TokenSource::Literal(Secret::new(token));
    config.pipeops.tls.ca_file = Some(plane.certificate_path().to_owned());
    config.pipeops.proxy = OutboundProxy::default(); // loopback needs none
    config.state.backend = StateBackend::File;
    config.state.file = folder.join("agent").join("state.yaml");
    // A kubeconfig often has a client certificate and no token to hand over
    // (decisions.md §6.4).
    config.kubernetes.impersonate_agent = true;
    Ok(config)
}

fn sample_credentials(address: SocketAddr) -> Result<Credentials, DemoError> {
    Ok(Credentials {
        server: ServerUrl::parse(&format!("http://{address}"))?,
        ca: None,
        insecure: false,
        server_name: None,
        proxy: None,
        client: None,
        auth: Auth::None,
    })
}

/// A client of the plane that trusts its certificate and nothing else.
fn front_door(plane: &Plane) -> Result<Client, DemoError> {
    let tls = ClientTls::new(ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![PemSource::Given {
            name: "the plane's certificate".to_owned(),
            pem: plane.ca_pem().into(),
        }],
        ..ClientTlsSettings::default()
    })?;
    let address = plane.addr();
    let endpoint = Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        tls: true,
    };
    let dialer = Dialer::new(Arc::new(tls));
    Ok(Client::new(
        endpoint,
        address.to_string(),
        dialer,
        Settings::default(),
    ))
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .map(str::to_owned)
        .collect()
}

fn listed(names: &[String]) -> String {
    match names {
        [first, second, third, _, ..] => format!("{first}, {second}, {third}, …"),
        few => few.join(", "),
    }
}

const CLUSTER: &str = "demo";
/// No step takes longer where things work; a real API server's lease changes every
/// ten seconds.
const STEP_LIMIT: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 16 << 20;

#[cfg(test)]
mod tests;
