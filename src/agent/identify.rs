//! Which agent this is (config-and-state.md §7, §8).

use std::sync::Arc;

use crate::config::{State, StateBackend};
use crate::identity::{self, FileStore, Identity, Machine, MemoryStore, Store, StoreError};

/// Opens the state that the configuration names. A file that nobody asked for and
/// that can't be used (a read-only root file system) is replaced by memory, with a
/// warning; one that another agent uses is always an error.
pub fn open_store(state: &State) -> Result<Arc<dyn Store>, StoreError> {
    match state.backend {
        StateBackend::Memory => Ok(Arc::new(MemoryStore::default())),
        StateBackend::Kubernetes => {
            log::warn!("state.backend kubernetes is not built yet: the state is kept in a file");
            open_file(state, false)
        }
        StateBackend::Auto => {
            if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
                log::info!("in a pod: unless a volume holds the state, each start registers anew");
            }
            open_file(state, false)
        }
        StateBackend::File => open_file(state, true),
    }
}

fn open_file(state: &State, required: bool) -> Result<Arc<dyn Store>, StoreError> {
    match FileStore::open(&state.file) {
        Ok(store) => Ok(Arc::new(store)),
        Err(error @ StoreError::Io { .. }) if !required && !state.file_given => {
            log::warn!("the state is kept in memory only, so each start registers anew: {error}");
            Ok(Arc::new(MemoryStore::default()))
        }
        Err(error) => Err(error),
    }
}

/// The configured id, else the stored one, else one made from this machine; it is
/// stored if it is new. A failed write is not fatal.
pub fn agent_id(configured: Option<&str>, store: &dyn Store) -> String {
    let stored = store.identity();
    let id = configured
        .map(str::to_owned)
        .or_else(|| stored.agent_id.clone())
        .unwrap_or_else(|| identity::agent_id(&Machine::read()));
    if stored.agent_id.as_deref() != Some(id.as_str()) {
        let identity = Identity {
            agent_id: Some(id.clone()),
            ..stored
        };
        if let Err(error) = store.save(&identity) {
            log::error!("the agent id could not be stored: {error}");
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_ids() {
        let store = MemoryStore::default();
        let generated = agent_id(None, &store);
        assert!(generated.starts_with("agent-"), "{generated}");
        assert_eq!(
            store.identity().agent_id.as_deref(),
            Some(generated.as_str())
        );
        assert_eq!(agent_id(Some("mine"), &store), "mine");
        assert_eq!(
            agent_id(None, &store),
            "mine",
            "the configured one was stored"
        );
    }

    #[test]
    fn an_unusable_default_place_is_not_fatal_but_a_named_one_is() {
        let folder = tempfile::tempdir().expect("folder");
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, "").expect("file");
        let mut state = State {
            file: blocked.join("state.yaml"),
            ..State::default()
        };
        assert_eq!(open_store(&state).expect("memory").location(), "memory");
        state.file_given = true;
        assert!(open_store(&state).is_err(), "somebody has named it");
        state.file_given = false;
        state.backend = StateBackend::File;
        assert!(open_store(&state).is_err());
    }

    #[test]
    fn a_second_agent_on_the_same_state_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let state = State {
            file: folder.path().join("state.yaml"),
            ..State::default()
        };
        let _first = open_store(&state).expect("file");
        assert!(matches!(open_store(&state), Err(StoreError::Locked { .. })));
    }
}
