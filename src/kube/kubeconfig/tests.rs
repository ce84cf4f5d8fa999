//! What kubeconfig files may say.

use proptest::prelude::*;

use super::*;

fn write(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("write");
    path
}

fn load(text: &str) -> Result<Credentials, KubeError> {
    let dir = tempfile::tempdir().expect("dir");
    let explicit = Some(write(&dir, "config", text));
    Search {
        explicit,
        ..Search::default()
    }
    .load()
    .map(|found| found.expect("there is a file"))
}

fn config(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u, namespace: n}}\n\
         clusters:\n- name: k\n  cluster: {cluster}\nusers:\n- name: u\n  user: {user}\n"
    )
}

#[test]
fn a_token_and_a_ca_given_as_data() {
    let text = config(
        "{server: 'https://10.0.0.1:6443/base/', certificate-authority-data: 'aGk='}",
        "{token: t0k3n}",
    );
    let credentials = load(&text).expect("valid");
    assert_eq!(credentials.server.endpoint.host, "10.0.0.1");
    assert_eq!(credentials.server.endpoint.port, 6443);
    assert_eq!(credentials.server.base, "/base");
    assert!(matches!(credentials.ca, Some(Material::Pem(pem)) if pem == b"hi"));
    assert!(matches!(credentials.auth, Auth::Token(token) if token.expose() == "t0k3n"));
}

#[test]
fn files_are_relative_to_the_kubeconfig() {
    let dir = tempfile::tempdir().expect("dir");
    let text = config(
        "{server: 'https://h', certificate-authority: pki/ca.crt, tls-server-name: kube, proxy-url: 'http://p:3128'}",
        "{client-certificate: c.crt, client-key: /abs/c.key, tokenFile: tok}",
    );
    let explicit = Some(write(&dir, "config", &text));
    let got = Search {
        explicit,
        ..Search::default()
    }
    .load()
    .expect("valid")
    .expect("found");
    assert!(
        matches!(&got.ca, Some(Material::File(path)) if *path == dir.path().join("pki/ca.crt"))
    );
    let Some((Material::File(certificate), Material::File(key))) = &got.client else {
        panic!()
    };
    assert_eq!(certificate, &dir.path().join("c.crt"));
    assert_eq!(key, Path::new("/abs/c.key"));
    assert!(matches!(&got.auth, Auth::TokenFile(path) if *path == dir.path().join("tok")));
    assert_eq!(got.server_name.as_deref(), Some("kube"));
    assert_eq!(got.proxy.as_deref(), Some("http://p:3128"));
    assert!(!got.insecure);
    assert_eq!(got.server.endpoint.port, 443);
}

#[test]
fn several_files_are_merged_and_the_first_wins() {
    let dir = tempfile::tempdir().expect("dir");
    let one = write(
        &dir,
        "1",
        "current-context: b\nclusters: [{name: k, cluster: {server: 'https://one'}}]\n",
    );
    let two = write(
        &dir,
        "2",
        "current-context: a\nclusters: [{name: k, cluster: {server: 'https://two'}}]\n\
         contexts: [{name: b, context: {cluster: k}}, {name: a, context: {cluster: missing}}]\nusers: null\n",
    );
    let list = format!("{}:/nowhere/at/all::{}", one.display(), two.display());
    let search = Search {
        environment: Some(list),
        ..Search::default()
    };
    let got = search.load().expect("valid").expect("found");
    assert_eq!(got.server.endpoint.host, "one");
    assert!(matches!(got.auth, Auth::None));
    let other = Search {
        context: Some("a".into()),
        ..search
    };
    assert!(
        other
            .load()
            .expect_err("no such cluster")
            .to_string()
            .contains("missing")
    );
}

#[test]
fn what_is_wrong_is_said() {
    for (text, words) in [
        (
            config("{server: 'https://h'}", "{auth-provider: {name: gcp}}"),
            "gcp",
        ),
        (
            config("{server: 'https://h'}", "{client-certificate: a}"),
            "client-key",
        ),
        (config("{server: 'ftp://h'}", "{}"), "ftp"),
        (config("{}", "{}"), "server"),
        (
            config(
                "{server: 'https://h', certificate-authority-data: '!!'}",
                "{}",
            ),
            "certificate-authority-data",
        ),
        (
            config(
                "{server: 'https://h'}",
                "{exec: {apiVersion: v0, command: x}}",
            ),
            "v0",
        ),
        (
            config(
                "{server: 'https://h'}",
                "{exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}}",
            ),
            "Always",
        ),
        (
            config(
                "{server: 'https://h', insecure-skip-tls-verify: true, certificate-authority-data: 'aGk='}",
                "{}",
            ),
            "insecure-skip-tls-verify",
        ),
        ("a: [".to_owned(), "line"),
        ("{}".to_owned(), "current-context"),
    ] {
        let error = load(&text).expect_err(words).to_string();
        assert!(error.contains(words), "{error:?} doesn't say {words:?}");
    }
    let missing = Search {
        explicit: Some("/nowhere/config".into()),
        ..Search::default()
    };
    assert!(
        missing
            .load()
            .expect_err("named but missing")
            .to_string()
            .contains("/nowhere/config")
    );
}

#[test]
fn no_kubeconfig_is_none() {
    let dir = tempfile::tempdir().expect("dir");
    let list = dir.path().join("none").display().to_string();
    let search = Search {
        environment: Some(list),
        ..Search::default()
    };
    assert!(search.load().expect("not an error").is_none());
    let named = Search {
        context: Some("prod".to_owned()),
        ..search
    };
    assert!(named.load().is_err(), "a context of no file");
}

#[test]
fn exec_plugins() {
    let text = config(
        "{server: 'https://h', extensions: [{name: other, extension: 1}, {name: client.authentication.k8s.io/exec, extension: {audience: a}}]}",
        "{exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: IfAvailable, command: get-token, args: [a, b], env: [{name: X, value: '1'}], provideClusterInfo: true}}",
    );
    let Auth::Exec(plugin) = load(&text).expect("valid").auth else {
        panic!()
    };
    assert_eq!(plugin.command, Path::new("get-token"));
    assert_eq!(plugin.args, ["a", "b"]);
    assert_eq!(plugin.env, [("X".to_owned(), "1".to_owned())]);
    let cluster = plugin.cluster.expect("asked for");
    assert_eq!(cluster.server, "https://h");
    assert_eq!(cluster.config.expect("an extension")["audience"], "a");
    // kubectl asks a plug-in only where nothing else is given.
    let text = text.replace("{exec", "{token: t, exec");
    assert!(matches!(load(&text).expect("valid").auth, Auth::Token(_)));
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(text in ".*") {
        let _ = load(&text);
    }
}
