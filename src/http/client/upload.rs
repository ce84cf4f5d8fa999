//! Sending a request body on a thread of its own.
//!
//! A server may answer before it has read the body (413, 401). Who sends and then
//! reads would see that answer late or never, so bodies that don't fit into a
//! socket's buffer are sent beside the reading.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::Socket;

use super::{Body, Source};
use crate::http::body::{CHUNK_END, LAST_CHUNK, chunk_head};
use crate::net::WriteHalf;
use crate::threads::{self, SpawnError, Stack};

/// Why a request body could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The body itself ended in an error.
    #[error("the request body failed: {0}")]
    Source(#[source] io::Error),
    #[error("the request body is longer than its Content-Length")]
    TooLong,
    #[error("the request body is shorter than its Content-Length")]
    TooShort,
    #[error("cannot send the request body: {0}")]
    Write(#[source] io::Error),
}

/// A body on its way out. Dropping it ends it.
pub(super) struct Upload {
    shared: Arc<Shared>,
    source: Option<Arc<dyn Source>>,
}

struct Shared {
    socket: Arc<Socket>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

enum Progress {
    Running,
    Done(WriteHalf),
    Failed(UploadError),
    Taken,
}

impl Upload {
    pub(super) fn start(
        body: Body,
        mut write: WriteHalf,
        socket: Arc<Socket>,
    ) -> Result<Self, SpawnError> {
        let shared = Arc::new(Shared {
            socket,
            progress: Mutex::new(Progress::Running),
            changed: Condvar::new(),
        });
        let source = match &body {
            Body::Stream { source, .. } => Some(source.clone()),
            Body::Empty | Body::Full(_) => None,
        };
        let name = thread::current().name().map_or_else(
            || "http-upload".to_owned(),
            |requester| format!("{requester}-up"),
        );
        let ends = Ends(shared.clone());
        threads::spawn(name, Stack::Work, move || {
            let sent = send(&mut write, &body);
            if sent.is_err()
                && let Body::Stream { source, .. } = &body
            {
                // Nobody will take more of it; the answer may still come.
                source.stop();
            }
            ends.0.end(match sent {
                Ok(()) => Progress::Done(write),
                Err(error) => Progress::Failed(error),
            });
        })?;
        Ok(Self { shared, source })
    }

    /// The write half, if the body has been sent. An answer is often there before
    /// this thread has heard of the last write; so it waits a moment.
    pub(super) fn finish(&self) -> Option<WriteHalf> {
        let until = Instant::now() + MOMENT;
        let mut progress = self.shared.progress.lock();
        while matches!(*progress, Progress::Running) {
            let waited = self.shared.changed.wait_until(&mut progress, until);
            if waited.timed_out() {
                return None;
            }
        }
        match std::mem::replace(&mut *progress, Progress::Taken) {
            Progress::Done(write) => Some(write),
            _ => None,
        }
    }

    /// Why it failed, if it is to blame for the end of the exchange. A write that
    /// failed isn't: then the connection is what is broken.
    pub(super) fn blame(&self) -> Option<UploadError> {
        let mut progress = self.shared.progress.lock();
        match &*progress {
            Progress::Failed(UploadError::Write(_)) => None,
            Progress::Failed(_) => match std::mem::replace(&mut *progress, Progress::Taken) {
                Progress::Failed(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            source.stop();
        }
        if matches!(*self.shared.progress.lock(), Progress::Running) {
            let _ = self.shared.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn end(&self, how: Progress) {
        let mut progress = self.progress.lock();
        if !matches!(*progress, Progress::Running) {
            return;
        }
        if matches!(&how, Progress::Failed(error) if !matches!(error, UploadError::Write(_))) {
            // Half a request must not look like a whole one, and who waits for the
            // answer to it shall wait no longer.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        *progress = how;
        self.changed.notify_all();
    }
}

/// Ends the upload also when its thread panics.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        let cause = io::Error::other("its thread ended");
        self.0.end(Progress::Failed(UploadError::Source(cause)));
    }
}

fn send(write: &mut WriteHalf, body: &Body) -> Result<(), UploadError> {
    match body {
        Body::Empty => Ok(()),
        Body::Full(bytes) => {
            let bytes = (**bytes).as_ref();
            write
                .write_all(&[IoSlice::new(bytes)])
                .map_err(UploadError::Write)
        }
        Body::Stream { length, source } => send_stream(write, *length, &**source),
    }
}

fn send_stream(
    write: &mut WriteHalf,
    length: Option<u64>,
    source: &dyn Source,
) -> Result<(), UploadError> {
    let mut left = length;
    while let Some(piece) = source.next().map_err(UploadError::Source)? {
        if piece.is_empty() {
            continue;
        }
        let sent = match &mut left {
            None => {
                let head = chunk_head(piece.len());
                write.write_all(&[head.as_ref(), &piece, CHUNK_END].map(IoSlice::new))
            }
            Some(left) => {
                *left = left
                    .checked_sub(piece.len() as u64)
                    .ok_or(UploadError::TooLong)?;
                write.write_all(&[IoSlice::new(&piece)])
            }
        };
        sent.map_err(UploadError::Write)?;
    }
    match left {
        None => write
            .write_all(&[IoSlice::new(LAST_CHUNK)])
            .map_err(UploadError::Write),
        Some(0) => Ok(()),
        Some(_) => Err(UploadError::TooShort),
    }
}

/// How long an answer that is complete waits for the thread that sent the request.
const MOMENT: Duration = Duration::from_millis(50);
