//! One event after the other, in a time of their own.

mod http;
mod losing;
mod properties;
mod registering;
mod renewal;

use super::*;
use crate::wire::to_agent::Registered;

const S: fn(u64) -> Duration = Duration::from_secs;

struct Sim {
    session: Session,
    now: Instant,
}

impl Sim {
    fn new(settings: Settings, stored: Ids, resumable: bool) -> Self {
        let now = Instant::now();
        let session = Session::new(settings, stored, resumable, Rng::with_seed(3), now);
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
