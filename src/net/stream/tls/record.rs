//! Protection of single records with the keys of one direction (RFC 8446 §5.2 to
//! §5.4; RFC 5246 §6.2.3.3 with RFC 5288 and RFC 7905).

mod cipher;

use std::ops::Range;

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, InvalidMessage, PeerMisbehaved,
    ProtocolVersion,
};

use cipher::{Cipher, Form, aad_12};

/// What the peer did wrong.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: rustls::Error,
    /// What the peer is told; nothing when it was the peer who told us.
    pub(super) alert: Option<AlertDescription>,
}

impl Refusal {
    pub(super) fn new(error: impl Into<rustls::Error>, alert: AlertDescription) -> Self {
        Self {
            error: error.into(),
            alert: Some(alert),
        }
    }
}

/// How long the record that begins here is, with its header; [`None`] as long as
/// the header isn't complete.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(&[kind, major, minor, high, low]) = bytes.first_chunk() else {
        return Ok(None);
    };
    if !(20..=23).contains(&kind) {
        return Err(Refusal::new(
            InvalidMessage::InvalidContentType,
            AlertDescription::UnexpectedMessage,
        ));
    }
    if [major, minor] != VERSION {
        return Err(Refusal::new(
            InvalidMessage::UnknownProtocolVersion,
            AlertDescription::ProtocolVersion,
        ));
    }
    let body = usize::from(u16::from_be_bytes([high, low]));
    if body > MAX_BODY {
        return Err(oversized());
    }
    Ok(Some(HEADER + body))
}

/// Opens the records of the direction towards us.
pub(super) struct Opener(Cipher);

impl Opener {
    /// `seq` is the number of the next record.
    pub(super) fn new(
        version: ProtocolVersion,
        (seq, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, rustls::Error> {
        Cipher::new(version, seq, &secrets).map(Self)
    }

    /// Decrypts a whole record where it lies; says what it is and where in it its
    /// content lies.
    pub(super) fn open(
        &mut self,
        record: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), Refusal> {
        let Some((header, body)) = record.split_first_chunk_mut::<HEADER>() else {
            return Err(undecryptable());
        };
        match self.0.form {
            Form::Tls13 => self.open_13(*header, body),
            Form::Tls12 { explicit } => self.open_12(*header, body, explicit),
        }
    }

    fn open_13(
        &mut self,
        header: [u8; HEADER],
        body: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), Refusal> {
        match ContentType::from(header[0]) {
            ContentType::ApplicationData => {}
            // Allowed until the peer's Finished (RFC 8446 §5), which has come.
            ContentType::ChangeCipherSpec => {
                return Err(Refusal::new(
                    PeerMisbehaved::IllegalMiddleboxChangeCipherSpec,
                    AlertDescription::UnexpectedMessage,
                ));
            }
            other => return Err(unexpected(other)),
        }
        let nonce = self.0.nonce(self.0.seq);
        let inner = self
            .0
            .key
            .open_in_place(nonce, Aad::from(header), body)
            .map_err(|_| undecryptable())?;
        self.0.seq += 1;
        if inner.len() > MAX_CONTENT + 1 {
            return Err(oversized());
        }
        // Content, its type, zeros.
        let Some(end) = inner.iter().rposition(|&byte| byte != 0) else {
            return Err(Refusal::new(
                PeerMisbehaved::IllegalTlsInnerPlaintext,
                AlertDescription::UnexpectedMessage,
            ));
        };
        Ok((inner[end].into(), HEADER..HEADER + end))
    }

    fn open_12(
        &mut self,
        header: [u8; HEADER],
        body: &mut [u8],
        explicit: usize,
    ) -> Result<(ContentType, Range<usize>), Refusal> {
        let Some(length) = body.len().checked_sub(explicit + TAG) else {
            return Err(undecryptable());
        };
        if length > MAX_CONTENT {
            return Err(oversized());
        }
        let mut nonce = self.0.nonce_bytes(self.0.seq);
        let (sent, sealed) = body.split_at_mut(explicit);
        nonce[NONCE_LEN - explicit..].copy_from_slice(sent);
        let aad = aad_12(self.0.seq, header[0], length);
        self.0
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), sealed)
            .map_err(|_| undecryptable())?;
        self.0.seq += 1;
        let begin = HEADER + explicit;
        Ok((header[0].into(), begin..begin + length))
    }
}

/// Seals the records of the direction away from us.
pub(super) struct Sealer {
    cipher: Cipher,
    limit: u64,
}

impl Sealer {
    /// `seq` is the number of the next record; `limit` says how many records these
    /// keys may protect.
    pub(super) fn new(
        version: ProtocolVersion,
        (seq, secrets): (u64, ConnectionTrafficSecrets),
        limit: u64,
    ) -> Result<Self, rustls::Error> {
        let cipher = Cipher::new(version, seq, &secrets)?;
        Ok(Self { cipher, limit })
    }

    /// True when one record is left at most: it is for the key update, or for the
    /// close_notify.
    pub(super) fn is_used_up(&self) -> bool {
        self.cipher.seq.saturating_add(1) >= self.limit
    }

    /// Number of the next record.
    #[cfg(test)]
    pub(super) fn seq(&self) -> u64 {
        self.cipher.seq
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Appends a record with this content, at most [`MAX_CONTENT`] bytes, which is
    /// encrypted from where it lies.
    pub(super) fn seal(
        &mut self,
        out: &mut Sealed,
        kind: ContentType,
        content: &[u8],
    ) -> Result<(), rustls::Error> {
        let frame = self.frame(kind, content.len());
        let (inside, tail) = out.append(&frame);
        self.cipher
            .key
            .seal_out_of_place_scatter(
                frame.nonce(),
                frame.aad(),
                content,
                inside,
                frame.inner_type(),
                tail,
            )
            .map_err(|_| rustls::Error::EncryptError)?;
        self.cipher.seq += 1;
        Ok(())
    }

    /// As [`seal`](Self::seal), for content that has to be put together first:
    /// `gather` gets `length` bytes of room for it.
    pub(super) fn seal_gathered(
        &mut self,
        out: &mut Sealed,
        kind: ContentType,
        length: usize,
        gather: impl FnOnce(&mut [u8]),
    ) -> Result<(), rustls::Error> {
        let frame = self.frame(kind, length);
        let (inside, tail) = out.append(&frame);
        gather(inside);
        self.cipher
            .key
            .seal_in_place_scatter(frame.nonce(), frame.aad(), inside, frame.inner_type(), tail)
            .map_err(|_| rustls::Error::EncryptError)?;
        self.cipher.seq += 1;
        Ok(())
    }

    fn frame(&self, kind: ContentType, length: usize) -> Frame {
        let Cipher { form, seq, .. } = self.cipher;
        let nonce = self.cipher.nonce_bytes(seq);
        let (outer, explicit, inner) = match form {
            Form::Tls13 => (ContentType::ApplicationData, 0, 1),
            Form::Tls12 { explicit } => (kind, explicit, 0),
        };
        let body = explicit + length + inner + TAG;
        debug_assert!(u16::try_from(body).is_ok(), "{length} bytes of content");
        let [high, low] = (body as u16).to_be_bytes();
        let header = [outer.into(), VERSION[0], VERSION[1], high, low];
        Frame {
            header,
            nonce,
            explicit,
            length,
            inner: [kind.into()],
            inner_len: inner,
            aad: match form {
                Form::Tls13 => AdditionalData::V13(header),
                Form::Tls12 { .. } => AdditionalData::V12(aad_12(seq, header[0], length)),
            },
        }
    }
}

/// Everything about a record but its content.
struct Frame {
    header: [u8; HEADER],
    nonce: [u8; NONCE_LEN],
    /// Bytes of the nonce that go in front of the content.
    explicit: usize,
    /// Bytes of content.
    length: usize,
    inner: [u8; 1],
    inner_len: usize,
    aad: AdditionalData,
}

impl Frame {
    fn nonce(&self) -> Nonce {
        Nonce::assume_unique_for_key(self.nonce)
    }

    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(match &self.aad {
            AdditionalData::V13(bytes) => &bytes[..],
            AdditionalData::V12(bytes) => bytes,
        })
    }

    /// What is encrypted behind the content: its type, with TLS 1.3.
    fn inner_type(&self) -> &[u8] {
        &self.inner[..self.inner_len]
    }
}

enum AdditionalData {
    V13([u8; HEADER]),
    V12([u8; 13]),
}

/// Records on their way out, one behind the other.
#[derive(Default)]
pub(super) struct Sealed {
    /// Longer than what is in it, so that no room must be cleared twice.
    buf: Vec<u8>,
    len: usize,
}

impl Sealed {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// Forgets the records. Room that is much larger than they were is given back.
    pub(super) fn clear(&mut self) {
        if self.buf.len() > 2 * KEEP && self.len < KEEP {
            self.buf = Vec::new();
        }
        self.len = 0;
    }

    /// Gives back all of the room, unless there is something in it.
    pub(super) fn shrink(&mut self) {
        if self.len == 0 {
            self.buf = Vec::new();
        }
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.buf.capacity()
    }

    /// Makes room for so many bytes more.
    pub(super) fn reserve(&mut self, more: usize) {
        if self.buf.len() < self.len + more {
            self.buf.resize(self.len + more, 0);
        }
    }

    /// Room for a record's content and for what follows it.
    fn append(&mut self, frame: &Frame) -> (&mut [u8], &mut [u8]) {
        let tail = frame.inner_len + TAG;
        let front = HEADER + frame.explicit;
        self.reserve(front + frame.length + tail);
        let record = &mut self.buf[self.len..][..front + frame.length + tail];
        self.len += record.len();
        let (head, rest) = record.split_at_mut(front);
        head[..HEADER].copy_from_slice(&frame.header);
        head[HEADER..].copy_from_slice(&frame.nonce[NONCE_LEN - frame.explicit..]);
        rest.split_at_mut(frame.length)
    }
}

pub(super) fn unexpected(kind: ContentType) -> Refusal {
    let error = rustls::Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: kind,
    };
    Refusal::new(error, AlertDescription::UnexpectedMessage)
}

fn undecryptable() -> Refusal {
    Refusal::new(rustls::Error::DecryptError, AlertDescription::BadRecordMac)
}

fn oversized() -> Refusal {
    Refusal::new(
        rustls::Error::PeerSentOversizedRecord,
        AlertDescription::RecordOverflow,
    )
}

/// Type, version, length.
pub(super) const HEADER: usize = 5;

/// The version that both TLS 1.2 and 1.3 write into a header.
const VERSION: [u8; 2] = [3, 3];

/// Authentication tag of all supported algorithms.
const TAG: usize = 16;

/// Content of one record at most.
pub(super) const MAX_CONTENT: usize = 1 << 14;

/// Body of one record at most, as TLS 1.3 has it. TLS 1.2 allows more, but not
/// with the algorithms that there are.
const MAX_BODY: usize = MAX_CONTENT + 256;

/// What protection adds to content at most, header included.
pub(super) const MAX_OVERHEAD: usize = HEADER + 8 + TAG + 1;

/// Room that is kept however little of it is needed.
const KEEP: usize = 4 * 1024;
