//! What holds for any sequence of events.

use proptest::prelude::*;

use super::*;

/// Whatever happens in whatever order: no panic, no dead end, no busy loop.
fn arbitrary_event(choice: u8, generation: Generation, status: u16) -> Event {
    let failure = match choice % 3 {
        0 => code(status),
        1 => unreachable(),
        _ => Failure::Unusable("x".into()),
    };
    let answers = [Answers::Register, Answers::Nobody, Answers::Other][usize::from(choice % 3)];
    let id = (!choice.is_multiple_of(5)).then_some("c-9");
    let gateway = [None, Some(GATEWAY), Some("ws://plain"), Some("::")][usize::from(choice % 4)];
    match choice / 16 {
        0 => Event::Start,
        1 | 2 => Event::Connected(generation),
        3 | 4 => Event::DialFailed(generation, failure),
        5 | 6 => Event::RegisterSuccess(generation, registered(id, gateway)),
        7 => Event::RegisterInProgress(generation),
        8 => Event::PeerError {
            generation,
            text: ["not registered", "other"][usize::from(choice % 2)].into(),
            answers,
        },
        9 => Event::HeartbeatAck(generation),
        10 | 11 => Event::Lost(
            generation,
            [None, Some(1000), Some(1008)][usize::from(choice % 3)],
        ),
        12 if choice.is_multiple_of(2) => {
            Event::HttpRegister(generation, Ok(registered(id, gateway)))
        }
        12 => Event::HttpRegister(generation, Err(failure)),
        14 => Event::Renew,
        15 if choice.is_multiple_of(2) => {
            Event::RegisteredBeside(generation, Ok(registered(id, gateway)))
        }
        15 if choice.is_multiple_of(3) => Event::RegisteredBeside(generation, Err(failure)),
        13 if choice.is_multiple_of(2) => Event::HttpHeartbeat(generation, Ok(())),
        13 => Event::HttpHeartbeat(generation, Err(failure)),
        _ => Event::Tick,
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_leads_on(
        steps in proptest::collection::vec((any::<u8>(), 0u64..3, 0u64..100_000, 100u16..600), 1..120),
        http_only: bool,
        resumable: bool,
    ) {
        let settings = Settings { http_only, ..Settings::default() };
        let (mut sim, _) = Sim::new(settings, stored(Some(GATEWAY)), resumable).start();
        let (mut dials, began) = (0u32, sim.now);
        for (choice, age, millis, status) in steps {
            sim.pass(Duration::from_millis(millis));
            let generation = sim.generation().saturating_sub(age);
            let actions = sim.event(arbitrary_event(choice, generation, status));
            prop_assert!(actions.len() <= 8, "{actions:?}");
            dials += actions.iter().filter(|a| matches!(a, Action::Dial { .. })).count() as u32;
            if end(&actions).is_some() {
                prop_assert_eq!(sim.session.deadline(), None);
                prop_assert_eq!(sim.event(Event::Start), []);
                return Ok(());
            }
            // Time that has passed doesn't make the shell spin: each tick moves on.
            for _ in 0..4 {
                if sim.session.deadline().is_none_or(|at| at > sim.now) {
                    break;
                }
                let actions = sim.event(Event::Tick);
                dials += actions.iter().filter(|a| matches!(a, Action::Dial { .. })).count() as u32;
            }
            prop_assert!(sim.session.deadline().is_none_or(|at| at > sim.now) || sim.session.phase == Phase::Ended);
        }
        let _ = (dials, began);
        // From anywhere a friendly peer brings it back to serving.
        for _ in 0..12 {
            match sim.session.phase {
                Phase::Serving { .. } | Phase::HttpServing { .. } | Phase::Ended => return Ok(()),
                Phase::Dialing { .. } => drop(sim.connected()),
                Phase::Registering { .. } => drop(sim.success(Some(GATEWAY))),
                Phase::Leaving { .. } => drop(sim.lost(Some(1000))),
                Phase::HttpRegistering { .. } => {
                    let outcome = Ok(registered(Some("c-1"), None));
                    sim.event(Event::HttpRegister(sim.generation(), outcome));
                }
                Phase::Waiting { .. } => drop(sim.tick()),
                Phase::New | Phase::Stopping { .. } => prop_assert!(false, "{:?}", sim.session.phase),
            }
        }
        prop_assert!(false, "a dead end: {:?}", sim.session.phase);
    }

    /// A peer that fails every dial in any way, or drops every connection, is not
    /// dialled in a tight loop.
    #[test]
    fn hostile_peers_are_not_hammered(statuses in proptest::collection::vec(0u16..620, 200), http_only: bool) {
        let settings = Settings { http_only, ..Settings::default() };
        let (mut sim, mut actions) = Sim::new(settings, stored(Some(GATEWAY)), true).start();
        // Registered once, or refusals would end it.
        sim.session.registered = true;
        let (began, mut attempts) = (sim.now, 0u32);
        for status in statuses {
            let failure = if status < 100 { unreachable() } else { code(status) };
            attempts += actions
                .iter()
                .filter(|a| matches!(a, Action::Dial { .. } | Action::HttpRegister { .. }))
                .count() as u32;
            actions = match sim.session.phase {
                Phase::Dialing { .. } if status % 5 == 0 => sim.connected(),
                Phase::Dialing { .. } => sim.failed(failure),
                Phase::HttpRegistering { .. } => {
                    sim.event(Event::HttpRegister(sim.generation(), Err(failure)))
                }
                Phase::Registering { .. } if status % 2 == 0 => sim.success(Some(GATEWAY)),
                Phase::Registering { .. } | Phase::Serving { .. } => sim.lost(None),
                Phase::Leaving { .. } => sim.lost(Some(1000)),
                _ if sim.session.deadline().is_none() => Vec::new(),
                _ => sim.tick().1,
            };
        }
        let minutes = (sim.now - began).as_secs() / 60;
        // Three attempts can follow each other without a wait (gateway, controller,
        // HTTP); between such rounds there is always one, soon of the cap.
        prop_assert!(attempts <= 40 + 3 * 6 * (minutes as u32 + 1), "{attempts} in {minutes} minutes");
    }
}
