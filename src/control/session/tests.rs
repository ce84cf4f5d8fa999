use proptest::prelude::*;

use super::*;

const S: fn(u64) -> Duration = Duration::from_secs;

struct Sim {
    session: Session,
    now: Instant,
}

impl Sim {
    fn new(settings: Settings, stored: Ids, resumable: bool) -> Self {
        let now = Instant::now();
        let session = Session::new(
            settings,
            stored,
            resumable,
            fastrand::Rng::with_seed(3),
            now,
        );
        Self { session, now }
    }

    /// A first start without anything stored.
    fn fresh() -> Self {
        Self::new(Settings::default(), Ids::default(), false)
    }

    fn start(mut self) -> (Self, Vec<Action>) {
        let actions = self.event(Event::Start);
        (self, actions)
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        self.session.handle(self.now, event);
        std::iter::from_fn(|| self.session.poll()).collect()
    }

    /// Jumps to the deadline; says how long that was.
    fn tick(&mut self) -> (Duration, Vec<Action>) {
        let at = self.session.deadline().expect("something is waited for");
        let waited = at.saturating_duration_since(self.now);
        self.now = at.max(self.now);
        (waited, self.event(Event::Tick))
    }

    fn pass(&mut self, duration: Duration) {
        self.now += duration;
    }

    fn generation(&self) -> Generation {
        self.session.generation
    }

    fn connected(&mut self) -> Vec<Action> {
        self.event(Event::Connected(self.generation()))
    }

    fn failed(&mut self, failure: Failure) -> Vec<Action> {
        self.event(Event::DialFailed(self.generation(), failure))
    }

    fn success(&mut self, gateway: Option<&str>) -> Vec<Action> {
        let registered = registered(Some("c-1"), gateway);
        self.event(Event::RegisterSuccess(self.generation(), registered))
    }

    fn error(&mut self, text: &str, answers: Answers) -> Vec<Action> {
        let generation = self.generation();
        self.event(Event::PeerError {
            generation,
            text: text.into(),
            answers,
        })
    }

    fn lost(&mut self, code: Option<u16>) -> Vec<Action> {
        self.event(Event::Lost(self.generation(), code))
    }

    /// Registered, switched, serving on the gateway.
    fn on_gateway() -> Self {
        let (mut sim, _) = Self::fresh().start();
        sim.connected();
        sim.success(Some(GATEWAY));
        sim.lost(Some(1000));
        sim.connected();
        assert!(matches!(
            sim.session.phase,
            Phase::Serving {
                home: Next::Gateway,
                ..
            }
        ));
        sim
    }

    fn on_controller() -> Self {
        let (mut sim, _) = Self::fresh().start();
        sim.connected();
        sim.success(None);
        assert!(matches!(
            sim.session.phase,
            Phase::Serving {
                home: Next::Controller,
                ..
            }
        ));
        sim
    }

    /// Makes the connection count as well.
    fn be_well(&mut self) {
        self.event(Event::HeartbeatAck(self.generation()));
        self.pass(S(6));
    }
}

const GATEWAY: &str = "wss://gateway.test/ws";

fn stored(gateway: Option<&str>) -> Ids {
    Ids {
        cluster_id: Some("c-0".into()),
        cluster_uuid: Some("u-0".into()),
        gateway_ws_url: gateway.map(str::to_owned),
    }
}

fn registered(cluster_id: Option<&str>, gateway: Option<&str>) -> Box<Registered> {
    Box::new(Registered {
        cluster_id: cluster_id.map(str::to_owned),
        gateway_ws_url: gateway.map(str::to_owned),
        ..Registered::default()
    })
}

fn code(code: u16) -> Failure {
    Failure::Status {
        code,
        retry_after: None,
        text: String::new(),
    }
}

fn unreachable() -> Failure {
    Failure::Other("connection refused".into())
}

fn dials_controller(actions: &[Action]) -> bool {
    let is = |a: &Action| {
        matches!(
            a,
            Action::Dial {
                target: Target::Controller,
                ..
            }
        )
    };
    actions.iter().any(is)
}

fn dials_gateway(actions: &[Action]) -> bool {
    let is = |a: &Action| {
        matches!(
            a,
            Action::Dial {
                target: Target::Gateway { .. },
                ..
            }
        )
    };
    actions.iter().any(is)
}

/// `Some(None)`: a registration without an id.
#[allow(clippy::option_option)]
fn register_id(actions: &[Action]) -> Option<Option<&str>> {
    actions.iter().find_map(|action| match action {
        Action::SendRegister { cluster_id, .. } | Action::HttpRegister { cluster_id, .. } => {
            Some(cluster_id.as_deref())
        }
        _ => None,
    })
}

fn end(actions: &[Action]) -> Option<&End> {
    actions.iter().find_map(|action| match action {
        Action::End(end) => Some(end),
        _ => None,
    })
}

fn refused(actions: &[Action]) -> bool {
    matches!(end(actions), Some(End::Refused(_)))
}

fn serves(actions: &[Action], over: Transport) -> bool {
    actions
        .iter()
        .any(|a| matches!(a, Action::Serve(_, by) if *by == over))
}

fn position(actions: &[Action], is: impl Fn(&Action) -> bool) -> usize {
    actions.iter().position(is).expect("the action is there")
}

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
    assert_eq!(waited, LEAVE_LIMIT);
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

#[test]
fn retry_after_is_honoured_within_reason() {
    for (asked, least, most) in [(S(40), S(40), S(41)), (S(86_400), S(600), S(601))] {
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
        assert!(dials_controller(&actions) && actions.contains(&Action::StopServing));
        assert!(serves(&sim.failed(code(status)), Transport::Http));
        let (_, actions) = sim.tick();
        assert!(dials_controller(&actions));
        // And replaces HTTP when it succeeds.
        assert_eq!(register_id(&sim.connected()), Some(Some("c-1")));
        assert!(serves(&sim.success(None), Transport::WebSocket));
    }
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
