//! The translation table of control-channel.md §9.1, for peers whose consoles depend on
//! it: text there, channel bytes here. Pure.

use crate::websocket::{Data, Kind};
use crate::wire::stream::{Frame, FrameKind};

/// Whether messages are translated between the peer and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// They pass as they are.
    Plain,
    /// Between texts and the channels of exec and attach.
    Channels,
}

impl Dialect {
    /// Of a stream whose path ends in `subresource`, with the subprotocol that the API
    /// server chose. Only exec and attach are translated, and only with the binary
    /// subprotocols: in port-forward's channels the second byte is half a port number,
    /// and base64 channels are text already (T25).
    pub(super) fn of(subresource: &str, subprotocol: Option<&str>) -> Self {
        let binary = subprotocol.is_some_and(|name| {
            (name == "channel.k8s.io" || name.ends_with(".channel.k8s.io"))
                && !name.contains("base64")
        });
        if binary && matches!(subresource, "exec" | "attach") {
            Self::Channels
        } else {
            Self::Plain
        }
    }

    /// A message of the API server: standard output, errors and the status lose their
    /// channel and become texts.
    pub(super) fn to_peer(self, data: Data<'_>) -> (FrameKind, &[u8]) {
        match (self, data.kind, data.payload) {
            (Self::Channels, Kind::Binary, [0..=3, text @ ..]) => (FrameKind::Text, text),
            (_, Kind::Binary, payload) => (FrameKind::Binary, payload),
            (_, Kind::Text, payload) => (FrameKind::Text, payload),
        }
    }

    /// A message of the peer: a text is standard input. `None`: it means nothing here.
    pub(super) fn to_target(self, frame: Frame) -> Option<(Kind, Frame)> {
        match (self, frame.kind) {
            (Self::Channels, FrameKind::Text) => Some((Kind::Binary, frame.prefixed(0))),
            (Self::Plain, FrameKind::Text) => Some((Kind::Text, frame)),
            (_, FrameKind::Binary) => Some((Kind::Binary, frame)),
            (_, FrameKind::Close | FrameKind::Ping | FrameKind::Pong) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Envelope, ToAgent};

    fn frame(payload: &str) -> Frame {
        let text = format!(r#"{{"type":"ws_data","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        match ToAgent::parse(&envelope) {
            ToAgent::WebSocketData(data) => data.frame().expect("base64"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn t25_only_exec_and_attach_with_binary_channels_are_translated() {
        for (subresource, subprotocol, want) in [
            ("exec", Some("v4.channel.k8s.io"), Dialect::Channels),
            ("attach", Some("channel.k8s.io"), Dialect::Channels),
            ("exec", Some("v5.channel.k8s.io"), Dialect::Channels),
            ("exec", None, Dialect::Plain),
            ("exec", Some("base64.channel.k8s.io"), Dialect::Plain),
            ("exec", Some("v4.base64.channel.k8s.io"), Dialect::Plain),
            ("exec", Some("xchannel.k8s.io"), Dialect::Plain),
            ("portforward", Some("v4.channel.k8s.io"), Dialect::Plain),
            ("log", Some("channel.k8s.io"), Dialect::Plain),
        ] {
            assert_eq!(
                Dialect::of(subresource, subprotocol),
                want,
                "{subresource} {subprotocol:?}"
            );
        }
    }

    #[test]
    fn c11_the_table_both_ways() {
        fn to_peer(kind: Kind, payload: &[u8]) -> (FrameKind, &[u8]) {
            Dialect::Channels.to_peer(Data { kind, payload })
        }
        for channel in 0..=3 {
            let message = [channel, b'o', b'k'];
            assert_eq!(
                to_peer(Kind::Binary, &message),
                (FrameKind::Text, &b"ok"[..])
            );
        }
        for rest in [&b"\x04{}"[..], b"\xff\x00", b""] {
            assert_eq!(to_peer(Kind::Binary, rest), (FrameKind::Binary, rest));
        }
        assert_eq!(to_peer(Kind::Text, b"\x01x").0, FrameKind::Text);
        assert_eq!(to_peer(Kind::Text, b"\x01x").1, b"\x01x");

        let to_target = |payload: &str| {
            let (kind, frame) = Dialect::Channels.to_target(frame(payload))?;
            Some((kind, frame.payload().to_vec()))
        };
        // `ls\n`, and the size of a terminal.
        let stdin = Some((Kind::Binary, b"\x00ls\n".to_vec()));
        assert_eq!(to_target(r#"{"data":"AWxzCg=="}"#), stdin);
        let resize = to_target(r#"{"data":"AgR7IldpZHRoIjoxMjAsIkhlaWdodCI6NDB9"}"#);
        let want = b"\x04{\"Width\":120,\"Height\":40}".to_vec();
        assert_eq!(resize, Some((Kind::Binary, want)));
        assert_eq!(to_target(r#"{"data":"CAPo"}"#), None);
    }

    #[test]
    fn what_is_plain_passes_as_it_is() {
        for (kind, wire) in [
            (Kind::Text, FrameKind::Text),
            (Kind::Binary, FrameKind::Binary),
        ] {
            let payload = b"\x00\x50\x1f";
            let data = Data { kind, payload };
            assert_eq!(Dialect::Plain.to_peer(data), (wire, &payload[..]));
        }
        let (kind, frame) = Dialect::Plain
            .to_target(frame(r#"{"data":"AWxzCg=="}"#))
            .expect("a message");
        assert_eq!((kind, frame.payload()), (Kind::Text, &b"ls\n"[..]));
    }
}
