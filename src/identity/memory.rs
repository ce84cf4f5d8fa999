//! Identity for one process life: where nothing may or can be written.

use parking_lot::Mutex;

use super::{Identity, Store, StoreError};

/// `state.enabled: false`, and the demo's agent.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Identity>);

impl MemoryStore {
    pub fn new(identity: Identity) -> Self {
        Self(Mutex::new(identity))
    }
}

impl Store for MemoryStore {
    fn identity(&self) -> Identity {
        self.0.lock().clone()
    }

    fn save(&self, identity: &Identity) -> Result<(), StoreError> {
        *self.0.lock() = identity.clone();
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}
