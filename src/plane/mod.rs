//! Our own control plane.

mod admin;
mod certificate;
mod dialogue;
mod exchange;
mod flow;
mod front;
mod hub;
mod name;
mod registry;
mod session;
mod token;
