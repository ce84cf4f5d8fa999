//! Registration and heartbeats over plain HTTP (control-channel.md §12.8,
//! decisions.md §6.1 "HTTP mode").

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::channel::printable;
use super::session::Failure;
use super::urls;
use crate::config::Secret;
use crate::net::{Cancel, Dialer};
use crate::percent;
use crate::url::Url;
use crate::wire::Payload;
use crate::wire::from_agent::{Heartbeat, HeartbeatMetadata, HttpRegister};
use crate::wire::to_agent::Registered;

mod transport;

use transport::post;

/// The controller's HTTP API. Each call has a connection of its own: there is one
/// every half minute.
#[derive(Clone, Debug)]
pub struct HttpApi {
    pub dialer: Dialer,
    /// `pipeops.api_url`; its base path is kept.
    pub api_url: Url,
    /// One call, from the dial to the last byte of the answer.
    pub limit: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    is_json: bool,
    /// `text/html`: for people.
    is_page: bool,
    retry_after: Option<Duration>,
    body: String,
}

impl HttpApi {
    /// `POST /api/v1/clusters/agent/register`: 200 and 201 are answers, so is a 409
    /// that names the cluster.
    pub fn register(
        &self,
        payload: &HttpRegister<'_>,
        token: &Secret,
        cancel: &Cancel,
    ) -> Result<Registered, Failure> {
        let url = urls::rest(&self.api_url, "/api/v1/clusters/agent/register");
        let mut body = serde_json::to_value(payload).map_err(own_fault)?;
        omit_empty(&mut body);
        let answer = post(&self.dialer, &url, &body, token, self.limit, cancel)?;
        registered(&answer)
    }

    /// `POST /api/v1/clusters/agent/{cluster_id}/heartbeat`: any 2xx is a success.
    pub fn heartbeat(
        &self,
        payload: &Heartbeat<'_>,
        token: &Secret,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let id = percent::encode_part(payload.cluster_id);
        let path = format!("/api/v1/clusters/agent/{id}/heartbeat");
        let url = urls::rest(&self.api_url, &path);
        let body = HeartbeatBody {
            agent_id: payload.agent_id,
            cluster_id: payload.cluster_id,
            metadata: &payload.metadata,
            status: payload.status,
            timestamp: crate::wire::now_rfc3339(),
            tunnel_status: payload.tunnel_status,
        };
        let body = serde_json::to_value(body).map_err(own_fault)?;
        let answer = post(&self.dialer, &url, &body, token, self.limit, cancel)?;
        match answer.status {
            200..=299 => Ok(()),
            _ => Err(answer.into_failure()),
        }
    }
}

#[derive(Serialize)]
struct HeartbeatBody<'a> {
    agent_id: &'a str,
    cluster_id: &'a str,
    metadata: &'a HeartbeatMetadata<'a>,
    status: &'a str,
    timestamp: String,
    tunnel_status: &'a str,
}

impl Answer {
    fn into_failure(self) -> Failure {
        let text = printable(self.body.trim());
        // As with the upgrade: a box in between that forbids with a page for people
        // is not the control plane that refuses us (decisions.md §6.1).
        if self.is_page && matches!(self.status, 401 | 403) {
            let status = self.status;
            return Failure::Other(format!("something in between answered {status}: {text}"));
        }
        Failure::Status {
            code: self.status,
            retry_after: self.retry_after,
            text,
        }
    }
}

fn registered(answer: &Answer) -> Result<Registered, Failure> {
    match answer.status {
        200..=299 if answer.is_json => {
            let payload: Payload<'_> = serde_json::from_str(&answer.body).map_err(|error| {
                // serde quotes a text that came instead of an object, all of it.
                let error = printable(&error.to_string());
                Failure::Unusable(format!("the registration's answer is not usable: {error}"))
            })?;
            let registered = Registered::parse(&payload);
            if registered.cluster_id.is_none() {
                let why = "the registration was confirmed without a cluster id";
                return Err(Failure::Unusable(why.to_owned()));
            }
            Ok(registered)
        }
        200..=299 => Err(Failure::Other(format!(
            "status {} without JSON: not from a control plane",
            answer.status
        ))),
        409 => serde_json::from_str::<Payload<'_>>(&answer.body)
            .ok()
            .map(|payload| Registered::parse(&payload))
            .filter(|registered| registered.cluster_id.is_some())
            .ok_or_else(|| answer.clone().into_failure()),
        _ => Err(answer.clone().into_failure()),
    }
}

/// Empty members are left out over HTTP.
fn omit_empty(body: &mut Value) {
    let Value::Object(fields) = body else { return };
    fields.retain(|_, value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Null => false,
        _ => true,
    });
}

#[allow(clippy::needless_pass_by_value)] // the shape that map_err wants
fn own_fault(error: serde_json::Error) -> Failure {
    Failure::Other(format!("the request cannot be written: {error}"))
}

#[cfg(test)]
mod tests;
