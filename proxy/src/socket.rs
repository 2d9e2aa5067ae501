//! What a socket says of itself without being read.

use std::os::fd::RawFd;

/// Whether a connection waits to be accepted here.
pub(crate) fn has_connections(listener: RawFd) -> bool {
    is_ready(listener, libc::POLLIN)
}

/// Whether the other side has ended its connection, however much of what it sent is unread.
pub(crate) fn has_left(connection: RawFd) -> bool {
    is_ready(connection, libc::POLLRDHUP)
}

/// Errors and hang-ups make a socket ready for anything.
fn is_ready(socket: RawFd, events: libc::c_short) -> bool {
    let mut entry = libc::pollfd {
        fd: socket,
        events,
        revents: 0,
    };
    #[expect(unsafe_code, reason = "the standard library has no poll")]
    // SAFETY: one valid entry, and no time to wait; a number that is no socket's is an event of its own.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    ready > 0
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
    };

    use super::*;

    #[test]
    fn a_client_has_left_though_what_it_sent_is_unread() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!has_connections(listener.as_raw_fd()));
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(has_connections(listener.as_raw_fd()));
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        assert!(!has_left(server.as_raw_fd()));
        drop(client);
        assert!(has_left(server.as_raw_fd()));
    }
}
