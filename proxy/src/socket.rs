//! What a socket says of itself without being read.

use std::os::fd::RawFd;

/// Whether a connection waits to be accepted here.
pub(crate) fn has_connections(listener: RawFd) -> bool {
    is_ready(listener, libc::POLLIN)
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
