use proptest::prelude::*;

use super::*;

fn document(text: &str) -> Document {
    read(Path::new("config.yaml"), text, &|_| None).expect("readable")
}

fn text(value: &str) -> Input {
    Input::Text(value.to_owned())
}

#[test]
fn sections_are_found_in_any_case_and_labels_keep_theirs() {
    let out = document(
        "Agent:\n  Cluster_Name: Prod\n  labels:\n    App.Kubernetes.io/Name: X\n    version: 1.10\n    flag: True\n    n: 0755\n    empty:\n",
    );
    assert_eq!(out.values["agent.cluster_name"], text("Prod"));
    let Some(Input::Map(labels)) = out.values.get("agent.labels") else {
        panic!("{out:?}");
    };
    assert_eq!(labels["App.Kubernetes.io/Name"], "X");
    assert_eq!(labels["version"], "1.10");
    assert_eq!(labels["flag"], "True");
    assert_eq!(labels["n"], "0755");
    assert_eq!(labels["empty"], "");
}

#[test]
fn a_number_where_text_is_meant_stays_as_written() {
    let out = document(
        "agent: {cluster_name: 1e3, port: 9090}\npipeops: {token: 0123456789012345678901}",
    );
    assert_eq!(out.values["agent.cluster_name"], text("1e3"));
    assert_eq!(out.values["agent.port"], text("9090"));
    assert_eq!(out.values["pipeops.token"], text("0123456789012345678901"));
}

#[test]
fn unknown_keys_are_named_by_their_path() {
    let out = document("agent: {prot: 1}\nsecurity: {tls: {x: 1}}\n");
    assert_eq!(out.unknown, ["agent.prot", "security"]);
    assert!(out.problems.is_empty());
}

#[test]
fn empty_files_sections_and_values_are_nothing() {
    for text in [
        "",
        "---\n",
        "# nothing\n",
        "agent:\n",
        "agent: {port: , id: ''}\n",
    ] {
        let out = document(text);
        assert!(out.values.is_empty() && out.problems.is_empty(), "{text:?}");
    }
}

#[test]
fn the_wrong_shape_is_a_problem() {
    for text in [
        "agent: 5",
        "agent: [1]",
        "agent: {port: [1]}",
        "agent: {port: {x: 1}}",
        "agent: {labels: {a: [1]}}",
        "agent: {Port: 1, port: 2}",
        "? [1]\n: x",
    ] {
        assert!(!document(text).problems.is_empty(), "{text:?}");
    }
}

#[test]
fn syntax_errors_have_line_and_column() {
    for (name, text, place) in [
        ("a.yaml", "agent:\n  port: 1\n bad: [\n", "a.yaml:"),
        ("a.yaml", "agent: {port: 1}\nagent: {port: 2}\n", "a.yaml:"),
        ("b.json", "{\n  \"agent\": }", "b.json:2:12: "),
        ("c.yaml", "- a\n- b\n", "c.yaml:1:1: "),
    ] {
        let error = read(Path::new(name), text, &|_| None).expect_err(text);
        assert!(error.starts_with(place), "{error}");
        let mut parts = error.splitn(4, ':').skip(1);
        for _ in 0..2 {
            let number = parts.next().expect("a number");
            assert!(number.parse::<u32>().is_ok(), "{error}");
        }
    }
}

#[test]
fn other_formats_are_refused_by_name() {
    let error = read(Path::new("x.toml"), "a = 1", &|_| None).expect_err("refused");
    assert!(error.contains("YAML and JSON"), "{error}");
}

#[test]
fn merge_keys_and_json_work() {
    let out = document("x-base: &b {port: 7}\nagent:\n  <<: *b\n");
    assert_eq!(out.values["agent.port"], text("7"));
    let out = read(
        Path::new("c.json"),
        "{\n\t\"agent\": {\"port\": 7, \"labels\": {\"a\": \"b\"}}}",
        &|_| None,
    )
    .expect("readable");
    assert_eq!(out.values["agent.port"], text("7"));
}

#[test]
fn variables_expand_in_values_only() {
    let var = |name: &str| (name == "X").then(|| "y".to_owned());
    let out = read(
        Path::new("c.yaml"),
        "agent: {cluster_name: 'a-${X}', id: '${NOPE}', '${X}': 1}",
        &var,
    )
    .expect("readable");
    assert_eq!(out.values["agent.cluster_name"], text("a-y"));
    assert!(!out.values.contains_key("agent.id"));
    assert_eq!(out.undefined, [("agent.id", "NOPE".to_owned())]);
    assert_eq!(out.unknown, ["agent.${x}"]);
}

#[test]
fn an_alias_bomb_is_refused_and_not_unfolded() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let row = vec![below; 10].join(",");
        text.extend([&format!("a{level}: &a{level} [{row}]"), "\n"]);
    }
    assert!(read(Path::new("bomb.yaml"), &text, &|_| None).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
        let _ = read(Path::new("x.yaml"), &text, &|_| None);
        let _ = read(Path::new("x.json"), &text, &|_| None);
    }

    #[test]
    fn anything_like_yaml_is_read_without_a_panic(
        text in "([ ]{0,4}(agent|pipeops|labels|port|token|a|<<|- |\\? )?[:\\[\\]{},&*!|>'\"#%@0-9a-z~ \\-]{0,8}\n){0,8}"
    ) {
        let _ = read(Path::new("x.yaml"), &text, &|_| None);
    }
}
