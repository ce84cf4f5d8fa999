//! UDP in JSON messages: a socket and a thread for each client of a tunnel, which
//! hears its target and nobody else (tunnels.md T24, T25).
//!
//! The reader of the control connection sends datagrams itself: that never waits.

mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64_simd::STANDARD;
use parking_lot::Mutex;

use super::{JsonTunnels, MAX_NAME, Outlet, asked_for, names_are_too_long};
use crate::telemetry::RateLimit;
use crate::telemetry::metrics::UDP_DROPPED;
use crate::tunnel::Protocol;
use crate::tunnel::audit::Judged;
use crate::tunnel::policy::Verdict;
use crate::tunnel::target::RefusalKind;
use crate::wire::tunnel::Datagram;
use session::Session;

/// The sessions of one connection to the control plane.
pub(super) struct Sessions {
    shared: Arc<JsonTunnels>,
    outlet: Arc<dyn Outlet>,
    table: Arc<Table>,
}

type Table = Mutex<HashMap<Key, Arc<Session>>>;

/// T24: whose session it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tunnel: String,
    address: String,
    port: u16,
}

impl Sessions {
    pub(super) fn new(shared: Arc<JsonTunnels>, outlet: Arc<dyn Outlet>) -> Self {
        Self {
            shared,
            outlet,
            table: Arc::default(),
        }
    }

    /// Sends it on, through a new session if there is none yet.
    pub(super) fn datagram(&mut self, datagram: &Datagram<'_>) {
        let too_long = datagram.tunnel_id.len() > MAX_NAME
            || datagram.client_address.len() > MAX_NAME
            || datagram.data.len() > MAX_BASE64
            || names_are_too_long(&datagram.target);
        if too_long {
            return dropped("a datagram or a name that is too long");
        }
        let Ok(bytes) = STANDARD.decode_to_vec(datagram.data.as_bytes()) else {
            return dropped("data that is not base64");
        };
        let key = Key {
            tunnel: datagram.tunnel_id.to_string(),
            address: datagram.client_address.to_string(),
            port: datagram.client_port,
        };
        let known = self.table.lock().get(&key).cloned();
        let known = known.filter(|session| !session.may_be_tried_again());
        match known.or_else(|| self.begin(key, datagram)) {
            Some(session) => session.send(bytes),
            None => dropped("no room for another session"),
        }
    }

    /// T25: sessions begin on the reader's thread alone, so there is one of each.
    fn begin(&self, key: Key, datagram: &Datagram<'_>) -> Option<Arc<Session>> {
        let mut table = self.table.lock();
        table.remove(&key);
        let max = self.shared.settings.max_sessions;
        if table.len() >= max {
            table.retain(|_, session| !session.may_be_tried_again());
        }
        if table.len() >= max {
            return None;
        }
        let place = self.shared.place(&self.shared.sessions, max)?;
        let session = Session::new(self.shared.clone(), self.outlet.clone(), key.clone());
        table.insert(key, session.clone());
        drop(table);
        match self.shared.admit(Protocol::Udp, &datagram.target) {
            Ok((admitted, proxy)) => {
                session.introduce(proxy);
                if let Err(error) = session.spawn(admitted, self.table.clone(), place) {
                    // It has cleaned up.
                    log::warn!("{error}");
                }
            }
            Err(refusal) => {
                session.refuse(&refusal);
                let judged = match refusal.kind {
                    RefusalKind::Denied => Judged::Denied,
                    _ => Judged::Invalid,
                };
                let target = asked_for(&datagram.target);
                let verdict = Verdict {
                    reason: refusal.to_string(),
                    ..Verdict::default()
                };
                session.record(target, judged, verdict, None, "refused".to_owned());
            }
        }
        Some(session)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let sessions: Vec<_> = self.table.lock().drain().collect();
        for (_, session) in sessions {
            session.lose();
        }
    }
}

fn dropped(why: &str) {
    static DROPPED: RateLimit = RateLimit::new(1, Duration::from_mins(1));
    UDP_DROPPED.increment();
    if let Some(skipped) = DROPPED.pass() {
        log::warn!(skipped; "udp_tunnel_data dropped: {why}");
    }
}

/// A datagram has 65,507 bytes at most.
const MAX_BASE64: usize = 65_507_usize.div_ceil(3) * 4;
