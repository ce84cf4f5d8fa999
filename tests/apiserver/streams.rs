//! Many exec streams at once, and one that stalls.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::api_server::shared;
use crate::channels::Channels;
use crate::installed::Installed;
use crate::support::process::is_release;
use crate::support::wait::figure;
use crate::wait_for;
use crate::way::Way;

/// While nobody reads what one command says, everything else goes on, and what it
/// says waits in the pod, not in our memory.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_stream_that_stalls_stalls_alone() {
    let way = Way::new("stalled");
    let script = format!(
        "for part in $(seq {PARTS}); do head -c {PART} /dev/zero; echo $part > progress; done"
    );
    let mut stalled = way.exec(&["sh", "-c", &script]);
    assert!(!stalled.hear().is_empty());
    let progress = way.files("app").join("progress");
    let before = standing(&progress);
    assert!(before < PARTS, "all of it is on its way");

    way.heartbeats(2);
    let kubectl = way.kubectl();
    for _ in 0..3 {
        assert!(kubectl.ok(&["get", "pods"]).contains("box"));
        let said = kubectl.ok(&["exec", "box", "-c", "sidecar", "--", "echo", "said"]);
        assert_eq!(said, "said\n");
    }
    // In both directions, more than any window holds.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, vec![b'x'; 8 * PART]).expect("written");
    let echo = kubectl.run_with(&file, &["exec", "-i", "box", "-c", "sidecar", "--", "cat"]);
    assert_eq!(
        (echo.code, echo.out.len()),
        (Some(0), 8 * PART),
        "{}",
        echo.err
    );
    let mut others = (0..20).map(|_| way.exec(&["cat"])).collect::<Vec<_>>();
    others.iter_mut().for_each(repeats);

    assert_eq!(standing(&progress), before, "it has gone on");
    let (count, status) = stalled.end();
    assert_eq!(status["status"], "Success", "{status}");
    assert!(
        count > (PARTS - 1) * PART && count < PARTS * PART,
        "{count}"
    );
}

/// Waits until the number in a file stays as it is.
fn standing(file: &Path) -> usize {
    let (mut last, mut since) = (None, Instant::now());
    wait_for("a stand-still", || {
        let text = fs::read_to_string(file).ok()?;
        let now = text.trim().parse::<usize>().ok()?;
        if last != Some(now) {
            (last, since) = (Some(now), Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(now)
    })
}

/// All of them are open and used at once; none costs much.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn two_hundred_streams_at_once() {
    let api = shared();
    let namespace = api.namespace("many-streams");
    api.pod(&namespace, "box");
    let installed = Installed::start(api);
    let pod = format!("/api/v1/namespaces/{namespace}/pods/box");
    let exec = || {
        Channels::exec(
            &installed.server,
            &installed.ca,
            &installed.token,
            &pod,
            &["cat"],
        )
    };
    let mut streams = (0..200).map(|_| exec()).collect::<Vec<_>>();
    for _ in 0..3 {
        streams.iter_mut().for_each(repeats);
    }
    for stream in &mut streams {
        stream.end_input();
    }
    for stream in streams {
        let (_, status) = stream.end();
        assert_eq!(status["status"], "Success", "{status}");
    }
    for (name, process) in [("plane", &installed.plane), ("agent", &installed.agent)] {
        let most = process.most_memory() >> 20;
        figure(
            &format!("{name}, 200 exec streams: MiB resident at most"),
            most,
        );
        assert!(!is_release() || most < MEMORY, "{most} MiB in the {name}");
    }
}

/// What is said to `cat` comes back.
fn repeats(stream: &mut Channels) {
    let line = vec![b'y'; 10_000];
    stream.say(&line);
    let mut back = 0;
    while back < line.len() {
        back += stream.hear().len();
    }
    assert_eq!(back, line.len());
}

/// The stalled one says 64 MiB: more than all sockets and windows on the way hold.
const PARTS: usize = 64;
const PART: usize = 1 << 20;
/// In MiB, of the binary that ships: 50 were seen in the plane, 58 in the agent, idle
/// some 15 in each.
const MEMORY: u64 = 72;
