//! A corporate HTTP proxy: CONNECT, with a password.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Lets those through who know the password. Whatever host they name, they get
/// that port of loopback: agents reach loopback itself without a proxy.
pub(crate) struct ConnectProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    /// `Basic …` as it must be; `None`: everybody may.
    credentials: Option<String>,
    hangs: AtomicBool,
    stopped: AtomicBool,
    refused: AtomicU64,
    /// What was asked for, in order.
    targets: Mutex<Vec<String>>,
    /// Connections that wait for an answer for ever.
    held: Mutex<Vec<TcpStream>>,
}

impl ConnectProxy {
    /// With a user and a password, or for everybody.
    pub(crate) fn start(credentials: Option<(&str, &str)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let credentials = credentials.map(|(user, password)| {
            let pair = format!("{user}:{password}");
            format!(
                "Basic {}",
                base64_simd::STANDARD.encode_to_string(pair.as_bytes())
            )
        });
        let shared = Arc::new(Shared {
            credentials,
            hangs: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            targets: Mutex::default(),
            held: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = accepting.clone();
                thread::spawn(move || {
                    // Whatever goes wrong closes the connection.
                    let _ = serve(&shared, client);
                });
            }
        });
        Self { shared, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and answers nothing, or as it should again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::Relaxed);
        if !hangs {
            self.shared.held.lock().expect("no panic").clear();
        }
    }

    /// Connections that were accepted and not answered.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.lock().expect("no panic").len()
    }

    /// How often 407 was the answer.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// What was let through, `host:port`.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.shared.targets.lock().expect("no panic").clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(shared: &Shared, mut client: TcpStream) -> io::Result<()> {
    if shared.hangs.load(Ordering::Relaxed) {
        shared.held.lock().expect("no panic").push(client);
        return Ok(());
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let target = lines
        .next()
        .and_then(|line| line.strip_prefix("CONNECT "))
        .and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let Some(target) = target else {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    };
    let shown = lines.find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    if shared.credentials.is_some() && shown != shared.credentials.as_deref() {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return client.write_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\
              Proxy-Authenticate: Basic realm=\"the office\"\r\nContent-Length: 0\r\n\r\n",
        );
    }
    let port = target.rsplit(':').next().and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or(io::ErrorKind::InvalidInput)?;
    let target_stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let mut targets = shared.targets.lock().expect("no panic");
    targets.push(target.to_owned());
    drop(targets);
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, target_stream.try_clone()?);
    let up = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let _ = io::copy(&mut &target_stream, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    up.join().map_err(|_| io::Error::other("panicked"))
}
