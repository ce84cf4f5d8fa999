//! How long a body is, and where its bytes lie in what arrives: pure.
//!
//! Three framings (RFC 9112 §6, §7.1): a length, chunks, or everything until the
//! connection closes. The decoder never copies: it says how many bytes of framing
//! to skip and how many bytes of body follow them.

/// How the length of a body is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Exactly so many bytes.
    Length(u64),
    Chunked,
    /// Until the peer closes; only for answers.
    UntilClose,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the connection was closed in the middle of the body")]
    Truncated,
    #[error("malformed chunk: {0}")]
    Chunk(&'static str),
}

/// What a decoder found at the beginning of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes of framing, to be skipped.
    pub skip: usize,
    /// Bytes of the body behind them.
    pub data: usize,
}

/// Finds a body in a stream of bytes that may be split anywhere.
#[derive(Clone, Debug)]
pub struct Decoder(State);

#[derive(Clone, Debug)]
enum State {
    Length(u64),
    UntilClose,
    Chunk(Chunk),
    Done,
}

/// Where in the chunked coding the input is.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    /// In the line with the size.
    Size {
        size: u64,
        digits: u8,
        line: usize,
    },
    /// Behind the size: blanks or an extension, which means nothing to us.
    Extension {
        size: u64,
        line: usize,
        cr: bool,
        /// Only blanks so far.
        blank: bool,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// In the trailer section; `line` bytes of the present line, `total` of all.
    Trailer {
        line: usize,
        total: usize,
        cr: bool,
    },
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::UntilClose => State::UntilClose,
            Framing::Chunked => State::Chunk(Chunk::START),
        })
    }

    /// Looks at what is unread. When no data is found and the body isn't done,
    /// all of `input` was framing and more is needed. Data is reported at most
    /// `max` bytes at a time.
    pub fn decode(&mut self, input: &[u8], max: usize) -> Result<Step, BodyError> {
        let room = input.len().min(max);
        match &mut self.0 {
            State::Done => Ok(Step::default()),
            State::UntilClose => Ok(Step {
                skip: 0,
                data: room,
            }),
            State::Length(left) => {
                let data = room.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data as u64;
                if *left == 0 {
                    self.0 = State::Done;
                }
                Ok(Step { skip: 0, data })
            }
            State::Chunk(_) => self.decode_chunked(input, max),
        }
    }

    /// The input has ended.
    pub fn at_end(&mut self) -> Result<(), BodyError> {
        match self.0 {
            State::Done => Ok(()),
            State::UntilClose => {
                self.0 = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunk(_) => Err(BodyError::Truncated),
        }
    }

    /// The last byte of the body and of its framing has been seen.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    fn decode_chunked(&mut self, input: &[u8], max: usize) -> Result<Step, BodyError> {
        let State::Chunk(chunk) = &mut self.0 else {
            return Ok(Step::default());
        };
        let mut skip = 0;
        loop {
            if let Chunk::Data(left) = chunk {
                let room = (input.len() - skip).min(max);
                let data = room.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data as u64;
                if *left == 0 {
                    *chunk = Chunk::DataCr;
                }
                return Ok(Step { skip, data });
            }
            let Some(&byte) = input.get(skip) else {
                return Ok(Step { skip, data: 0 });
            };
            skip += 1;
            let Some(next) = chunk.after(byte)? else {
                self.0 = State::Done;
                return Ok(Step { skip, data: 0 });
            };
            *chunk = next;
        }
    }
}

impl Chunk {
    const START: Self = Self::Size {
        size: 0,
        digits: 0,
        line: 0,
    };

    /// The state after one byte of framing; `None` at the end of the body.
    fn after(self, byte: u8) -> Result<Option<Self>, BodyError> {
        Ok(Some(match self {
            Self::Size { size, digits, line } => match (byte as char).to_digit(16) {
                Some(_) if digits == MAX_DIGITS => {
                    return Err(BodyError::Chunk("its size is too large"));
                }
                Some(digit) => Self::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                    line: line + 1,
                },
                None if digits == 0 => return Err(BodyError::Chunk("it has no size")),
                None => Self::Extension {
                    size,
                    line,
                    cr: false,
                    blank: true,
                }
                .after(byte)?
                .ok_or(BodyError::Chunk("it has no end"))?,
            },
            Self::Extension { size, cr: true, .. } => match (byte, size) {
                (b'\n', 0) => Self::Trailer {
                    line: 0,
                    total: 0,
                    cr: false,
                },
                (b'\n', size) => Self::Data(size),
                _ => return Err(BodyError::Chunk("a CR without LF")),
            },
            Self::Extension {
                size, line, blank, ..
            } => {
                if line >= MAX_LINE {
                    return Err(BodyError::Chunk("its extension is too long"));
                }
                let (cr, blank) = match byte {
                    b'\r' => (true, blank),
                    b'\n' => return Err(BodyError::Chunk("an LF without CR")),
                    b' ' | b'\t' => (false, blank),
                    b';' => (false, false),
                    0..=0x1f | 0x7f => return Err(BodyError::Chunk("a control character")),
                    _ if blank => return Err(BodyError::Chunk("its size is no number")),
                    _ => (false, false),
                };
                Self::Extension {
                    size,
                    line: line + 1,
                    cr,
                    blank,
                }
            }
            Self::Data(_) => Self::DataCr, // never reached: data is no framing
            Self::DataCr if byte == b'\r' => Self::DataLf,
            Self::DataLf if byte == b'\n' => Self::START,
            Self::DataCr | Self::DataLf => {
                return Err(BodyError::Chunk("its data is longer than its size"));
            }
            Self::Trailer { line, cr: true, .. } if byte == b'\n' && line == 0 => return Ok(None),
            Self::Trailer {
                total, cr: true, ..
            } if byte == b'\n' => Self::Trailer {
                line: 0,
                total,
                cr: false,
            },
            Self::Trailer { cr: true, .. } => {
                return Err(BodyError::Chunk("a CR without LF in the trailers"));
            }
            Self::Trailer { total, .. } if total >= MAX_TRAILERS => {
                return Err(BodyError::Chunk("its trailers are too long"));
            }
            Self::Trailer { line, total, .. } => match byte {
                b'\r' => Self::Trailer {
                    line,
                    total: total + 1,
                    cr: true,
                },
                b'\n' => return Err(BodyError::Chunk("an LF without CR in the trailers")),
                _ => Self::Trailer {
                    line: line + 1,
                    total: total + 1,
                    cr: false,
                },
            },
        }))
    }
}

/// What stands in front of a chunk of `length` bytes; [`CHUNK_END`] stands behind
/// it. A length of zero would end the body: nobody may ask for it.
pub fn chunk_head(length: usize) -> ChunkHead {
    debug_assert!(length > 0, "an empty chunk is the end of the body");
    let mut head = ChunkHead {
        bytes: [0; 18],
        start: 16,
    };
    head.bytes[16..].copy_from_slice(b"\r\n");
    let mut rest = length;
    while rest > 0 || head.start == 16 {
        head.start -= 1;
        head.bytes[head.start] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    head
}

/// The line in front of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {
    bytes: [u8; 18],
    start: usize,
}

impl AsRef<[u8]> for ChunkHead {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// What stands behind the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The end of a chunked body, without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// 64 bits of size.
const MAX_DIGITS: u8 = 16;
/// Extensions mean nothing to us; a long one only costs.
const MAX_LINE: usize = 1024;
/// Trailers are skipped; 16 KiB is more than any of them has.
const MAX_TRAILERS: usize = 16 * 1024;

#[cfg(test)]
mod tests;
