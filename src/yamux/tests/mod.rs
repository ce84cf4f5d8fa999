//! Rules of tunnels.md §2, one test each, seen from the wire.

mod endpoint;
