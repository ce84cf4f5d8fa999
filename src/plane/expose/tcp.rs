//! Listeners for connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

use super::entrance::{Client, Entrance, turn_away};
use super::pause;
use crate::net::Cancel;
use crate::telemetry::RateLimit;
use crate::threads::{self, Stack};

/// A client that has come, and from where.
pub(super) type Arrived = (Arc<Socket>, SocketAddr);

/// Listens until `cancel` ends it. `take` is called for each client, on the
/// listener's thread; for one that came in the last moment too.
pub(super) fn listen(
    listener: TcpListener,
    name: String,
    cancel: Cancel,
    take: impl Fn(Arrived) + Send + 'static,
) -> io::Result<JoinHandle<Option<()>>> {
    static FAILED: RateLimit = RateLimit::new(1, Duration::from_mins(1));
    let socket = Arc::new(Socket::from(listener));
    threads::spawn(name, Stack::Work, move || {
        // Shutting a listening socket down ends its accept.
        let Ok(_guard) = cancel.on_socket(socket.clone()) else {
            return;
        };
        while cancel.reason().is_none() {
            match socket.accept() {
                Ok((client, address)) => {
                    if let Some(address) = address.as_socket() {
                        set_up(&client);
                        take((Arc::new(client), address));
                    }
                }
                Err(_) if cancel.reason().is_some() => {}
                Err(error) => {
                    if let Some(skipped) = FAILED.pass() {
                        log::warn!(skipped; "a listener can't accept: {error}");
                    }
                    pause(&cancel);
                }
            }
        }
    })
    .map_err(io::Error::other)
}

/// Who is gone without a word is found out.
fn set_up(client: &Socket) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    // Both fail for a client that has left again.
    let _ = client.set_tcp_nodelay(true);
    let _ = client.set_tcp_keepalive(&keepalive);
}

/// Leads a client to its Service, on a thread that may wait.
pub(super) fn serve(entrance: &Arc<Entrance>, (socket, address): Arrived) {
    let Ok(client) = entrance.enter() else {
        return turn_away(&socket);
    };
    let given = socket.clone();
    let task = Box::new(move || lead(client, &given, address));
    if entrance.crew.openers.run(task).is_err() {
        entrance.refuse(&"no thread can be had");
        turn_away(&socket);
    }
}

fn lead(client: Client, socket: &Arc<Socket>, address: SocketAddr) {
    if client.connect(socket, address, &[]).is_err() {
        turn_away(socket);
    }
}
