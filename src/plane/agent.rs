//! An agent's connection from its upgrade to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::agent_connection::AgentConnection;
use super::agent_event::AgentEvent;
use super::agent_receiver::AgentReceiver;
use super::dialogue::{Dialogue, Endpoint, Next};
use super::hub::{Hub, TooManyConnections};
use super::name::ClusterName;
use crate::link::{Link, Role, Settings};
use crate::net::{Deadline, Halves};
use crate::threads::{self, SpawnError, Stack};
use crate::websocket::upgrade;

/// A slot among the connections; given back when dropped.
pub(crate) struct AgentSlot {
    hub: Arc<Hub>,
    connection: Arc<AgentConnection>,
}

impl AgentSlot {
    /// Takes one for the holder of an agent's token, before the upgrade is answered.
    pub(crate) fn take(hub: &Arc<Hub>, token: &str) -> Result<Self, TooManyConnections> {
        let now = jiff::Timestamp::now().as_second();
        let connection = Arc::new(AgentConnection::new(
            token.to_owned(),
            now,
            hub.budget.clone(),
        ));
        hub.enter(&connection)?;
        Ok(Self {
            hub: hub.clone(),
            connection,
        })
    }
}

impl Drop for AgentSlot {
    fn drop(&mut self) {
        self.connection.on_link_ended();
        self.hub.leave(&self.connection);
    }
}

/// Answers the upgrade request that these headers belong to and serves the
/// connection on a thread of its own.
pub(crate) fn serve(
    slot: AgentSlot,
    cluster: ClusterName,
    endpoint: Endpoint,
    headers: Vec<(String, String)>,
    mut halves: Halves,
) -> Result<(), SpawnError> {
    threads::spawn(format!("agent-{cluster}"), Stack::Work, move || {
        threads::prompt();
        halves.set_deadline(Some(Deadline::after(UPGRADE_LIMIT)));
        if let Err(error) = upgrade::accept(&headers, &mut halves.write) {
            log::info!(cluster = cluster.as_str(); "an agent's upgrade failed: {error}");
            return;
        }
        run(&slot, cluster, endpoint, halves);
    })
    .map(drop)
}

fn run(slot: &AgentSlot, cluster: ClusterName, endpoint: Endpoint, halves: Halves) {
    let (sender, events) = bounded(EVENTS);
    let connection = &slot.connection;
    let mut settings = Settings::new(Role::Server);
    settings.max_message = MAX_MESSAGE;
    let started = Link::start(halves, settings, |link| {
        connection.connect(Box::new(link.clone()));
        AgentReceiver::new(connection.clone(), sender, slot.hub.tunnel_memory.clone())
    });
    let link = match started {
        Ok(link) => link,
        Err(error) => {
            log::warn!(cluster = cluster.as_str(); "an agent's connection failed: {error}");
            return;
        }
    };
    let (hub, name) = (slot.hub.clone(), cluster.as_str().to_owned());
    let mut dialogue = Dialogue::new(hub, connection.clone(), cluster, endpoint, Instant::now());
    talk(&mut dialogue, &events, &link);
    let ending = link.wait();
    log::info!(
        cluster = name.as_str(),
        by:? = ending.by,
        code:? = ending.code,
        lived:? = ending.lived,
        bytes_in = ending.bytes_in,
        bytes_out = ending.bytes_out;
        "an agent's connection ended: {}", ending.why
    );
}

/// Runs the dialogue until one side has enough.
fn talk(dialogue: &mut Dialogue, events: &Receiver<AgentEvent>, link: &Link) {
    let mut next = dialogue.start();
    loop {
        match next {
            Next::Continue => {}
            Next::Close(code, reason) => return link.close(code, reason),
            Next::Abort(why) => return link.abort(why),
        }
        let event = match dialogue.deadline() {
            Some(deadline) => events.recv_deadline(deadline),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        next = match event {
            Ok(event) => dialogue.handle(event),
            Err(RecvTimeoutError::Timeout) => dialogue.timeout(Instant::now()),
            // The reader has ended.
            Err(RecvTimeoutError::Disconnected) => return,
        };
    }
}

const UPGRADE_LIMIT: Duration = Duration::from_secs(10);

/// Registrations and heartbeats that wait for the disk; an agent sends one in 15 s.
const EVENTS: usize = 64;

/// What an agent sends in one message: a body of form B at the limit of what is
/// kept of it (8 MiB, in base64), its headers and the envelope.
const MAX_MESSAGE: usize = 12 * 1024 * 1024;
