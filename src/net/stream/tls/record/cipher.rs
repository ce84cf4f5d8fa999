//! The suite's own cipher with the key of one direction, as its records need it.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use zeroize::Zeroizing;

use super::VERSION;

/// The key of one direction. It is erased from memory when it is dropped, by
/// aws-lc, as rustls erases the copy that it came from; the IV by its type.
pub(super) struct Cipher {
    pub(super) key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    pub(super) form: Form,
    /// Number of the next record.
    pub(super) seq: u64,
}

/// How a record is laid out.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// The content is followed by its type; nonce from IV and number.
    Tls13,
    /// So many bytes of nonce go in front of the content: 8 with AES-GCM, where
    /// the sender may choose them (we do as in TLS 1.3), 0 with ChaCha20.
    Tls12 { explicit: usize },
}

impl Cipher {
    pub(super) fn new(
        version: ProtocolVersion,
        seq: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, rustls::Error> {
        use ConnectionTrafficSecrets as Secrets;
        let (algorithm, explicit, key, iv) = match secrets {
            Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, 8, key, iv),
            Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, 8, key, iv),
            Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, 0, key, iv),
            _ => return Err(unsupported()),
        };
        let form = match version {
            ProtocolVersion::TLSv1_3 => Form::Tls13,
            ProtocolVersion::TLSv1_2 => Form::Tls12 { explicit },
            _ => return Err(unsupported()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unsupported())?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: Zeroizing::new(iv.as_ref().try_into().map_err(|_| unsupported())?),
            form,
            seq,
        })
    }

    pub(super) fn nonce(&self, seq: u64) -> Nonce {
        Nonce::assume_unique_for_key(self.nonce_bytes(seq))
    }

    /// The IV with the number of the record in its last eight bytes, by XOR.
    pub(super) fn nonce_bytes(&self, seq: u64) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(seq.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }
}

/// What is authenticated besides the content in TLS 1.2: number, type, version,
/// length of the content.
pub(super) fn aad_12(seq: u64, kind: u8, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&seq.to_be_bytes());
    aad[8] = kind;
    aad[9..11].copy_from_slice(&VERSION);
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}

fn unsupported() -> rustls::Error {
    rustls::Error::General("these TLS secrets can't be used".to_owned())
}
