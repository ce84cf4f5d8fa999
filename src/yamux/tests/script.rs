//! Bytes as a script: any input is a valid one, so a fuzzer can write them.

/// Bytes that decide.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    /// The next decision, of `choices`; None at the end.
    pub(crate) fn choose(&mut self, choices: usize) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first) % choices)
    }

    /// The next `count` bytes, or what is left.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Bytes `at..at + len` of what `side` sends on a stream: each byte tells where it
/// is, and which stream it belongs to.
pub(super) fn pattern(id: u32, side: usize, at: usize, len: usize) -> &'static [u8] {
    static BYTES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        (0..PERIOD + (1 << 20))
            .map(|n| (n % PERIOD) as u8)
            .collect()
    });
    let from = (at + id as usize * 7 + side * 101) % PERIOD;
    &BYTES[from..from + len]
}

/// Prime, so that no size of a chunk or frame fits.
const PERIOD: usize = 251;
