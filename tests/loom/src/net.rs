//! What the outbox sees of a cancellation: nobody cancels here.

use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {}

pub struct Cancel;

impl Cancel {
    pub fn reason(&self) -> Option<Reason> {
        None
    }

    pub fn on_wake(&self, _wake: Arc<dyn Fn() + Send + Sync>) -> Result<(), Reason> {
        Ok(())
    }
}
