//! Losing connections, coming back, ending.

use super::*;

#[test]
fn reconnecting_doubles_to_the_cap_with_jitter() {
    let mut sim = Sim::on_gateway();
    sim.be_well();
    sim.lost(None);
    let mut base = Duration::from_millis(500);
    for _ in 0..8 {
        let (waited, actions) = sim.tick();
        assert!(
            waited >= base * 3 / 4 && waited <= base * 5 / 4,
            "{waited:?} of {base:?}"
        );
        assert!(dials_gateway(&actions));
        sim.failed(unreachable());
        base = (base * 2).min(S(15));
    }
}

#[test]
fn the_delay_is_reset_only_by_a_connection_that_was_well() {
    let ms = Duration::from_millis;
    let wait = |sim: &mut Sim| {
        sim.lost(None);
        let (waited, _) = sim.tick();
        sim.connected();
        waited
    };
    let mut sim = Sim::on_gateway();
    // No ack: doubles (0.5 → 1 → 2 s).
    assert!(wait(&mut sim) >= ms(750));
    assert!(wait(&mut sim) >= ms(1_500));
    // An ack, but too short a life: stays.
    sim.event(Event::HeartbeatAck(sim.generation()));
    let waited = wait(&mut sim);
    assert!(waited >= ms(1_500) && waited <= ms(2_500), "{waited:?}");
    // Long, but without an ack: doubles.
    sim.pass(S(100));
    assert!(wait(&mut sim) >= S(3));
    sim.be_well();
    assert!(wait(&mut sim) <= ms(625));
}

/// decisions.md §6.3: back within one delay of the peer's return, also when a dial
/// hung meanwhile.
#[test]
fn a_dial_that_hung_has_waited_already() {
    let mut sim = Sim::on_gateway();
    sim.be_well();
    sim.lost(None);
    for _ in 0..6 {
        sim.tick();
        sim.failed(unreachable());
    }
    let (waited, _) = sim.tick();
    assert!(waited >= S(15) * 3 / 4, "{waited:?}");
    sim.pass(S(10));
    sim.failed(unreachable());
    let (waited, _) = sim.tick();
    assert!(waited >= S(1) && waited <= S(9), "{waited:?}");
    sim.pass(S(29));
    sim.failed(unreachable());
    let (waited, _) = sim.tick();
    let ms = Duration::from_millis;
    assert!(waited >= ms(375) && waited <= ms(625), "{waited:?}");
}

#[test]
fn retry_after_is_honoured_within_reason() {
    for (asked, least, most) in [(S(40), S(40), S(41)), (S(86_400), S(60), S(61))] {
        let (mut sim, _) = Sim::fresh().start();
        sim.failed(Failure::Status {
            code: 503,
            retry_after: Some(asked),
            text: String::new(),
        });
        let (waited, _) = sim.tick();
        assert!(waited >= least && waited <= most, "{waited:?}");
    }
}

#[test]
fn t10_unauthorized_later_means_slow_retries_never_an_end() {
    let mut sim = Sim::on_gateway();
    sim.be_well();
    sim.lost(None);
    sim.tick();
    for least in [60, 120, 240] {
        let actions = sim.failed(code(401));
        assert_eq!(end(&actions), None);
        let (waited, actions) = sim.tick();
        assert!(
            waited >= S(least) && waited <= S(least) * 5 / 4,
            "{waited:?}"
        );
        assert!(dials_gateway(&actions));
    }
    // Five minutes without the gateway have passed meanwhile: ask the controller.
    assert!(dials_controller(&sim.failed(code(403))));
    // A refusal there is no end either.
    let actions = sim.failed(code(401));
    assert_eq!(end(&actions), None);
    assert!(sim.tick().0 >= S(60));
}

#[test]
fn t10_a_gateway_that_does_not_know_us_is_left_at_once_but_rarely() {
    for status in [404, 410] {
        let mut sim = Sim::on_gateway();
        sim.be_well();
        sim.lost(None);
        sim.tick();
        assert!(dials_controller(&sim.failed(code(status))));
        assert_eq!(register_id(&sim.connected()), Some(Some("c-1")));
        sim.success(Some(GATEWAY));
        sim.lost(Some(1000));
        // And again: not before a minute has passed.
        let began = sim.now;
        while !dials_controller(&sim.failed(code(status))) {
            sim.tick();
        }
        let took = sim.now - began;
        assert!(took >= S(55) && took <= S(85), "{took:?}");
    }
}

#[test]
fn t10_not_registered_on_a_live_connection_registers_at_the_controller() {
    let mut sim = Sim::on_gateway();
    let gateway = sim.generation();
    let actions = sim.error("cluster not found", Answers::Nobody);
    assert!(actions.contains(&Action::StopServing) && actions.contains(&Action::Close(gateway)));
    assert!(dials_controller(&sim.lost(Some(1000))));
    // With the stored id, or clusters would be duplicated.
    assert_eq!(register_id(&sim.connected()), Some(Some("c-1")));
    sim.success(Some(GATEWAY));
    sim.lost(Some(1000));
    sim.connected();
    // Once more at once: waits for the minute, serving meanwhile.
    assert_eq!(sim.error("not registered", Answers::Nobody), []);
    let (waited, actions) = sim.tick();
    assert_eq!(waited, S(60));
    assert!(actions.contains(&Action::StopServing));
}

#[test]
fn t10_five_minutes_without_the_gateway_ask_the_controller_in_turns() {
    let mut sim = Sim::on_gateway();
    sim.be_well();
    sim.lost(None);
    let began = sim.now;
    sim.tick();
    while !dials_controller(&sim.failed(unreachable())) {
        assert!(sim.now - began < S(400));
        sim.tick();
    }
    assert!(sim.now - began >= S(300));
    // The controller is gone as well, the gateway comes back first.
    sim.failed(unreachable());
    assert!(dials_gateway(&sim.tick().1));
    assert!(serves(&sim.connected(), Transport::WebSocket));
}

#[test]
fn t05_late_events_of_an_old_generation_change_nothing() {
    let mut sim = Sim::on_gateway();
    let old = sim.generation();
    sim.lost(None);
    sim.tick();
    sim.connected();
    for event in [
        Event::Lost(old, Some(1006)),
        Event::DialFailed(old, unreachable()),
        Event::HeartbeatAck(old),
        Event::Connected(old),
        Event::RegisterSuccess(old, registered(Some("x"), None)),
        Event::PeerError {
            generation: old,
            text: "not registered".into(),
            answers: Answers::Nobody,
        },
        Event::HttpHeartbeat(old, Err(code(401))),
    ] {
        assert_eq!(sim.event(event), []);
    }
    assert!(matches!(
        sim.session.phase,
        Phase::Serving { acked: false, .. }
    ));
}

#[test]
fn t30_a_plain_gateway_of_a_tls_controller_is_not_dialled() {
    let (mut sim, _) = Sim::fresh().start();
    sim.connected();
    let actions = sim.success(Some("ws://gateway.test"));
    assert!(serves(&actions, Transport::WebSocket) && !dials_gateway(&actions));
    let settings = Settings {
        allow_plaintext_gateway: true,
        ..Settings::default()
    };
    let (mut sim, _) = Sim::new(settings, Ids::default(), false).start();
    sim.connected();
    sim.success(Some("ws://gateway.test"));
    assert!(dials_gateway(&sim.lost(None)));
}

#[test]
fn giving_up_is_a_setting_and_only_before_the_first_registration() {
    let settings = Settings {
        give_up_after: Some(S(90)),
        ..Settings::default()
    };
    let (mut sim, _) = Sim::new(settings.clone(), Ids::default(), false).start();
    let began = sim.now;
    let mut actions = Vec::new();
    while end(&actions).is_none() {
        sim.failed(unreachable());
        actions = sim.tick().1;
    }
    assert_eq!(
        (end(&actions), sim.now - began),
        (Some(&End::GaveUp), S(90))
    );

    let (mut sim, _) = Sim::new(settings, Ids::default(), false).start();
    sim.connected();
    sim.success(None);
    sim.pass(S(1_000));
    sim.lost(None);
    for _ in 0..20 {
        assert_eq!(end(&sim.tick().1), None);
        sim.failed(unreachable());
    }
}

#[test]
fn stopping_closes_in_order() {
    let mut sim = Sim::on_gateway();
    let gateway = sim.generation();
    let actions = sim.event(Event::Stop);
    assert_eq!(actions, [Action::StopServing, Action::Close(gateway)]);
    assert_eq!(end(&sim.lost(Some(1000))), Some(&End::Stopped));
    // A peer that doesn't answer.
    let mut sim = Sim::on_gateway();
    sim.event(Event::Stop);
    assert_eq!(end(&sim.tick().1), Some(&End::Stopped));
    // While dialling or waiting: at once, and a late connection is nobody's.
    let (mut sim, _) = Sim::fresh().start();
    let dialling = sim.generation();
    assert_eq!(end(&sim.event(Event::Stop)), Some(&End::Stopped));
    assert_ne!(sim.generation(), dialling);
    assert_eq!(sim.event(Event::Connected(dialling)), []);
}

#[test]
fn registering_and_reconnecting_have_caps_of_their_own() {
    let settings = Settings {
        registration_cap: Some(S(60)),
        reconnect_jitter: 0.0,
        ..Settings::default()
    };
    let (mut sim, _) = Sim::new(settings, Ids::default(), false).start();
    for _ in 0..8 {
        sim.failed(unreachable());
        sim.tick();
    }
    sim.failed(unreachable());
    assert_eq!(sim.tick().0, S(60));
    sim.connected();
    sim.success(None);
    sim.lost(None);
    assert_eq!(sim.tick().0, S(15));
}
