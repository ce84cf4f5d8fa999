//! A raw HTTP client, of the plane's front door or of the API server itself.

use std::sync::Arc;

use pipeops_agent::http::Headers;
use pipeops_agent::http::client::{Body, Call, CallError, Client, Response, Settings};
use pipeops_agent::net::{
    Cancel, ClientTls, ClientTlsSettings, Deadline, Dialer, Endpoint, PemSource, Trust,
};
use serde_json::Value;

use crate::LIMIT;
use crate::api_server::ApiServer;

pub(crate) struct Http {
    client: Client,
    /// What each path begins with.
    base: String,
    token: Option<String>,
    /// What it calls the server, where that isn't its address.
    host: Option<String>,
}

impl Http {
    pub(crate) fn direct(api: &ApiServer, as_admin: bool, token: Option<&str>) -> Self {
        let authority = api.facts.server.strip_prefix("https://").expect("https");
        let file = |path: &std::path::Path| PemSource::File(path.to_owned());
        let tls = ClientTlsSettings {
            ca: vec![file(&api.facts.ca_file)],
            certificate: as_admin.then(|| file(&api.facts.admin_cert_file)),
            key: as_admin.then(|| file(&api.facts.admin_key_file)),
            ..ClientTlsSettings::default()
        };
        Self::new(authority, Some(tls), String::new(), token)
    }

    /// A server that speaks no TLS, by this name.
    pub(crate) fn plain(address: &str, host: &str) -> Self {
        let client = Self::new(address, None, String::new(), None);
        Self {
            host: Some(host.to_owned()),
            ..client
        }
    }

    /// The front door of a plane, at one of its clusters.
    pub(crate) fn front(address: &str, ca: &str, cluster: &str, token: &str) -> Self {
        let ca = PemSource::Given {
            name: "the plane's certificate".to_owned(),
            pem: ca.into(),
        };
        let tls = ClientTlsSettings {
            ca: vec![ca],
            ..ClientTlsSettings::default()
        };
        let base = format!("/clusters/{cluster}");
        Self::new(address, Some(tls), base, Some(token))
    }

    fn new(
        authority: &str,
        tls: Option<ClientTlsSettings>,
        base: String,
        token: Option<&str>,
    ) -> Self {
        let (host, port) = authority.rsplit_once(':').expect("host:port");
        let endpoint = Endpoint {
            host: host.to_owned(),
            port: port.parse().expect("a port"),
            tls: tls.is_some(),
        };
        let tls = ClientTls::new(ClientTlsSettings {
            trust: Trust::OnlyGiven,
            ..tls.unwrap_or_else(|| ClientTlsSettings {
                // Not used.
                insecure_skip_verify: true,
                ..ClientTlsSettings::default()
            })
        });
        let dialer = Dialer::new(Arc::new(tls.expect("TLS settings")));
        Self {
            client: Client::new(endpoint, authority, dialer, Settings::default()),
            base,
            token: token.map(str::to_owned),
            host: None,
        }
    }

    /// With another token.
    pub(crate) fn with_user(self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], Vec::new())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.ask("POST", path, &[("Content-Type", "application/json")], body)
    }

    /// One request and its whole answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        self.try_ask(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, CallError> {
        let mut response = self.send(method, path, headers, body)?;
        let body = response.body.read_all(MAX_ANSWER)?;
        Ok(Answer {
            status: response.status,
            headers: response.headers,
            body,
        })
    }

    /// An answer that is read line by line while it comes.
    pub(crate) fn open(&self, path: &str) -> Lines {
        let response = self.send("GET", path, &[], Vec::new());
        let response = response.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(response.status, 200, "GET {path}");
        Lines {
            response,
            unread: Vec::new(),
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Response, CallError> {
        let mut fields: Headers = headers.iter().copied().collect();
        if let Some(token) = &self.token {
            fields.push("Authorization", format!("Bearer {token}"));
        }
        let body = if body.is_empty() {
            Body::Empty
        } else {
            Body::Full(Arc::new(body))
        };
        let call = Call {
            method,
            target: &format!("{}{path}", self.base),
            host: self.host.as_deref(),
            headers: &fields,
            body,
            deadline: Some(Deadline::after(LIMIT)),
        };
        self.client.call(&call, &Cancel::new())
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The names in a list.
    pub(crate) fn names(&self) -> Vec<String> {
        let json = self.json();
        let items = json["items"].as_array().expect("a list");
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        items.iter().filter_map(name).collect()
    }
}

/// A watch, or a followed log.
pub(crate) struct Lines {
    response: Response,
    unread: Vec<u8>,
}

impl Lines {
    /// The next line; `None` at a proper end, an error when it was cut off.
    pub(crate) fn next(&mut self) -> Result<Option<String>, CallError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.drain(..=end).collect::<Vec<_>>();
                let line = String::from_utf8(line).expect("text");
                return Ok(Some(line.trim_end().to_owned()));
            }
            let chunk = self.response.body.chunk(16 * 1024)?;
            if chunk.is_empty() {
                return Ok(None);
            }
            self.unread.extend_from_slice(chunk);
        }
    }

    /// The next event of a watch.
    #[track_caller]
    pub(crate) fn event(&mut self) -> Event {
        let line = self.next().expect("not cut off").expect("not the end");
        let json: Value = serde_json::from_str(&line).expect("JSON");
        Event {
            kind: json["type"].as_str().unwrap_or_default().to_owned(),
            object: json["object"].clone(),
        }
    }
}

pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) object: Value,
}

impl Event {
    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

const MAX_ANSWER: usize = 64 << 20;
