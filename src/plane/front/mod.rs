//! The front door: any HTTP client in, `proxy_request`s and WebSocket streams out; and
//! the plane's other HTTP paths. One listener for people, agents and gateways.

pub(crate) mod fields;
mod leg;
mod proxied;
mod second_try;
pub(crate) mod status;
pub(crate) mod target;
mod upgrade;
mod websocket;

use std::sync::Arc;

use super::GatewayUrl;
use super::agent::{self, AgentSlot};
use super::api::{self, AgentCall, Reply};
use super::dialogue::Endpoint;
use super::hub::Hub;
use super::name::ClusterName;
use super::registry::Token;
use super::token::{Access, Grant, bearer};
use crate::http::Headers;
use crate::http::server::{Handler, Request, RequestBody, Responder};
use proxied::{AuthorizedRequest, forward, refuse};
pub(crate) use second_try::LastRefusals;
use status::Refusal;
use target::Target;
use upgrade::Upgrade;

/// Answers everything that the plane's listener hears.
pub(crate) struct FrontDoor {
    pub(crate) hub: Arc<Hub>,
    pub(crate) gateway: GatewayUrl,
    pub(crate) refusals: LastRefusals,
}

impl Handler for FrontDoor {
    fn handle(&self, request: Request, body: RequestBody, responder: Responder) {
        let (path, query) = match target::split(&request.target) {
            Ok(parts) => parts,
            Err(error) => {
                let refusal = Refusal::new(400, error.to_string());
                return refuse(responder, &request.headers, &refusal);
            }
        };
        match path {
            "/api/v1/clusters/agent/ws" => self.controller(&request, body, responder),
            "/ws" => self.gateway(&request, query, body, responder),
            "/api/v1/health" => {
                let ok = serde_json::json!({"status": "ok"});
                reply(responder, &Reply::new(200, ok));
            }
            path => match AgentCall::of(path) {
                Some(call) => self.agent_call(&request, call, body, responder),
                None => self.user(&request, body, responder),
            },
        }
    }
}

/// Agents.
impl FrontDoor {
    fn controller(&self, request: &Request, body: RequestBody, responder: Responder) {
        let (token, cluster) = match self.agent(request) {
            Ok(agent) => agent,
            Err(refusal) => return reply(responder, &refusal),
        };
        let gateway = self.gateway.of(request.headers.get("host"));
        let endpoint = Endpoint::Controller { gateway };
        self.upgrade(request, &token, cluster, endpoint, body, responder);
    }

    fn gateway(&self, request: &Request, query: &str, body: RequestBody, responder: Responder) {
        let (token, cluster) = match self.agent(request) {
            Ok(agent) => agent,
            Err(refusal) => return reply(responder, &refusal),
        };
        let cluster_id = parameter(query, "cluster_uuid")
            .unwrap_or_default()
            .to_owned();
        let of_another =
            |other: &super::registry::Cluster| other.id == cluster_id && other.name != cluster;
        if self.hub.registry.clusters().iter().any(of_another) {
            let text = "this token is for another cluster than cluster_uuid names";
            return reply(responder, &Reply::error(403, text));
        }
        // One that nobody knows is told so on the connection, where the agent
        // understands it (control-channel.md §4.2).
        let endpoint = Endpoint::Gateway {
            cluster_id,
            yamux: parameter(query, "supports_yamux") == Some("true"),
        };
        self.upgrade(request, &token, cluster, endpoint, body, responder);
    }

    fn upgrade(
        &self,
        request: &Request,
        token: &Token,
        cluster: ClusterName,
        endpoint: Endpoint,
        body: RequestBody,
        responder: Responder,
    ) {
        if request.method != "GET" {
            return reply(responder, &Reply::error(405, "GET, please"));
        }
        let Ok(slot) = AgentSlot::take(&self.hub, &token.id) else {
            let text = "this token has too many connections already";
            return reply(responder, &Reply::error(429, text));
        };
        // `None`: the request has a body that nobody reads; it ends with 500.
        if let Some(halves) = responder.take_over(body) {
            let headers = request.headers.iter();
            let headers = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            if let Err(error) = agent::serve(slot, cluster, endpoint, headers, halves) {
                log::warn!("{error}");
            }
        }
    }

    fn agent_call(
        &self,
        request: &Request,
        call: AgentCall<'_>,
        mut body: RequestBody,
        responder: Responder,
    ) {
        let answer = match self.agent(request) {
            Err(refusal) => refusal,
            Ok(_) if request.method != "POST" => Reply::error(405, "POST, please"),
            Ok((_, cluster)) => match body.read_all(MAX_CALL) {
                Ok(body) => {
                    let gateway = self.gateway.of(request.headers.get("host"));
                    call.answer(&self.hub, &cluster, gateway.as_deref(), &body)
                }
                Err(error) => Reply::error(400, error),
            },
        };
        drop(body);
        reply(responder, &answer);
    }

    /// Whose agent asks, and for which cluster.
    fn agent(&self, request: &Request) -> Result<(Token, ClusterName), Reply> {
        let token = bearer(&request.headers).and_then(|text| self.hub.registry.authenticate(text));
        let Some(token) = token else {
            return Err(Reply::error(401, "no valid token"));
        };
        match &token.grant {
            Grant::Agent { cluster } => {
                let cluster = cluster.clone();
                Ok((token, cluster))
            }
            Grant::User { .. } => Err(Reply::error(403, "this is a user's token, not an agent's")),
        }
    }
}

/// People.
impl FrontDoor {
    fn user(&self, request: &Request, body: RequestBody, responder: Responder) {
        if let Err(refusal) = self.enter(request, body, responder) {
            let (responder, refusal) = *refusal;
            refuse(responder, &request.headers, &refusal);
        }
    }

    fn enter(
        &self,
        request: &Request,
        body: RequestBody,
        responder: Responder,
    ) -> Result<(), Box<(Responder, Refusal)>> {
        let refusal = |code, text: String| Refusal::new(code, text);
        let decided = (|| {
            let target = Target::parse(&request.target).map_err(|e| refusal(400, e.to_string()))?;
            if target == Target::Elsewhere {
                let text = "this is a pipeops plane; clusters are at /clusters/NAME/";
                return Err(refusal(404, text.to_owned()));
            }
            let token = bearer(&request.headers)
                .and_then(|text| self.hub.registry.authenticate(text))
                .ok_or_else(|| refusal(401, "no valid token of this plane".to_owned()))?;
            if let Target::Cluster { name, path, query } = &target {
                let asked = Asked {
                    method: &request.method,
                    path,
                    query,
                    upgrade: Upgrade::of(&request.headers),
                };
                may(&token.grant, name, &asked)?;
            }
            let quota = self.hub.quota.take(&token.id).ok_or_else(|| {
                let limit = self.hub.quota.limit();
                let text = format!("this token has {limit} requests under way already");
                let refusal = refusal(429, text).passing();
                if Upgrade::of(&request.headers) == Some(Upgrade::WebSocket) {
                    let answer = refusal.answer(&request.headers);
                    websocket::remember(&self.refusals, &token.id, &request.target, answer);
                }
                refusal
            })?;
            Ok((target, token, quota))
        })();
        let (target, token, _quota) = match decided {
            Ok(decided) => decided,
            Err(refusal) => return Err(Box::new((responder, refusal))),
        };
        match target {
            Target::Cluster { name, path, query } => {
                let authorized = AuthorizedRequest {
                    token: &token.id,
                    cluster: &name,
                    method: &request.method,
                    path: &path,
                    query,
                    headers: &request.headers,
                    peer: request.peer,
                };
                let target = &request.target;
                match Upgrade::of(&request.headers) {
                    Some(Upgrade::WebSocket) => websocket::forward(
                        &self.hub,
                        &self.refusals,
                        &authorized,
                        target,
                        body,
                        responder,
                    ),
                    Some(Upgrade::Spdy) => {
                        websocket::refuse_spdy(&self.refusals, &authorized, target, responder);
                    }
                    // `may` has refused others.
                    None | Some(Upgrade::Other) => {
                        forward(&self.hub, &authorized, body, responder);
                    }
                }
            }
            Target::List | Target::Elsewhere => {
                let answer = match &*request.method {
                    "GET" | "HEAD" => api::clusters(&self.hub, &token.grant),
                    _ => Reply::error(405, "GET, please"),
                };
                reply(responder, &answer);
            }
        }
        Ok(())
    }
}

/// What of a request decides whether a token opens it.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    upgrade: Option<Upgrade>,
}

/// Whether a token opens this request (decisions.md §6.4). A name outside the
/// token's scope is forbidden whether a cluster has it or not.
fn may(grant: &Grant, cluster: &ClusterName, asked: &Asked<'_>) -> Result<(), Refusal> {
    let Grant::User { scope, access } = grant else {
        return Err(Refusal::new(403, "this is an agent's token, not a user's"));
    };
    if !scope.covers(cluster) {
        let text = format!("this token is not for cluster {:?}", cluster.as_str());
        return Err(Refusal::new(403, text));
    }
    if *access == Access::ReadOnly {
        let reads = ["GET", "HEAD", "OPTIONS"].contains(&asked.method)
            && !target::is_connect_subresource(asked.path);
        let upgrades = match asked.upgrade {
            None => true,
            Some(Upgrade::WebSocket) => upgrade::is_watch(asked.path, asked.query),
            Some(Upgrade::Spdy | Upgrade::Other) => false,
        };
        if !reads || !upgrades {
            return Err(Refusal::new(403, "this token is read-only"));
        }
    }
    if asked.upgrade == Some(Upgrade::Other) || asked.method == "CONNECT" {
        let text = "of upgrades, this plane passes on WebSockets only";
        return Err(Refusal::new(501, text));
    }
    if asked.method == "TRACE" {
        return Err(Refusal::new(405, "TRACE is not passed on"));
    }
    Ok(())
}

fn reply(responder: Responder, reply: &Reply) {
    let mut headers = Headers::new();
    headers.push("Content-Type", "application/json");
    if reply.status == 401 {
        headers.push("WWW-Authenticate", "Bearer realm=\"pipeops plane\"");
    }
    let mut body = reply.body.to_string();
    body.push('\n');
    // A client that is gone hears nothing.
    let _ = responder.respond(reply.status, &headers, body.as_bytes());
}

/// The first value of a query parameter, as it stands: ours are made of characters
/// that need no encoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
}

/// Bodies of agents' HTTP calls.
const MAX_CALL: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::token::Scope;

    fn name(text: &str) -> ClusterName {
        ClusterName::parse(text).expect("a name")
    }

    #[test]
    fn the_table_of_roles() {
        let all = |access| Grant::User {
            scope: Scope::All,
            access,
        };
        let some = |access| Grant::User {
            scope: Scope::Named([name("a")].into()),
            access,
        };
        let agent = Grant::Agent { cluster: name("a") };
        let (reads, uses) = (Access::ReadOnly, Access::Use);
        let plain = None;
        let (socket, spdy, other) = (
            Some(Upgrade::WebSocket),
            Some(Upgrade::Spdy),
            Some(Upgrade::Other),
        );
        let (pods, watch) = ("/api/v1/pods", "/api/v1/pods?watch=1");
        let proxy = "/api/v1/namespaces/n/pods/p/proxy/";
        let exec = "/api/v1/namespaces/n/pods/p/exec?watch=1";
        for (grant, cluster, method, target, upgrade, code) in [
            (all(uses), "a", "DELETE", pods, plain, 200),
            (all(uses), "a", "GET", proxy, plain, 200),
            (all(uses), "a", "GET", exec, socket, 200),
            (all(uses), "a", "POST", exec, spdy, 200),
            (all(uses), "a", "GET", pods, other, 501),
            (all(uses), "a", "CONNECT", pods, plain, 501),
            (all(uses), "a", "TRACE", pods, plain, 405),
            (all(reads), "a", "GET", pods, plain, 200),
            (all(reads), "a", "HEAD", pods, plain, 200),
            (all(reads), "a", "OPTIONS", pods, plain, 200),
            (all(reads), "a", "POST", pods, plain, 403),
            (all(reads), "a", "get", pods, plain, 403),
            (all(reads), "a", "GET", proxy, plain, 403),
            (all(reads), "a", "GET", watch, socket, 200),
            (all(reads), "a", "POST", watch, socket, 403),
            (all(reads), "a", "GET", watch, spdy, 403),
            (all(reads), "a", "GET", pods, socket, 403),
            (all(reads), "a", "GET", exec, socket, 403),
            (all(reads), "a", "POST", exec, spdy, 403),
            (some(uses), "a", "PATCH", pods, plain, 200),
            (some(uses), "b", "GET", pods, plain, 403),
            (some(reads), "b", "GET", watch, socket, 403),
            (agent, "a", "GET", pods, plain, 403),
        ] {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let asked = Asked {
                method,
                path,
                query,
                upgrade,
            };
            let got = may(&grant, &name(cluster), &asked);
            let got = got.map_or_else(|refusal| refusal.code, |()| 200);
            assert_eq!(got, code, "{grant} {method} {cluster} {target} {upgrade:?}");
        }
    }

    #[test]
    fn query_parameters() {
        let query = "agent_version=1&cluster_uuid=6f0c&x";
        assert_eq!(parameter(query, "cluster_uuid"), Some("6f0c"));
        assert_eq!(parameter("", "cluster_uuid"), None);
    }
}
