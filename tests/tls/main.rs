//! The halves of a TLS connection against other implementations: OpenSSL's command
//! line and a small program in Go, each as the client and as the server, TLS 1.2
//! and 1.3. (rustls as the peer is among the unit tests.) `tests/run interop` runs
//! them and builds what they need.

#![allow(clippy::needless_pass_by_value)] // values are literals here

mod go;
mod openssl;
mod stage;

#[path = "../support/ca.rs"]
#[allow(dead_code)]
mod ca;
#[path = "../support/wait.rs"]
#[allow(dead_code)]
mod wait;
