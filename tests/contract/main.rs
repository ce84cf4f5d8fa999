//! Agent and plane on one wire, over real TLS, in this process: what goes in at the
//! front door arrives at the API server and comes back; and each of the two beside a
//! peer that knows less than our own.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod cancelling;
mod exposed;
mod fields;
mod forms;
mod held;
mod life;
mod live;
mod other_agents;
mod other_planes;
mod refusals;
mod services;
mod sockets;
mod streams;
