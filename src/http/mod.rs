//! HTTP/1.1, as much of it as the agent needs.

mod headers;

pub use headers::{Headers, canonical_name, is_field_value, is_token};
