//! What the outbox sees of frames.

pub mod frame {
    pub const MAX_HEADER: usize = 14;
    pub const MAX_CONTROL: usize = 125;

    /// A close frame: its code.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CloseFrame(pub u16);
}
