//! Two sessions in memory.
