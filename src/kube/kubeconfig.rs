//! kubeconfig files: reading, merging, choosing a context.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use self::file::{Cluster, Context, Exec, File, Named, User};
use super::credentials::{Auth, Credentials, Material, ServerUrl};
use super::exec::{ClusterInfo, ExecPlugin};
use super::{KubeError, Secret};

mod file;

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
        let insecure = cluster.insecure_skip_tls_verify.unwrap_or(false);
        if insecure && ca.is_some() {
            return Err(KubeError::InsecureWithCa {
                cluster: context.cluster.clone(),
            });
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (server_name, proxy) = (given(&cluster.tls_server_name), given(&cluster.proxy_url));
        let info = ClusterInfo {
            server: server.to_owned(),
            ca: ca.clone(),
            insecure,
            server_name: server_name.clone(),
            proxy: proxy.clone(),
            config: cluster.exec_config(),
        };
        Ok(Credentials {
            server: ServerUrl::parse(server)?,
            ca,
            insecure,
            server_name,
            proxy,
            client,
            auth: user.auth(user_dir, info)?,
        })
    }
}

impl Cluster {
    /// What plug-ins are told besides.
    fn exec_config(&self) -> Option<serde_json::Value> {
        let mut extensions = self.extensions.iter().flatten();
        extensions
            .find(|other| other.name == "client.authentication.k8s.io/exec")
            .map(|found| found.body.extension.clone())
    }
}

impl User {
    /// What goes into `Authorization`; certificates are apart from it.
    fn auth(&self, dir: &Path, cluster: ClusterInfo) -> Result<Auth, KubeError> {
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
            return exec.plugin(dir, cluster).map(Auth::Exec);
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
    fn plugin(&self, dir: &Path, cluster: ClusterInfo) -> Result<ExecPlugin, KubeError> {
        let api_version = self.api_version.clone().unwrap_or_default();
        if !matches!(
            api_version.as_str(),
            "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1"
        ) {
            return Err(KubeError::ExecVersion {
                version: api_version,
            });
        }
        match self.interactive_mode.as_deref() {
            None | Some("Never" | "IfAvailable") => {}
            // There is nobody to talk to.
            Some(mode) => {
                return Err(KubeError::ExecInteractive {
                    mode: mode.to_owned(),
                });
            }
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
            cluster: (self.provide_cluster_info == Some(true)).then_some(cluster),
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

/// A kubeconfig of a thousand clusters with certificates inside is about 6 MiB.
const MAX_FILE: u64 = 16 << 20;

#[cfg(test)]
mod tests;
