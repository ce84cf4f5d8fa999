//! Credential plug-ins: a command that prints an `ExecCredential`.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Secret;
use super::credentials::Material;
use crate::net::PemSource;
use crate::threads::{self, Stack};

/// An `exec` credential plug-in of a kubeconfig.
#[derive(Clone, Debug)]
pub struct ExecPlugin {
    pub api_version: String,
    pub command: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// What it is told of the cluster (`provideClusterInfo`).
    pub cluster: Option<ClusterInfo>,
}

/// `spec.cluster` of an `ExecCredential`.
#[derive(Clone, Debug, Default)]
pub struct ClusterInfo {
    pub server: String,
    pub ca: Option<Material>,
    pub insecure: bool,
    pub server_name: Option<String>,
    pub proxy: Option<String>,
    /// The cluster's extension `client.authentication.k8s.io/exec`.
    pub config: Option<Value>,
}

/// What a plug-in yields: a token, a client certificate, or both.
#[derive(Debug)]
pub(super) struct ExecCredential {
    pub(super) token: Option<Secret>,
    /// Certificate and key.
    pub(super) client: Option<(PemSource, PemSource)>,
    /// Time left until it expires; `None`: it doesn't, for this process.
    pub(super) expires_in: Option<Duration>,
}

/// Runs the plug-in, at most [`LIMIT`] long, reading at most [`MAX_OUTPUT`] bytes.
/// Its standard error goes to ours, where the operator looks. The error says why
/// there is no credential.
pub(super) fn run(plugin: &ExecPlugin) -> Result<ExecCredential, String> {
    run_within(plugin, LIMIT)
}

fn run_within(plugin: &ExecPlugin, limit: Duration) -> Result<ExecCredential, String> {
    let mut child = Command::new(&plugin.command)
        .args(&plugin.args)
        .envs(plugin.env.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", exec_info(plugin)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let until = Instant::now() + limit;
    let output = read_within(&mut child, limit);
    if output.is_err() {
        // Too late, or too much: nothing it still says counts.
        let _ = child.kill();
    }
    let status = end_within(&mut child, until).map_err(|error| error.to_string())?;
    let output = output?;
    if !status.success() {
        return Err(format!("{status}; its messages are above"));
    }
    parse(&output, &plugin.api_version, jiff::Timestamp::now())
}

fn read_within(child: &mut Child, limit: Duration) -> Result<Vec<u8>, String> {
    let stdout = child.stdout.take().ok_or("no output")?;
    let (send, receive) = mpsc::sync_channel(1);
    threads::spawn("kube-exec", Stack::Work, move || {
        let mut output = Vec::new();
        let read = stdout
            .take(MAX_OUTPUT + 1)
            .read_to_end(&mut output)
            .map(|_| output);
        // Nobody waits any more after the limit.
        let _ = send.send(read);
    })
    .map_err(|e| e.to_string())?;
    match receive.recv_timeout(limit) {
        Err(_) => Err(format!("no credential within {limit:?}")),
        Ok(Err(e)) => Err(e.to_string()),
        Ok(Ok(output)) if output.len() as u64 > MAX_OUTPUT => {
            Err(format!("it printed more than {MAX_OUTPUT} bytes"))
        }
        Ok(Ok(output)) => Ok(output),
    }
}

/// A plug-in may close its output and stay: it is ended at the limit too, because
/// everybody who needs the credential waits for it.
fn end_within(child: &mut Child, until: Instant) -> io::Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn exec_info(plugin: &ExecPlugin) -> Result<String, String> {
    let mut spec = json!({ "interactive": false });
    if let Some(info) = &plugin.cluster {
        let mut cluster = json!({ "server": info.server });
        if let Some(ca) = &info.ca {
            let pem = ca.read().map_err(|error| error.to_string())?;
            let pem = base64_simd::STANDARD.encode_to_string(pem);
            cluster["certificate-authority-data"] = pem.into();
        }
        if info.insecure {
            cluster["insecure-skip-tls-verify"] = true.into();
        }
        if let Some(name) = &info.server_name {
            cluster["tls-server-name"] = name.as_str().into();
        }
        if let Some(url) = &info.proxy {
            cluster["proxy-url"] = url.as_str().into();
        }
        if let Some(config) = &info.config {
            cluster["config"] = config.clone();
        }
        spec["cluster"] = cluster;
    }
    let info = json!({ "apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec });
    Ok(info.to_string())
}

fn parse(output: &[u8], api_version: &str, now: jiff::Timestamp) -> Result<ExecCredential, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Output {
        api_version: Option<String>,
        kind: Option<String>,
        status: Option<Status>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        token: Option<String>,
        expiration_timestamp: Option<String>,
        client_certificate_data: Option<String>,
        client_key_data: Option<String>,
    }
    // serde's own messages may quote the input, which is a secret here.
    let output: Output = serde_json::from_slice(output).map_err(|e| {
        format!(
            "its output is no ExecCredential (line {}, column {})",
            e.line(),
            e.column()
        )
    })?;
    if output.kind.as_deref() != Some("ExecCredential")
        || output.api_version.as_deref() != Some(api_version)
    {
        return Err(format!("its output is no ExecCredential of {api_version}"));
    }
    let status = output.status.ok_or("its output has no status")?;
    let expires_in = match status.expiration_timestamp {
        None => None,
        Some(text) => {
            let time: jiff::Timestamp = text
                .parse()
                .map_err(|_| "expirationTimestamp is no RFC 3339 time".to_owned())?;
            Some(Duration::try_from(time.duration_since(now)).unwrap_or(Duration::ZERO))
        }
    };
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let token = given(status.token);
    if token
        .as_ref()
        .is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err("its token has characters that no header can carry".to_owned());
    }
    let pem = |name: &str, text: String| PemSource::Given {
        name: format!("{name} of the exec plug-in"),
        pem: text.into_bytes(),
    };
    let client = match (
        given(status.client_certificate_data),
        given(status.client_key_data),
    ) {
        (Some(certificate), Some(key)) => Some((
            pem("clientCertificateData", certificate),
            pem("clientKeyData", key),
        )),
        (None, None) => None,
        _ => return Err("it yields only one of a client certificate and its key".to_owned()),
    };
    if token.is_none() && client.is_none() {
        return Err("it yields neither a token nor a client certificate".to_owned());
    }
    Ok(ExecCredential {
        token: token.map(Secret::new),
        client,
        expires_in,
    })
}

/// Plug-ins that ask a cloud take a few seconds; one that waits for a person never ends.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
const MAX_OUTPUT: u64 = 1 << 20;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    const V1: &str = "client.authentication.k8s.io/v1";

    pub(in crate::kube) fn plugin(script: &str) -> ExecPlugin {
        ExecPlugin {
            api_version: V1.to_owned(),
            command: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec![("TOKEN".to_owned(), "t1".to_owned())],
            cluster: Some(ClusterInfo {
                server: "https://h:6443".to_owned(),
                ca: Some(Material::Pem(b"hi".to_vec())),
                server_name: Some("kube".to_owned()),
                config: Some(json!({"audience": "a"})),
                ..ClusterInfo::default()
            }),
        }
    }

    #[test]
    fn a_plugin_gets_its_environment_and_yields_a_token() {
        let script = format!(
            r#"for part in '"server":"https://h:6443"' '"certificate-authority-data":"aGk="' \
                 '"tls-server-name":"kube"' '"config":{{"audience":"a"}}' '"interactive":false'; do
                 case "$KUBERNETES_EXEC_INFO" in *"$part"*) ;; *) exit 3;; esac
               done
               echo '{{"apiVersion":"{V1}","kind":"ExecCredential","status":{{"token":"'$TOKEN'"}}}}'"#
        );
        let got = run(&plugin(&script)).expect("a credential");
        assert_eq!(got.token.expect("a token").expose(), "t1");
        assert_eq!(got.expires_in, None);
    }

    #[test]
    fn what_goes_wrong_is_said_and_never_the_token() {
        for (script, words) in [
            ("exit 7", "7"),
            ("echo '{'", "no ExecCredential"),
            ("echo '{\"secret-token\"}'", "no ExecCredential"),
            ("head -c 2000000 /dev/zero", "more than"),
        ] {
            let error = run(&plugin(script)).expect_err(words);
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("secret-token"));
        }
        let missing = ExecPlugin {
            command: "/nowhere/plugin".into(),
            ..plugin("")
        };
        run(&missing).expect_err("missing");
    }

    #[test]
    fn tokens_and_client_certificates() {
        let now = jiff::Timestamp::now();
        let yields = |status: Value| {
            let output = json!({"apiVersion": V1, "kind": "ExecCredential", "status": status});
            parse(output.to_string().as_bytes(), V1, now)
        };
        let both = json!({"clientCertificateData": "C", "clientKeyData": "geheim"});
        let got = yields(both).expect("a certificate");
        assert!(got.token.is_none() && got.client.is_some());
        assert!(!format!("{got:?}").contains("geheim"));
        for bad in [
            json!({}),
            json!({"token": ""}),
            json!({"clientCertificateData": "C"}),
            json!({"token": "t", "clientKeyData": "geheim"}),
            json!({"token": "a\nb"}),
        ] {
            let error = yields(bad).expect_err("refused");
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    /// It used to be waited for without a limit, with the lock of the credential
    /// held: no request got any further.
    #[test]
    fn a_plugin_that_closes_its_output_and_stays_is_ended() {
        let plugin = plugin("exec >&- 2>&-; exec sleep 1000");
        let limit = Duration::from_millis(200);
        let error = run_within(&plugin, limit).expect_err("it was killed");
        // A shell that is slow to start hasn't closed anything by then.
        let slow = error.contains("no credential within");
        assert!(error.contains("signal") || slow, "{error}");
    }

    proptest! {
        /// Whatever it prints: a token that a header can carry, or a reason that
        /// shows nothing of what it printed.
        #[test]
        fn any_output_is_a_usable_token_or_a_reason_without_it(
            status in prop_oneof![
                testing::object(&[
                    "token", "expirationTimestamp", "clientCertificateData", "clientKeyData",
                ]),
                testing::text().prop_map(|token| [("token".to_owned(), token.into())].into_iter().collect()),
            ],
            fields in testing::object(&["apiVersion", "kind", "status", "spec"]),
            usual in any::<bool>(),
            cut in 0usize..400,
        ) {
            let mut output = fields;
            if usual {
                output.insert("apiVersion".to_owned(), V1.into());
                output.insert("kind".to_owned(), "ExecCredential".into());
                output.insert("status".to_owned(), status.clone().into());
            }
            let text = Value::Object(output).to_string();
            let now = jiff::Timestamp::now();
            let bytes = text.as_bytes();
            for bytes in [bytes, &bytes[..cut.min(bytes.len())]] {
                match parse(bytes, V1, now) {
                    Ok(ExecCredential { token: Some(token), .. }) => {
                        assert!(!token.expose().is_empty());
                        assert!(token.expose().bytes().all(|b| b.is_ascii_graphic()));
                        assert_eq!(status["token"], token.expose());
                    }
                    Ok(credential) => {
                        assert!(credential.client.is_some(), "neither of the two");
                    }
                    Err(why) => {
                        let token = status.get("token").and_then(|t| t.as_str());
                        let shown = token.filter(|t| t.len() > 20).is_some_and(|t| why.contains(t));
                        assert!(!shown && why.len() < 200, "{why}");
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_a_credential_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, V1, jiff::Timestamp::now());
        }
    }

    #[test]
    fn expiry_counts_from_now() {
        let now: jiff::Timestamp = "2026-03-01T10:00:00Z".parse().expect("a time");
        let output = |time: &str| {
            format!(
                r#"{{"apiVersion":"{V1}","kind":"ExecCredential","status":{{"token":"t","expirationTimestamp":"{time}"}}}}"#
            )
        };
        let left = |time: &str| {
            parse(output(time).as_bytes(), V1, now)
                .expect("valid")
                .expires_in
        };
        assert_eq!(left("2026-03-01T10:01:00Z"), Some(Duration::from_secs(60)));
        assert_eq!(
            left("2026-03-01T09:00:00Z"),
            Some(Duration::ZERO),
            "expired already"
        );
        parse(output("tomorrow").as_bytes(), V1, now).expect_err("no time");
    }
}
