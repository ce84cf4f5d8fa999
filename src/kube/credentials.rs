//! What it takes to talk to an API server, wherever it came from.

use std::fs;
use std::path::{Path, PathBuf};

use super::exec::ExecPlugin;
use super::kubeconfig::read_limited;
use super::{KubeError, Secret};
use crate::net::Endpoint;
use crate::url::Url;

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
            url: without_user(url),
            why,
        };
        let parsed = Url::parse_configured(url).map_err(|error| bad(error.to_string()))?;
        if parsed.websocket {
            return Err(bad("the scheme is neither https nor http".to_owned()));
        }
        if parsed.query.is_some() {
            return Err(bad("only host, port and path are allowed in it".to_owned()));
        }
        Ok(Self {
            endpoint: parsed.endpoint(),
            base: parsed.base().to_owned(),
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

/// Fit for an error: nobody's password is in it.
fn without_user(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    // A password may hold anything, a slash too.
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}***@{rest}"),
        None => url.to_owned(),
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
    fn a_password_in_a_url_is_never_shown() {
        for url in [
            "https://u:geheim@h",
            "u:geheim@h:6443",
            "https://u:ge/heim@h",
            "ftp://u:geheim@h/x",
            "https://u:geheim@h/?a@b",
        ] {
            let error = ServerUrl::parse(url).expect_err(url).to_string();
            assert!(!error.contains("heim"), "{error}");
        }
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
