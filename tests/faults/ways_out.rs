//! Ways out of a network: a proxy with a password, certificates for both sides.

use pipeops_agent::config::{ClientCertificate, Secret};
use pipeops_agent::url::Url;

use crate::support::ca::Ca;
use crate::support::connect_proxy::ConnectProxy;
use crate::support::fake_plane::FakePlane;
use crate::support::house::{House, NAME, acknowledged, agent_config, start};
use crate::support::process::{AgentProcess, AgentSettings};
use crate::support::upstream::{Upstream, json};
use crate::support::wait::until;

/// `NAME:port`: no resolver knows it, so whoever gets there came through the proxy.
fn named(house: &House) -> String {
    format!("{NAME}:{}", house.address().port())
}

#[test]
fn https_proxy_with_a_password_carries_the_control_channel_and_nothing_else() {
    let upstream = Upstream::start_tls(|_, _, responder| {
        responder.respond(200, &json(), b"{}").expect("answered");
    });
    let house = House::new();
    // What is special in a URL must be percent-encoded there.
    let proxy = ConnectProxy::start(Some(("agent", "p@ss:word")));
    let https_proxy = format!("http://agent:p%40ss%3Aword@{}", proxy.address());
    let agent = AgentProcess::ready_with(&AgentSettings {
        upstream: Some(&upstream),
        environment: &[("HTTPS_PROXY", &https_proxy)],
        ..house.settings(&named(&house))
    });
    house.attached("edge");
    assert_eq!(house.front("edge").get("/api/v1/pods").status, 200);
    // The controller, then the gateway; the API server is reached directly.
    assert_eq!(proxy.targets(), [named(&house), named(&house)]);
    assert_eq!(proxy.refused(), 0);
    let log = agent.process.log();
    assert!(!log.contains("p%40ss") && !log.contains("p@ss"), "{log}");
}

#[test]
fn a_proxy_that_wants_another_password_is_named_and_tried_again() {
    let house = House::new();
    let proxy = ConnectProxy::start(Some(("agent", "right")));
    let https_proxy = format!("http://agent:wrong@{}", proxy.address());
    let mut agent = AgentProcess::start(&AgentSettings {
        more: &[("timeouts.websocket_reconnect", "20ms")],
        environment: &[("HTTPS_PROXY", &https_proxy)],
        ..house.settings(&named(&house))
    });
    let line = agent
        .process
        .logged("what the proxy said", |line| line.contains("status 407"));
    let address = proxy.address().to_string();
    assert!(line.contains(&address) && line.contains("roxy"), "{line}");
    assert!(!line.contains("wrong"), "{line}");
    // Not a refusal of the control plane: it goes on.
    until("it tries again", || proxy.refused() >= 3);
    assert!(agent.process.is_running());
    assert_eq!(agent.ready(), 503);
    assert_eq!(agent.process.terminate(), Some(0));
}

#[test]
fn a_proxy_that_hangs_is_given_up_and_tried_again() {
    let house = House::new();
    let proxy = ConnectProxy::start(None);
    proxy.hang(true);
    let https_proxy = format!("http://{}", proxy.address());
    let mut agent = AgentProcess::start(&AgentSettings {
        more: &[
            ("timeouts.websocket_handshake", "500ms"),
            ("timeouts.websocket_reconnect", "20ms"),
            ("timeouts.websocket_reconnect_max", "50ms"),
        ],
        environment: &[("HTTPS_PROXY", &https_proxy)],
        ..house.settings(&named(&house))
    });
    until("it was tried twice", || proxy.held() >= 2);
    let address = proxy.address().to_string();
    agent.process.logged("who didn't answer", |line| {
        line.contains(&address) && line.contains("proxy")
    });
    assert_eq!(agent.ready(), 503);
    proxy.hang(false);
    until("it is ready", || agent.ready() == 200);
}

#[test]
fn a_proxy_by_configuration_needs_no_environment() {
    let house = House::new();
    let proxy = ConnectProxy::start(Some(("u", "p")));
    let mut config = house.agent_config("edge");
    config.pipeops.api_url = Url::parse(&format!("https://{}", named(&house))).expect("a URL");
    config.pipeops.proxy.https = Some(Secret::new(format!("http://u:p@{}", proxy.address())));
    acknowledged(&start(&config, None));
    assert_eq!(proxy.targets().len(), 2);
}

/// The one proxy that the way to the API server may have: its kubeconfig's. Those of
/// the environment are for the way out.
#[test]
fn proxy_url_of_the_kubeconfig_is_the_way_to_the_api_server_and_to_nothing_else() {
    let upstream = Upstream::start_tls(|_, _, responder| {
        responder.respond(200, &json(), b"{}").expect("answered");
    });
    let house = House::new();
    let inner = ConnectProxy::start(Some(("kube", "inner:p@ss")));
    let outer = ConnectProxy::start(None);
    // A name that no resolver knows; the certificate is for another one.
    let server = format!("cluster.test:{}", upstream.address().port());
    let direct = format!("'https://{}'", upstream.address());
    let through = format!(
        "'https://{server}', tls-server-name: localhost, \
         proxy-url: 'http://kube:inner%3Ap%40ss@{}'",
        inner.address()
    );
    let kubeconfig = upstream.kubeconfig().replace(&direct, &through);
    assert!(kubeconfig.contains("proxy-url"), "{kubeconfig}");
    let kubeconfig = house.file("kubeconfig", &kubeconfig);
    let https_proxy = format!("http://{}", outer.address());
    let agent = AgentProcess::ready_with(&AgentSettings {
        more: &[("kubernetes.kubeconfig", &kubeconfig.display().to_string())],
        environment: &[("HTTPS_PROXY", &https_proxy)],
        ..house.settings(&named(&house))
    });
    house.attached("edge");
    // Somebody's call, and the agent's own ones.
    assert_eq!(house.front("edge").get("/api/v1/pods").status, 200);
    until("the facts have come", || {
        house.plane.clusters()[0].cluster.nodes == 3
    });
    assert!(inner.targets().iter().all(|target| *target == server));
    assert!(inner.targets().len() >= 2, "two pools, two identities");
    assert_eq!(inner.refused(), 0);
    assert!(outer.targets().iter().all(|t| *t == named(&house)));
    let log = agent.process.log();
    assert!(!log.contains("p%40ss") && !log.contains("p@ss"), "{log}");
}

/// The plane has no such option; the way there is the same.
#[test]
fn both_sides_show_a_certificate() {
    let clients = Ca::new("the agents'");
    let plane = FakePlane::start_mtls(&clients);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let url = format!("https://{}", plane.address());
    let mut config = agent_config(&url, "t-1", &plane.ca_file());
    let issued = clients.issue("agent");
    config.pipeops.tls.client = Some(ClientCertificate {
        cert_file: file("client.crt", &issued.certificate),
        key_file: file("client.key", &issued.key),
    });
    let agent = start(&config, None);
    let first = plane.register();
    acknowledged(&agent);
    // A renewed certificate is shown at the next dial, without a restart.
    let renewed = clients.issue("agent");
    file("client.crt", &renewed.certificate);
    file("client.key", &renewed.key);
    first.link.abort("for a new one");
    plane.accept().acknowledge();
}

#[test]
fn an_agent_without_a_certificate_is_told_so() {
    let clients = Ca::new("the agents'");
    let plane = FakePlane::start_mtls(&clients);
    let mut agent = AgentProcess::start(&AgentSettings {
        more: &[("timeouts.websocket_reconnect", "20ms")],
        ..AgentSettings::new(&plane.address(), &plane.ca_file(), "t-1")
    });
    let line = agent.process.logged("what is missing", |line| {
        line.contains("it asks for a client certificate")
    });
    let address = plane.address().to_string();
    assert!(line.contains(&address), "{line}");
    assert!(agent.process.is_running(), "it may come");
}
