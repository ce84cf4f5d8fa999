//! The file, and how it is read again.

use std::fs;
use std::path::Path;

use super::*;

fn open(path: &Path) -> Result<Policy, PolicyError> {
    Policy::open(Settings {
        file: Some(path.to_owned()),
        ..Settings::default()
    })
}

#[test]
fn a_policy_that_cannot_be_read_is_no_policy_to_start_with() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("policy.yaml");
    open(&path).expect_err("there is none");
    fs::write(&path, "rules: [{action: allow, prots: [1]}]").expect("written");
    let error = open(&path).expect_err("a typing error").to_string();
    assert!(
        error.contains("line 1: ") && error.contains("prots"),
        "{error}"
    );
}

#[test]
fn a_reload_swaps_the_rules_and_a_broken_file_keeps_the_old_ones() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("policy.yaml");
    fs::write(&path, "rules: [{action: allow, services: [a]}]").expect("written");
    let policy = open(&path).expect("good");
    let allows = |name| policy.by_name(&service("n", name, 1)).allowed;
    assert!(allows("a") && !allows("b"));
    fs::write(&path, "rules: [{action: allow, services: [b, c]}]").expect("written");
    policy.reload_if_changed();
    assert!(!allows("a") && allows("b"));
    fs::write(&path, "rules: [").expect("written");
    policy.reload().expect_err("broken");
    assert!(!allows("a") && allows("b"));
    fs::remove_file(&path).expect("removed");
    policy.reload_if_changed();
    assert!(!allows("a") && allows("b"), "no file doesn't mean no rules");
    fs::write(&path, "rules: [{action: allow, services: [a]}]").expect("written");
    policy.reload_if_changed();
    assert!(allows("a") && !allows("b"));
}

#[test]
fn a_replaced_file_is_noticed() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("policy.yaml");
    fs::write(&path, "rules: []").expect("written");
    let policy = Arc::new(open(&path).expect("good"));
    let watch = Watch::start(policy.clone(), std::time::Duration::from_millis(1)).expect("thread");
    let new = folder.path().join("new");
    fs::write(&new, "rules: [{action: allow}]").expect("written");
    fs::rename(&new, &path).expect("replaced");
    while !policy.by_name(&service("a", "b", 1)).allowed {
        std::thread::yield_now();
    }
    drop(watch);
    assert_eq!(Arc::strong_count(&policy), 1, "the thread has ended");
}

/// The examples of the documentation are what it says they are.
#[test]
fn the_documented_examples_are_read() {
    let page = include_str!("../../../../docs/tunnel-policy.md");
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("an end"))
        .collect();
    assert!(!examples.is_empty());
    for example in &examples {
        file::parse(example).expect(example);
    }
    let policy = with_rules(examples[0]);
    assert!(passes(
        &policy,
        &service("databases", "postgres", 5432),
        "10.0.0.1"
    ));
    assert!(!passes(
        &policy,
        &service("databases", "postgres", 22),
        "10.0.0.1"
    ));
    assert!(!passes(
        &policy,
        &service("kube-system", "web", 443),
        "10.0.0.1"
    ));
    assert!(passes(&policy, &service("team-a", "web", 443), "10.0.0.1"));
    assert!(!passes(
        &policy,
        &service("team-a", "web", 443),
        "10.99.0.1"
    ));
}
