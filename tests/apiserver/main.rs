//! The agent and our own plane against a real kube-apiserver, and a real kubectl
//! through both (README.md in this folder).
//!
//! ```text
//!  kubectl, raw HTTP ──► plane ══ link ══ agent ──► kube-apiserver ──► stand-in kubelet
//! ```
//!
//! The API server is started with the first test and ends with the process; each
//! test has a plane and an agent of its own, and a namespace. What disturbs others
//! (a restart) has an API server of its own.

mod age;
mod api_server;
mod channels;
mod copying;
mod end_to_end;
mod exec;
mod forms;
mod forwarding;
mod house;
mod http;
mod identity;
mod installed;
mod kubeconfigs;
mod kubectl;
mod outage;
mod own_calls;
mod pod;
mod process;
mod reading;
mod rotation;
mod services;
mod streams;
mod terminal;
mod watching;
mod way;
mod writing;

#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

/// Nothing that goes well takes this long: a test that hangs fails.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `probe` yields something.
#[track_caller]
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
