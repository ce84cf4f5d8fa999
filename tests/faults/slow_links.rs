//! A narrow, slow line: what keeps the connection alive goes on beside the bulk.

use std::time::Duration;

use pipeops_agent::http::client::Body;
use pipeops_agent::url::Url;

use crate::support::fault_proxy::FaultProxy;
use crate::support::front::streamed;
use crate::support::house::{House, acknowledged, start};
use crate::support::pattern::{Check, piece};
use crate::support::upstream::{Upstream, content};
use crate::support::wait::figure;

const SIZE: u64 = 1 << 20;

#[test]
fn heartbeats_and_short_requests_go_on_beside_bulk_on_a_narrow_line() {
    let upstream = Upstream::start_tls(|request, mut body, responder| {
        let kind = content("application/octet-stream");
        if request.target.contains("bulk") && request.method == "GET" {
            let mut writer = responder.start(200, &kind, Some(SIZE)).expect("begun");
            let mut sent = 0;
            while sent < SIZE {
                let piece = piece(sent, SIZE);
                // Its client may have gone.
                if writer.write(piece).is_err() {
                    return;
                }
                sent += piece.len() as u64;
            }
            writer.finish().expect("ended");
            return;
        }
        let mut check = Check::default();
        loop {
            let piece = body.chunk(usize::MAX).expect("a body");
            if piece.is_empty() {
                break;
            }
            check.take(piece);
        }
        drop(body);
        let received = check.received.to_string();
        responder
            .respond(200, &kind, received.as_bytes())
            .expect("answered");
    });
    let house = House::new();
    let proxy = FaultProxy::start(house.address());
    proxy.throttle(Some(512 * 1024));
    proxy.delay(Duration::from_millis(30));
    let mut config = house.agent_config("edge");
    config.pipeops.api_url = Url::parse(&format!("https://{}", proxy.address())).expect("a URL");
    config.agent.heartbeat_interval_connected = Duration::from_millis(100);
    config.timeouts.websocket_ping = Duration::from_millis(300);
    config.timeouts.websocket_read = Duration::from_secs(5);
    let agent = start(&config, Some(upstream.credentials()));
    acknowledged(&agent);
    house.attached("edge");
    let front = house.front("edge");
    let before = agent.status();
    std::thread::scope(|scope| {
        let down = scope.spawn(|| {
            let mut answer = front.watch("/api/v1/bulk");
            let mut check = Check::default();
            loop {
                let piece = answer.piece().expect("goes on");
                if piece.is_empty() {
                    break check.received;
                }
                check.take(&piece);
            }
        });
        let up = scope.spawn(|| {
            let mut sent = 0;
            let body = streamed(Some(SIZE), move || {
                let next = piece(sent, SIZE).to_vec();
                sent += next.len() as u64;
                (!next.is_empty()).then_some(next)
            });
            front.ask("PUT", "/api/v1/bulk", &[], body)
        });
        let mut short = 0;
        while !(down.is_finished() && up.is_finished()) {
            let answer = front.ask("GET", "/api/v1/short", &[], Body::Empty);
            assert_eq!(answer.status, 200);
            short += 1;
        }
        assert_eq!(down.join().expect("arrived"), SIZE);
        let answer = up.join().expect("arrived");
        assert_eq!(String::from_utf8_lossy(&answer.body), SIZE.to_string());
        // A round trip waits for what the kernels hold in both directions.
        figure("512 KiB/s full both ways: short requests meanwhile", short);
        assert!(
            short >= 2,
            "only {short} short requests were served meanwhile"
        );
    });
    let after = agent.status();
    assert_eq!(after.connections, before.connections, "the line held");
    // 1.4 MB each way at half a MB a second: more than two seconds.
    let beats = after.heartbeat_acks - before.heartbeat_acks;
    assert!(
        beats >= 3,
        "only {beats} heartbeats were acknowledged meanwhile"
    );
}
