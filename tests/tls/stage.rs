//! Our end, and the peer as a process.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use pipeops_agent::net::{ClientTls, ClientTlsSettings, Deadline, Halves, ServerTls, Trust};
use rustix::io::ioctl_fionread;
use tempfile::TempDir;

use crate::ca::{Ca, given};
use crate::wait::{LIMIT, far, until};

/// An authority, and files with a certificate for the peer.
pub(crate) struct Stage {
    ca: Ca,
    server: ServerTls,
    folder: TempDir,
    listener: TcpListener,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let ca = Ca::new("tls");
        let folder = tempfile::tempdir().expect("a folder");
        let issued = ca.issue("peer");
        for (name, pem) in [
            ("ca.pem", &ca.pem()),
            ("cert.pem", &issued.certificate),
            ("key.pem", &issued.key),
        ] {
            std::fs::write(folder.path().join(name), pem).expect("written");
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        // Nobody waits for ever for a peer that has failed.
        listener.set_nonblocking(true).expect("set");
        Self {
            server: ca.server(None),
            ca,
            folder,
            listener,
        }
    }

    /// `ca.pem`, `cert.pem`, `key.pem`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where a peer that is the client connects.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// Our end of a connection that a peer makes.
    pub(crate) fn accept(&self) -> Halves {
        let mut accepted = None;
        until("the peer connects", || {
            accepted = self.listener.accept().ok();
            accepted.is_some()
        });
        let (socket, _) = accepted.expect("a connection");
        socket.set_nonblocking(false).expect("set");
        let session = self.server.session().expect("a session");
        started(socket)
            .tls_server(session)
            .expect("handshake as the server")
    }

    /// Our end of a connection that we make.
    pub(crate) fn connect(&self, to: SocketAddr) -> Halves {
        let tls = ClientTls::new(ClientTlsSettings {
            trust: Trust::OnlyGiven,
            ca: vec![given("the authority", &self.ca.pem())],
            ..ClientTlsSettings::default()
        });
        let session = tls.expect("usable").session("127.0.0.1");
        started(TcpStream::connect(to).expect("connected"))
            .tls_client(session.expect("a session"))
            .expect("handshake as the client")
    }
}

fn started(socket: TcpStream) -> Halves {
    socket.set_nodelay(true).expect("set");
    let mut halves = Halves::plain(socket.into());
    halves.set_deadline(Some(far()));
    halves
}

/// A peer: killed when it is dropped.
pub(crate) struct Peer {
    process: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the peer starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            process.stdout.take().map(|stream| Box::new(stream) as _),
            process.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        let readers = streams.into_iter().flatten().map(|mut stream| {
            let output = output.clone();
            thread::spawn(move || {
                let mut buf = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buf) {
                    let mut output = output.lock().expect("not poisoned");
                    output.extend_from_slice(&buf[..count]);
                }
            })
        });
        Self {
            readers: readers.collect(),
            stdin: process.stdin.take(),
            process,
            output,
        }
    }

    /// Types something, and waits until it was read: what is typed next is then
    /// read for itself.
    pub(crate) fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).expect("typed");
        until("it is read", || ioctl_fionread(&*stdin) == Ok(0));
    }

    /// All that it has printed.
    pub(crate) fn output(&self) -> String {
        let output = self.output.lock().expect("not poisoned");
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Waits until it has printed this so many times.
    pub(crate) fn printed(&self, text: &str, times: usize) {
        let begun = std::time::Instant::now();
        while self.output().matches(text).count() < times {
            let output = self.output();
            assert!(begun.elapsed() < LIMIT, "no {text:?} in: {output}");
            thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Waits until it has ended; true if it was content.
    pub(crate) fn ended(mut self) -> (bool, String) {
        self.stdin = None;
        let mut status = None;
        until("the peer ends", || {
            status = self.process.try_wait().expect("a child");
            status.is_some()
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("read");
        }
        let ok = status.is_some_and(|status| status.success());
        (ok, self.output())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn write(halves: &mut Halves, bytes: &[u8]) {
    halves
        .write
        .write_all(&[IoSlice::new(bytes)])
        .expect("written");
}

/// Exactly so many bytes.
pub(crate) fn read(halves: &mut Halves, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let bytes = halves.read.fill().expect("read");
        assert!(!bytes.is_empty(), "an end after {} bytes", all.len());
        let taken = bytes.len().min(count - all.len());
        all.extend_from_slice(&bytes[..taken]);
        halves.read.consume(taken);
    }
    all
}

/// Takes in what is no data, such as a key update, until there is something to answer.
pub(crate) fn until_provoked(halves: &mut Halves) {
    until("something to answer", || {
        halves
            .read
            .set_deadline(Some(Deadline::after(std::time::Duration::from_millis(1))));
        let error = halves.read.fill().expect_err("no data");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        halves.read.wants_flush()
    });
    halves.read.set_deadline(Some(far()));
}
