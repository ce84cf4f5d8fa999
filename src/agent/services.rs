//! Services and origins for proxied requests: what the tunnels' targets and policy say
//! of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::Socket;

use crate::config::{Config, Origin, Place, Secret, ServicePort, TokenSource};
use crate::control::facts::ClusterFacts;
use crate::net::{Cancel, Deadline};
use crate::proxy::{
    ConnectionLimits, JudgedCall, Service, ServiceUpstreams, Services, StaticRoutes, Target,
    Unreached, Verdict,
};
use crate::telemetry::metrics::{self, Counter};
use crate::tunnel::Protocol;
use crate::tunnel::audit::{Audit, Judged, Line};
use crate::tunnel::header::Names;
use crate::tunnel::policy;
use crate::tunnel::target::{Admitted, Refusal, RefusalKind, Targets};

/// Everything that proxied requests reach but the API server.
pub(super) fn services(
    config: &Config,
    targets: Arc<Targets>,
    audit: Arc<Audit>,
    facts: Arc<dyn ClusterFacts>,
) -> ServiceUpstreams {
    let routes = StaticRoutes {
        controller: config.proxy.ingress_controller.clone(),
        hosts: config.proxy.ingress_routes.clone(),
    };
    ServiceUpstreams {
        services: Arc::new(PolicedServices {
            targets,
            audit,
            own: OwnTokens::new(facts, config.pipeops.token.clone()),
        }),
        routes: Arc::new(routes),
        connections: ConnectionLimits {
            idle_limit: config.timeouts.proxy_idle,
            dial_limit: config.timeouts.proxy_dial,
            ..ConnectionLimits::default()
        },
    }
}

struct PolicedServices {
    targets: Arc<Targets>,
    audit: Arc<Audit>,
    own: OwnTokens,
}

impl Services for PolicedServices {
    fn admit(&self, target: &Target) -> Result<Arc<dyn Service>, Unreached> {
        let (host, namespace, service, port) = match target {
            Target::Service(ServicePort {
                name,
                namespace,
                port,
            }) => (None, namespace, name, *port),
            Target::Origin {
                host,
                service,
                namespace,
            } => (host.as_deref(), namespace, service, 0),
        };
        let names = Names {
            namespace,
            service,
            port,
        };
        let of_machine = matches!(target, Target::Origin { .. });
        let admitted = self.targets.admit_request(host, names);
        let admitted = admitted.map_err(unreached).inspect_err(|error| {
            if of_machine && !matches!(error, Unreached::Denied(_)) {
                metrics::ORIGIN_UNKNOWN.increment();
            }
        })?;
        Ok(Arc::new(PolicedService {
            origin: OriginCall::new(admitted.origin().filter(|_| of_machine)),
            verdict: Mutex::new(verdict(admitted.verdict(), None)),
            admitted,
            is_alias: AtomicBool::new(false),
        }))
    }

    fn is_own_credential(&self, authorization: &str) -> bool {
        let Some((scheme, token)) = authorization.trim().split_once([' ', '\t']) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("bearer") && self.own.has(token.trim())
    }

    fn note(&self, call: JudgedCall<'_>) {
        self.audit.record(Line {
            is_request: true,
            id: call.id.to_owned(),
            tunnel: String::new(),
            // Its port is not known.
            client: call.client.map(|address| SocketAddr::new(address, 0)),
            protocol: Protocol::Tcp,
            target: call.target.to_owned(),
            address: call.verdict.address,
            judged: if call.denied {
                Judged::Denied
            } else {
                Judged::Allowed
            },
            reason: call.verdict.reason.clone(),
            dry_run: call.verdict.dry_run.clone(),
            bytes_in: call.bytes_in,
            bytes_out: call.bytes_out,
            duration: call.duration,
            end: call.end.to_owned().into(),
        });
    }
}

/// One call's.
struct PolicedService {
    admitted: Admitted,
    origin: OriginCall,
    /// What was said last.
    verdict: Mutex<Verdict>,
    /// What it leads to was judged, too, which takes a look at the cluster: each call
    /// dials anew.
    is_alias: AtomicBool,
}

impl Service for PolicedService {
    fn name(&self) -> String {
        self.admitted.to_string()
    }

    fn key(&self) -> String {
        self.admitted.key()
    }

    fn authority(&self) -> String {
        self.admitted.authority()
    }

    fn https(&self) -> Option<bool> {
        self.admitted.origin()?.https
    }

    fn verdict(&self) -> Verdict {
        self.verdict.lock().clone()
    }

    fn dial(&self, deadline: Deadline, cancel: &Cancel) -> Result<Arc<Socket>, Unreached> {
        let connected = self.admitted.dial(deadline, cancel).map_err(|refusal| {
            if let RefusalKind::Dial = refusal.kind {
                self.origin.note(false);
            }
            let unreached = unreached(refusal);
            if let Unreached::Denied(verdict) = &unreached {
                self.verdict.lock().clone_from(verdict);
            }
            unreached
        })?;
        self.origin.note(true);
        *self.verdict.lock() = verdict(&connected.verdict, connected.address);
        self.is_alias.store(connected.is_alias, Ordering::Relaxed);
        Ok(connected.socket)
    }

    fn allows(&self, address: Option<SocketAddr>) -> bool {
        let said = self.admitted.judge_again(address);
        *self.verdict.lock() = verdict(&said, address);
        if said.allowed {
            self.origin.note(true);
        }
        said.allowed
    }

    fn keeps(&self) -> bool {
        !self.is_alias.load(Ordering::Relaxed)
    }
}

/// Counts a call to an origin of a plain machine once: by what came of its last
/// connection, dialled or kept.
struct OriginCall {
    /// For one that came about, and for one that didn't. `None`: it is to no origin.
    counters: Option<[&'static Counter; 2]>,
    was_reached: Mutex<Option<bool>>,
}

impl OriginCall {
    fn new(origin: Option<&Origin>) -> Self {
        let counters = origin.map(|origin| match origin.place {
            Place::Host { .. } => [&metrics::ORIGIN_TCP_OK, &metrics::ORIGIN_TCP_FAILED],
            Place::Unix(_) => [&metrics::ORIGIN_UNIX_OK, &metrics::ORIGIN_UNIX_FAILED],
        });
        Self {
            counters,
            was_reached: Mutex::new(None),
        }
    }

    fn note(&self, was_reached: bool) {
        *self.was_reached.lock() = Some(was_reached);
    }
}

impl Drop for OriginCall {
    fn drop(&mut self) {
        if let (Some([ok, failed]), Some(was_reached)) =
            (self.counters, *self.was_reached.get_mut())
        {
            let counter = if was_reached { ok } else { failed };
            counter.increment();
        }
    }
}

/// The agent's own tokens, which no Service must see.
struct OwnTokens {
    facts: Arc<dyn ClusterFacts>,
    /// The one for the control plane.
    control: TokenSource,
    /// As they were when they were read last; that may take files.
    known: Mutex<Option<(Instant, Arc<[Secret]>)>>,
}

impl OwnTokens {
    fn new(facts: Arc<dyn ClusterFacts>, control: TokenSource) -> Self {
        Self {
            facts,
            control,
            known: Mutex::default(),
        }
    }

    fn has(&self, token: &str) -> bool {
        let is_same = |own: &Secret| {
            let own = own.expose().trim();
            own == token || subject(own).is_some_and(|who| subject(token) == Some(who))
        };
        self.read().iter().any(is_same)
    }

    fn read(&self) -> Arc<[Secret]> {
        let mut known = self.known.lock();
        if let Some((since, tokens)) = &*known
            && since.elapsed() < TOKENS_AGE
        {
            return tokens.clone();
        }
        let mut tokens = self.facts.service_tokens();
        tokens.extend(self.control.read().ok());
        let tokens: Arc<[Secret]> = tokens.into();
        *known = Some((Instant::now(), tokens.clone()));
        tokens
    }
}

/// Tokens in files change now and then: every ten seconds is soon enough to notice.
const TOKENS_AGE: Duration = Duration::from_secs(10);

/// Whose token it is, if it says so (RFC 7519): the one before a rotation is as good as
/// the one after. Its signature doesn't matter here.
fn subject(token: &str) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Claims {
        iss: String,
        sub: String,
    }
    let claims = token.split('.').nth(1)?.trim_end_matches('=');
    let claims = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Some((claims.iss, claims.sub))
}

fn verdict(said: &policy::Verdict, address: Option<SocketAddr>) -> Verdict {
    Verdict {
        reason: said.reason.clone(),
        dry_run: said.dry_run.clone(),
        address,
    }
}

fn unreached(refusal: Refusal) -> Unreached {
    match refusal.kind {
        RefusalKind::Header => Unreached::Unknown(refusal.reason),
        RefusalKind::Denied => Unreached::Denied(Verdict {
            reason: refusal.reason,
            dry_run: refusal.dry_run,
            address: None,
        }),
        RefusalKind::Dial | RefusalKind::Cancelled(_) => Unreached::Failed(refusal.reason),
    }
}

#[cfg(test)]
mod tests;
