//! What arrives, from bytes to streams: what the reading thread does.

use std::time::Instant;

use super::Fatal;
use super::decoder::{Decoder, Event};
use super::header::Header;
use super::session::{Route, Session};
use super::stream::Stream;

/// Who holds the session and the streams, and their locks. No two of them are
/// needed at the same time.
pub trait Host {
    /// A handle to a stream.
    type Handle: Clone;
    /// What a payload to be sent is made of.
    type Payload;

    /// Calls `f` with the session.
    fn session<R>(&mut self, f: impl FnOnce(&mut Session<Self::Handle>) -> R) -> R;

    /// Calls `f` with a stream, and acts on its wakes.
    fn stream<R>(
        &mut self,
        handle: &Self::Handle,
        f: impl FnOnce(&mut Stream<Self::Payload>) -> R,
    ) -> R;

    /// The peer opened a stream. None: it is refused. Its wakes come later, or never,
    /// when the session ends before.
    fn accept(&mut self, stream: Stream<Self::Payload>) -> Option<Self::Handle>;

    /// The peer wanted one stream more than the session may have: it is refused.
    fn refused(&mut self) {}
}

/// The receiving side of a session. It never waits and never allocates what a
/// header announces.
#[derive(Debug)]
pub struct Receiver<H> {
    decoder: Decoder,
    /// Whose payload arrives; none: it is dropped.
    target: Option<H>,
}

impl<H: Clone> Receiver<H> {
    pub fn new() -> Self {
        Self {
            decoder: Decoder::default(),
            target: None,
        }
    }

    /// Takes in all of `bytes`, which may be cut anywhere. After an error the
    /// session is over: [`Session::end`].
    pub fn receive<T: Host<Handle = H>>(
        &mut self,
        mut bytes: &[u8],
        now: Instant,
        host: &mut T,
    ) -> Result<(), Fatal> {
        host.session(|session| session.heard(now));
        while let Some(event) = self.decoder.next(&mut bytes)? {
            match event {
                Event::Frame(header) => {
                    let target = Self::frame(&header, now, host)?;
                    self.target = target.filter(|_| header.payload() > 0);
                }
                Event::Payload { bytes, last } => {
                    if let Some(target) = &self.target {
                        host.stream(target, |stream| stream.receive_data(bytes, now));
                    }
                    if last {
                        self.target = None;
                    }
                }
            }
        }
        Ok(())
    }

    /// A frame begins: who gets its payload.
    fn frame<T: Host<Handle = H>>(
        header: &Header,
        now: Instant,
        host: &mut T,
    ) -> Result<Option<H>, Fatal> {
        match host.session(|session| session.route(header, now))? {
            Route::Nobody => Ok(None),
            Route::Excess => {
                host.refused();
                Ok(None)
            }
            Route::Stream(handle) => {
                let deliver = host.stream(&handle, |stream| stream.receive(header))?;
                Ok(deliver.then_some(handle))
            }
            Route::New => Self::accept(header, now, host),
        }
    }

    fn accept<T: Host<Handle = H>>(
        header: &Header,
        now: Instant,
        host: &mut T,
    ) -> Result<Option<H>, Fatal> {
        let id = header.id;
        let common = host.session(|session| session.common().clone());
        let mut stream = Stream::accept(id, &common, now);
        // Before anybody knows of it: what is against the rules makes no stream.
        let deliver = stream.receive(header)?;
        let Some(handle) = host.accept(stream) else {
            host.session(|session| session.refuse(id))?;
            return Ok(None);
        };
        let live = host.session(|session| session.insert(id, handle.clone()))?;
        host.stream(&handle, |stream| {
            if !live {
                stream.lose();
            }
        });
        Ok(deliver.then_some(handle))
    }
}

impl<H: Clone> Default for Receiver<H> {
    fn default() -> Self {
        Self::new()
    }
}
