//! HTTP/1.1 as bytes, read leniently (RFC 9112): a test sees what was sent, also where it is wrong.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Everything up to the empty line: the first line and the fields in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn parse(bytes: &[u8]) -> Head {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let first_line = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| match line.split_once(':') {
            Some((name, value)) => (name.to_owned(), value.trim().to_owned()),
            None => (line.to_owned(), String::new()),
        };
        Head {
            first_line,
            headers: lines.map(field).collect(),
        }
    }

    /// The first value of a field, its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a field, in order.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named = self
            .headers
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// How the end of the body is known; `otherwise` when no field says (requests: none, responses: end of connection).
    pub fn framing(&self, otherwise: Framing) -> Framing {
        let chunked = |value: &str| value.to_ascii_lowercase().contains("chunked");
        if self.headers_named("transfer-encoding").any(chunked) {
            return Framing::Chunked;
        }
        match self.header("content-length").and_then(|value| value.parse().ok()) {
            Some(length) => Framing::Length(length),
            None => otherwise,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// A body as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    /// Whether its framing says that all of it came.
    pub complete: bool,
}

/// A reader with what was read too far, and a record of every byte that was consumed.
#[derive(Debug)]
pub struct Buffered<R> {
    pub reader: R,
    buffer: Vec<u8>,
    /// All bytes handed out since the record was last taken.
    record: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Buffered<R> {
    pub fn new(reader: R) -> Buffered<R> {
        Buffered {
            reader,
            buffer: Vec::new(),
            record: Vec::new(),
        }
    }

    /// The bytes consumed since the last call.
    pub fn take_record(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.record)
    }

    /// Reads more; 0 is the end. Cancel safe.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.reader.read_buf(&mut self.buffer).await
    }

    /// The bytes up to and including `end`, or `None` when the stream ends before.
    pub async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.consume(at + end.len())));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Between one and `limit` bytes, as soon as there are any; empty at the end.
    pub async fn some(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.consume(limit.min(self.buffer.len())))
    }

    /// The next head, or `None` when the stream ends before it is whole.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        Ok(self.until(b"\r\n\r\n").await?.map(|bytes| Head::parse(&bytes)))
    }

    /// The body; incomplete when the stream ends or fails too early.
    pub async fn body(&mut self, framing: Framing) -> Body {
        let mut body = Body::default();
        body.complete = match framing {
            Framing::Length(length) => self.exactly(length, &mut body.bytes).await,
            Framing::UntilClose => self.until_close(&mut body.bytes).await,
            Framing::Chunked => self.chunks(&mut body.bytes).await,
        };
        body
    }

    async fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> bool {
        let end = into.len() + length;
        while into.len() < end {
            match self.some(end - into.len()).await {
                Ok(bytes) if !bytes.is_empty() => into.extend(bytes),
                _ => return false,
            }
        }
        true
    }

    async fn until_close(&mut self, into: &mut Vec<u8>) -> bool {
        loop {
            match self.some(usize::MAX).await {
                Ok(bytes) if bytes.is_empty() => return true,
                Ok(bytes) => into.extend(bytes),
                Err(_) => return false,
            }
        }
    }

    async fn chunks(&mut self, into: &mut Vec<u8>) -> bool {
        loop {
            let Ok(Some(line)) = self.until(b"\r\n").await else {
                return false;
            };
            let line = String::from_utf8_lossy(&line);
            let digits = line.split(';').next().unwrap_or_default().trim();
            let Ok(length) = usize::from_str_radix(digits, 16) else {
                return false;
            };
            if length == 0 {
                // Trailer fields up to an empty line.
                loop {
                    match self.until(b"\r\n").await {
                        Ok(Some(line)) if line == b"\r\n" => return true,
                        Ok(Some(_)) => {}
                        _ => return false,
                    }
                }
            }
            if !self.exactly(length, into).await || !matches!(self.until(b"\r\n").await, Ok(Some(_))) {
                return false;
            }
        }
    }

    fn consume(&mut self, length: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.buffer.drain(..length).collect();
        self.record.extend(&bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Body, Buffered, Framing, Head};

    async fn check(bytes: &str, framing: Framing, expected: (&str, bool)) {
        let body = Buffered::new(bytes.as_bytes()).body(framing).await;
        assert_eq!(
            body,
            Body {
                bytes: expected.0.into(),
                complete: expected.1
            },
            "{bytes:?} as {framing:?}"
        );
    }

    #[tokio::test]
    async fn a_body_ends_where_its_framing_says() {
        check("hello", Framing::Length(5), ("hello", true)).await;
        check("hello", Framing::Length(4), ("hell", true)).await;
        check("hel", Framing::Length(5), ("hel", false)).await;
        check("hello", Framing::UntilClose, ("hello", true)).await;
        check(
            "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            Framing::Chunked,
            ("hello", true),
        )
        .await;
        check("3\r\nhel\r\n0\r\nchecksum: 7\r\n\r\n", Framing::Chunked, ("hel", true)).await;
        check("3\r\nhel\r\n", Framing::Chunked, ("hel", false)).await;
        check("5\r\nhel", Framing::Chunked, ("hel", false)).await;
    }

    #[test]
    fn a_head_keeps_the_order_and_the_repetitions() {
        let head = Head::parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nx-one: 2\r\n\r\n");
        assert_eq!(head.first_line, "GET / HTTP/1.1");
        assert_eq!(head.headers_named("X-ONE").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(head.framing(Framing::UntilClose), Framing::UntilClose);
    }
}
