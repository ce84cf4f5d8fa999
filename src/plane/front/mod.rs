//! The front door: any HTTP client in, `proxy_request`s out.

pub(super) mod fields;
pub(super) mod status;
pub(super) mod target;
