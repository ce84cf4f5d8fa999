//! The API server goes away and comes back. It is another one than the other tests
//! have, and these tests take turns.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::api_server::ApiServer;
use crate::house::Plan;
use crate::wait_until;

fn disturbed() -> MutexGuard<'static, ApiServer> {
    static DISTURBED: LazyLock<Mutex<ApiServer>> = LazyLock::new(|| Mutex::new(ApiServer::start()));
    DISTURBED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn an_api_server_that_restarts_is_missed_and_found_again() {
    let api = disturbed();
    let house = Plan::new(api.admin()).lend().build();
    let http = house.http();
    let list = http.get("/api/v1/configmaps?limit=1").json();
    let old = list["metadata"]["resourceVersion"].as_str().expect("one");
    let changed = json!({"metadata": {"name": "changed-before"}});
    let made = http.post("/api/v1/namespaces/default/configmaps", &changed);
    assert_eq!(made.status, 201);
    let mut watch = http.open("/api/v1/pods?watch=true&labelSelector=none%3Dnone");

    thread::scope(|scope| {
        let restart = scope.spawn(|| api.restart(false));
        // The API server ends it, and that is what the client sees.
        assert_eq!(watch.next().expect("not cut off"), None);
        wait_until("a refusal of the agent's", || {
            let answer = http.get("/version");
            if answer.status == 502 {
                let status = answer.json();
                let message = status["message"].as_str().expect("a message");
                assert_eq!(status["kind"], "Status");
                assert!(
                    message.contains("kubernetes API request failed"),
                    "{message}"
                );
                assert!(!message.contains(api.facts.admin_key_file.to_str().expect("text")));
            }
            answer.status == 502
        });
        let complaint = house.kubectl(&api.facts.kube).fails(&["get", "nodes"]);
        assert!(
            complaint.contains("kubernetes API request failed"),
            "{complaint}"
        );
        restart.join().expect("it came back");
    });
    wait_until("answers again", || http.get("/version").status == 200);
    assert_eq!(house.connections(), 1, "the agent was there all the time");

    // The new process has no history: the version is too old for it, and says so
    // inside the stream.
    let path = format!("/api/v1/configmaps?watch=true&resourceVersion={old}");
    let mut watch = http.open(&path);
    let event = watch.event();
    assert_eq!(
        (event.kind.as_str(), &event.object["code"]),
        ("ERROR", &json!(410))
    );
    assert_eq!(event.object["reason"], "Expired");
    assert_eq!(watch.next().expect("not cut off"), None);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_stream_that_is_cut_looks_cut() {
    let api = disturbed();
    let house = Plan::new(api.admin()).lend().build();
    let http = house.http();
    let mut watch = http.open("/api/v1/namespaces/default/pods?watch=true");
    assert_eq!(watch.event().name(), "web");
    let kubectl = house.kubectl(&api.facts.kube);
    let mut logs = kubectl.start(&["logs", "-f", "web"]);
    logs.line_with("line 7");

    thread::scope(|scope| {
        let restart = scope.spawn(|| api.restart(true));
        // Never a proper end: a client would take what it has for all there is.
        let end = loop {
            match watch.next() {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(end, "it ended as if all were well");
        logs.line_with("unexpected EOF");
        let (status, _) = logs.end();
        assert!(!status.success());
        restart.join().expect("it came back");
    });
    wait_until("answers again", || http.get("/version").status == 200);
    assert_eq!(house.connections(), 1);
    let again = kubectl.ok(&["logs", "web", "--tail=1"]);
    assert_eq!(again.trim(), "default/web/app line 5");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn an_api_server_that_hangs_delays_nothing_but_its_own_answers() {
    let api = disturbed();
    let frozen = api.freeze();
    // It registers and has its heartbeat acknowledged all the same.
    let house = Plan::new(api.admin())
        .lend()
        .heartbeat_every(Duration::from_millis(300))
        .build();
    let before = house.heartbeats(2);
    assert_eq!((before.cluster.nodes, before.cluster.pods), (0, 0));
    assert_eq!(before.cluster.agent.kubernetes, "");
    thread::scope(|scope| {
        let answer = scope.spawn(|| house.http().get("/api/v1/nodes"));
        wait_until("the request is on its way", || house.view().requests == 1);
        house.heartbeats(2);
        drop(frozen);
        assert_eq!(answer.join().expect("an answer").names(), ["node-1"]);
    });
    wait_until("its node is counted", || house.view().cluster.nodes == 1);
    assert_eq!(house.connections(), 1);
}
