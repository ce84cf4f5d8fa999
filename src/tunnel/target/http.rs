//! What proxied HTTP asks of targets besides what streams do: the same names, the same
//! policy, the same dial.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Admitted, Mode, Refusal, Targets, To};
use crate::config::{Origin, Place};
use crate::tunnel::Protocol;
use crate::tunnel::header::Names;
use crate::tunnel::policy::Verdict;

impl Targets {
    /// As [`admit`](Self::admit), for a request that may name a host: on a plain
    /// machine its route goes first (config-and-state.md §12.2). It is in lower case,
    /// without port.
    pub fn admit_request(
        self: &Arc<Self>,
        host: Option<&str>,
        names: Names<'_>,
    ) -> Result<Admitted, Refusal> {
        let route = host.and_then(|host| self.routes.routes.get(host));
        match (&self.mode, host, route) {
            // The policy is asked for what was found: the Service that the request
            // names beside it has no part in that.
            (Mode::Machine, Some(host), Some(origin)) => {
                self.judge(Protocol::Tcp, "", host, To::Origin(origin.clone()))
            }
            _ => self.admit_named(Protocol::Tcp, names),
        }
    }
}

impl Admitted {
    /// Two with the same key lead to the same place in the same way, and are judged by
    /// the same names.
    pub fn key(&self) -> String {
        format!("{:?} {:?} {:?}", self.namespace, self.service, self.to)
    }

    /// The origin that was found, where it isn't a Service.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.to {
            To::Origin(origin) | To::Forward(origin) => Some(origin),
            To::Service { .. } | To::Local { .. } => None,
        }
    }

    /// `host:port`, as HTTP says it; a Unix socket is `localhost`.
    pub fn authority(&self) -> String {
        let host = self.host();
        let host = host.trim_end_matches('.');
        match self.origin() {
            Some(origin) => match &origin.place {
                Place::Unix(_) => "localhost".to_owned(),
                Place::Host { .. } => origin.to_string(),
            },
            None => format!("{host}:{}", self.port().unwrap_or(0)),
        }
    }

    /// What the policy says now of an address: of a connection that was kept. `None`
    /// for a Unix socket.
    pub fn judge_again(&self, address: Option<SocketAddr>) -> Verdict {
        let (policy, ask) = (&self.targets.policy, self.ask());
        match address {
            Some(address) => policy.by_address(&ask, address).0,
            None => policy.by_name(&ask),
        }
    }
}
