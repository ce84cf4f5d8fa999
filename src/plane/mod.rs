//! Our own control plane.

mod flow;
mod front;
mod name;
mod registry;
mod token;
