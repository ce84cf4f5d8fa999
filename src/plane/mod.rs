//! Our own control plane.

mod exchange;
mod flow;
mod front;
mod name;
mod registry;
mod token;
