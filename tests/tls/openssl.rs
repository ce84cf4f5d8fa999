//! OpenSSL's `s_server` and `s_client`. Some letters that are typed in are commands
//! to them; texts here begin with digits, so that they are data.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;

use pipeops_agent::net::Halves;

use crate::stage::{Peer, Stage, read, until_provoked, write};

const V13: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

const V12: [&str; 3] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
];

/// Flags for one suite.
fn flags(suite: &str) -> [&str; 3] {
    if suite.starts_with("TLS_") {
        ["-tls1_3", "-ciphersuites", suite]
    } else {
        ["-tls1_2", "-cipher", suite]
    }
}

/// OpenSSL as the server, and our end.
fn server(stage: &Stage, more: &[&str]) -> (Peer, Halves) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-naccept", "1"]);
    command.arg("-cert").arg(stage.file("cert.pem"));
    command.arg("-key").arg(stage.file("key.pem"));
    let peer = Peer::start(command.args(more));
    peer.printed("ACCEPT 127.0.0.1:", 1);
    peer.printed("\n", 1);
    let output = peer.output();
    let (_, address) = output.split_once("ACCEPT ").expect("printed");
    let address: SocketAddr = address
        .lines()
        .next()
        .and_then(|address| address.trim().parse().ok())
        .expect("an address");
    let halves = stage.connect(address);
    // From now on it takes what is typed in.
    peer.printed("CIPHER is", 1);
    (peer, halves)
}

/// OpenSSL as the client, and our end.
fn client(stage: &Stage, more: &[&str]) -> (Peer, Halves) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-verify_return_error", "-connect"]);
    command.arg(stage.address().to_string());
    command.arg("-CAfile").arg(stage.file("ca.pem"));
    let peer = Peer::start(command.args(more));
    let halves = stage.accept();
    peer.printed("Verify return code: 0", 1);
    (peer, halves)
}

/// Both ways, both ends' keys changed by both, and an end in order.
fn talk(mut peer: Peer, mut ours: Halves, suite: &str) {
    let mut number = 0;
    let mut both_ways = |peer: &mut Peer, ours: &mut Halves| {
        number += 1;
        write(ours, format!("{number} from us\n").as_bytes());
        peer.printed(&format!("{number} from us\n"), 1);
        let text = format!("{number} from the peer\n");
        peer.type_in(&text);
        assert_eq!(read(ours, text.len()), text.as_bytes(), "{suite}");
    };
    both_ways(&mut peer, &mut ours);
    // 300 KB of lines, so that records are full.
    let lines: Vec<String> = (0..=30_000).map(|line| format!("{line:09}")).collect();
    let many = lines.join("\n") + "\n";
    write(&mut ours, many.as_bytes());
    peer.printed("000030000\n", 1);
    assert!(peer.output().contains(&many), "{suite}");
    peer.type_in(&many);
    assert!(read(&mut ours, many.len()) == many.as_bytes(), "{suite}");
    if suite.starts_with("TLS_") {
        for round in 1..=3 {
            // The peer changes its keys and asks for ours.
            peer.type_in("K\n");
            until_provoked(&mut ours);
            both_ways(&mut peer, &mut ours);
            assert!(!ours.read.wants_flush());
            // The peer changes its keys.
            peer.type_in("k\n");
            both_ways(&mut peer, &mut ours);
            // We change ours, asking and not asking.
            ours.write.change_keys(round % 2 == 1).expect("changed");
            both_ways(&mut peer, &mut ours);
        }
    }
    // The peer says that nothing follows, and ends.
    peer.type_in("Q\n");
    assert!(ours.read.fill().expect("an end").is_empty(), "{suite}");
    let (_, output) = peer.ended();
    assert!(!output.contains("error"), "{suite}: {output}");
}

#[test]
#[ignore = "needs openssl; tests/run interop"]
fn as_the_server() {
    let stage = Stage::new();
    for suite in V13.into_iter().chain(V12) {
        let (peer, ours) = server(&stage, &flags(suite));
        talk(peer, ours, suite);
    }
}

#[test]
#[ignore = "needs openssl; tests/run interop"]
fn as_the_client() {
    let stage = Stage::new();
    for suite in V13.into_iter().chain(V12) {
        let (peer, ours) = client(&stage, &flags(suite));
        talk(peer, ours, suite);
    }
}

#[test]
#[ignore = "needs openssl; tests/run interop"]
fn padded_and_short_records() {
    let stage = Stage::new();
    for more in [
        ["-record_padding", "1000"],
        ["-record_padding", "16384"],
        ["-max_send_frag", "512"],
        ["-num_tickets", "20"],
    ] {
        let (peer, ours) = server(&stage, &more);
        talk(peer, ours, "TLS_");
    }
}

#[test]
#[ignore = "needs openssl; tests/run interop"]
fn clear_text_in_the_middle_is_refused() {
    let stage = Stage::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let (mut peer, mut ours) = server(&stage, &[version]);
        // Its command for just that.
        peer.type_in("P\n");
        let error = ours.read.fill().expect_err("clear text");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        ours.write.flush().expect("the alert");
        peer.printed("alert unexpected message", 1);
    }
}

#[test]
#[ignore = "needs openssl; tests/run interop"]
fn our_end_of_the_stream_is_a_clean_one() {
    let stage = Stage::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let (peer, mut ours) = client(&stage, &[version]);
        write(&mut ours, b"1 last words\n");
        ours.write.close().expect("closed");
        peer.printed("1 last words\n", 1);
        // `closed` and not `unexpected eof while reading`.
        peer.printed("closed", 1);
        let (_, output) = peer.ended();
        assert!(!output.contains("eof"), "{output}");
    }
}

#[test]
#[ignore = "needs openssl; tests/run interop"]
fn another_handshake_is_refused_by_a_warning() {
    let stage = Stage::new();
    let (mut peer, mut ours) = client(&stage, &["-tls1_2"]);
    peer.type_in("R\n");
    until_provoked(&mut ours);
    ours.write.flush().expect("the warning");
    peer.printed("no renegotiation", 1);
    let (mut peer, mut ours) = server(&stage, &["-tls1_2"]);
    peer.type_in("r\n");
    until_provoked(&mut ours);
    ours.write.flush().expect("the warning");
    peer.printed("no renegotiation", 1);
}
