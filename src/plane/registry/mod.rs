//! The registry: which clusters exist, who may do what, on disk.
//!
//! Everything lives in memory and in the file. A change is written first and shown
//! second, so nobody ever sees what a crash could take back. Two kinds of facts are
//! written lazily, in one commit every [`FLUSH`]: when an agent was heard last and
//! when a token was used last.

mod record;
mod store;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;

pub use record::{AgentInfo, Cluster, Token, UnixTime};
pub(crate) use record::{ServiceToken, tidy};
pub use store::RegistryError;
pub(in crate::plane) use store::create_private_dir;

use super::expose::{Entry, Exposure};
use super::name::ClusterName;
use super::token::{Grant, TokenHash, TokenText, hex};
use store::{
    Store, delete_exposure, delete_service_token, delete_token, put_cluster, put_exposure,
    put_service_token, put_token,
};

/// How old the lazily written facts on disk may be.
pub(crate) const FLUSH: Duration = Duration::from_secs(30);

pub(crate) struct Registry {
    store: Store,
    /// Held by whoever writes, over the commit; never taken for reading.
    writing: Mutex<()>,
    /// Held for moments only, never over a commit.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clusters: BTreeMap<ClusterName, Cluster>,
    /// By cluster id.
    service_tokens: HashMap<String, ServiceToken>,
    tokens: HashMap<TokenHash, Token>,
    exposures: BTreeMap<Entry, Exposure>,
    unwritten_clusters: HashSet<ClusterName>,
    unwritten_tokens: HashSet<TokenHash>,
}

impl Registry {
    /// Opens the registry in `directory`, or creates it. Takes the database's lock:
    /// a second process gets [`RegistryError::InUse`].
    pub(crate) fn open(directory: &Path) -> Result<Self, RegistryError> {
        let (store, loaded) = Store::open(directory)?;
        let clusters = loaded.clusters.into_iter();
        let state = State {
            clusters: clusters.map(|c| (c.name.clone(), c)).collect(),
            service_tokens: loaded.service_tokens.into_iter().collect(),
            tokens: loaded.tokens.into_iter().collect(),
            exposures: loaded
                .exposures
                .into_iter()
                .map(|one| (one.entry.clone(), one))
                .collect(),
            ..State::default()
        };
        Ok(Self {
            store,
            writing: Mutex::new(()),
            state: Mutex::new(state),
        })
    }

    /// True when there is a registry in `directory`.
    pub(crate) fn exists(directory: &Path) -> bool {
        store::path_in(directory).exists()
    }

    /// Makes a token. Its text exists only in the answer.
    pub(crate) fn create_token(
        &self,
        grant: Grant,
        label: Option<String>,
    ) -> Result<(Token, TokenText), RegistryError> {
        let text = TokenText::generate(&grant)?;
        let hash = TokenHash::of(text.reveal());
        let _writing = self.writing.lock();
        let token = Token {
            id: self.new_token_id()?,
            grant,
            label: label.map(|label| tidy(&label)),
            created: now(),
            last_used: None,
        };
        self.store.write(|to| put_token(to, hash, &token))?;
        self.state.lock().tokens.insert(hash, token.clone());
        Ok((token, text))
    }

    /// All tokens, oldest first.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.state.lock().tokens.values().cloned().collect();
        tokens.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        tokens
    }

    /// False once it has been revoked.
    pub(crate) fn has_token(&self, id: &str) -> bool {
        self.state
            .lock()
            .tokens
            .values()
            .any(|token| token.id == id)
    }

    /// Takes a token back; `None` when there is none of that id.
    pub(crate) fn revoke_token(&self, id: &str) -> Result<Option<Token>, RegistryError> {
        let _writing = self.writing.lock();
        let found = {
            let state = self.state.lock();
            let mut tokens = state.tokens.iter();
            tokens
                .find(|(_, token)| token.id == id)
                .map(|(hash, _)| *hash)
        };
        let Some(hash) = found else { return Ok(None) };
        self.store.write(|to| delete_token(to, hash))?;
        let mut state = self.state.lock();
        state.unwritten_tokens.remove(&hash);
        Ok(state.tokens.remove(&hash))
    }

    /// The token that has this text, marked as used now.
    pub(crate) fn authenticate(&self, text: &str) -> Option<Token> {
        let hash = TokenHash::of(text);
        let mut state = self.state.lock();
        let now = now();
        let token = state.tokens.get_mut(&hash)?;
        let changed = token.last_used != Some(now);
        token.last_used = Some(now);
        let token = token.clone();
        if changed {
            state.unwritten_tokens.insert(hash);
        }
        Some(token)
    }

    /// Writes down that `agent` speaks for the cluster `name` now: a new cluster
    /// gets an id, a known one keeps its own. On disk when this returns.
    pub(crate) fn register(
        &self,
        name: &ClusterName,
        agent: AgentInfo,
        service_token: Option<ServiceToken>,
    ) -> Result<Cluster, RegistryError> {
        let _writing = self.writing.lock();
        let (known, known_token) = {
            let state = self.state.lock();
            let known = state.clusters.get(name).cloned();
            let token = known
                .as_ref()
                .and_then(|c| state.service_tokens.get(&c.id).cloned());
            (known, token)
        };
        let now = now();
        let cluster = match known.clone() {
            Some(cluster) => Cluster {
                agent,
                last_seen: now,
                ..cluster
            },
            None => Cluster {
                name: name.clone(),
                id: new_uuid()?,
                agent,
                created: now,
                last_seen: now,
                nodes: 0,
                pods: 0,
            },
        };
        // An agent that hands no token over now keeps the one it handed over before;
        // not the one of another agent, whose cluster may be another one too.
        let stale = service_token.is_none()
            && known_token.is_some()
            && known
                .as_ref()
                .is_some_and(|k| k.agent.id != cluster.agent.id);
        let new_token = service_token.filter(|token| known_token.as_ref() != Some(token));
        let same = known.is_some_and(|known| known.agent == cluster.agent) && new_token.is_none();
        if !same {
            self.store.write(|to| {
                put_cluster(to, &cluster)?;
                match &new_token {
                    Some(token) => put_service_token(to, &cluster.id, token),
                    None if stale => delete_service_token(to, &cluster.id),
                    None => Ok(()),
                }
            })?;
        }
        let mut state = self.state.lock();
        if let Some(token) = new_token {
            state.service_tokens.insert(cluster.id.clone(), token);
        } else if stale {
            state.service_tokens.remove(&cluster.id);
        }
        if same {
            state.unwritten_clusters.insert(name.clone());
        } else {
            state.unwritten_clusters.remove(name);
        }
        state.clusters.insert(name.clone(), cluster.clone());
        Ok(cluster)
    }

    /// Notes a sign of life; written with the next [`flush`](Self::flush). `counts`
    /// are nodes and pods.
    pub(crate) fn seen(&self, name: &ClusterName, counts: Option<(u64, u64)>) {
        let mut state = self.state.lock();
        let Some(cluster) = state.clusters.get_mut(name) else {
            return;
        };
        cluster.last_seen = now();
        if let Some((nodes, pods)) = counts {
            (cluster.nodes, cluster.pods) = (nodes, pods);
        }
        state.unwritten_clusters.insert(name.clone());
    }

    pub(crate) fn cluster(&self, name: &ClusterName) -> Option<Cluster> {
        self.state.lock().clusters.get(name).cloned()
    }

    /// All clusters, by name.
    pub(crate) fn clusters(&self) -> Vec<Cluster> {
        self.state.lock().clusters.values().cloned().collect()
    }

    /// What the agent of that cluster handed over, for the requests of users.
    pub(crate) fn service_token(&self, cluster_id: &str) -> Option<ServiceToken> {
        self.state.lock().service_tokens.get(cluster_id).cloned()
    }

    /// What is exposed, by entry.
    pub(crate) fn exposures(&self) -> Vec<Exposure> {
        self.state.lock().exposures.values().cloned().collect()
    }

    /// Writes an exposure down, in the place of another one of the same entry.
    pub(crate) fn expose(&self, exposure: &Exposure) -> Result<(), RegistryError> {
        let _writing = self.writing.lock();
        self.store.write(|to| put_exposure(to, exposure))?;
        let exposures = &mut self.state.lock().exposures;
        exposures.insert(exposure.entry.clone(), exposure.clone());
        Ok(())
    }

    /// Forgets an exposure; `None` when there is none of that entry.
    pub(crate) fn unexpose(&self, entry: &Entry) -> Result<Option<Exposure>, RegistryError> {
        let _writing = self.writing.lock();
        if !self.state.lock().exposures.contains_key(entry) {
            return Ok(None);
        }
        self.store.write(|to| delete_exposure(to, entry))?;
        Ok(self.state.lock().exposures.remove(entry))
    }

    /// Writes what is written lazily.
    pub(crate) fn flush(&self) -> Result<(), RegistryError> {
        let _writing = self.writing.lock();
        let (clusters, tokens) = {
            let mut state = self.state.lock();
            let names = std::mem::take(&mut state.unwritten_clusters);
            let hashes = std::mem::take(&mut state.unwritten_tokens);
            let clusters: Vec<Cluster> = names
                .iter()
                .filter_map(|name| state.clusters.get(name).cloned())
                .collect();
            let tokens: Vec<(TokenHash, Token)> = hashes
                .iter()
                .filter_map(|hash| Some((*hash, state.tokens.get(hash)?.clone())))
                .collect();
            (clusters, tokens)
        };
        if clusters.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        let written = self.store.write(|to| {
            clusters.iter().try_for_each(|c| put_cluster(to, c))?;
            tokens
                .iter()
                .try_for_each(|(hash, token)| put_token(to, *hash, token))
        });
        if written.is_err() {
            // Next time, then.
            let mut state = self.state.lock();
            let names = clusters.into_iter().map(|c| c.name);
            state.unwritten_clusters.extend(names);
            let hashes = tokens.into_iter().map(|(hash, _)| hash);
            state.unwritten_tokens.extend(hashes);
        }
        written
    }

    fn new_token_id(&self) -> Result<String, RegistryError> {
        loop {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes)?;
            let id = hex(&bytes);
            if self.state.lock().tokens.values().all(|t| t.id != id) {
                return Ok(id);
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            log::warn!("last-seen times could not be saved: {error}");
        }
    }
}

/// RFC 9562, version 4.
fn new_uuid() -> Result<String, RegistryError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    Ok([
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ]
    .join("-"))
}

fn now() -> UnixTime {
    jiff::Timestamp::now().as_second()
}
