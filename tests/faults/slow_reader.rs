//! A long answer to somebody who reads more slowly than it comes: what is on its way
//! stays in the sockets and in the credit, not in memory (decisions.md §6.2).

use std::thread;
use std::time::Duration;

use crate::load::{bulk, download, give};
use crate::support::process::{AgentProcess, AgentSettings, PlaneProcess, is_release};
use crate::support::upstream::Upstream;
use crate::support::wait::figure;

/// With `PIPEOPS_TEST_BULK_MIB=10240` and the binary that ships (`PIPEOPS_TEST_BINARY`)
/// it is 10 GiB.
#[test]
fn memory_stays_flat_while_somebody_reads_a_long_answer_slowly() {
    let upstream = Upstream::start_tls(|request, _body, responder| {
        let size = request.target.rsplit('=').next();
        give(
            responder,
            size.and_then(|size| size.parse().ok()).unwrap_or(0),
        );
    });
    let plane = PlaneProcess::start();
    let mut agent = AgentProcess::ready_with(&AgentSettings {
        upstream: Some(&upstream),
        ..plane.settings()
    });
    plane.attached("edge");
    let front = plane.front("edge").patient();

    let size = bulk();
    let (mut pieces, mut sizes) = (0, Vec::new());
    let path = format!("/api/v1/large?size={size}");
    let received = download(&front, &path, || {
        pieces += 1;
        // Each time, all that may be on its way has long arrived: the target is stopped.
        if pieces % PIECES == 0 {
            thread::sleep(PAUSE); // the fault itself
            sizes.push(agent.process.resident().max(plane.process.resident()));
        }
    });
    assert_eq!(received, size);
    let (early, late) = sizes.split_at(sizes.len() / 2);
    let most = |sizes: &[u64]| sizes.iter().copied().max().unwrap_or_default();
    figure("KiB resident, first half, at most", most(early));
    figure("KiB resident, second half, at most", most(late));
    figure("agent: KiB resident at most", agent.process.peak());
    figure("plane: KiB resident at most", plane.process.peak());
    assert!(
        most(late) < most(early) + 8 * 1024,
        "it grows: {sizes:?} KiB"
    );
    if is_release() {
        assert!(agent.process.peak() < 64 * 1024);
        assert!(plane.process.peak() < 64 * 1024);
    }
    assert_eq!(agent.process.terminate(), Some(0));
}

/// Pieces of 64 KiB from one pause to the next: 1 MiB.
const PIECES: u32 = 16;
const PAUSE: Duration = Duration::from_millis(5);
