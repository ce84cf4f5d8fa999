//! TLS errors in words that say what to do.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// One line about a TLS error, for logs and for people.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(certificate) => explain_certificate(certificate),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the answer is not TLS (a port that speaks plain text?)".into(),
        Error::PeerIncompatible(why) => {
            format!("no TLS version or cipher in common with the peer ({why:?})")
        }
        Error::NoCertificatesPresented => "the peer showed no certificate".into(),
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "the certificate was issued by an authority that is not trusted here \
             (if it is your own, give its certificate as the CA file)"
                .into()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let presented: Vec<&str> = presented.iter().map(|name| readable(name)).collect();
            let presented = match &*presented {
                [] => "none".into(),
                some => some.join(", "),
            };
            format!(
                "the certificate is not valid for name {}; presented names: {presented}",
                expected.to_str()
            )
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            format!("the certificate expired {} ago", rough(ago))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let ahead = not_before.as_secs().saturating_sub(time.as_secs());
            format!(
                "the certificate is not valid before {} from now (is this machine's clock right?)",
                rough(ahead)
            )
        }
        CertificateError::BadSignature => "the certificate's signature is wrong".into(),
        CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => {
            "the server shows the certificate of an authority as its own \
             (give exactly this certificate as the CA file to trust it)"
                .into()
        }
        other => format!("the certificate was not accepted: {other}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::CertificateRequired => "it asks for a client certificate",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA => "it does not accept our certificate",
        AlertDescription::AccessDenied => "it does not let us in",
        AlertDescription::HandshakeFailure => {
            "nothing in common to speak, or it asks for a client certificate"
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.2 or 1.3",
        AlertDescription::UnrecognisedName => "it does not know the server name we asked for",
        _ => return format!("the peer ended TLS with alert {alert:?}"),
    };
    format!("the peer ended TLS with alert {alert:?}: {meaning}")
}

/// webpki gives names as `DnsName("x")` and the like.
fn readable(name: &str) -> &str {
    name.split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .unwrap_or(name)
        .trim_matches('"')
}

fn rough(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
