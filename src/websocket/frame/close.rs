//! The close frame's payload (RFC 6455 §5.5.1, §7.4).

use super::header::MAX_CONTROL;
use super::reader::Refusal;

/// What a close frame says: a code and a reason, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CloseFrame {
    /// Always one that may stand on the wire.
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
}

impl CloseFrame {
    /// A close frame to send. The reason is cut to what fits; a code that must not
    /// stand on the wire becomes an empty frame.
    pub(crate) fn new(code: u16, reason: &str) -> Self {
        if !may_be_sent(code) {
            return Self::default();
        }
        let end = reason.floor_char_boundary(MAX_CONTROL - 2);
        Self {
            code: Some(code),
            reason: reason[..end].to_owned(),
        }
    }

    pub(super) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        match payload {
            [] => Ok(Self::default()),
            [_] => Err(Refusal::ClosePayload),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !may_be_sent(code) {
                    return Err(Refusal::CloseCode(code));
                }
                let reason = str::from_utf8(reason).map_err(|_| Refusal::Utf8)?;
                Ok(Self {
                    code: Some(code),
                    reason: reason.to_owned(),
                })
            }
        }
    }

    /// The payload's bytes.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(2 + self.reason.len());
        if let Some(code) = self.code {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(self.reason.as_bytes());
        }
        payload
    }
}

/// Codes that may stand in a close frame: those of RFC 6455 §7.4.1 without 1004 to
/// 1006 and 1015, 1012 to 1014 from IANA's registry, and the ranges for libraries
/// and applications.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_must_not_be_on_the_wire_are_refused() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535u16] {
            assert_eq!(
                CloseFrame::parse(&code.to_be_bytes()),
                Err(Refusal::CloseCode(code))
            );
            assert_eq!(CloseFrame::new(code, "x"), CloseFrame::default());
        }
    }

    #[test]
    fn a_payload_of_one_byte_or_a_broken_reason_is_refused() {
        assert_eq!(CloseFrame::parse(&[3]), Err(Refusal::ClosePayload));
        assert_eq!(CloseFrame::parse(&[3, 0xe8, 0xff]), Err(Refusal::Utf8));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let close = CloseFrame::new(1000, &"é".repeat(100));
        assert_eq!(close.reason.len(), 122);
        assert_eq!(CloseFrame::parse(&close.payload()), Ok(close));
    }
}
