//! kubeconfig files: reading, merging, choosing a context.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use super::credentials::{Auth, Credentials, ExecPlugin, Material, ServerUrl};
use super::{KubeError, Secret};

/// Where to look for kubeconfig files (config-and-state.md §9.4).
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `kubernetes.kubeconfig`: this file and no other.
    pub explicit: Option<PathBuf>,
    /// The value of `KUBECONFIG`: a colon-separated list, merged, the first wins.
    pub environment: Option<String>,
    pub home: Option<PathBuf>,
    /// `kubernetes.context`; without it the file's `current-context`.
    pub context: Option<String>,
}

impl Search {
    /// The files to be merged; empty when there is none.
    fn files(&self) -> Vec<PathBuf> {
        if let Some(path) = &self.explicit {
            return vec![path.clone()];
        }
        if let Some(list) = self.environment.as_deref().filter(|list| !list.is_empty()) {
            return list
                .split(':')
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
                .collect();
        }
        let home = self.home.as_ref().map(|home| home.join(".kube/config"));
        let k3s = Some(PathBuf::from("/etc/rancher/k3s/k3s.yaml"));
        let readable = |path: &PathBuf| fs::File::open(path).is_ok();
        [home, k3s]
            .into_iter()
            .flatten()
            .find(readable)
            .into_iter()
            .collect()
    }

    /// The credentials of the chosen context; `None` when there is no kubeconfig at
    /// all. A file that was named but can't be read is an error; one of several in
    /// `KUBECONFIG` that doesn't exist is skipped, as kubectl does.
    pub fn load(&self) -> Result<Option<Credentials>, KubeError> {
        let files = self.files();
        let mut merged = Merged::default();
        let mut found = false;
        for path in &files {
            let bytes = match read_limited(path, MAX_FILE) {
                Ok(bytes) => bytes,
                Err(e) if self.explicit.is_none() && e.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                Err(cause) => {
                    return Err(KubeError::Read {
                        path: path.clone(),
                        cause,
                    });
                }
            };
            let file: File = serde_yaml::from_slice(&bytes).map_err(|cause| KubeError::Parse {
                path: path.clone(),
                cause: cause.to_string(),
            })?;
            merged.add(file, path.parent().unwrap_or(Path::new("")));
            found = true;
        }
        if !found {
            if !files.is_empty() {
                log::warn!("KUBECONFIG names no file that exists: {files:?}");
            }
            return match &self.context {
                // Whoever names a context means a cluster, not a plain machine.
                Some(name) => Err(KubeError::Missing {
                    what: "context",
                    name: name.clone(),
                    known: String::new(),
                }),
                None => Ok(None),
            };
        }
        merged.credentials(self.context.as_deref()).map(Some)
    }
}

#[derive(Default)]
struct Merged {
    current: Option<String>,
    contexts: BTreeMap<String, Context>,
    clusters: BTreeMap<String, (Cluster, PathBuf)>,
    users: BTreeMap<String, (User, PathBuf)>,
}

impl Merged {
    fn add(&mut self, file: File, dir: &Path) {
        if self.current.is_none() {
            self.current = file.current_context.filter(|name| !name.is_empty());
        }
        for Named { name, body } in file.contexts.unwrap_or_default() {
            self.contexts.entry(name).or_insert(body.context);
        }
        for Named { name, body } in file.clusters.unwrap_or_default() {
            self.clusters
                .entry(name)
                .or_insert_with(|| (body.cluster, dir.to_owned()));
        }
        for Named { name, body } in file.users.unwrap_or_default() {
            self.users
                .entry(name)
                .or_insert_with(|| (body.user, dir.to_owned()));
        }
    }

    fn credentials(self, wanted: Option<&str>) -> Result<Credentials, KubeError> {
        let name = wanted
            .or(self.current.as_deref())
            .ok_or(KubeError::NoContext)?;
        let context = self.contexts.get(name).ok_or_else(|| KubeError::Missing {
            what: "context",
            name: name.to_owned(),
            known: self.contexts.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let missing = |what, name: &str| KubeError::Missing {
            what,
            name: name.to_owned(),
            known: String::new(),
        };
        let (cluster, cluster_dir) = self
            .clusters
            .get(&context.cluster)
            .ok_or_else(|| missing("cluster", &context.cluster))?;
        let anonymous = (User::default(), PathBuf::new());
        let (user, user_dir) = match context.user.as_deref().filter(|user| !user.is_empty()) {
            None => &anonymous,
            Some(user) => self.users.get(user).ok_or_else(|| missing("user", user))?,
        };
        let server = cluster
            .server
            .as_deref()
            .filter(|server| !server.is_empty());
        let server = server.ok_or_else(|| missing("server of cluster", &context.cluster))?;
        let ca = material(
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
            cluster_dir,
            "certificate-authority-data",
        )?;
        let client_certificate = material(
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
            user_dir,
            "client-certificate-data",
        )?;
        let client_key = material(
            user.client_key_data.as_deref(),
            user.client_key.as_deref(),
            user_dir,
            "client-key-data",
        )?;
        let client = match (client_certificate, client_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(KubeError::HalfACertificate),
        };
        Ok(Credentials {
            server: ServerUrl::parse(server)?,
            ca,
            insecure: cluster.insecure_skip_tls_verify.unwrap_or(false),
            server_name: cluster
                .tls_server_name
                .clone()
                .filter(|name| !name.is_empty()),
            proxy: cluster.proxy_url.clone().filter(|url| !url.is_empty()),
            client,
            auth: user.auth(user_dir)?,
        })
    }
}

impl User {
    /// What goes into `Authorization`; certificates are apart from it.
    fn auth(&self, dir: &Path) -> Result<Auth, KubeError> {
        if let Some(provider) = &self.auth_provider {
            let name = provider.name.clone().unwrap_or_default();
            return Err(KubeError::AuthProvider { name });
        }
        // As kubectl: a token file wins over a token, because it is read again, and
        // both over a plug-in.
        if let Some(file) = self.token_file.as_deref().filter(|file| !file.is_empty()) {
            return Ok(Auth::TokenFile(dir.join(file)));
        }
        if let Some(token) = self.token.as_deref().filter(|token| !token.is_empty()) {
            return Ok(Auth::Token(Secret::new(token)));
        }
        if let Some(exec) = &self.exec {
            return exec.plugin(dir).map(Auth::Exec);
        }
        if let Some(username) = self.username.as_deref().filter(|name| !name.is_empty()) {
            let password = Secret::new(self.password.as_deref().unwrap_or_default());
            return Ok(Auth::Basic {
                username: username.to_owned(),
                password,
            });
        }
        Ok(Auth::None)
    }
}

impl Exec {
    fn plugin(&self, dir: &Path) -> Result<ExecPlugin, KubeError> {
        let api_version = self.api_version.clone().unwrap_or_default();
        if !matches!(
            api_version.as_str(),
            "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1"
        ) {
            return Err(KubeError::ExecVersion {
                version: api_version,
            });
        }
        let command = self.command.clone().unwrap_or_default();
        if command.is_empty() {
            return Err(KubeError::ExecCommand);
        }
        // A path is relative to the file, a bare name is looked up in PATH.
        let command = if command.contains('/') {
            dir.join(command)
        } else {
            command.into()
        };
        let env = self.env.iter().flatten();
        Ok(ExecPlugin {
            api_version,
            command,
            args: self.args.clone().unwrap_or_default(),
            env: env
                .map(|variable| (variable.name.clone(), variable.value.clone()))
                .collect(),
            provide_cluster_info: self.provide_cluster_info.unwrap_or(false),
        })
    }
}

/// The data form wins over the file form; files are relative to the kubeconfig.
fn material(
    data: Option<&str>,
    file: Option<&str>,
    dir: &Path,
    field: &'static str,
) -> Result<Option<Material>, KubeError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let compact: String = data.split_ascii_whitespace().collect();
        let pem = base64_simd::STANDARD.decode_to_vec(compact);
        return pem
            .map(|pem| Some(Material::Pem(pem)))
            .map_err(|_| KubeError::Base64 { field });
    }
    Ok(file
        .filter(|file| !file.is_empty())
        .map(|file| Material::File(dir.join(file))))
}

pub(super) fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    current_context: Option<String>,
    contexts: Option<Vec<Named<ContextBody>>>,
    clusters: Option<Vec<Named<ClusterBody>>>,
    users: Option<Vec<Named<UserBody>>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct ContextBody {
    #[serde(default)]
    context: Context,
}

#[derive(Deserialize)]
struct ClusterBody {
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Deserialize)]
struct UserBody {
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: Option<String>,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<Exec>,
    auth_provider: Option<AuthProvider>,
}

#[derive(Deserialize)]
struct AuthProvider {
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Exec {
    api_version: Option<String>,
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<EnvVar>>,
    provide_cluster_info: Option<bool>,
}

#[derive(Deserialize)]
struct EnvVar {
    name: String,
    #[serde(default)]
    value: String,
}

/// A kubeconfig of a thousand clusters with certificates inside is about 6 MiB.
const MAX_FILE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
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
            "{server: 'https://h', certificate-authority: pki/ca.crt, tls-server-name: kube, proxy-url: 'http://p:3128', insecure-skip-tls-verify: true}",
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
        assert!(got.insecure);
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
            "{server: 'https://h'}",
            "{exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, args: [a, b], env: [{name: X, value: '1'}], provideClusterInfo: true}}",
        );
        let Auth::Exec(plugin) = load(&text).expect("valid").auth else {
            panic!()
        };
        assert_eq!(plugin.command, Path::new("get-token"));
        assert_eq!(plugin.args, ["a", "b"]);
        assert_eq!(plugin.env, [("X".to_owned(), "1".to_owned())]);
        assert!(plugin.provide_cluster_info);
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
}
