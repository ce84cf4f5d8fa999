//! Large bodies that need no memory: every byte is known by its place.

use std::sync::LazyLock;

/// The period is no multiple of anything that pieces are cut by, so that a piece
/// that is missing, doubled or out of order doesn't fit.
const PERIOD: usize = 1_048_573;

/// What is handed out at a time.
pub(crate) const PIECE: usize = 64 * 1024;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
    // A piece that begins near the end of a period goes on into the next.
    bytes.extend_from_within(..PIECE);
    bytes
});

/// The bytes from `offset` on, at most [`PIECE`] and at most up to `total`.
pub(crate) fn piece(offset: u64, total: u64) -> &'static [u8] {
    let length = (total - offset).min(PIECE as u64) as usize;
    let start = (offset % PERIOD as u64) as usize;
    &BYTES[start..start + length]
}

/// All of a body that isn't too large for that.
pub(crate) fn whole(total: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(total);
    while all.len() < total {
        all.extend_from_slice(piece(all.len() as u64, total as u64));
    }
    all
}

/// Looks at a body as it comes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) received: u64,
}

impl Check {
    /// Panics at the first byte that is another.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE));
            let expected = piece(self.received, self.received + now.len() as u64);
            assert!(now == expected, "other bytes after {}", self.received);
            self.received += now.len() as u64;
            bytes = later;
        }
    }
}
