//! What it takes to talk to an API server, wherever it came from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::exec::{self, ExecCredential};
use super::kubeconfig::read_limited;
use super::{KubeError, Secret};
use crate::config::ApiUrl;
use crate::net::Endpoint;

/// An API server and the agent's own identity there.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub server: ServerUrl,
    /// Trusted instead of the system's roots; without it those are.
    pub ca: Option<Material>,
    pub insecure: bool,
    /// Checked instead of the host's name (`tls-server-name`).
    pub server_name: Option<String>,
    /// `proxy-url` of the kubeconfig; the environment's proxies are never used for
    /// the API server (decisions.md §6.2 "Ways out").
    pub proxy: Option<String>,
    /// Client certificate and key.
    pub client: Option<(Material, Material)>,
    pub auth: Auth,
}

/// The agent's own `Authorization`.
#[derive(Clone, Debug)]
pub enum Auth {
    None,
    Token(Secret),
    /// Read again: at most a minute old, and at once after a 401.
    TokenFile(PathBuf),
    Basic {
        username: String,
        password: Secret,
    },
    Exec(ExecPlugin),
}

/// An `exec` credential plug-in of a kubeconfig.
#[derive(Clone, Debug)]
pub struct ExecPlugin {
    pub api_version: String,
    pub command: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub provide_cluster_info: bool,
}

/// PEM, inline or in a file that is read when it is needed.
#[derive(Clone)]
pub enum Material {
    Pem(Vec<u8>),
    File(PathBuf),
}

impl Material {
    pub fn read(&self) -> Result<Vec<u8>, KubeError> {
        match self {
            Self::Pem(pem) => Ok(pem.clone()),
            Self::File(path) => read_limited(path, MAX_PEM).map_err(|cause| KubeError::Read {
                path: path.clone(),
                cause,
            }),
        }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pem(pem) => write!(f, "Pem({} bytes)", pem.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// `https://host:port/base`: where requests go, and what their paths begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub endpoint: Endpoint,
    /// Without a trailing slash; mostly empty.
    pub base: String,
}

impl ServerUrl {
    pub fn parse(url: &str) -> Result<Self, KubeError> {
        let bad = |why: String| KubeError::Server {
            url: url.to_owned(),
            why,
        };
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if scheme.is_some_and(|s| !["https", "http"].contains(&&*s.to_ascii_lowercase())) {
            return Err(bad("the scheme is neither https nor http".to_owned()));
        }
        let parsed = ApiUrl::parse(url).map_err(bad)?;
        if parsed.query.is_some() {
            let why = "only host, port and path are allowed in it";
            return Err(bad(why.to_owned()));
        }
        let endpoint = Endpoint {
            host: parsed.host,
            port: parsed.port,
            tls: parsed.tls,
        };
        Ok(Self {
            endpoint,
            base: parsed.path,
        })
    }

    /// The value of `Host`.
    pub fn authority(&self) -> String {
        let Endpoint { host, port, tls } = &self.endpoint;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        if *port == if *tls { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{port}")
        }
    }
}

/// In a pod (config-and-state.md §9.1); `None` elsewhere.
pub fn in_cluster(host: &str, port: &str, dir: &Path) -> Result<Option<Credentials>, KubeError> {
    let token = dir.join("token");
    if host.is_empty() || port.is_empty() || fs::File::open(&token).is_err() {
        return Ok(None);
    }
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    Ok(Some(Credentials {
        server: ServerUrl::parse(&format!("https://{authority}"))?,
        // A missing CA is an error of the first call: system roots never sign a
        // cluster's own certificate.
        ca: Some(Material::File(dir.join("ca.crt"))),
        insecure: false,
        server_name: None,
        proxy: None,
        client: None,
        auth: Auth::TokenFile(token),
    }))
}

/// Yields the value of the agent's own `Authorization`, read again when it is old.
#[derive(Debug)]
pub struct Authorizer {
    auth: Auth,
    cached: Mutex<Option<Cached>>,
}

#[derive(Debug)]
struct Cached {
    value: Option<Secret>,
    good_until: Option<std::time::Instant>,
}

impl Authorizer {
    pub fn new(auth: Auth) -> Self {
        Self {
            auth,
            cached: Mutex::new(None),
        }
    }

    /// The header value; `None` when the identity is a certificate or nothing.
    pub fn value(&self, server: &ServerUrl) -> Result<Option<Secret>, KubeError> {
        let mut cached = self.cached.lock();
        if let Some(cached) = &*cached
            && cached
                .good_until
                .is_none_or(|until| std::time::Instant::now() < until)
        {
            return Ok(cached.value.clone());
        }
        let fresh = self.read(server)?;
        let value = fresh.value.clone();
        *cached = Some(fresh);
        Ok(value)
    }

    /// Forgets what is cached, after a 401.
    pub fn refresh(&self) {
        *self.cached.lock() = None;
    }

    fn read(&self, server: &ServerUrl) -> Result<Cached, KubeError> {
        let bearer = |token: &str| Some(Secret::new(format!("Bearer {token}")));
        let soon = || std::time::Instant::now().checked_add(TOKEN_AGE);
        Ok(match &self.auth {
            Auth::None => Cached {
                value: None,
                good_until: None,
            },
            Auth::Token(token) => Cached {
                value: bearer(token.expose()),
                good_until: None,
            },
            Auth::Basic { username, password } => {
                let pair = format!("{username}:{}", password.expose());
                let encoded = base64_simd::STANDARD.encode_to_string(pair);
                Cached {
                    value: Some(Secret::new(format!("Basic {encoded}"))),
                    good_until: None,
                }
            }
            Auth::TokenFile(path) => {
                let token = read_token(path)?;
                Cached {
                    value: bearer(token.expose()),
                    good_until: soon(),
                }
            }
            Auth::Exec(plugin) => {
                let ExecCredential { token, expires_in } = exec::run(plugin, server)?;
                let good_until = match expires_in {
                    // A little early, so that it doesn't expire on the way.
                    Some(left) => {
                        std::time::Instant::now().checked_add(left.saturating_sub(EXPIRY_MARGIN))
                    }
                    None => None,
                };
                Cached {
                    value: token.and_then(|token| bearer(token.expose())),
                    good_until,
                }
            }
        })
    }
}

/// A token in a file: trimmed, at most 64 KiB, fit for a header.
pub fn read_token(path: &Path) -> Result<Secret, KubeError> {
    let bytes = read_limited(path, MAX_TOKEN).map_err(|cause| KubeError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let token = String::from_utf8(bytes)
        .ok()
        .map(|text| text.trim().to_owned());
    match token {
        Some(token) if !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Secret::new(token))
        }
        _ => Err(KubeError::Token {
            path: path.to_owned(),
        }),
    }
}

/// Projected tokens live an hour or more and are replaced at 80 % of that; client
/// libraries read them about once a minute (config-and-state.md §9.1).
const TOKEN_AGE: Duration = Duration::from_secs(60);
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
const MAX_TOKEN: u64 = 64 << 10;
const MAX_PEM: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn server_urls() {
        for (url, host, port, tls, base, authority) in [
            ("https://h", "h", 443, true, "", "h"),
            ("https://h:6443/", "h", 6443, true, "", "h:6443"),
            (
                "http://127.0.0.1:8001/k8s/clusters/c-1/",
                "127.0.0.1",
                8001,
                false,
                "/k8s/clusters/c-1",
                "127.0.0.1:8001",
            ),
            ("https://[::1]:6443", "::1", 6443, true, "", "[::1]:6443"),
            ("h:6443", "h", 6443, true, "", "h:6443"),
        ] {
            let got = ServerUrl::parse(url).expect(url);
            let endpoint = Endpoint {
                host: host.into(),
                port,
                tls,
            };
            assert_eq!(
                got,
                ServerUrl {
                    endpoint,
                    base: base.into()
                }
            );
            assert_eq!(got.authority(), authority);
        }
        for bad in [
            "",
            "https://",
            "ftp://h",
            "https://h:0",
            "https://h:x",
            "https://u:p@h",
            "https://h/?q",
            "https://[::1",
            "https://[::1]x",
            "wss://h",
            "https://h{}",
        ] {
            ServerUrl::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_rotated_token_file_is_read_again_after_a_401() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        fs::write(&path, "one\n").expect("write");
        let server = ServerUrl::parse("https://h").expect("valid");
        let authorizer = Authorizer::new(Auth::TokenFile(path.clone()));
        let value = || {
            authorizer
                .value(&server)
                .expect("readable")
                .expect("a token")
                .expose()
                .to_owned()
        };
        assert_eq!(value(), "Bearer one");
        fs::write(&path, "two").expect("write");
        assert_eq!(value(), "Bearer one", "cached");
        authorizer.refresh();
        assert_eq!(value(), "Bearer two");
    }

    #[test]
    fn a_token_that_is_no_header_value_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        for bad in ["", " \n", "a\nb", "a\u{0}", "ü"] {
            fs::write(&path, bad).expect("write");
            read_token(&path).expect_err(bad);
        }
    }

    #[test]
    fn in_a_pod_and_elsewhere() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(
            in_cluster("10.0.0.1", "443", dir.path())
                .expect("fine")
                .is_none(),
            "no token"
        );
        fs::write(dir.path().join("token"), "t").expect("write");
        assert!(in_cluster("", "443", dir.path()).expect("fine").is_none());
        let got = in_cluster("fd00::1", "6443", dir.path())
            .expect("fine")
            .expect("in a pod");
        assert_eq!(got.server.authority(), "[fd00::1]:6443");
    }

    proptest! {
        #[test]
        fn any_url_is_parsed_or_refused(url in ".*") {
            let _ = ServerUrl::parse(&url);
        }
    }
}
