//! One line per stream, of who reached what: to the log and, if there is one, to a
//! file of its own.
//!
//! One thread writes; streams only queue. A disk that is full or a log that nobody
//! reads costs lines, which are counted, never a stream.

mod file;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use file::RotatedFile;

use super::Protocol;
use crate::config;
use crate::net::Deadline;
use crate::telemetry::RateLimit;
use crate::threads::{self, SpawnError, Stack};

/// What is left of a stream.
#[derive(Clone, Debug)]
pub struct Line {
    /// Of a proxied request, which has its line in the log elsewhere.
    pub is_request: bool,
    /// Of the stream within its connection, or of the request.
    pub id: String,
    /// The tunnel id of its header.
    pub tunnel: String,
    pub client: Option<SocketAddr>,
    pub protocol: Protocol,
    /// What was asked for, as far as it could be understood.
    pub target: String,
    /// What was dialled.
    pub address: Option<SocketAddr>,
    pub judged: Judged,
    /// Why it was allowed, or refused.
    pub reason: String,
    /// What a policy that runs dry would have said instead.
    pub dry_run: Option<String>,
    /// From the stream to the target.
    pub bytes_in: u64,
    /// From the target to the stream.
    pub bytes_out: u64,
    pub duration: Duration,
    /// Who ended it, and how.
    pub end: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judged {
    Allowed,
    Denied,
    /// It came to no question: the header was none.
    Invalid,
}

impl Judged {
    fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
        }
    }
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot open the audit file {}: {cause}", path.display())]
    Open { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Thread(#[from] SpawnError),
}

/// Takes lines from streams. Shared by all of them.
#[derive(Debug)]
pub struct Audit {
    queue: Arc<Queue>,
    lost: Arc<AtomicU64>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// Lines that wait. No channel: a sender of one allocates now and then, and a copy
/// thread that has keeps 16 KiB (a bounded one lays all its room out at the start: 2 MiB).
#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<Line>,
    /// It takes nothing more.
    closed: bool,
}

impl Queue {
    fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                lines: VecDeque::with_capacity(USUAL),
                closed: false,
            }),
            more: Condvar::new(),
        }
    }

    /// False: there is no room.
    fn push(&self, line: Line) -> bool {
        let mut waiting = self.waiting.lock();
        let room = !waiting.closed && waiting.lines.len() < QUEUE;
        if room {
            waiting.lines.push_back(line);
            self.more.notify_one();
        }
        room
    }

    /// Waits for a line. `None`: it is closed, and all have been taken.
    fn pop(&self) -> Option<Line> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                return Some(line);
            }
            waiting.lines.shrink_to(USUAL);
            if waiting.closed {
                return None;
            }
            self.more.wait(&mut waiting);
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().lines.is_empty()
    }

    fn close(&self) {
        self.waiting.lock().closed = true;
        self.more.notify_one();
    }
}

impl Audit {
    /// A file that can't be opened at the start is an error; later it costs lines.
    pub fn start(settings: &config::Audit) -> Result<Self, AuditError> {
        let file = settings.file.as_ref().map(|path| {
            RotatedFile::open(path, settings.max_size, settings.keep).map_err(|cause| {
                AuditError::Open {
                    path: path.clone(),
                    cause,
                }
            })
        });
        Ok(Self::begin(file.transpose()?)?)
    }

    fn begin(file: Option<RotatedFile>) -> Result<Self, SpawnError> {
        let queue = Arc::new(Queue::new());
        let lost = Arc::new(AtomicU64::new(0));
        let (alive, ended) = bounded::<()>(0);
        let mut writer = Writer {
            file,
            lost: lost.clone(),
            told: 0,
        };
        let lines = queue.clone();
        threads::spawn("tunnel-audit", Stack::Work, move || {
            let _alive = alive;
            while let Some(line) = lines.pop() {
                writer.write(&line);
                if lines.is_empty() {
                    writer.tell_lost();
                }
            }
        })?;
        Ok(Self { queue, lost, ended })
    }

    /// Queues a line. Never waits: when the queue is full the line is lost and
    /// counted.
    pub fn record(&self, line: Line) {
        if !self.queue.push(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that didn't get to the log, or not to the file.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes nothing more, and waits until all is written, until `deadline` at most.
    pub fn finish(&self, deadline: Deadline) {
        self.queue.close();
        // Nothing is ever sent there.
        let _ = self.ended.recv_deadline(deadline.instant());
    }
}

/// The thread's own.
struct Writer {
    file: Option<RotatedFile>,
    lost: Arc<AtomicU64>,
    /// Of the lost ones: how many the file has been told of.
    told: u64,
}

/// A line in the file. Fields are in this order.
#[derive(Serialize)]
struct Record<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    id: &'a str,
    tunnel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<SocketAddr>,
    protocol: String,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    verdict: Judged,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: u64,
    end: &'a str,
}

impl Writer {
    fn write(&mut self, line: &Line) {
        if !line.is_request {
            log_line(line);
        }
        let record = Record {
            time: now(),
            kind: line.is_request.then_some("request"),
            id: &line.id,
            tunnel: &line.tunnel,
            client: line.client,
            protocol: line.protocol.to_string(),
            target: &line.target,
            address: line.address,
            verdict: line.judged,
            reason: &line.reason,
            dry_run: line.dry_run.as_deref(),
            bytes_in: line.bytes_in,
            bytes_out: line.bytes_out,
            duration_ms: line.duration.as_millis().try_into().unwrap_or(u64::MAX),
            end: &line.end,
        };
        if let Ok(text) = serde_json::to_vec(&record) {
            self.append(&text);
        }
    }

    fn append(&mut self, text: &[u8]) {
        static FAILED: RateLimit = RateLimit::new(1, Duration::from_mins(1));
        let Some(file) = &mut self.file else {
            return;
        };
        if let Err(error) = file.write_line(text) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            if FAILED.pass().is_some() {
                log::error!("the tunnel audit can't be written: {error}");
            }
        }
    }

    /// So that a gap in the file can be seen in the file, once it can be written.
    fn tell_lost(&mut self) {
        static LOST: RateLimit = RateLimit::new(1, Duration::from_mins(1));
        let lost = self.lost.load(Ordering::Relaxed);
        if lost == self.told {
            return;
        }
        if LOST.pass().is_some() {
            log::warn!(lost = lost; "lines of the tunnel audit were lost");
        }
        let notice = serde_json::json!({ "time": now(), "lost": lost - self.told });
        let told = match &mut self.file {
            Some(file) => file.write_line(notice.to_string().as_bytes()).is_ok(),
            None => true,
        };
        if told {
            self.told = lost;
        }
    }
}

fn log_line(line: &Line) {
    let level = match line.judged {
        Judged::Allowed => log::Level::Info,
        Judged::Denied | Judged::Invalid => log::Level::Warn,
    };
    let text = |address: Option<SocketAddr>| address.map_or(String::new(), |a| a.to_string());
    log::log!(
        level,
        stream = line.id.as_str(),
        tunnel = line.tunnel.as_str(),
        client = text(line.client).as_str(),
        protocol:% = line.protocol,
        target = line.target.as_str(),
        address = text(line.address).as_str(),
        verdict = line.judged.word(),
        reason = line.reason.as_str(),
        dry_run = line.dry_run.as_deref().unwrap_or(""),
        bytes_in = line.bytes_in,
        bytes_out = line.bytes_out,
        duration_ms = line.duration.as_millis() as u64,
        end = &*line.end;
        "tunnel stream"
    );
}

/// RFC 3339 in UTC, to the millisecond.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Lines that wait. A stream's end is worth less than its traffic, and this many
/// streams end at once only with their connection.
const QUEUE: usize = 8_192;

/// Lines for which there is room always.
const USUAL: usize = 64;

#[cfg(test)]
mod tests;
