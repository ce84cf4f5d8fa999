use std::net::TcpListener;
use std::time::Instant;

use super::*;
use crate::net::Reason;

/// It used to be noticed when the step's limit had passed.
#[test]
fn an_interruption_ends_the_wait_for_an_agent_that_cannot_register() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut steps = Steps::begin();
    let options = Options::default();
    let mut stage = Stage::set(&options, folder.path(), &mut steps).expect("it is set");
    // Whoever dials gets no answer.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address");
    let other = folder.path().join("other");
    let mut config = agent_config(&stage.plane, "ppa_x", &other).expect("a configuration");
    config.pipeops.api_url = Url::parse(&format!("https://{address}")).expect("a URL");
    let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
    let (proxy, facts) = agent::reach(None, &config).expect("usable");
    let parts = agent::parts(&config, health, proxy, facts).expect("usable");
    stage.agent = Agent::start(parts).expect("started");
    let stop = Cancel::new();
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let playing = scope.spawn(|| stage.play(&mut steps, &stop));
        let _dialled = silent.accept().expect("the agent dials");
        // It waits, and could be woken.
        while stop.registered() == 0 {
            assert!(begun.elapsed() < STEP_LIMIT, "it doesn't listen");
            std::thread::yield_now();
        }
        stop.cancel(Reason::Cancelled);
        playing.join().expect("no panic")
    });
    assert!(outcome.is_err(), "nothing was shown");
    // Not the limit ended it.
    assert!(begun.elapsed() < STEP_LIMIT);
}

#[test]
fn an_interruption_ends_a_transfer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut steps = Steps::begin();
    let stage = Stage::set(&Options::default(), folder.path(), &mut steps).expect("it is set");
    let stop = Cancel::new();
    let outcome = std::thread::scope(|scope| {
        let playing = scope.spawn(|| {
            stage.play(&mut steps, &stop).expect("it works");
            // More than anybody waits for.
            stage.play_tunnels(1 << 50, &mut steps, &mut Figures::new(), &stop)
        });
        let begun = Instant::now();
        let moved = || {
            stage
                .plane
                .exposures()
                .iter()
                .any(|view| view.down > 1 << 20)
        };
        while !moved() {
            assert!(begun.elapsed() < STEP_LIMIT, "nothing moves");
            std::thread::yield_now();
        }
        stop.cancel(Reason::Cancelled);
        playing.join().expect("no panic")
    });
    assert!(matches!(outcome, Err(DemoError::Step(_))), "{outcome:?}");
    stage.end(None).expect("an orderly end");
}
