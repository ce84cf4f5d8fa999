//! Few threads, each with one thing to do, in every order that the locks allow. Who
//! waits and is never woken is a deadlock, which loom reports.

mod outbox;
mod sessions;
mod stage;
mod streams;
