//! What a file may say, and how it is refused.

use proptest::prelude::*;

use super::*;

#[test]
fn everything_that_a_rule_can_say() {
    let rules = parse(
        "mode: dry-run\nrules:\n- name: databases\n  action: allow\n  namespaces: [data, 'team-*']\n  services: [\"postgres*\"]\n  ports: [5432, '6000-6010']\n  protocol: tcp\n  addresses: [10.0.0.0/8, fd00::/8]\n  external_names: ['*.example.test']\n- action: deny\n",
    )
    .expect("good");
    assert!(rules.dry_run);
    let [first, second] = &rules.rules[..] else {
        panic!("{rules:?}");
    };
    assert_eq!(first.name, "rule 1 (databases)");
    assert_eq!((first.action, second.action), (Action::Allow, Action::Deny));
    assert_eq!(first.ports, [5432..=5432, 6000..=6010]);
    assert_eq!((first.namespaces.len(), first.addresses.len()), (2, 2));
    assert_eq!(second.name, "rule 2");
    assert!(second.services.is_empty() && second.protocol.is_none());
}

#[test]
fn no_rules_are_a_policy_too() {
    for text in ["rules: []", "rules:"] {
        assert!(parse(text).expect("good").rules.is_empty());
    }
}

#[test]
fn mistakes_are_errors_with_their_line() {
    for (text, line, part) in [
        (
            "rules:\n- action: allow\n  port: [1]\n",
            3,
            "unknown field `port`",
        ),
        ("mode: on\nrules: []\n", 1, "neither enforce"),
        ("rulez: []\n", 1, "unknown field `rulez`"),
        ("rules:\n- action: permit\n", 2, "neither allow nor deny"),
        ("rules:\n- services: [a]\n", 2, "missing field `action`"),
        (
            "rules:\n- action: allow\n  ports:\n  - 1\n  - 0\n",
            5,
            "neither a port",
        ),
        (
            "rules:\n- action: allow\n  ports: [70000]\n",
            3,
            "neither a port",
        ),
        (
            "rules:\n- action: allow\n  ports: [9-1]\n",
            3,
            "neither a port",
        ),
        ("rules:\n- action: allow\n  ports: [-1]\n", 3, "port"),
        (
            "rules:\n- action: allow\n  ports: 80\n",
            3,
            "expected a list",
        ),
        ("rules:\n- action: allow\n  ports: []\n", 3, "empty"),
        (
            "rules:\n- action: allow\n  addresses: [10.1.2.3/8]\n",
            3,
            "behind the block",
        ),
        (
            "rules:\n- action: allow\n  services: ['a/b']\n",
            3,
            "no pattern",
        ),
        (
            "rules:\n- action: allow\n  services: [true]\n",
            3,
            "pattern",
        ),
        ("rules:\n- action: allow\n  protocol: sctp\n", 3, "neither"),
        (
            "rules:\n- action: allow\n  action: deny\n",
            2,
            "duplicate field",
        ),
        ("rules:\n  - action: [\n", 2, "expected allow or deny"),
    ] {
        let error = parse(text).map(|_| ()).expect_err(text);
        assert!(
            error.starts_with(&format!("line {line}: ")),
            "{text}: {error}"
        );
        assert!(error.contains(part), "{text}: {error}");
    }
    for text in ["", "- a", "5", "mode: enforce"] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    let many = "- action: deny\n".repeat(MAX_ENTRIES + 1);
    assert!(parse(&format!("rules:\n{many}")).is_err());
}

#[test]
fn a_folder_a_large_file_and_none_are_errors() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("policy.yaml");
    assert!(matches!(read(&path), Err(PolicyError::Read { .. })));
    assert!(matches!(read(folder.path()), Err(PolicyError::Read { .. })));
    fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).expect("written");
    assert!(matches!(read(&path), Err(PolicyError::Read { .. })));
    fs::write(&path, "rules: [").expect("written");
    let error = read(&path).expect_err("broken").to_string();
    assert!(error.contains("policy.yaml: line "), "{error}");
}

proptest! {
    #[test]
    fn any_text_is_rules_or_an_error(
        text in "((mode|rules|- action|  ports|  services|allow|- |: |\\[|\\]|[a-z0-9.*/-]{1,4}|\n){1,3}){0,12}"
    ) {
        let _ = parse(&text);
    }
}
