//! HTTP mode.

use super::*;

#[test]
fn http_mode_is_entered_where_the_controller_takes_no_websocket() {
    for status in [404, 405, 426, 501] {
        let (mut sim, _) = Sim::fresh().start();
        let actions = sim.failed(code(status));
        assert_eq!(register_id(&actions), Some(None), "{status}");
        let outcome = Ok(registered(Some("c-1"), None));
        let actions = sim.event(Event::HttpRegister(sim.generation(), outcome));
        assert!(serves(&actions, Transport::Http));
        assert!(actions.iter().any(|a| matches!(a, Action::Store(_))));
        assert_eq!(sim.session.state(), ConnectionState::Connected);
        // The WebSocket is tried every five minutes; HTTP goes on when it fails.
        let (waited, actions) = sim.tick();
        assert_eq!(waited, S(300));
        assert!(dials_controller(&actions) && actions.contains(&Action::Rest));
        assert!(resumes(&sim.failed(code(status))));
        let (_, actions) = sim.tick();
        assert!(dials_controller(&actions));
        // And replaces HTTP when it succeeds.
        assert_eq!(register_id(&sim.connected()), Some(Some("c-1")));
        assert!(serves(&sim.success(None), Transport::WebSocket));
    }
}

/// It did: every five minutes probes saw an agent that wasn't ready.
#[test]
fn a_try_of_the_websocket_shows_nowhere_unless_it_succeeds() {
    let begin = |gateway| {
        let (mut sim, _) = Sim::fresh().start();
        sim.failed(code(404));
        let outcome = Ok(registered(Some("c-1"), gateway));
        sim.event(Event::HttpRegister(sim.generation(), outcome));
        if gateway.is_some() {
            sim.failed(unreachable());
            sim.event(Event::HttpHeartbeat(sim.generation(), Ok(())));
        }
        let (_, mut actions) = sim.tick();
        assert_eq!(actions[0], Action::Rest, "before the dial");
        actions.extend(sim.connected());
        (sim, actions)
    };
    let quiet = |actions: &[Action]| {
        !actions.iter().any(|action| {
            matches!(
                action,
                Action::State(_) | Action::StopServing | Action::Serve(..)
            )
        })
    };
    // The controller takes the socket, and that is all.
    let endings: [fn(&mut Sim) -> Vec<Action>; 6] = [
        |sim| sim.error("no", Answers::Register),
        |sim| sim.lost(Some(1008)),
        |sim| sim.lost(None),
        |sim| sim.tick().1,
        |sim| {
            sim.event(Event::RegisterInProgress(sim.generation()));
            let (waited, actions) = sim.tick();
            assert!(waited < S(60), "{waited:?}: heartbeats rest meanwhile");
            actions
        },
        |sim| {
            sim.success(Some(GATEWAY));
            sim.lost(Some(1000));
            sim.failed(code(403))
        },
    ];
    for (index, end) in endings.iter().enumerate() {
        let (mut sim, mut actions) = begin(None);
        assert_eq!(register_id(&actions), Some(Some("c-1")));
        actions.extend(end(&mut sim));
        assert!(quiet(&actions) && resumes(&actions), "{index}: {actions:?}");
        assert!(sim.session.is_confirmed() && !sim.session.is_trial());
        assert_eq!(sim.session.state(), ConnectionState::Connected);
        assert_eq!(sim.tick().0, S(300), "and again in a while");
    }
    // One that succeeds: nothing in between either.
    let (mut sim, actions) = begin(None);
    let served = sim.success(None);
    assert!(quiet(&actions) && serves(&served, Transport::WebSocket));
    let (sim, actions) = begin(Some(GATEWAY));
    assert!(serves(&actions, Transport::WebSocket));
    assert!(!sim.session.is_trial());
    let states = |a: &&Action| matches!(a, Action::State(_) | Action::StopServing);
    assert_eq!(actions.iter().filter(states).count(), 0, "{actions:?}");
}

/// The time since the WebSocket was refused counted as waiting.
#[test]
fn registrations_over_http_that_fail_are_repeated_ever_more_slowly() {
    let (mut sim, _) = Sim::fresh().start();
    sim.failed(code(404));
    let mut waits = Vec::new();
    for _ in 0..6 {
        sim.pass(S(20));
        let busy = Err(code(503));
        sim.event(Event::HttpRegister(sim.generation(), busy));
        waits.push(sim.tick().0);
    }
    // 0.5 s, doubled once by then, less the jitter.
    assert!(waits[0] >= S(3) / 4, "{waits:?}");
    assert!(waits[5] >= S(15) * 3 / 4, "{waits:?}");
}

#[test]
fn http_mode_goes_to_a_gateway_that_is_named() {
    let (mut sim, _) = Sim::fresh().start();
    sim.failed(code(405));
    let outcome = Ok(registered(Some("c-1"), Some(GATEWAY)));
    let actions = sim.event(Event::HttpRegister(sim.generation(), outcome));
    assert!(dials_gateway(&actions));
    // It can't be reached: heartbeats go over HTTP, the gateway is tried again.
    assert!(serves(&sim.failed(code(404)), Transport::Http));
    let (waited, actions) = sim.tick();
    assert_eq!(waited, S(300));
    assert!(dials_gateway(&actions));
    assert!(serves(&sim.connected(), Transport::WebSocket));
    // From now on it is an ordinary gateway connection.
    sim.lost(None);
    sim.tick();
    assert!(!serves(&sim.failed(unreachable()), Transport::Http));
}

#[test]
fn answers_to_an_http_registration() {
    let begin = || {
        let (mut sim, _) = Sim::new(Settings::default(), stored(None), false).start();
        sim.failed(code(404));
        sim
    };
    let answer = |sim: &mut Sim, outcome| {
        let generation = sim.generation();
        sim.event(Event::HttpRegister(generation, outcome))
    };
    for failure in [code(401), code(403), Failure::Unusable("no id".into())] {
        assert!(refused(&answer(&mut begin(), Err(failure))));
    }
    assert!(refused(&answer(&mut begin(), Ok(registered(None, None)))));
    for failure in [code(500), code(409), code(404), unreachable()] {
        let mut sim = begin();
        assert_eq!(end(&answer(&mut sim, Err(failure))), None);
        assert_eq!(register_id(&sim.tick().1), Some(Some("c-0")));
    }
    let mut sim = begin();
    let unknown = Failure::Status {
        code: 404,
        retry_after: None,
        text: "Cluster not found".into(),
    };
    assert_eq!(register_id(&answer(&mut sim, Err(unknown))), Some(None));
}

#[test]
fn http_only_never_dials() {
    let settings = Settings {
        http_only: true,
        ..Settings::default()
    };
    let (mut sim, actions) = Sim::new(settings, stored(Some(GATEWAY)), true).start();
    assert_eq!(register_id(&actions), Some(Some("c-0")));
    let outcome = Ok(registered(Some("c-1"), Some(GATEWAY)));
    let actions = sim.event(Event::HttpRegister(sim.generation(), outcome));
    assert!(serves(&actions, Transport::Http));
    assert_eq!(sim.session.deadline(), None);
}

#[test]
fn http_heartbeats_that_fail() {
    let begin = || {
        let (mut sim, _) = Sim::fresh().start();
        sim.failed(code(404));
        let outcome = Ok(registered(Some("c-1"), None));
        sim.event(Event::HttpRegister(sim.generation(), outcome));
        sim
    };
    let beat = |sim: &mut Sim, outcome| {
        let generation = sim.generation();
        sim.event(Event::HttpHeartbeat(generation, outcome))
    };
    let mut sim = begin();
    let actions = beat(&mut sim, Err(unreachable()));
    assert_eq!(actions, [Action::State(ConnectionState::Reconnecting)]);
    assert_eq!(
        beat(&mut sim, Ok(())),
        [Action::State(ConnectionState::Connected)]
    );

    let unknown = Failure::Status {
        code: 404,
        retry_after: None,
        text: "cluster not registered".into(),
    };
    assert_eq!(
        register_id(&beat(&mut sim, Err(unknown))),
        Some(Some("c-1"))
    );

    let mut sim = begin();
    assert!(beat(&mut sim, Err(code(401))).contains(&Action::StopServing));
    let (waited, actions) = sim.tick();
    assert!(waited >= S(60) && serves(&actions, Transport::Http));
}

#[test]
fn where_only_the_websocket_is_wanted_http_is_never_tried() {
    let settings = Settings {
        websocket_only: true,
        ..Settings::default()
    };
    let (mut sim, _) = Sim::new(settings, Ids::default(), false).start();
    sim.failed(code(404));
    let (_, actions) = sim.tick();
    assert!(matches!(
        actions[..],
        [Action::Dial {
            target: Target::Controller,
            ..
        }]
    ));
}

fn resumes(actions: &[Action]) -> bool {
    actions.iter().any(|a| matches!(a, Action::Resume(_)))
}
