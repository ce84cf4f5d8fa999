use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Without the importing of this machine's real files.
fn open(path: &Path) -> Result<FileStore, StoreError> {
    let nowhere = tempfile::tempdir().expect("folder");
    FileStore::open_importing(path, nowhere.path(), nowhere.path())
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.yaml");
    (folder, path)
}

fn named(agent_id: &str) -> Identity {
    Identity {
        agent_id: Some(agent_id.into()),
        ..Identity::default()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").mode() & 0o777
}

#[test]
fn what_is_saved_is_there_after_a_restart() {
    let (folder, _) = folder();
    let path = folder.path().join("new/state.yaml");
    let store = open(&path).expect("store");
    assert_eq!(store.identity(), Identity::default());
    store.save(&named("a")).expect("saved");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().expect("folder")), 0o700);
    drop(store);
    assert_eq!(open(&path).expect("store").identity(), named("a"));
    let left = fs::read_dir(path.parent().expect("folder")).expect("list");
    assert_eq!(
        left.count(),
        2,
        "the state and its lock, no temporary files"
    );
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let (_folder, path) = folder();
    let first = open(&path).expect("store");
    assert!(matches!(open(&path), Err(StoreError::Locked { .. })));
    drop(first);
    open(&path).expect("free again");
}

#[test]
fn a_corrupt_file_is_kept_and_not_overwritten() {
    let (folder, path) = folder();
    fs::write(&path, "agent_id: [").expect("file");
    let store = open(&path).expect("store");
    assert_eq!(store.identity(), Identity::default());
    store.save(&named("b")).expect("saved");
    let aside = fs::read_dir(folder.path())
        .expect("list")
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().contains(".corrupt-"))
        .expect("put aside");
    assert_eq!(fs::read(aside.path()).expect("text"), b"agent_id: [");
}

#[test]
fn unknown_keys_of_the_file_survive_a_save() {
    let (_folder, path) = folder();
    fs::write(&path, "later_version: 3\n").expect("file");
    open(&path)
        .expect("store")
        .save(&named("c"))
        .expect("saved");
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.contains("later_version: 3"), "{text}");
}

#[test]
fn loose_permissions_are_tightened() {
    let (_folder, path) = folder();
    fs::write(&path, "agent_id: d\n").expect("file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
    assert_eq!(open(&path).expect("store").identity(), named("d"));
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_link_out_of_the_folder_is_refused_and_one_inside_is_kept() {
    let (folder, path) = folder();
    let elsewhere = tempfile::tempdir().expect("folder");
    let outside = elsewhere.path().join("x");
    fs::write(&outside, "agent_id: e\n").expect("file");
    symlink(&outside, &path).expect("link");
    assert!(matches!(open(&path), Err(StoreError::ForeignLink { .. })));
    fs::remove_file(&path).expect("removed");
    let inside = folder.path().join("real.yaml");
    fs::write(&inside, "agent_id: f\n").expect("file");
    symlink(&inside, &path).expect("link");
    let store = open(&path).expect("store");
    assert_eq!(store.identity(), named("f"));
    store.save(&named("g")).expect("saved");
    assert!(fs::symlink_metadata(&path).expect("link").is_symlink());
    assert!(
        fs::read_to_string(&inside)
            .expect("text")
            .contains("agent_id: g")
    );
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let (_folder, path) = folder();
    fs::write(&path, "agent_id: h\n").expect("file");
    // Only root can give a file away; others can't have this test.
    if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
        assert!(matches!(open(&path), Err(StoreError::ForeignOwner { .. })));
    }
}

#[test]
fn a_folder_or_an_endless_file_is_no_state() {
    let (_folder, path) = folder();
    fs::create_dir(&path).expect("folder");
    assert!(open(&path).is_err());
    let (_folder, path) = folder();
    let big = File::create(&path).expect("file");
    big.set_len(MAX_FILE + 1).expect("sparse");
    assert_eq!(
        open(&path).expect("put aside").identity(),
        Identity::default()
    );
}

#[test]
fn a_failed_write_keeps_the_identity_in_memory() {
    let (folder, _) = folder();
    let path = folder.path().join("sub/state.yaml");
    let store = open(&path).expect("store");
    fs::remove_dir_all(folder.path().join("sub")).expect("removed");
    assert!(store.save(&named("i")).is_err());
    assert_eq!(store.identity(), named("i"));
}

#[test]
fn earlier_state_is_imported_once() {
    let (folder, path) = folder();
    let root = tempfile::tempdir().expect("folder");
    let old = root.path().join("var/lib/pipeops");
    fs::create_dir_all(&old).expect("folder");
    fs::write(old.join("agent-state.yaml"), "agent_id: old\n").expect("file");
    let open = || FileStore::open_importing(&path, root.path(), folder.path()).expect("store");
    assert_eq!(open().identity(), named("old"));
    fs::write(old.join("agent-state.yaml"), "agent_id: newer\n").expect("file");
    assert_eq!(open().identity(), named("old"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_content_opens(content: Vec<u8>) {
        let (_folder, path) = folder();
        fs::write(&path, &content).expect("file");
        let store = open(&path).expect("store");
        store.save(&named("j")).expect("saved");
        prop_assert_eq!(store.identity().agent_id, Some("j".to_owned()));
    }
}
