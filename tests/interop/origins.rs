//! Proxied requests on a plain machine: by the host, by the fields of a Service
//! (control-channel.md §8.3, §8.5, config-and-state.md §12.2).

use pipeops_agent::config::Origin;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::upstream::{Upstream, bytes};

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn origins_answer_in_both_forms_and_what_leads_nowhere_is_an_error() {
    let upstream = Upstream::start();
    let mut stage = Stage::new();
    let origin = Origin::parse(&upstream.authority()).expect("one");
    stage.routes = vec![
        ("shop.test".to_owned(), origin.clone()),
        ("web".to_owned(), origin),
    ];
    let agent = stage.start();
    let conn = stage.arrived();
    let ask = |id: &str, more: &Value| {
        let mut payload = json!({"method": "GET", "path": "/api/v1/bytes/50000/text"});
        let members = payload.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        stage.gateway.send("proxy_request", id, payload);
    };
    let outcome = |id: &str, result: &str| {
        let pattern = json!({"event": "outcome", "request_id": id, "result": result});
        stage.gateway.expect(pattern)
    };
    let host = json!({"headers": {"Host": ["shop.test"]}, "scheme": "https"});
    let service = json!({"service_name": "web", "namespace": "default", "service_port": 80});
    for (name, way) in [("host", host), ("service", service)] {
        for streamed in [false, true] {
            let id = format!("{name}-{streamed}");
            let mut way = way.clone();
            way["supports_response_streaming"] = streamed.into();
            ask(&id, &way);
            let ended = outcome(&id, if streamed { "end" } else { "response" });
            assert_eq!(
                (&ended["status"], &ended["size"]),
                (&json!(200), &json!(bytes(50_000).len()))
            );
        }
    }
    ask("b", &json!({"headers": {"Host": ["x.test"]}}));
    outcome("b", "error");
    ask(
        "s",
        &json!({"headers": {"Host": ["x.test"]}, "supports_response_streaming": true}),
    );
    outcome("s", "abort");
    stage.end(agent, &conn);
}
