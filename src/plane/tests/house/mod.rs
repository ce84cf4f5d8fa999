//! A plane on loopback, an agent and a client that the tests play by hand.

mod agent;
mod client;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::client::IntoClientRequest;
use tungstenite::{HandshakeError, WebSocket};

pub(in crate::plane) use agent::{Agent, chunk, id, unchunk};
pub(in crate::plane) use client::Client;

use crate::plane::*;

/// Nothing that goes well takes this long: a test that hangs fails.
const LIMIT: Duration = Duration::from_secs(30);

pub(in crate::plane) struct House {
    pub(in crate::plane) plane: Plane,
    pub(in crate::plane) config: PlaneConfig,
    _directory: tempfile::TempDir,
}

impl House {
    pub(in crate::plane) fn new() -> Self {
        Self::with_gateway(GatewayUrl::Stay)
    }

    pub(in crate::plane) fn with_gateway(gateway: GatewayUrl) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = PlaneConfig {
            data_dir: directory.path().join("plane"),
            listen: "127.0.0.1:0".parse().expect("an address"),
            certificate: CertificateSource::Generated { names: Vec::new() },
            gateway,
            http: ([127, 0, 0, 1], 0).into(),
        };
        Self {
            plane: Plane::start(config.clone()).expect("starts"),
            config,
            _directory: directory,
        }
    }

    /// Stops the plane and starts it again on the same data.
    pub(in crate::plane) fn restart(self) -> Self {
        self.plane.stop();
        let plane = Plane::start(self.config.clone()).expect("starts again");
        Self { plane, ..self }
    }

    pub(in crate::plane) fn agent_token(&self, cluster: &str) -> String {
        self.token(Grant::Agent {
            cluster: name(cluster),
        })
    }

    pub(in crate::plane) fn user_token(&self) -> String {
        self.token(Grant::User {
            scope: Scope::All,
            access: Access::Use,
        })
    }

    pub(in crate::plane) fn token(&self, grant: Grant) -> String {
        let (_, text) = self.plane.create_token(grant).expect("made");
        text.reveal().to_owned()
    }

    pub(in crate::plane) fn dial(&self) -> Tls {
        dial(self.plane.addr(), self.plane.ca_pem())
    }

    pub(in crate::plane) fn client(&self) -> Client {
        Client::new(self.dial())
    }

    /// An agent on a WebSocket; the status of the refusal otherwise.
    pub(in crate::plane) fn agent(&self, path: &str, token: &str) -> Result<Agent, u16> {
        let url = format!("wss://127.0.0.1:{}{path}", self.plane.addr().port());
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert("Authorization", bearer);
        match tungstenite::client(request, self.dial()) {
            Ok((socket, _)) => Ok(Agent::new(socket)),
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// An agent that is registered as `cluster`, knows `flow` and gets requests.
    pub(in crate::plane) fn registered(&self, cluster: &str) -> Agent {
        let mut agent = self
            .agent(CONTROLLER, &self.agent_token(cluster))
            .expect("let in");
        agent.answer_hello(true);
        agent.register(cluster, "agent-1");
        assert!(agent.expect("register_success")["cluster_id"].is_string());
        self.attached(cluster);
        agent
    }

    /// An open WebSocket of a user, and the id of its stream.
    pub(in crate::plane) fn socket(&self, agent: &mut Agent) -> (WebSocket<Tls>, String) {
        let mut client = self.client();
        client.ask_socket(EXEC, &self.user_token(), "v5.channel.k8s.io");
        let id = agent.open_stream();
        (client.into_socket().1, id)
    }

    /// Waits until requests go to the cluster's agent.
    pub(in crate::plane) fn attached(&self, cluster: &str) {
        self.until(|plane| {
            let name = name(cluster);
            let mut views = plane.clusters().into_iter();
            views.any(|view| view.cluster.name == name && view.connected)
        });
    }

    pub(in crate::plane) fn until(&self, condition: impl Fn(&Plane) -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition(&self.plane) {
            assert!(Instant::now() < end, "it never came true");
            std::thread::yield_now();
        }
    }
}

pub(in crate::plane) const CONTROLLER: &str = "/api/v1/clusters/agent/ws";

pub(in crate::plane) const EXEC: &str =
    "/clusters/edge/api/v1/namespaces/n/pods/p/exec?command=sh&stdin=true";

pub(in crate::plane) fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).expect("a name")
}

pub(in crate::plane) type Tls = StreamOwned<ClientConnection, TcpStream>;

fn dial(address: SocketAddr, ca: &str) -> Tls {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::try_from("127.0.0.1").expect("a name");
    let session = ClientConnection::new(Arc::new(config), server).expect("a session");
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_nodelay(true).expect("set");
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    socket.set_write_timeout(Some(LIMIT)).expect("set");
    StreamOwned::new(session, socket)
}
