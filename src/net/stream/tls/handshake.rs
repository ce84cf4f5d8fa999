//! The handshake: rustls's alone. It is fed record by record, so that it never
//! sees what comes behind the handshake: that is the halves' own.

use std::io::IoSlice;
use std::ops::DerefMut;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{Error, ExtractedSecrets};

use super::HandshakeError;
use super::received::Received;
use super::record::HEADER;
use super::session::Kernel;
use crate::net::stream::{ReadHalf, Wait, WriteHalf};

/// Client or server.
pub(in crate::net::stream) trait Handshake:
    DerefMut<Target = UnbufferedConnectionCommon<Self::Data>>
{
    type Data;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error>;
}

impl Handshake for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Kernel::Client(kernel)))
    }
}

impl Handshake for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Kernel::Server(kernel)))
    }
}

/// Makes the handshake. What was received behind it is left in the buffer.
pub(super) fn run<H: Handshake>(
    mut session: H,
    read: &mut ReadHalf,
    write: &mut WriteHalf,
) -> Result<(ExtractedSecrets, Kernel, Received), HandshakeError> {
    let mut received = Received::new();
    // How much of what is received rustls may see.
    let mut fed = 0;
    let mut out = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = session.process(&mut received.bytes()[..fed]);
        let mut blocked = false;
        match state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut out)?,
            Ok(ConnectionState::TransmitTlsData(data)) => {
                write
                    .write_all(&[IoSlice::new(&out)])
                    .map_err(HandshakeError::Io)?;
                out.clear();
                data.done();
            }
            // A server may write before it may read.
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                blocked = true;
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                return Err(HandshakeError::Closed);
            }
            Ok(_) => return Err(HandshakeError::Tls(Error::HandshakeNotComplete)),
            Err(error) => {
                tell(session, out, write);
                return Err(HandshakeError::Tls(error));
            }
        }
        received.advance(discard);
        fed -= discard;
        if !session.is_handshaking() && !session.wants_write() && out.is_empty() {
            break;
        }
        if blocked {
            fed = feed(&mut received, fed, read)?;
        }
    }
    if fed > 0 {
        // Part of a message, in the record with the peer's last one.
        return Err(HandshakeError::Tls(
            rustls::PeerMisbehaved::KeyEpochWithPendingFragment.into(),
        ));
    }
    let (secrets, kernel) = session.finish().map_err(HandshakeError::Tls)?;
    Ok((secrets, kernel, received))
}

/// Receives until there is one record more than rustls has seen, and says where
/// it ends.
fn feed(received: &mut Received, fed: usize, read: &mut ReadHalf) -> Result<usize, HandshakeError> {
    loop {
        let unseen = &received.bytes()[fed..];
        let need = match unseen.first_chunk() {
            None => HEADER,
            Some(&[kind, major, _, high, low]) => {
                let body = usize::from(u16::from_be_bytes([high, low]));
                let is_record = (20..=23).contains(&kind) && major == 3 && body <= MAX_BODY;
                // rustls says what is wrong with another header.
                let need = HEADER + if is_record { body } else { 0 };
                if unseen.len() >= need {
                    return Ok(fed + need);
                }
                need
            }
        };
        if !received
            .receive(read, fed + need, Wait::Ever)
            .map_err(HandshakeError::Io)?
        {
            return Err(HandshakeError::Closed);
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let begin = out.len();
    let size = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        _ => 0,
    };
    out.resize(begin + size, 0);
    data.encode(&mut out[begin..])
        .map_err(|error| HandshakeError::Tls(Error::General(error.to_string())))?;
    Ok(())
}

/// Sends the alert that tells the peer why; whether it arrives changes nothing.
fn tell<H: Handshake>(mut session: H, mut out: Vec<u8>, write: &mut WriteHalf) {
    while session.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(data)) = session.process(&mut []).state else {
            break;
        };
        if encode(data, &mut out).is_err() {
            break;
        }
    }
    let _ = write.write_all(&[IoSlice::new(&out)]);
}

/// Body of a record at most, in any version (RFC 5246 §6.2.3).
const MAX_BODY: usize = (1 << 14) + 2048;
