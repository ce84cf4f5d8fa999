//! What TLS itself has to say after the handshake.

use super::*;

#[test]
fn key_updates_change_the_keys_and_say_whether_they_want_an_answer() {
    for side in [Side::Client, Side::Server] {
        let read = one(V13, side, |peer| {
            peer.data(b"a");
            peer.key_update(0);
            peer.data(b"b");
            peer.key_update(1);
            peer.key_update(1);
            peer.data(b"c");
        });
        assert_eq!(read.data, b"abc");
        assert_eq!(read.asked.answers.get(), 2);
    }
}

#[test]
fn a_key_update_without_new_keys_is_refused() {
    let read = client(V13, |peer| {
        peer.handshake(HandshakeType::KeyUpdate, &[0]);
        peer.data(b"old keys");
    });
    assert_eq!(read.refusal().0, Some(AlertDescription::BadRecordMac));
}

#[test]
fn key_updates_must_be_well_formed_and_stand_alone() {
    let update = |payload: &[u8]| message(HandshakeType::KeyUpdate, payload);
    for (content, alert) in [
        (update(&[2]), AlertDescription::IllegalParameter),
        (update(&[]), AlertDescription::DecodeError),
        (update(&[0, 0]), AlertDescription::DecodeError),
        // What follows would be protected by two keys.
        (
            [update(&[0]), vec![4]].concat(),
            AlertDescription::UnexpectedMessage,
        ),
        (
            [update(&[0]), update(&[0])].concat(),
            AlertDescription::UnexpectedMessage,
        ),
    ] {
        let read = client(V13, |peer| peer.send(ContentType::Handshake, &content));
        assert_eq!(read.refusal().0, Some(alert), "{content:?}");
    }
    let read = client(V12, |peer| {
        peer.handshake(HandshakeType::KeyUpdate, &[0]);
    });
    assert_eq!(read.refusal().0, Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let read = client(V13, |peer| {
        (0..=MAX_USELESS).for_each(|_| peer.key_update(1));
    });
    let error = Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests);
    assert_eq!(*read.refusal().1, error);
}

#[test]
fn tickets_may_be_cut_and_joined() {
    let ticket = message(HandshakeType::NewSessionTicket, &[5; 300]);
    let read = client(V13, |peer| {
        peer.send(ContentType::Handshake, &ticket.repeat(2));
        for piece in ticket.chunks(20) {
            peer.send(ContentType::Handshake, piece);
        }
        peer.data(b"x");
    });
    assert_eq!(read.asked.tickets.get(), 3);
    assert_eq!(read.data, b"x");
}

#[test]
fn a_message_in_crumbs_ends_the_connection() {
    let ticket = message(HandshakeType::NewSessionTicket, &[5; 300]);
    let read = client(V13, |peer| {
        for piece in ticket.chunks(1) {
            peer.send(ContentType::Handshake, piece);
        }
    });
    assert_eq!(read.refusal().0, Some(AlertDescription::UnexpectedMessage));
}

#[test]
fn tickets_are_for_clients_of_tls_1_3() {
    for (version, side) in [(V13, Side::Server), (V12, Side::Client)] {
        let read = one(version, side, |peer| {
            peer.handshake(HandshakeType::NewSessionTicket, &[0; 20]);
        });
        let alert = Some(AlertDescription::UnexpectedMessage);
        assert_eq!(read.refusal().0, alert);
        assert_eq!(read.asked.tickets.get(), 0);
    }
}

#[test]
fn a_handshake_message_may_not_be_interrupted() {
    let ticket = message(HandshakeType::NewSessionTicket, &[5; 30]);
    let interruptions: [(ContentType, &[u8]); 3] = [
        (ContentType::ApplicationData, b"x"),
        (ContentType::Alert, &[1, 0]),
        (ContentType::ApplicationData, b""),
    ];
    for (kind, content) in interruptions {
        let read = client(V13, |peer| {
            peer.send(ContentType::Handshake, &ticket[..7]);
            peer.send(kind, content);
        });
        let error = PeerMisbehaved::MessageInterleavedWithHandshakeMessage;
        assert_eq!(*read.refusal().1, Error::PeerMisbehaved(error));
    }
}

#[test]
fn handshake_records_are_not_empty_and_messages_not_endless() {
    let read = client(V13, |peer| peer.send(ContentType::Handshake, &[]));
    let error = Error::InvalidMessage(InvalidMessage::InvalidEmptyPayload);
    assert_eq!(*read.refusal().1, error);
    let read = client(V13, |peer| {
        peer.send(ContentType::Handshake, &[4, 1, 0, 0]);
    });
    let error = Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);
    assert_eq!(*read.refusal().1, error);
}

#[test]
fn another_handshake_is_refused_and_the_connection_lives() {
    for (side, kind) in [
        (Side::Client, HandshakeType::HelloRequest),
        (Side::Server, HandshakeType::ClientHello),
    ] {
        let read = one(V12, side, |peer| {
            peer.handshake(kind, &[]);
            peer.data(b"x");
        });
        assert_eq!(read.asked.renegotiations.get(), 1);
        assert_eq!(read.data, b"x");
        let read = one(V13, side, |peer| peer.handshake(kind, &[]));
        let alert = Some(AlertDescription::UnexpectedMessage);
        assert_eq!(read.refusal().0, alert);
    }
}

#[test]
fn alerts_end_the_connection_unless_they_are_warnings() {
    let alert = |version, content: &[u8]| {
        client(version, |peer| {
            peer.send(ContentType::Alert, content);
            peer.data(b"x");
        })
    };
    let received = |read: &Read| match read.refusal() {
        (None, Error::AlertReceived(description)) => *description,
        other => panic!("{other:?}"),
    };
    for version in [V12, V13] {
        let read = alert(version, &[2, 20]);
        assert_eq!(received(&read), AlertDescription::BadRecordMac);
        assert!(read.data.is_empty());
        assert!(matches!(alert(version, &[2, 0]).end, End::Closed));
        for content in [&[1][..], &[], &[1, 0, 1]] {
            let told = alert(version, content).refusal().0;
            assert_eq!(told, Some(AlertDescription::DecodeError));
        }
    }
    // user_canceled is a warning in both; in TLS 1.3 nothing else is.
    assert_eq!(alert(V13, &[2, 90]).data, b"x");
    assert_eq!(
        received(&alert(V13, &[1, 100])),
        AlertDescription::NoRenegotiation
    );
    assert_eq!(alert(V12, &[1, 100]).data, b"x");
    let read = client(V12, |peer| {
        (0..=MAX_USELESS).for_each(|_| peer.send(ContentType::Alert, &[1, 100]));
    });
    let error = Error::PeerMisbehaved(PeerMisbehaved::TooManyWarningAlertsReceived);
    assert_eq!(*read.refusal().1, error);
}
