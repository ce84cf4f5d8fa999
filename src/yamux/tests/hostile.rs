//! One end, and a peer that writes whatever it likes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, Handle, encode};
use super::script::Script;
use crate::yamux::{
    Budget, Config, Cut, Decoder, Event, Fatal, Flags, Header, INITIAL_WINDOW, Input, Kind,
    MAX_WINDOW, Reset, Role,
};

/// What can be seen of an end that was given some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    result: Result<(), Fatal>,
    streams: Vec<(u32, Vec<u8>, Result<bool, Cut>)>,
    written: Vec<Header>,
}

/// Gives an end `stream`, cut at `cuts` (in order, in its length), and looks at it.
pub(crate) fn observe(stream: &[u8], cuts: &[usize]) -> Seen {
    let now = Instant::now();
    let mut end = end();
    let mut from = 0;
    let mut result = Ok(());
    for to in cuts.iter().copied().chain([stream.len()]) {
        result = end.receive(&stream[from..to], now);
        from = to;
        if result.is_err() {
            break;
        }
    }
    let accepted: Vec<Handle> = end.hub.accepted.drain(..).collect();
    let mut streams = Vec::new();
    for handle in accepted {
        let mut bytes = Vec::new();
        let ended = loop {
            let read = handle.borrow_mut().read();
            match read {
                Ok(Input::Some(chunk)) => {
                    bytes.extend_from_slice(&chunk);
                    end.with_stream(&handle, |stream| stream.give_back(chunk, now));
                }
                Ok(Input::Wait) => break Ok(false),
                Ok(Input::End) => break Ok(true),
                Err(cut) => break Err(cut),
            }
        };
        let id = handle.borrow().id();
        streams.push((id, bytes, ended));
    }
    let written = end.frames(now).into_iter().map(|(header, _)| header);
    Seen {
        result,
        streams,
        written: written.collect(),
    }
}

/// The peer and we do what `script` says; panics are what is looked for. Memory
/// stays within what the windows allow.
pub(crate) fn attack(script: &[u8]) {
    let mut script = Script(script);
    let mut now = Instant::now();
    let mut end = end();
    let mut streams: Vec<Handle> = Vec::new();
    while let Some(what) = script.choose(16) {
        let arg = script.choose(256).unwrap_or(0);
        let stream = streams.get(arg % streams.len().max(1)).cloned();
        let result = match (what, stream) {
            (0..=3, _) => {
                let bytes = script.bytes(arg);
                end.receive(bytes, now)
            }
            (4..=8, _) => end.receive(&friendly(&mut script, what, arg), now),
            (9, _) => {
                now += Duration::from_millis(arg as u64 * 100);
                end.tick(now)
            }
            (10, _) => {
                end.frames(now);
                Ok(())
            }
            (_, None) => Ok(()),
            (_, Some(stream)) => {
                end.with_stream(&stream, |stream| match what {
                    11 => {
                        if let Ok(Input::Some(chunk)) = stream.read() {
                            stream.give_back(chunk, now);
                        }
                    }
                    12 => {
                        let _ = stream.queue(vec![0; arg * 512], arg * 512);
                    }
                    13 => {
                        let _ = stream.read_datagram(2000, &mut Vec::new(), now);
                    }
                    14 if arg < 128 => stream.skip(arg, now),
                    14 => stream.join_frames(),
                    _ if arg < 100 => stream.finish(),
                    _ if arg < 200 => stream.discard(now),
                    _ if arg < 230 => stream.reset(Reset::AfterData),
                    _ => stream.reset(Reset::AtOnce),
                });
                Ok(())
            }
        };
        streams.extend(end.hub.accepted.drain(..));
        for stream in &streams {
            let stream = stream.borrow();
            let unread = stream.unread().map_or(0, |unread| unread.bytes);
            assert!(unread <= MAX_WINDOW as usize, "{unread} bytes");
        }
        if let Err(fatal) = result {
            end.end(Some(fatal));
            assert!(end.frames(now).len() <= 1, "a Go Away and no more");
            for stream in streams.drain(..) {
                // Cut, or complete.
                while let Ok(Input::Some(_)) = stream.borrow_mut().read() {}
                assert!(!matches!(stream.borrow_mut().read(), Ok(Input::Wait)));
            }
            break;
        }
    }
    drop(streams);
    let budget = end.hub.session.common().budget().clone();
    drop(end);
    assert_eq!(budget.charged(), 0);
}

/// Any bytes in any slices are the same frames; what was decoded, encoded again, is
/// what was there (but for flags, all of which are kept).
pub(crate) fn decode(script: &[u8]) {
    let mut script = Script(script);
    let cut = script.choose(256).unwrap_or(0);
    let stream = script.0;
    let frames = |slices: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::default();
        let mut again = Vec::new();
        for mut slice in slices {
            loop {
                match decoder.next(&mut slice) {
                    Ok(Some(Event::Frame(header))) => again.extend_from_slice(&header.encode()),
                    Ok(Some(Event::Payload { bytes, .. })) => {
                        assert!(!bytes.is_empty());
                        again.extend_from_slice(bytes);
                    }
                    Ok(None) => break,
                    Err(fatal) => return (again, Some(fatal)),
                }
            }
        }
        (again, None)
    };
    let whole = frames(&mut std::iter::once(stream));
    let pieces = frames(&mut stream.chunks(cut + 1));
    assert_eq!(whole, pieces);
    assert!(stream.starts_with(&whole.0));
    assert!(whole.1.is_some() || stream.len() - whole.0.len() < 12);
}

fn end() -> Endpoint {
    let mut config = Config::new(Role::Client);
    config.max_streams = 6;
    config.max_window = MAX_WINDOW;
    Endpoint::with(config, Arc::new(Budget::new(3 << 20)))
}

/// A frame that is nearly always allowed.
fn friendly(script: &mut Script<'_>, what: usize, arg: usize) -> Vec<u8> {
    let id = 2 + 2 * (arg as u32 % 8);
    let flags = Flags::from_bits(script.choose(16).unwrap_or(0) as u16);
    let len = [
        0,
        1,
        5,
        100,
        3000,
        40_000,
        INITIAL_WINDOW / 2,
        INITIAL_WINDOW,
    ];
    let len = len[arg / 8 % len.len()];
    match what {
        4 => encode(&[(Header::window(id, Flags::SYN, len), Vec::new())]),
        5 => encode(&[(Header::window(id, flags, len), Vec::new())]),
        6 | 7 => encode(&[(Header::data(id, len), vec![7; len as usize])]),
        _ => {
            let kind = if arg < 128 { Kind::Data } else { Kind::Ping };
            let header = Header {
                kind,
                flags,
                id,
                len,
            };
            encode(&[(header, vec![7; header.payload() as usize])])
        }
    }
}
