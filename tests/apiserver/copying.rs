//! `kubectl cp`: a tar at either end of an exec.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::way::Way;

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_large_file_arrives_whole_both_ways() {
    let way = Way::new("copy");
    there_and_back(&way);
}

/// All that the client sends meanwhile has to wait somewhere, and may not be lost.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_large_file_arrives_whole_where_the_tar_is_late() {
    let way = Way::new("copy-late");
    let bin = way.files("app").join("bin");
    fs::create_dir_all(&bin).expect("made");
    let tar = bin.join("tar");
    let path = std::env::var("PATH").expect("a PATH");
    let script = format!("#!/bin/sh\nsleep 5\nPATH='{path}' exec tar \"$@\"\n");
    fs::write(&tar, script).expect("written");
    fs::set_permissions(&tar, Permissions::from_mode(0o700)).expect("may be run");
    there_and_back(&way);
}

fn there_and_back(way: &Way) {
    let folder = tempfile::tempdir().expect("a folder");
    let [here, back] = ["here", "back"].map(|name| folder.path().join(name));
    let [from, to] = [&here, &back].map(|path| path.to_str().expect("text"));
    fill(&here);
    let kubectl = way.kubectl();
    for line in [
        ["cp", "-c", "app", from, "box:there"],
        ["cp", "-c", "app", "box:there", to],
    ] {
        let ended = kubectl.run(&line);
        assert!(ended.good, "{line:?}: {}", ended.err);
    }
    let sum = checksum(&here);
    assert_eq!(checksum(&way.files("app").join("there")), sum);
    assert_eq!(checksum(&back), sum);
}

/// Random bytes: nothing on the way can make them fewer.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("made");
    let mut random = fastrand::Rng::with_seed(5);
    let mut piece = vec![0; MIB];
    for _ in 0..100 {
        random.fill(&mut piece);
        file.write_all(&piece).expect("written");
    }
}

fn checksum(path: &Path) -> [u8; 32] {
    let mut file = File::open(path).expect("it is there");
    let (mut hash, mut piece) = (Sha256::new(), vec![0; MIB]);
    loop {
        match file.read(&mut piece).expect("read") {
            0 => return hash.finalize().into(),
            count => hash.update(&piece[..count]),
        }
    }
}

const MIB: usize = 1 << 20;
