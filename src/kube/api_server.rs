//! The two ways to one API server, and the agent's own few calls.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;

use super::authorizer::Authorizer;
use super::credentials::{Credentials, Material, ServerUrl};
use super::{KubeError, Secret};
use crate::http::Headers;
use crate::http::client::{Body, Call, CallError, Client, Settings};
use crate::net::{
    Cancel, ClientTls, ClientTlsSettings, ConnectOptions, Deadline, Dialer, PemSource, ProxyRules,
    Trust,
};

/// An API server as the agent reaches it. Connections without any client
/// credential are for requests that bring their own; those of the agent's own
/// identity never carry anybody else's `Authorization`: kube-apiserver prefers a
/// client certificate to a token, so one pool would turn every caller into the
/// agent (decisions.md §6.2 "Identity").
pub struct ApiServer {
    server: ServerUrl,
    callers: Client,
    own: Client,
    own_tls: Arc<ClientTls>,
    authorizer: Authorizer,
}

/// Why a call of the agent's own failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Credentials(#[from] KubeError),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("the API server answered {status}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status { status: u16, message: String },
    #[error("the API server's answer can't be read: {0}")]
    Answer(#[source] serde_json::Error),
}

impl ApiServer {
    /// Reads what the credentials name; connects nowhere yet. `settings` are those of
    /// both kinds of connections.
    pub fn new(credentials: Credentials, settings: &Settings) -> Result<Self, KubeError> {
        let tls = |client: Option<&(Material, Material)>| {
            let (certificate, key) = match client {
                Some((certificate, key)) => (
                    Some(source("client-certificate-data", certificate)),
                    Some(source("client-key-data", key)),
                ),
                None => (None, None),
            };
            ClientTls::new(ClientTlsSettings {
                // A cluster's own authority signs its server; no other may.
                trust: if credentials.ca.is_some() {
                    Trust::OnlyGiven
                } else {
                    Trust::SystemAndGiven
                },
                ca: credentials
                    .ca
                    .iter()
                    .map(|ca| source("certificate-authority-data", ca))
                    .collect(),
                certificate,
                key,
                insecure_skip_verify: credentials.insecure,
                server_name: credentials.server_name.clone(),
                alpn: Vec::new(),
            })
        };
        let proxy = match &credentials.proxy {
            Some(url) => ProxyRules::always("proxy-url", url).map_err(KubeError::Proxy)?,
            // Never the environment's: it is for the way out, not for the way in.
            None => ProxyRules::none(),
        };
        let host = credentials.server.authority();
        let client = |tls: Arc<ClientTls>| {
            let dialer = Dialer::new(tls)
                .with_proxy(proxy.clone())
                .with_options(ConnectOptions {
                    // Counts the time in which a busy server takes nothing of a
                    // body, too: longer than for the control channel.
                    user_timeout: Some(USER_TIMEOUT),
                    ..ConnectOptions::default()
                });
            Client::new(
                credentials.server.endpoint.clone(),
                host.clone(),
                dialer,
                *settings,
            )
        };
        let own_tls = Arc::new(tls(credentials.client.as_ref())?);
        Ok(Self {
            callers: client(Arc::new(tls(None)?)),
            own: client(own_tls.clone()),
            own_tls,
            authorizer: Authorizer::new(credentials.auth),
            server: credentials.server,
        })
    }

    /// Connections that show no credential.
    pub fn callers(&self) -> &Client {
        &self.callers
    }

    /// Connections that show the agent's client certificate, if it has one.
    pub fn own(&self) -> &Client {
        &self.own
    }

    /// What the paths of this server begin with; mostly empty.
    pub fn base(&self) -> &str {
        &self.server.base
    }

    /// `host:port`, for people.
    pub fn authority(&self) -> String {
        self.server.authority()
    }

    /// The value of the agent's own `Authorization`; `None` when its identity is a
    /// certificate or nothing. May wait for an exec plug-in, until `deadline` passes
    /// or `cancel` fires; a certificate that it gives is what [`own`](Self::own)
    /// shows from then on.
    pub fn authorization(
        &self,
        deadline: Option<Deadline>,
        cancel: &Cancel,
    ) -> Result<Option<Secret>, KubeError> {
        let shown = self.authorizer.get(deadline, cancel)?;
        if let Some((certificate, key)) = &shown.client
            && self.own_tls.show(certificate, key)?
        {
            // They show the one before.
            self.own.close_idle();
        }
        Ok(shown.authorization.clone())
    }

    /// Forgets a cached credential: after a 401.
    pub fn refresh_authorization(&self) {
        self.authorizer.refresh();
    }

    /// Closes idle connections that are too old; for a housekeeper.
    pub fn sweep(&self) {
        self.callers.sweep();
        self.own.sweep();
    }

    /// The server's git version.
    pub fn version(&self, deadline: Deadline, cancel: &Cancel) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: String,
        }
        let version: Version = self.ask(&Ask::get("/version"), deadline, cancel)?;
        Ok(version.git_version)
    }

    /// How many objects a core resource has in all namespaces, by a list of one and
    /// `remainingItemCount`: never by reading all of them (decisions.md §2).
    pub fn count(
        &self,
        plural: &str,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<u64, ApiError> {
        #[derive(Deserialize)]
        struct List {
            metadata: Metadata,
            #[serde(default)]
            items: Vec<IgnoredAny>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            #[serde(default)]
            remaining_item_count: u64,
        }
        let target = format!("/api/v1/{plural}?limit=1");
        let ask = Ask {
            accept: ACCEPT_METADATA,
            ..Ask::get(&target)
        };
        let list: List = self.ask(&ask, deadline, cancel)?;
        Ok(list.items.len() as u64 + list.metadata.remaining_item_count)
    }

    /// Where a Service of type ExternalName points to; `None` for one of another type.
    /// Both names must be plain: they become part of the path.
    pub fn external_name(
        &self,
        namespace: &str,
        service: &str,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Option<String>, ApiError> {
        #[derive(Deserialize)]
        struct Service {
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Spec {
            r#type: String,
            external_name: String,
        }
        let target = format!("/api/v1/namespaces/{namespace}/services/{service}");
        let Service { spec } = self.ask(&Ask::get(&target), deadline, cancel)?;
        Ok((spec.r#type == "ExternalName").then_some(spec.external_name))
    }

    /// Whether the bearer of `token` may create namespaces: how a token is judged
    /// before it is handed over (config-and-state.md §9.3).
    pub fn is_usable(
        &self,
        token: &Secret,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct Review {
            status: Status,
        }
        #[derive(Deserialize)]
        struct Status {
            allowed: bool,
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": "create", "group": "", "resource": "namespaces" } },
        });
        let body = Body::Full(Arc::new(review.to_string().into_bytes()));
        let target = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let ask = Ask {
            method: "POST",
            body,
            bearer: Some(token),
            ..Ask::get(target)
        };
        let review: Review = self.ask(&ask, deadline, cancel)?;
        Ok(review.status.allowed)
    }

    /// One call: as the agent, or with a bearer token on a connection that shows
    /// nothing else. After a 401 the agent's own token is read again, once.
    fn ask<T: DeserializeOwned>(
        &self,
        ask: &Ask<'_>,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<T, ApiError> {
        let target = format!("{}{}", self.server.base, ask.target);
        let mut headers: Headers = [("User-Agent", USER_AGENT), ("Accept", ask.accept)]
            .into_iter()
            .collect();
        if !matches!(ask.body, Body::Empty) {
            headers.push("Content-Type", "application/json");
        }
        let mut again = ask.bearer.is_none();
        loop {
            let (client, authorization) = match ask.bearer {
                Some(token) => (
                    &self.callers,
                    Some(Secret::new(format!("Bearer {}", token.expose()))),
                ),
                None => (&self.own, self.authorization(Some(deadline), cancel)?),
            };
            headers.remove("Authorization");
            if let Some(value) = &authorization {
                headers.push("Authorization", value.expose());
            }
            let call = Call {
                method: ask.method,
                target: &target,
                host: None,
                headers: &headers,
                body: ask.body.clone(),
                deadline: Some(deadline),
            };
            let mut response = client.call(&call, cancel)?;
            let answer = response.body.read_all(MAX_ANSWER)?;
            if response.status == 401 && again {
                again = false;
                self.refresh_authorization();
                continue;
            }
            if !(200..300).contains(&response.status) {
                return Err(ApiError::Status {
                    status: response.status,
                    message: message(&answer),
                });
            }
            return serde_json::from_slice(&answer).map_err(ApiError::Answer);
        }
    }
}

/// One call of the agent's own.
struct Ask<'a> {
    method: &'a str,
    target: &'a str,
    accept: &'a str,
    body: Body,
    /// Instead of the agent's own identity.
    bearer: Option<&'a Secret>,
}

impl<'a> Ask<'a> {
    fn get(target: &'a str) -> Self {
        Self {
            method: "GET",
            target,
            accept: "application/json",
            body: Body::Empty,
            bearer: None,
        }
    }
}

fn source(field: &str, material: &Material) -> PemSource {
    match material {
        Material::File(path) => PemSource::File(path.clone()),
        Material::Pem(pem) => PemSource::Given {
            name: field.to_owned(),
            pem: pem.clone(),
        },
    }
}

/// The message of a `Status`, short enough for a log line.
fn message(answer: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let status = serde_json::from_slice::<Status>(answer);
    status
        .map(|status| status.message.chars().take(MAX_MESSAGE).collect())
        .unwrap_or_default()
}

/// Metadata alone where the server can, whole objects else.
const ACCEPT_METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const USER_AGENT: &str = concat!("pipeops-agent/", env!("CARGO_PKG_VERSION"));
/// One object at a time: etcd allows 1.5 MiB for each.
const MAX_ANSWER: usize = 4 << 20;
const MAX_MESSAGE: usize = 300;
/// As long as a request that says nothing itself may take.
const USER_TIMEOUT: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests;
