//! Aborting a connection so that the other end can tell it from a good end
//! (decisions.md §6.6 "Aborting a target").

use std::net::Shutdown;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::connect_unspec;
use socket2::{Domain, Socket, Type};

/// Aborts a connection: threads of ours that are blocked in it wake up, and the
/// other end of a TCP connection gets a reset (ECONNRESET), never a clean end: a
/// database must not take half an upload for a whole one (tunnels.md T9).
///
/// Call it before the last handle is dropped. Threads that wake see an error or
/// zero bytes, so who reads zero has to ask whether it was an abort. Harmless for
/// a socket that isn't connected, and a second time.
///
/// A Unix socket has no reset: the other end sees ECONNRESET only if data that it
/// sent lies unread at our end when the last handle is dropped; otherwise it sees
/// an end. A datagram socket only wakes its threads.
pub fn abort(socket: &Socket) {
    let tcp =
        matches!(socket.r#type(), Ok(Type::STREAM)) && !matches!(socket.domain(), Ok(Domain::UNIX));
    if !tcp {
        // Fails when there is no peer any more: then nobody is blocked either.
        let _ = socket.shutdown(Shutdown::Both);
        return;
    }
    // Whatever follows, closing it now sends a reset.
    let _ = socket.set_linger(Some(Duration::ZERO));
    // Sends the reset at once and wakes both threads. `shutdown` would send FIN,
    // and the reset behind it would come too late.
    if connect_unspec(socket).is_err() {
        // Kernels 6.4 to 6.6, and some stable ones of that time, answer EBUSY
        // while a thread waits in the socket.
        wake_without_end(socket);
        let _ = connect_unspec(socket);
    }
}

/// Wakes the threads that are blocked in a TCP socket without telling the peer of
/// an end. The reset then goes out when the socket is closed.
fn wake_without_end(socket: &Socket) {
    // From now on a write that finds no room comes back.
    let _ = socket.set_write_timeout(Some(Duration::from_millis(1)));
    // Sends nothing, wakes a reader.
    let _ = socket.shutdown(Shutdown::Read);
    if !is_writable(socket) {
        // Wakes a writer. The FIN of this stands behind data that the peer has no
        // room for; the reset goes ahead of it.
        let _ = socket.shutdown(Shutdown::Write);
    }
}

fn is_writable(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread::JoinHandle;

    use super::*;
    use crate::net::testing::tcp_pair;

    /// What a target sees: the bytes that it can still read, then how it ends.
    fn read_to_end(target: &Socket) -> (usize, io::Result<()>) {
        let mut target = target;
        let mut buf = vec![0; 64 * 1024];
        let mut count = 0;
        loop {
            match target.read(&mut buf) {
                Ok(0) => return (count, Ok(())),
                Ok(more) => count += more,
                Err(error) => return (count, Err(error)),
            }
        }
    }

    fn assert_reset(target: &Socket) {
        let (_, end) = read_to_end(target);
        let error = end.expect_err("a clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }

    type Blocked = JoinHandle<io::Result<usize>>;

    /// Returns when a thread sits in `recv` and one in `send`.
    fn with_both_blocked(near: &Arc<Socket>) -> (Blocked, Blocked) {
        let socket = near.clone();
        let writer = std::thread::spawn(move || {
            let mut socket = &*socket;
            let chunk = vec![7; 64 * 1024];
            loop {
                socket.write_all(&chunk)?;
            }
        });
        let socket = near.clone();
        let reader = std::thread::spawn(move || (&*socket).read(&mut [0; 1]));
        // The writer has filled both kernels' buffers, and stays.
        let mut full = 0;
        while full < 20 {
            full = if is_writable(near) { 0 } else { full + 1 };
            std::thread::sleep(Duration::from_millis(1));
        }
        while !is_waiting(&reader) {
            std::thread::sleep(Duration::from_millis(1));
        }
        (reader, writer)
    }

    /// A thread that has run and not ended can only be in its one system call; give
    /// it the time to get there.
    fn is_waiting(thread: &Blocked) -> bool {
        std::thread::sleep(Duration::from_millis(10));
        !thread.is_finished()
    }

    #[test]
    fn tt09_an_aborted_target_sees_a_reset_and_both_threads_wake() {
        let (near, far) = tcp_pair();
        let near = Arc::new(near);
        let (reader, writer) = with_both_blocked(&near);
        abort(&near);
        assert_reset(&far);
        assert!(!matches!(reader.join().expect("reader"), Ok(1..)));
        writer.join().expect("writer").expect_err("wrote for ever");
    }

    /// The way for kernels that answer EBUSY.
    #[test]
    fn tt09_without_disconnect_the_close_resets_and_both_threads_wake() {
        let (near, far) = tcp_pair();
        let near = Arc::new(near);
        let (reader, writer) = with_both_blocked(&near);
        near.set_linger(Some(Duration::ZERO)).expect("linger");
        wake_without_end(&near);
        assert!(!matches!(reader.join().expect("reader"), Ok(1..)));
        writer.join().expect("writer").expect_err("wrote for ever");
        drop(near);
        assert_reset(&far);
    }

    #[test]
    fn tt09_without_disconnect_a_reader_alone_is_woken_and_the_target_reset() {
        let (near, far) = tcp_pair();
        let near = Arc::new(near);
        let socket = near.clone();
        let reader = std::thread::spawn(move || (&*socket).read(&mut [0; 1]));
        assert!(is_waiting(&reader));
        near.set_linger(Some(Duration::ZERO)).expect("linger");
        wake_without_end(&near);
        assert!(!matches!(reader.join().expect("reader"), Ok(1..)));
        drop(near);
        assert_reset(&far);
    }

    #[test]
    fn tt09_data_that_was_written_before_is_no_excuse_for_a_clean_end() {
        let (near, far) = tcp_pair();
        (&near).write_all(b"half an upload").expect("written");
        abort(&near);
        abort(&near);
        drop(near);
        let (count, end) = read_to_end(&far);
        assert!(count <= 14);
        let error = end.expect_err("a clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }

    /// The target has sent its end and still reads.
    #[test]
    fn tt09_a_target_that_ended_its_half_is_reset_all_the_same() {
        let (near, far) = tcp_pair();
        far.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!((&near).read(&mut [0; 1]).expect("end"), 0);
        abort(&near);
        assert_reset(&far);
    }

    /// The upload had ended well; then nobody waits for the answer any more.
    #[test]
    fn a_target_that_answers_after_our_end_finds_nobody() {
        let (near, far) = tcp_pair();
        near.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!((&far).read(&mut [0; 1]).expect("end"), 0);
        abort(&near);
        let chunk = [0; 4096];
        let error = loop {
            if let Err(error) = (&far).write_all(&chunk) {
                break error;
            }
        };
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "{error}"
        );
    }

    #[test]
    fn a_socket_that_was_never_connected_is_left_as_it_is() {
        abort(&Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket"));
    }

    #[test]
    fn both_threads_of_a_unix_socket_wake() {
        let (near, far) = UnixStream::pair().expect("pair");
        let near = Arc::new(Socket::from(near));
        let (reader, writer) = with_both_blocked(&near);
        abort(&near);
        reader.join().expect("reader").expect("an end");
        writer.join().expect("writer").expect_err("wrote for ever");
        drop(far);
    }

    /// What can be had there, and no more.
    #[test]
    fn a_unix_target_sees_a_reset_only_if_its_data_was_not_read() {
        for (sends, reset) in [(true, true), (false, false)] {
            let (near, far) = UnixStream::pair().expect("pair");
            let (near, far) = (Socket::from(near), Socket::from(far));
            if sends {
                (&far).write_all(b"unread").expect("sent");
            }
            abort(&near);
            drop(near);
            let (_, end) = read_to_end(&far);
            assert_eq!(end.is_err(), reset);
        }
    }

    #[test]
    fn a_blocked_datagram_reader_wakes() {
        let far = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let near = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        near.connect(far.local_addr().expect("address"))
            .expect("connect");
        let near = Arc::new(Socket::from(near));
        let socket = near.clone();
        let reader = std::thread::spawn(move || (&*socket).read(&mut [0; 1]));
        assert!(is_waiting(&reader));
        abort(&near);
        assert!(!matches!(reader.join().expect("reader"), Ok(1..)));
    }
}
