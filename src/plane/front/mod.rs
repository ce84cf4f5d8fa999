//! The front door: any HTTP client in, `proxy_request`s out.

pub(crate) mod fields;
pub(crate) mod status;
pub(crate) mod target;
