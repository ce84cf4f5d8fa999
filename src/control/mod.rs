//! The protocol of the control channel.
