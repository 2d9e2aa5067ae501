//! A TCP connection on which a test sends any bytes and reads what comes back.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wait::within;
use crate::wire::{Body, Buffered, Framing, Head};

#[derive(Debug)]
pub struct Connection {
    stream: Buffered<TcpStream>,
}

/// A response as it arrived.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    /// Without transfer coding.
    pub body: Vec<u8>,
    /// Whether its framing says that all of the body came.
    pub complete: bool,
}

impl Response {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("connecting {address}: {error}"));
        Connection {
            stream: Buffered::new(stream),
        }
    }

    /// Sends the bytes; `false` when the peer has closed the connection, which may be what a test expects.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("the bytes to be taken", self.stream.reader.write_all(bytes.as_ref()))
            .await
            .is_ok()
    }

    /// Sends a GET of `path` with nothing but a Host.
    pub async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        self.receive().await
    }

    /// The next final response; informational ones are skipped.
    pub async fn receive(&mut self) -> Response {
        self.receive_for("GET").await
    }

    /// The next final response to a request with this method: one to HEAD has no body, whatever it says.
    pub async fn receive_for(&mut self, method: &str) -> Response {
        loop {
            let (status, head) = self.receive_head().await;
            if status < 200 && status != 101 {
                continue;
            }
            let framing = match status {
                _ if method == "HEAD" => Framing::Length(0),
                101 | 204 | 304 => Framing::Length(0),
                _ => head.framing(Framing::UntilClose),
            };
            let Body { bytes, complete } = within("the body", self.stream.body(framing)).await;
            return Response {
                status,
                head,
                body: bytes,
                complete,
            };
        }
    }

    /// The next head, informational or final; the body stays to be read.
    pub async fn receive_head(&mut self) -> (u16, Head) {
        let head = within("a response", self.stream.head()).await;
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => panic!("the connection ended instead of a response"),
            Err(error) => panic!("the connection failed instead of a response: {error}"),
        };
        let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        (
            status.unwrap_or_else(|| panic!("no status in {:?}", head.first_line)),
            head,
        )
    }

    /// The bytes up to and including `end`; panics when the connection ends before.
    pub async fn receive_until(&mut self, end: impl AsRef<[u8]>) -> Vec<u8> {
        let end = end.as_ref();
        let what = format!("{:?}", String::from_utf8_lossy(end));
        match within(&what, self.stream.until(end)).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => panic!("the connection ended before {what}"),
            Err(error) => panic!("the connection failed before {what}: {error}"),
        }
    }

    /// Everything until the peer closes, which it must: gracefully or by a reset.
    pub async fn receive_to_end(&mut self) -> Vec<u8> {
        within("the connection to be closed", self.stream.body(Framing::UntilClose))
            .await
            .bytes
    }

    /// Says that nothing more will be sent; receiving goes on.
    pub async fn finish_sending(&mut self) {
        // The peer may have closed already.
        let _ = self.stream.reader.shutdown().await;
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        self.stream.reader.set_zero_linger().expect("a socket takes SO_LINGER");
    }
}
