//! What happens when something breaks: lines that are cut, frozen or slow, proxies in
//! between, processes that are killed, peers that don't read.

#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod kills;
mod load;
mod outages;
mod slow_links;
mod slow_reader;
mod stage;
mod tunnels;
mod ways_out;
