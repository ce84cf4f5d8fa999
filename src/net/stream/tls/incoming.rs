//! The record layer of the direction towards us, as a pure function of bytes:
//! which records there are, what is data, and what TLS itself has to say.

use std::ops::Range;

use rustls::{
    AlertDescription, ContentType, HandshakeType, InvalidMessage, PeerMisbehaved, ProtocolVersion,
    Side,
};

use super::record::{HEADER, Opener, Refusal, record_len, unexpected};

/// What reading asks of the rest of the connection.
pub(super) trait Session {
    /// A NewSessionTicket came; `payload` is its body.
    fn ticket(&self, payload: &[u8]) -> Result<(), rustls::Error>;

    /// The peer has changed its keys and, if `answer`, wants us to change ours.
    fn new_keys(&self, answer: bool) -> Result<Opener, rustls::Error>;

    /// The peer of a TLS 1.2 connection wants another handshake and must be told
    /// that there will be none.
    fn refuse_renegotiation(&self);
}

/// What lies at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// No whole record: so many bytes it takes, as far as is known.
    Incomplete(usize),
    /// A record with data, never empty.
    Data {
        /// Where the data lies.
        at: Range<usize>,
        /// Length of the record.
        used: usize,
    },
    /// A record that TLS wanted for itself.
    Other { used: usize },
    /// close_notify: what follows doesn't count.
    Closed,
}

pub(super) struct Incoming {
    opener: Opener,
    version: ProtocolVersion,
    /// Which end we are.
    side: Side,
    /// The beginning of a handshake message whose end is in the next record.
    partial: Vec<u8>,
    /// Messages since the last data.
    useless: u32,
}

impl Incoming {
    pub(super) fn new(opener: Opener, version: ProtocolVersion, side: Side) -> Self {
        Self {
            opener,
            version,
            side,
            partial: Vec::new(),
            useless: 0,
        }
    }

    /// Looks at the record in front and decrypts it where it lies. Not to be
    /// called again after an error or [`Step::Closed`].
    pub(super) fn next(
        &mut self,
        bytes: &mut [u8],
        session: &impl Session,
    ) -> Result<Step, Refusal> {
        let Some(used) = record_len(bytes)? else {
            return Ok(Step::Incomplete(HEADER));
        };
        let Some(record) = bytes.get_mut(..used) else {
            return Ok(Step::Incomplete(used));
        };
        let (kind, at) = self.opener.open(record)?;
        let content = &record[at.clone()];
        if kind != ContentType::Handshake && !self.partial.is_empty() {
            return Err(Refusal::new(
                PeerMisbehaved::MessageInterleavedWithHandshakeMessage,
                AlertDescription::UnexpectedMessage,
            ));
        }
        match kind {
            ContentType::ApplicationData if content.is_empty() => {
                self.count(PeerMisbehaved::TooManyEmptyFragments)?;
                Ok(Step::Other { used })
            }
            ContentType::ApplicationData => {
                self.useless = 0;
                Ok(Step::Data { at, used })
            }
            ContentType::Handshake => {
                self.handshake(content, session)?;
                Ok(Step::Other { used })
            }
            ContentType::Alert => {
                if self.alert(content)? {
                    return Ok(Step::Closed);
                }
                Ok(Step::Other { used })
            }
            other => Err(unexpected(other)),
        }
    }

    fn handshake(&mut self, content: &[u8], session: &impl Session) -> Result<(), Refusal> {
        if content.is_empty() {
            return Err(Refusal::new(
                InvalidMessage::InvalidEmptyPayload,
                AlertDescription::UnexpectedMessage,
            ));
        }
        let mut joined = std::mem::take(&mut self.partial);
        let mut rest = content;
        if !joined.is_empty() {
            joined.extend_from_slice(content);
            rest = &joined;
        }
        while let Some((&[kind, a, b, c], body)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_MESSAGE {
                return Err(Refusal::new(
                    InvalidMessage::HandshakePayloadTooLarge,
                    AlertDescription::DecodeError,
                ));
            }
            let Some((payload, behind)) = body.split_at_checked(length) else {
                break;
            };
            let is_last = behind.is_empty();
            self.message(HandshakeType::from(kind), payload, is_last, session)?;
            rest = behind;
        }
        if !rest.is_empty() {
            // Each piece is copied: a peer that sends a byte at a time is refused.
            self.count(PeerMisbehaved::TooManyEmptyFragments)?;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    /// A handshake message after the handshake (RFC 8446 §4.6).
    fn message(
        &mut self,
        kind: HandshakeType,
        payload: &[u8],
        is_last: bool,
        session: &impl Session,
    ) -> Result<(), Refusal> {
        let is_13 = self.version == ProtocolVersion::TLSv1_3;
        match (kind, self.side) {
            (HandshakeType::NewSessionTicket, Side::Client) if is_13 => {
                self.count(PeerMisbehaved::TooManyEmptyFragments)?;
                session.ticket(payload).map_err(|error| match error {
                    rustls::Error::InvalidMessage(invalid) => {
                        let alert = AlertDescription::from(invalid);
                        Refusal::new(invalid, alert)
                    }
                    other => Refusal::new(other, AlertDescription::IllegalParameter),
                })
            }
            (HandshakeType::KeyUpdate, _) if is_13 => {
                self.count(PeerMisbehaved::TooManyKeyUpdateRequests)?;
                let answer = match payload {
                    [0] => false,
                    [1] => true,
                    _ => {
                        let alert = match payload {
                            [_] => AlertDescription::IllegalParameter,
                            _ => AlertDescription::DecodeError,
                        };
                        return Err(Refusal::new(InvalidMessage::InvalidKeyUpdate, alert));
                    }
                };
                if !is_last {
                    return Err(Refusal::new(
                        PeerMisbehaved::KeyEpochWithPendingFragment,
                        AlertDescription::UnexpectedMessage,
                    ));
                }
                self.opener = session
                    .new_keys(answer)
                    .map_err(|error| Refusal::new(error, AlertDescription::InternalError))?;
                Ok(())
            }
            (HandshakeType::HelloRequest, Side::Client)
            | (HandshakeType::ClientHello, Side::Server)
                if !is_13 =>
            {
                self.count(PeerMisbehaved::TooManyRenegotiationRequests)?;
                session.refuse_renegotiation();
                Ok(())
            }
            (other, _) => Err(Refusal::new(
                rustls::Error::InappropriateHandshakeMessage {
                    expect_types: vec![HandshakeType::KeyUpdate],
                    got_type: other,
                },
                AlertDescription::UnexpectedMessage,
            )),
        }
    }

    /// True for close_notify.
    fn alert(&mut self, content: &[u8]) -> Result<bool, Refusal> {
        let &[level, description] = content else {
            return Err(Refusal::new(
                InvalidMessage::MessageTooShort,
                AlertDescription::DecodeError,
            ));
        };
        let description = AlertDescription::from(description);
        let is_warning = match self.version {
            // The level means nothing there (RFC 8446 §6).
            ProtocolVersion::TLSv1_3 => description == AlertDescription::UserCanceled,
            _ => level == WARNING,
        };
        if description == AlertDescription::CloseNotify {
            return Ok(true);
        }
        if is_warning {
            self.count(PeerMisbehaved::TooManyWarningAlertsReceived)?;
            return Ok(false);
        }
        Err(Refusal {
            error: rustls::Error::AlertReceived(description),
            alert: None,
        })
    }

    /// Counts what is no data; too much of it in a row is a flood.
    fn count(&mut self, flood: PeerMisbehaved) -> Result<(), Refusal> {
        self.useless += 1;
        if self.useless > MAX_USELESS {
            return Err(Refusal::new(flood, AlertDescription::UnexpectedMessage));
        }
        Ok(())
    }
}

/// Level of an alert that isn't fatal.
pub(super) const WARNING: u8 = 1;

/// Messages in a row that carry no data: empty records, tickets, key updates,
/// warnings. Servers send two tickets; nobody sends much without data.
pub(super) const MAX_USELESS: u32 = 32;

/// A handshake message at most. The longest that may come, a NewSessionTicket,
/// is far smaller in practice; rustls has the same limit.
const MAX_MESSAGE: usize = 0xffff;
