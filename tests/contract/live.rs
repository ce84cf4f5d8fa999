//! Answers that go on: watches, followed logs. Who leaves, and who hears of it.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use pipeops_agent::http::client::Body;
use pipeops_agent::net::{Cancel, Reason};
use pipeops_agent::plane::{Access, Grant, Scope};

use crate::support::front::Front;
use crate::support::house::House;
use crate::support::upstream::{Upstream, json};
use crate::support::wait::{LIMIT, figure, until};

/// What an upstream's watch has seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Begun(String),
    /// Its client has gone.
    Gone(String),
}

/// Watches that say nothing after their first event, and end only when their client
/// does. `?silent=1`: not even a head.
fn watched() -> (Upstream, Receiver<Seen>) {
    let (sender, seen) = unbounded();
    let upstream = Upstream::start_tls(move |request, _, responder| {
        if !request.target.contains("watch") {
            responder.respond(200, &json(), b"{}").expect("answered");
            return;
        }
        let gone = Cancel::new();
        let _watch = responder.on_client_gone(&gone).expect("watched");
        let (wake, woken) = crossbeam_channel::bounded(1);
        let _guard = gone.on_wake(std::sync::Arc::new(move || {
            let _ = wake.try_send(());
        }));
        let mut writer = None;
        if !request.target.contains("silent") {
            let mut begun = responder.start(200, &json(), None).expect("begun");
            begun.write(b"{\"type\":\"ADDED\"}\n").expect("written");
            writer = Some(begun);
        }
        tell(&sender, Seen::Begun(request.target.clone()));
        if gone.reason().is_none() {
            let _ = woken.recv();
        }
        tell(&sender, Seen::Gone(request.target));
        drop(writer);
    });
    (upstream, seen)
}

/// The test may be over.
fn tell(sender: &Sender<Seen>, seen: Seen) {
    let _ = sender.send(seen);
}

fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(LIMIT).expect("it happens")
}

fn begin(front: &Front, seen: &Receiver<Seen>, target: &str) -> crate::support::front::Watch {
    let mut watch = front.watch(target);
    watch.expect("{\"type\":\"ADDED\"}\n");
    assert_eq!(next(seen), Seen::Begun(target.to_owned()));
    watch
}

#[test]
fn t18_a_watch_that_its_client_leaves_ends_at_the_api_server() {
    let (upstream, seen) = watched();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let target = "/api/v1/pods?watch=1";
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let watch = begin(&front, &seen, target);
        let left = Instant::now();
        watch.leave();
        assert_eq!(next(&seen), Seen::Gone(target.to_owned()));
        longest = longest.max(left.elapsed());
    }
    figure(
        "client leaves a watch → upstream socket closed, longest of 10",
        format!("{longest:?}"),
    );
    // Others go on, and the connection to the agent isn't harmed.
    assert_eq!(front.get("/api/v1/pods").status, 200);
}

#[test]
fn t18_leaving_before_the_first_byte_counts_too_also_on_a_connection_used_before() {
    let (upstream, seen) = watched();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let target = "/api/v1/pods?watch=1&silent=1";
    for _ in 0..3 {
        // Leaves a connection to the API server that is used again.
        assert_eq!(front.get("/api/v1/pods").status, 200);
        let cancel = Cancel::new();
        let leaving = cancel.clone();
        let client = front.clone();
        let asked = std::thread::spawn(move || {
            client
                .open("GET", target, &[], Body::Empty, &leaving)
                .map(drop)
        });
        assert_eq!(next(&seen), Seen::Begun(target.to_owned()));
        cancel.cancel(Reason::Cancelled);
        assert!(asked.join().expect("no panic").is_err());
        assert_eq!(next(&seen), Seen::Gone(target.to_owned()));
    }
}

#[test]
fn a_client_that_disappears_is_noticed_in_the_middle_of_its_watch() {
    let (upstream, seen) = watched();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let target = "/api/v1/pods?watch=1";
    let mut raw = front.raw();
    raw.send(front.head("GET", target, ""));
    assert_eq!(raw.head().status, 200);
    assert_eq!(next(&seen), Seen::Begun(target.to_owned()));
    raw.cut();
    assert_eq!(next(&seen), Seen::Gone(target.to_owned()));
    until("nothing is in flight", || {
        house.plane.clusters()[0].requests == 0
    });
}

#[test]
fn a_revoked_token_ends_what_runs_on_it_and_nothing_else() {
    let (upstream, seen) = watched();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let grant = Grant::User {
        scope: Scope::All,
        access: Access::Use,
    };
    let (token, text) = house.plane.create_token(grant).expect("made");
    let other = front.with_token(text.reveal());
    let stays = begin(&front, &seen, "/api/v1/pods?watch=1&who=stays");
    let mut goes = begin(&other, &seen, "/api/v1/pods?watch=1&who=goes");
    assert!(house.plane.revoke_token(&token.id).expect("written"));
    assert!(goes.piece().is_err(), "it doesn't end well");
    let gone = Seen::Gone("/api/v1/pods?watch=1&who=goes".to_owned());
    assert_eq!(next(&seen), gone);
    assert_eq!(other.get("/api/v1/pods").status, 401);
    assert_eq!(front.get("/api/v1/pods").status, 200);
    stays.leave();
}

#[test]
fn a_stopped_agent_ends_its_watches_visibly_and_says_goodbye() {
    let (upstream, seen) = watched();
    let house = House::new();
    let agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let mut watch = begin(&front, &seen, "/api/v1/pods?watch=1");
    agent.stop();
    assert!(watch.piece().is_err(), "it doesn't end well");
    assert!(matches!(next(&seen), Seen::Gone(_)));
    agent.wait().expect("an orderly end");
    until("the plane has noticed", || !house.is_connected("edge"));
    let answer = front.get("/api/v1/pods");
    assert_eq!(answer.status, 503);
    assert!(answer.status_message().contains("not connected"));
}

#[test]
fn a_hundred_watches_hear_the_same_event() {
    let (event, events) = unbounded::<()>();
    let (begun, begins) = unbounded();
    let upstream = Upstream::start_tls(move |_, _, responder| {
        let mut writer = responder.start(200, &json(), None).expect("begun");
        begun.send(()).expect("the test waits");
        // Dropped when the event is to be heard.
        let _ = events.recv();
        writer.write(b"{\"type\":\"MODIFIED\"}\n").expect("written");
        writer.finish().expect("ended");
    });
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let mut watches: Vec<_> = (0..100)
        .map(|_| front.watch("/api/v1/pods?watch=1"))
        .collect();
    for _ in 0..100 {
        begins.recv_timeout(LIMIT).expect("begun");
    }
    drop(event);
    for watch in &mut watches {
        watch.expect("{\"type\":\"MODIFIED\"}\n");
        assert_eq!(watch.piece().expect("a good end"), b"");
    }
}
