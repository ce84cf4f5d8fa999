//! From the first byte of a stream to its target, on a thread that may wait.

use std::sync::Arc;
use std::time::Instant;

use super::account::Account;
use super::flow::{Flow, copy};
use super::record::Record;
use super::tcp::{self, Tcp};
use super::udp::{self, Udp};
use super::{Connection, Streams};
use crate::config::{DialFailure, ProxyProtocol};
use crate::net::{Cancel, Deadline, Reason};
use crate::tunnel::Protocol;
use crate::tunnel::header::{Header, HeaderError, HeaderParser};
use crate::tunnel::proxy_protocol;
use crate::tunnel::session::Stream;
use crate::tunnel::target::{Connected, Refusal, RefusalKind};
use crate::yamux::{Cut, Input};

/// Reads the header, asks the policy, dials, and leaves the rest to two others.
pub(super) fn open(mut record: Record, connection: Connection, stream: Stream) {
    let streams = record.streams().clone();
    let header = match read_header(&streams, connection, &stream) {
        Ok(header) => header,
        Err(NoHeader::Cut(cut)) => return record.cut(cut),
        Err(NoHeader::Bad(error)) => {
            record.refused(&error.into());
            // Without a FIN it is reset when the handle is dropped.
            return;
        }
    };
    record.asked(&header);
    match dial(&streams, connection, &stream, &header, &mut record) {
        Ok((connected, proxy)) => {
            record.connected(&connected);
            start(&streams, stream, &header, connected, proxy, record);
        }
        Err(refusal) => {
            match stream.cut() {
                Some(cut) => record.cut(cut),
                None => record.refused(&refusal),
            }
            let fin = streams.settings.dial_failure == DialFailure::Fin;
            if fin && refusal.kind == RefusalKind::Dial {
                stream.finish();
            }
        }
    }
}

enum NoHeader {
    Bad(HeaderError),
    Cut(Cut),
}

fn read_header(
    streams: &Streams,
    connection: Connection,
    stream: &Stream,
) -> Result<Header, NoHeader> {
    let until = Instant::now() + streams.settings.times.header;
    let mut parser = HeaderParser::new(connection.newest);
    loop {
        let input = stream
            .parse(Some(until), |bytes| parser.feed(bytes))
            .map_err(NoHeader::Cut)?;
        match input {
            Input::Some(Ok(Some(header))) => return Ok(header),
            Input::Some(Ok(None)) => {}
            Input::Some(Err(error)) => return Err(NoHeader::Bad(error)),
            Input::Wait => return Err(NoHeader::Bad(parser.late())),
            Input::End => return Err(NoHeader::Bad(parser.ended())),
        }
    }
}

fn dial(
    streams: &Streams,
    connection: Connection,
    stream: &Stream,
    header: &Header,
    record: &mut Record,
) -> Result<(Connected, Option<ProxyProtocol>), Refusal> {
    if header.protocol == Protocol::Tcp {
        stream.join_frames();
    } else {
        // Those in between the header's parts are no datagrams.
        stream.take_empty();
    }
    let admitted = streams.targets.admit(header)?;
    record.admitted(admitted.to_string(), admitted.verdict());
    let cancel = Cancel::new();
    let ended = cancel.clone();
    stream.on_cut(move |cut| {
        ended.cancel(match cut {
            Cut::ByPeer => Reason::Cancelled,
            Cut::ByUs => Reason::Failed,
            Cut::SessionLost => Reason::ConnectionLost,
        });
    });
    let connected = admitted.dial(Deadline::after(connection.dial_timeout), &cancel)?;
    let name = (
        header.namespace.as_str(),
        header.service.as_str(),
        header.port,
    );
    let is_route = admitted.origin().is_some();
    let proxy = proxy_protocol::configured(&streams.settings.proxy_protocol, name, is_route);
    Ok((connected, proxy))
}

/// Hands the stream to the threads that copy.
fn start(
    streams: &Arc<Streams>,
    stream: Stream,
    header: &Header,
    connected: Connected,
    proxy: Option<ProxyProtocol>,
    record: Record,
) {
    let settings = &streams.settings;
    let prefix = proxy
        .map(|version| {
            let (client, target) = (header.client, connected.address);
            proxy_protocol::header(version, header.protocol, client, target)
        })
        .unwrap_or_default();
    let socket = connected.socket;
    match header.protocol {
        Protocol::Tcp => {
            let tcp = Tcp::new(&socket, &prefix, settings);
            let flow = Flow::new(stream, socket, Box::new(record), settings.tcp_idle, tcp);
            copy(&streams.copiers, flow, [tcp::to_target, tcp::from_target]);
        }
        Protocol::Udp => {
            let udp = Udp::new(prefix, settings);
            let record = Box::new(record);
            let flow = Flow::new(stream, socket, record, settings.udp_idle, udp);
            copy(&streams.copiers, flow, [udp::to_target, udp::from_target]);
        }
    }
}
