//! Listeners that open, close, and can't open.

use super::*;
use crate::plane::expose::http::MAX_SILENT;

fn host(name: &str) -> Entry {
    Entry::parse("http", name).expect("a host")
}

/// An address at which nobody listens, and nobody else will.
fn free() -> SocketAddr {
    let held = TcpListener::bind(any_port()).expect("bound");
    held.local_addr().expect("an address")
}

#[test]
fn unexposing_resets_live_clients_and_frees_the_address() {
    let stage = Stage::new();
    let agent = stage.agent();
    let entry = stage.expose(Entry::Tcp(free()));
    let Entry::Tcp(address) = entry else {
        panic!("another entry")
    };
    for _ in 0..3 {
        let client = connect(address);
        let (stream, _) = agent.accept();
        assert!(matches!(stage.exposer.unexpose(&entry), Ok(Some(_))));
        assert!(is_closed(address));
        assert_reset(client);
        stream.read(Some(soon())).expect_err("cut");
        assert_eq!(stage.exposer.views(), []);
        stage.expose(entry.clone());
    }
}

#[test]
fn a_dropped_exposer_leaves_no_listener() {
    let stage = Stage::new();
    let address = stage.tcp();
    let client = connect(address);
    assert_reset(client);
    let Stage { exposer, .. } = stage;
    drop::<Arc<Exposer>>(exposer);
    assert!(is_closed(address));
}

#[test]
fn what_cannot_be_opened_at_the_start_says_so_and_is_tried_again() {
    let stage = Stage::new();
    let address = free();
    stage.expose(Entry::Tcp(address));
    stage.exposer.stop();
    let squatter = TcpListener::bind(address).expect("free");
    let stage = stage.again();
    let why = stage.why().expect("shut");
    let want = format!("cannot listen on {address}: ");
    assert!(why.starts_with(&want), "{why}");
    assert!(why.contains("; it is tried again in "), "{why}");
    drop(squatter);
    wait_until("it is open", || stage.why().is_none());
    assert_reset(connect(address));
    // What can't be opened now is refused at once.
    let refused = stage.exposer.expose(&exposure(Entry::Udp(
        "192.0.2.1:9".parse().expect("an address"),
    )));
    let why = refused.expect_err("not ours");
    assert!(why.contains("cannot listen on 192.0.2.1:9"), "{why}");
    assert_eq!(stage.exposer.views().len(), 1);
}

#[test]
fn what_is_shut_can_be_taken_back() {
    let stage = Stage::new();
    let address = free();
    let entry = stage.expose(Entry::Tcp(address));
    stage.exposer.stop();
    let _squatter = TcpListener::bind(address).expect("free");
    let stage = stage.again();
    assert!(stage.why().is_some());
    assert!(matches!(stage.exposer.unexpose(&entry), Ok(Some(_))));
    assert_eq!(stage.exposer.views(), []);
}

#[test]
fn hosts_are_tried_again_too_and_share_one_listener() {
    let http = free();
    let squatter = TcpListener::bind(http).expect("free");
    let mut stage = Stage::new();
    stage.settings.http = http;
    for name in ["a.test", "b.test"] {
        stage.expose(host(name));
    }
    let stage = stage.again();
    let shut = |stage: &Stage| {
        let views = stage.exposer.views().into_iter();
        views
            .filter(|view| matches!(view.state, State::Failed(_)))
            .count()
    };
    assert_eq!(shut(&stage), 2);
    drop(squatter);
    wait_until("both are open", || shut(&stage) == 0);
    for name in ["a.test", "b.test"] {
        assert!(ask(http, name).starts_with("HTTP/1.1 503 "));
    }
    assert!(ask(http, "c.test").starts_with("HTTP/1.1 404 "));
}

fn ask(at: SocketAddr, host: &str) -> String {
    let mut client = connect(at);
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn the_http_listener_closes_with_its_last_host() {
    let mut stage = Stage::new();
    let http = free();
    stage.settings.http = http;
    let stage = stage.again();
    let hosts = [host("a.test"), host("b.test")];
    for _ in 0..2 {
        assert!(is_closed(http));
        for host in &hosts {
            stage.expose(host.clone());
        }
        assert!(matches!(stage.exposer.unexpose(&hosts[0]), Ok(Some(_))));
        assert!(ask(http, "a.test").starts_with("HTTP/1.1 404 "));
        assert!(ask(http, "b.test").starts_with("HTTP/1.1 503 "));
        // One that takes its time to ask isn't waited for.
        let mut slow = connect(http);
        slow.write_all(b"GET / HTTP/1.1\r\nHost").expect("sent");
        wait_until("it is being read", || stage.exposer.silent_clients() == 1);
        assert!(matches!(stage.exposer.unexpose(&hosts[1]), Ok(Some(_))));
        assert_reset(slow);
    }
    assert!(is_closed(http));
}

#[test]
fn a_request_that_takes_too_long_to_come_holds_nobody_else_up() {
    let mut stage = Stage::new();
    let http = free();
    stage.settings.http = http;
    let stage = stage.again();
    stage.expose(host("a.test"));
    let slow: Vec<TcpStream> = (0..50).map(|_| connect(http)).collect();
    wait_until("they are waited for", || {
        stage.exposer.silent_clients() == 50
    });
    assert!(ask(http, "a.test").starts_with("HTTP/1.1 503 "));
    // Each has ten seconds of its own; nobody waits for that here.
    drop(slow);
    wait_until("they are gone", || stage.exposer.silent_clients() == 0);
}

/// They used to be turned away until one of 1,024 had been silent for ten seconds.
#[test]
fn clients_that_ask_nothing_keep_nobody_out() {
    let mut stage = Stage::new();
    let http = free();
    stage.settings.http = http;
    let stage = stage.again();
    stage.expose(host("a.test"));
    let oldest = connect(http);
    wait_until("it is waited for", || stage.exposer.silent_clients() == 1);
    let silent: Vec<TcpStream> = (1..MAX_SILENT).map(|_| connect(http)).collect();
    wait_until("all are waited for", || {
        stage.exposer.silent_clients() == MAX_SILENT
    });
    assert!(ask(http, "a.test").starts_with("HTTP/1.1 503 "));
    assert_reset(oldest);
    drop(silent);
    wait_until("they are gone", || stage.exposer.silent_clients() == 0);
}

#[test]
fn what_is_exposed_twice_says_what_to_do() {
    let stage = Stage::new();
    let entry = Entry::Tcp(stage.tcp());
    let twice = stage.exposer.expose(&exposure(entry.clone()));
    let why = twice.expect_err("taken");
    assert!(why.contains(&format!("plane unexpose {entry}")), "{why}");
    stage.exposer.stop();
    let late = stage.exposer.expose(&exposure(Entry::Tcp(any_port())));
    assert_eq!(late.err().as_deref(), Some("the plane stops"));
}
