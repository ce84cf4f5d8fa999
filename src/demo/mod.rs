//! Plane, agent and a sample cluster in one process.

mod sample;

pub use sample::SampleCluster;
