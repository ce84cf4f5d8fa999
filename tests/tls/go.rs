//! Go's crypto/tls.

use std::io::IoSlice;
use std::process::Command;
use std::thread;

use pipeops_agent::net::Halves;

use crate::stage::{Peer, Stage};

fn command() -> Command {
    Command::new(
        std::env::var_os("PIPEOPS_TEST_TLS_PEER")
            .expect("PIPEOPS_TEST_TLS_PEER names the peer; `tests/run interop` builds it"),
    )
}

fn server(stage: &Stage, version: &str) -> (Peer, Halves) {
    let mut command = command();
    command.arg("server").arg(stage.file("cert.pem"));
    let peer = Peer::start(command.arg(stage.file("key.pem")).arg(version));
    peer.printed("\n", 1);
    let address = peer.output().trim().parse().expect("an address");
    let halves = stage.connect(address);
    (peer, halves)
}

fn client(stage: &Stage, version: &str) -> (Peer, Halves) {
    let mut command = command();
    command.arg("client").arg(stage.address().to_string());
    let peer = Peer::start(command.arg(stage.file("ca.pem")).arg(version));
    let halves = stage.accept();
    (peer, halves)
}

/// Data of all sizes there and back, under changing keys with TLS 1.3; Go answers
/// each change that asks for one.
fn talk(peer: Peer, ours: Halves, version: &str) {
    let all: Vec<u8> = (0..3_000_000)
        .map(|at| (at * 31 + at / 251) as u8)
        .collect();
    let mut sizes = fastrand::Rng::with_seed(7);
    let Halves {
        mut read,
        mut write,
        ..
    } = ours;
    thread::scope(|scope| {
        let echoed = scope.spawn(|| {
            let mut echo = Vec::new();
            while echo.len() < all.len() {
                let bytes = read.fill().expect("read");
                assert!(!bytes.is_empty(), "an early end");
                echo.extend_from_slice(bytes);
                let count = bytes.len();
                read.consume(count);
            }
            echo
        });
        let mut rest = &all[..];
        let mut writes = 0;
        while !rest.is_empty() {
            let most = [1, 100, 16_384, 70_000][sizes.usize(0..4)];
            let (piece, behind) = rest.split_at(sizes.usize(1..=most).min(rest.len()));
            write.write_all(&[IoSlice::new(piece)]).expect("written");
            rest = behind;
            writes += 1;
            if version == "1.3" && writes % 20 == 0 {
                write.change_keys(writes % 40 == 0).expect("changed");
            }
        }
        assert!(echoed.join().expect("read") == all, "TLS {version}");
    });
    write.close().expect("closed");
    assert!(read.fill().expect("an end in order").is_empty());
    let (ok, output) = peer.ended();
    assert!(ok, "TLS {version}: {output}");
}

#[test]
#[ignore = "needs Go; tests/run interop"]
fn as_the_server() {
    let stage = Stage::new();
    for version in ["1.2", "1.3"] {
        let (peer, ours) = server(&stage, version);
        talk(peer, ours, version);
    }
}

#[test]
#[ignore = "needs Go; tests/run interop"]
fn as_the_client() {
    let stage = Stage::new();
    for version in ["1.2", "1.3"] {
        let (peer, ours) = client(&stage, version);
        talk(peer, ours, version);
    }
}
