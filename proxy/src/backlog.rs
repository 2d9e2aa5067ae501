//! Connections that the kernel has completed and nobody has accepted yet, and how a listener closes without losing them.
//!
//! Closing a listening socket resets what waits in its queue, also what joined it a moment ago. So nothing may join it any
//! more before it is emptied: a socket filter drops every SYN. The client repeats it after a second, when the socket is
//! gone, and is refused. Handshakes under way still complete, because only a SYN is dropped.

use std::{io, net::TcpListener, os::fd::AsRawFd, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::socket;

/// How long the last packet of a handshake may be under way: one round trip round the world.
const ROUND_TRIP: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(5);

/// The queues of listening sockets that somebody else accepts from.
pub(crate) struct Backlog {
    sockets: Vec<TcpListener>,
}

impl Backlog {
    /// `sockets` share what they listen on with those that are accepted from.
    pub(crate) fn new(sockets: Vec<TcpListener>) -> Backlog {
        Backlog { sockets }
    }

    /// Lets nothing new in and waits until everything is accepted, at most until `deadline`.
    pub(crate) async fn empty(&self, deadline: Instant) {
        for socket in &self.sockets {
            if let Err(error) = drop_new_connections(socket) {
                tracing::warn!(%error, "connections that arrive while the listener closes may be reset");
            }
        }
        let emptied = async {
            let mut empty_since = Instant::now();
            while empty_since.elapsed() < ROUND_TRIP {
                sleep(POLL).await;
                if self
                    .sockets
                    .iter()
                    .any(|listener| socket::has_connections(listener.as_raw_fd()))
                {
                    empty_since = Instant::now();
                }
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if timeout(left, emptied).await.is_err() {
            tracing::warn!("connections that nobody accepted are reset");
        }
    }
}

/// A classic BPF program over the TCP header: nothing of a packet with SYN, all of any other.
fn drop_new_connections(socket: &TcpListener) -> io::Result<()> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS, 0),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, SYN, 1),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "the standard library attaches no socket filters")]
    // SAFETY: the kernel copies the program, which outlives the call; its length is that of the array.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn what_came_before_is_accepted_and_what_comes_after_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let backlog = Backlog::new(vec![listener.try_clone().unwrap()]);
        let _early = TcpStream::connect(address).unwrap();
        backlog.empty(Instant::now()).await;
        let late = std::thread::spawn(move || TcpStream::connect(address));
        listener.accept().unwrap();
        backlog.empty(Instant::now() + Duration::from_secs(60)).await;
        assert!(
            !socket::has_connections(listener.as_raw_fd()),
            "the late one is not let in"
        );
        drop((listener, backlog));
        let refused = late.join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
