use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::plane::token::{Access, Scope};

fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).expect("a name")
}

fn agent(id: &str) -> AgentInfo {
    AgentInfo::new(id, "1.0", "v1.36.3", "node-1")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn open(directory: &tempfile::TempDir) -> Registry {
    Registry::open(directory.path()).expect("opens")
}

/// What a crash leaves: the file as it was after the last commit.
fn crash_copy(of: &tempfile::TempDir) -> tempfile::TempDir {
    let copy = directory();
    let file = "plane.redb";
    std::fs::copy(of.path().join(file), copy.path().join(file)).expect("copied");
    copy
}

#[test]
fn ids_and_tokens_survive_a_crash() {
    let dir = directory();
    let registry = open(&dir);
    let grant = Grant::Agent { cluster: name("a") };
    let (token, text) = registry.create_token(grant, None).expect("made");
    let secret = ServiceToken::new("svc").expect("fit");
    let cluster = registry
        .register(&name("a"), agent("agent-1"), Some(secret.clone()))
        .expect("registered");
    let copy = crash_copy(&dir);
    let after = open(&copy);
    assert_eq!(after.cluster(&name("a")), Some(cluster.clone()));
    assert_eq!(after.service_token(&cluster.id), Some(secret));
    assert_eq!(
        after.authenticate(text.reveal()).expect("known").id,
        token.id
    );
}

#[test]
fn a_registry_dropped_without_a_word_has_its_lazy_facts() {
    let dir = directory();
    let registry = open(&dir);
    registry
        .register(&name("a"), agent("agent-1"), None)
        .expect("registered");
    registry.seen(&name("a"), Some((3, 41)));
    drop(registry);
    let cluster = open(&dir).cluster(&name("a")).expect("known");
    assert_eq!((cluster.nodes, cluster.pods), (3, 41));
}

#[test]
fn a_cluster_keeps_its_id_whoever_registers_it() {
    let dir = directory();
    let registry = open(&dir);
    let first = registry
        .register(&name("a"), agent("agent-1"), None)
        .expect("new");
    assert_eq!(first.id.len(), 36);
    let again = registry
        .register(&name("a"), agent("agent-2"), None)
        .expect("known");
    assert_eq!((&again.id, again.created), (&first.id, first.created));
    assert_eq!(again.agent.id, "agent-2");
    let other = registry
        .register(&name("b"), agent("agent-1"), None)
        .expect("new");
    assert_ne!(other.id, first.id);
    assert_eq!(registry.clusters().len(), 2);
}

#[test]
fn an_agent_that_hands_over_no_token_keeps_the_one_it_handed_over() {
    let dir = directory();
    let registry = open(&dir);
    let token = |text| ServiceToken::new(text);
    let id = registry
        .register(&name("a"), agent("1"), token("old"))
        .expect("new")
        .id;
    registry
        .register(&name("a"), agent("1"), None)
        .expect("known");
    assert_eq!(registry.service_token(&id), token("old"));
    registry
        .register(&name("a"), agent("1"), token("new"))
        .expect("known");
    drop(registry);
    assert_eq!(open(&dir).service_token(&id), token("new"));
}

/// It was kept, and shown to whatever cluster that agent speaks for.
#[test]
fn another_agent_does_not_inherit_the_service_token_of_the_one_before() {
    let dir = directory();
    let registry = open(&dir);
    let token = ServiceToken::new("of the first cluster");
    let first = registry.register(&name("a"), agent("1"), token);
    let id = first.expect("new").id;
    registry
        .register(&name("a"), agent("2"), None)
        .expect("known");
    assert_eq!(registry.service_token(&id), None);
    drop(registry);
    assert_eq!(open(&dir).service_token(&id), None);
}

#[test]
fn a_revoked_token_opens_nothing_also_after_a_crash() {
    let dir = directory();
    let registry = open(&dir);
    let grant = Grant::User {
        scope: Scope::All,
        access: Access::Use,
    };
    let (token, text) = registry
        .create_token(grant, Some("me".into()))
        .expect("made");
    assert!(registry.authenticate(text.reveal()).is_some());
    assert!(registry.revoke_token("nobody").expect("written").is_none());
    let revoked = registry.revoke_token(&token.id).expect("written");
    assert_eq!(revoked.expect("known").label.as_deref(), Some("me"));
    assert!(registry.authenticate(text.reveal()).is_none());
    let copy = crash_copy(&dir);
    assert!(open(&copy).authenticate(text.reveal()).is_none());
    drop(registry);
    assert!(
        open(&dir).tokens().is_empty(),
        "a lazy write brought it back"
    );
}

#[test]
fn use_is_remembered_over_a_flush() {
    let dir = directory();
    let registry = open(&dir);
    let grant = Grant::Agent { cluster: name("a") };
    let (_, text) = registry.create_token(grant, None).expect("made");
    assert_eq!(registry.tokens()[0].last_used, None);
    registry.authenticate(text.reveal()).expect("known");
    registry.flush().expect("written");
    let copy = crash_copy(&dir);
    assert!(open(&copy).tokens()[0].last_used.is_some());
}

#[test]
fn a_second_process_is_told_that_the_database_is_in_use() {
    let dir = directory();
    let _first = open(&dir);
    let second = Registry::open(dir.path());
    assert!(matches!(second, Err(RegistryError::InUse { .. })));
}

#[test]
fn the_database_is_its_owners_alone() {
    let dir = directory();
    let inner = dir.path().join("plane");
    let _registry = Registry::open(&inner).expect("opens");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join("plane.redb")), 0o600);
}

#[test]
fn what_is_no_database_is_an_error_not_a_new_one() {
    let dir = directory();
    let path = dir.path().join("plane.redb");
    std::fs::write(&path, vec![7; 100_000]).expect("written");
    assert!(matches!(
        Registry::open(dir.path()),
        Err(RegistryError::Open { .. })
    ));
    assert_eq!(std::fs::read(&path).expect("there"), vec![7; 100_000]);
}

#[test]
fn no_secret_is_stored_in_the_clear_but_the_service_token() {
    let dir = directory();
    let registry = open(&dir);
    let grant = Grant::Agent { cluster: name("a") };
    let (_, text) = registry.create_token(grant, None).expect("made");
    drop(registry);
    let file = std::fs::read(dir.path().join("plane.redb")).expect("there");
    let secret = text.reveal().as_bytes();
    assert!(!file.windows(secret.len()).any(|window| window == secret));
}

#[test]
fn writers_in_parallel_lose_nothing() {
    let dir = directory();
    let registry = open(&dir);
    std::thread::scope(|scope| {
        for i in 0..8 {
            let registry = &registry;
            scope.spawn(move || {
                let cluster = name(&format!("c{i}"));
                let grant = Grant::Agent {
                    cluster: cluster.clone(),
                };
                let (_, text) = registry.create_token(grant, None).expect("made");
                registry.register(&cluster, agent("1"), None).expect("new");
                registry.authenticate(text.reveal()).expect("known");
                registry.flush().expect("written");
            });
        }
    });
    drop(registry);
    let after = open(&dir);
    assert_eq!((after.clusters().len(), after.tokens().len()), (8, 8));
    assert!(after.tokens().iter().all(|token| token.last_used.is_some()));
}

/// The child of the test below: registers clusters and says so, until it is killed.
#[test]
fn child_that_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let registry = Registry::open(Path::new(&directory)).expect("opens");
    for i in 0.. {
        let cluster = name(&format!("c{i}"));
        let grant = Grant::Agent {
            cluster: cluster.clone(),
        };
        let (token, _) = registry.create_token(grant, None).expect("made");
        let id = registry
            .register(&cluster, agent("1"), None)
            .expect("new")
            .id;
        let line = format!("acknowledged {} {id}\n", token.id);
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("written");
    }
}

const CHILD: &str = "PLANE_TEST_REGISTRY";

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    use std::io::BufRead;
    let dir = directory();
    let mut acknowledged = 0;
    for round in 1..=3 {
        let mut child = std::process::Command::new(std::env::current_exe().expect("a binary"))
            .args([
                "--exact",
                "--nocapture",
                "plane::registry::tests::child_that_is_killed",
            ])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        let lines = std::io::BufReader::new(child.stderr.take().expect("piped")).lines();
        let said: Vec<String> = lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("acknowledged"))
            .take(7 * round)
            .collect();
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert_eq!(said.len(), 7 * round);
        acknowledged += said.len();
        let registry = open(&dir);
        let (clusters, tokens) = (registry.clusters(), registry.tokens());
        for line in said {
            let mut words = line.split(' ').skip(1);
            let (token, id) = (words.next().expect("token"), words.next().expect("id"));
            assert!(tokens.iter().any(|t| t.id == token));
            assert!(clusters.iter().any(|c| c.id == id));
        }
        assert!(tokens.len() >= acknowledged);
    }
}
