//! What the streams lead to: three ports on loopback, as cheap as they can be.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// What a port does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Sends without end.
    Source,
    /// Takes all.
    Sink,
    /// Sends back what comes.
    Echo,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Echo => "echo",
        }
    }
}

/// The three ports.
pub(crate) struct Service {
    ports: [(Part, u16); 3],
    /// Bytes that the sink has taken.
    pub(crate) sunk: Arc<AtomicU64>,
}

impl Service {
    pub(crate) fn start() -> io::Result<Self> {
        let sunk = Arc::default();
        let mut ports = [Part::Source, Part::Sink, Part::Echo].map(|part| (part, 0));
        for (part, port) in &mut ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            *port = listener.local_addr()?.port();
            let pool = Arc::new(Pool {
                listener,
                part: *part,
                free: AtomicUsize::new(0),
                sunk: Arc::clone(&sunk),
            });
            pool.grow();
        }
        Ok(Self { ports, sunk })
    }

    pub(crate) fn port(&self, part: Part) -> u16 {
        let found = self.ports.iter().find(|(other, _)| *other == part);
        found.map_or(0, |(_, port)| *port)
    }
}

/// Threads that accept and serve, as many as there ever were connections at once.
struct Pool {
    listener: TcpListener,
    part: Part,
    /// Threads that wait for a connection.
    free: AtomicUsize,
    sunk: Arc<AtomicU64>,
}

impl Pool {
    /// Another thread. Without one a connection waits until another has ended.
    fn grow(self: &Arc<Self>) {
        let pool = Arc::clone(self);
        self.free.fetch_add(1, Ordering::SeqCst);
        let started = thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || pool.serve());
        if started.is_err() {
            self.free.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn serve(self: &Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            if self.free.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.grow();
            }
            if let Ok((socket, _)) = accepted {
                // It ends as the agent wants it to.
                let _ = self.play(&socket);
            }
            self.free.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn play(&self, mut socket: &TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut first = [0; 512];
        match self.part {
            Part::Source => {
                let bytes = vec![7; 256 * 1024];
                loop {
                    socket.write_all(&bytes)?;
                }
            }
            Part::Sink => {
                let mut bytes = vec![0; 256 * 1024];
                loop {
                    let count = socket.read(&mut bytes)?;
                    if count == 0 {
                        return Ok(());
                    }
                    self.sunk.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
            // Buffers come with the first large piece.
            Part::Echo => {
                let mut large = Vec::new();
                loop {
                    let buffer = if large.is_empty() {
                        &mut first[..]
                    } else {
                        &mut large
                    };
                    let count = socket.read(buffer)?;
                    if count == 0 {
                        return Ok(());
                    }
                    socket.write_all(&buffer[..count])?;
                    if large.is_empty() && count == first.len() {
                        large = vec![0; 64 * 1024];
                    } else if count < first.len() {
                        large = Vec::new();
                    }
                }
            }
        }
    }
}
