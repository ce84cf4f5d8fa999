//! What both benchmarks that compare agents stand on.

pub(crate) mod machine;
pub(crate) mod page;
pub(crate) mod process;
pub(crate) mod program;
