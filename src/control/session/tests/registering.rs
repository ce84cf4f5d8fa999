//! From the start to a connection that serves.

use super::*;

#[test]
fn a_first_start_registers_switches_and_serves() {
    let (mut sim, actions) = Sim::fresh().start();
    assert!(dials_controller(&actions));
    assert!(actions.contains(&Action::State(ConnectionState::Connecting)));
    let actions = sim.connected();
    assert_eq!(register_id(&actions), Some(None));
    let controller = sim.generation();
    let actions = sim.success(Some(GATEWAY));
    // Ids are stored before the gateway is dialled.
    let store = position(&actions, |a| matches!(a, Action::Store(_)));
    let close = position(&actions, |a| *a == Action::Close(controller));
    assert!(store < close);
    assert!(!dials_gateway(&actions), "one connection at a time");
    let actions = sim.lost(Some(1000));
    let dial = Action::Dial {
        generation: controller + 1,
        target: Target::Gateway {
            url: GATEWAY.into(),
            cluster_uuid: "c-1".into(),
        },
        stays: true,
    };
    assert!(actions.contains(&dial), "{actions:?}");
    let actions = sim.connected();
    assert!(serves(&actions, Transport::WebSocket));
    assert!(actions.contains(&Action::State(ConnectionState::Connected)));
    assert_eq!(sim.session.deadline(), None);
}

#[test]
fn without_a_gateway_it_stays_on_the_controller() {
    let mut sim = Sim::on_controller();
    sim.be_well();
    sim.lost(None);
    let (_, actions) = sim.tick();
    assert!(dials_controller(&actions));
    let actions = sim.connected();
    // control-channel.md §12.3: no second registration.
    assert_eq!(register_id(&actions), None);
    assert!(serves(&actions, Transport::WebSocket));
}

#[test]
fn a_controller_that_never_answers_the_close_is_left_anyway() {
    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    sim.success(Some(GATEWAY));
    let (waited, actions) = sim.tick();
    assert_eq!(waited, Settings::default().leave_limit);
    assert!(dials_gateway(&actions));
}

#[test]
fn stored_ids_resume_at_the_gateway() {
    let (mut sim, actions) = Sim::new(Settings::default(), stored(Some(GATEWAY)), true).start();
    let Some(Action::Dial {
        target: Target::Gateway { cluster_uuid, .. },
        ..
    }) = actions.iter().find(|a| matches!(a, Action::Dial { .. }))
    else {
        panic!("{actions:?}")
    };
    // T2: the uuid that the gateway knows, not the id.
    assert_eq!(cluster_uuid, "u-0");
    assert!(serves(&sim.connected(), Transport::WebSocket));
    assert!(sim.session.is_registered());
}

#[test]
fn changed_credentials_or_no_gateway_register_with_the_stored_id() {
    for (ids, resumable) in [(stored(Some(GATEWAY)), false), (stored(None), true)] {
        let (mut sim, actions) = Sim::new(Settings::default(), ids, resumable).start();
        assert!(dials_controller(&actions));
        assert_eq!(register_id(&sim.connected()), Some(Some("c-0")));
    }
}

#[test]
fn t02_a_resume_that_fails_becomes_a_full_registration() {
    for status in [401, 403, 404, 410] {
        let (mut sim, _) = Sim::new(Settings::default(), stored(Some(GATEWAY)), true).start();
        let actions = sim.failed(code(status));
        assert!(dials_controller(&actions), "{status}: at once");
        assert_eq!(register_id(&sim.connected()), Some(Some("c-0")));
    }
    let (mut sim, _) = Sim::new(Settings::default(), stored(Some(GATEWAY)), true).start();
    assert!(!dials_controller(&sim.failed(unreachable())));
    assert!(dials_controller(&sim.tick().1), "after a wait");
    // The controller is down too: both in turns, so that either can bring us back.
    sim.failed(unreachable());
    assert!(dials_gateway(&sim.tick().1));
    assert!(serves(&sim.connected(), Transport::WebSocket));
}

#[test]
fn refusals_before_the_first_success_are_fatal() {
    for status in [401, 403] {
        for ids in [Ids::default(), stored(None)] {
            let (mut sim, _) = Sim::new(Settings::default(), ids, false).start();
            assert!(refused(&sim.failed(code(status))), "{status}");
        }
    }
    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    assert!(refused(&sim.error("bad plan", Answers::Register)));

    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    let no_id = Event::RegisterSuccess(sim.generation(), registered(None, Some(GATEWAY)));
    assert!(refused(&sim.event(no_id)));

    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    assert!(refused(&sim.lost(Some(1008))));
}

#[test]
fn what_is_not_a_refusal_is_retried_for_ever() {
    let (mut sim, _) = Sim::fresh().start();
    for failure in [
        unreachable(),
        code(500),
        code(200),
        code(400),
        code(407),
        code(503),
    ] {
        let actions = sim.failed(failure);
        assert_eq!(end(&actions), None);
        assert!(dials_controller(&sim.tick().1));
    }
    // A plain close and silence while registering.
    sim.connected();
    assert_eq!(end(&sim.lost(Some(1000))), None);
    assert!(dials_controller(&sim.tick().1));
    sim.connected();
    let (waited, actions) = sim.tick();
    assert_eq!((waited, end(&actions)), (S(30), None));
    assert!(actions.iter().any(|a| matches!(a, Action::Abort(..))));
    assert!(dials_controller(&sim.tick().1));
}

#[test]
fn an_error_that_answers_something_else_changes_nothing() {
    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    for answers in [Answers::Nobody, Answers::Other] {
        assert_eq!(sim.error("quota exceeded", answers), []);
    }
    assert!(matches!(sim.session.phase, Phase::Registering { .. }));
}

#[test]
fn t06_register_in_progress_extends_the_wait_to_two_minutes() {
    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    sim.pass(S(29));
    sim.event(Event::RegisterInProgress(sim.generation()));
    sim.event(Event::RegisterInProgress(sim.generation()));
    let (waited, actions) = sim.tick();
    assert_eq!(waited, S(91));
    assert!(actions.iter().any(|a| matches!(a, Action::Abort(..))));
}

#[test]
fn an_unknown_stored_id_is_tried_once_without() {
    let (mut sim, _) = Sim::new(Settings::default(), stored(None), false).start();
    assert_eq!(register_id(&sim.connected()), Some(Some("c-0")));
    let actions = sim.error("Cluster NOT registered", Answers::Register);
    assert_eq!(register_id(&actions), Some(None));
    // Lost before the answer: still without it.
    sim.lost(None);
    sim.tick();
    assert_eq!(register_id(&sim.connected()), Some(None));
    assert!(refused(&sim.error("cluster not found", Answers::Register)));
}
