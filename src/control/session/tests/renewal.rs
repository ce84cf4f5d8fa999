//! Registering again while all goes on (T14).

use super::*;

fn beside(sim: &mut Sim, outcome: Result<Box<Registered>, Failure>) -> Vec<Action> {
    let generation = sim.generation();
    sim.event(Event::RegisteredBeside(generation, outcome))
}

fn on_http() -> Sim {
    let (mut sim, _) = Sim::fresh().start();
    sim.failed(code(404));
    let outcome = Ok(registered(Some("c-1"), None));
    sim.event(Event::HttpRegister(sim.generation(), outcome));
    sim
}

fn only_stores(actions: &[Action]) -> bool {
    matches!(actions, [Action::Store(_)])
}

#[test]
fn t14_beside_a_gateway_its_connection_goes_on() {
    let mut sim = Sim::on_gateway();
    let want = Action::RegisterBeside {
        generation: sim.generation(),
        cluster_id: Some("c-1".into()),
    };
    assert_eq!(sim.event(Event::Renew), [want]);
    assert_eq!(sim.event(Event::Renew), [], "one at a time");
    let done = beside(&mut sim, Ok(registered(Some("c-1"), Some(GATEWAY))));
    assert!(only_stores(&done), "{done:?}");
    // Another gateway is for the next dial.
    sim.event(Event::Renew);
    let done = beside(
        &mut sim,
        Ok(registered(Some("c-1"), Some("wss://other.test"))),
    );
    assert!(only_stores(&done), "{done:?}");
    // Nothing that goes wrong is worth the connection.
    for outcome in [
        Err(code(401)),
        Err(code(403)),
        Err(unreachable()),
        Ok(registered(None, None)),
    ] {
        assert_eq!(sim.event(Event::Renew).len(), 1);
        assert_eq!(beside(&mut sim, outcome), []);
    }
    assert_eq!(sim.session.state(), ConnectionState::Connected);
    // A cluster that isn't known is registered as ever (§6.1).
    sim.event(Event::Renew);
    let unknown = Failure::Other("cluster not registered".into());
    let actions = beside(&mut sim, Err(unknown));
    assert!(actions.contains(&Action::Close(sim.generation())));
    assert!(dials_controller(&sim.lost(Some(1000))));
}

#[test]
fn another_cluster_id_is_another_connection() {
    let mut sim = Sim::on_gateway();
    sim.event(Event::Renew);
    let actions = beside(&mut sim, Ok(registered(Some("c-2"), Some(GATEWAY))));
    assert!(actions.contains(&Action::Close(sim.generation())));
    assert!(dials_gateway(&sim.lost(Some(1000))));
}

#[test]
fn what_comes_after_the_connection_changes_nothing() {
    let mut sim = Sim::on_gateway();
    sim.event(Event::Renew);
    let old = sim.generation();
    sim.lost(None);
    sim.tick();
    sim.connected();
    let late = Event::RegisteredBeside(old, Ok(registered(Some("c-2"), None)));
    assert_eq!(sim.event(late), []);
    assert_eq!(sim.event(Event::Renew).len(), 1, "and may be tried again");
}

#[test]
fn t14_a_controller_hears_of_it_on_the_live_connection() {
    let mut sim = Sim::on_controller();
    let actions = sim.event(Event::Renew);
    assert_eq!(register_id(&actions), Some(Some("c-1")));
    assert_eq!(sim.error("not now", Answers::Register), []);
    sim.event(Event::Renew);
    assert!(only_stores(&sim.success(None)));
    // It names a gateway from now on.
    sim.event(Event::Renew);
    let actions = sim.success(Some(GATEWAY));
    assert!(actions.contains(&Action::Close(sim.generation())));
    assert!(dials_gateway(&sim.lost(Some(1000))));
}

#[test]
fn t14_over_http_it_is_a_call() {
    let mut sim = on_http();
    let answer = |sim: &mut Sim, outcome| {
        let generation = sim.generation();
        sim.event(Event::HttpRegister(generation, outcome))
    };
    assert_eq!(register_id(&sim.event(Event::Renew)), Some(Some("c-1")));
    assert!(only_stores(&answer(
        &mut sim,
        Ok(registered(Some("c-1"), None))
    )));
    sim.event(Event::Renew);
    assert_eq!(answer(&mut sim, Err(code(403))), []);
    // A gateway that is named now is tried at once.
    sim.event(Event::Renew);
    let actions = answer(&mut sim, Ok(registered(Some("c-1"), Some(GATEWAY))));
    assert!(dials_gateway(&actions), "{actions:?}");
}

#[test]
fn where_nothing_serves_there_is_nothing_to_do_beside_it() {
    let (mut sim, _) = Sim::fresh().start();
    assert_eq!(sim.event(Event::Renew), []);
    sim.connected();
    assert_eq!(sim.event(Event::Renew), []);
}
