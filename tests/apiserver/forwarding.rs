//! `kubectl port-forward`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;

use crate::way::Way;
use crate::{LIMIT, wait_until};

/// Many connections in one WebSocket, all open at once, each with bytes of its own.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_port_is_forwarded_to_for_many_connections() {
    let way = Way::new("forward");
    let target = echo();
    let kubectl = way.kubectl();
    let mut forward = kubectl.start(&["port-forward", "box", &format!(":{}", target.port())]);
    let line = forward.line_with("Forwarding from 127.0.0.1:");
    let port = line.split([':', ' ']).find_map(|word| word.parse().ok());
    let address = SocketAddr::from(([127, 0, 0, 1], port.expect("a port")));

    let all_are_there = Barrier::new(CONNECTIONS);
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let all_are_there = &all_are_there;
            scope.spawn(move || {
                let stream = TcpStream::connect(address).expect("connected");
                stream.set_read_timeout(Some(LIMIT)).expect("set");
                let mut bytes = vec![0; SIZE];
                fastrand::Rng::with_seed(number as u64).fill(&mut bytes);
                // The first answer shows that the way is open.
                let (mut write, mut read) = (&stream, &stream);
                write.write_all(&bytes[..1]).expect("sent");
                let mut answer = vec![0];
                read.read_exact(&mut answer).expect("answered");
                all_are_there.wait();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        (&stream).write_all(&bytes[1..]).expect("sent");
                        stream.shutdown(Shutdown::Write).expect("shut down");
                    });
                    read.read_to_end(&mut answer).expect("to the end");
                });
                assert!(answer == bytes, "{} bytes of {SIZE}", answer.len());
            });
        }
    });
    wait_until("the ends on the node", || {
        way.on_node("forward-end") == CONNECTIONS
    });
    forward.signal("INT");
    let (_, text) = forward.end();
    assert!(!text.contains("rror"), "{text}");
}

/// Answers each connection with what it says.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                // What goes wrong here is seen at the other end.
                let _ = std::io::copy(&mut &stream, &mut &stream);
            });
        }
    });
    address
}

const CONNECTIONS: usize = 64;
const SIZE: usize = 500_009;
