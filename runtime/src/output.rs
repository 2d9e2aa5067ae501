//! A guest's stdout and stderr, line by line into the log with the handler's name.
//!
//! Lines are cut at [`LINE_BYTES`] and a stream is silenced after [`STREAM_BYTES`]; a guest cannot fill the log.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

const LINE_BYTES: usize = 8 * 1024;
/// Of one instance's stream.
const STREAM_BYTES: usize = 1024 * 1024;

#[derive(Clone)]
pub(crate) struct GuestOutput(Arc<Mutex<Lines>>);

struct Lines {
    handler: Arc<str>,
    stream: &'static str,
    line: Vec<u8>,
    total: usize,
}

impl GuestOutput {
    pub(crate) fn new(handler: &Arc<str>, stream: &'static str) -> GuestOutput {
        let lines = Lines {
            handler: Arc::clone(handler),
            stream,
            line: Vec::new(),
            total: 0,
        };
        GuestOutput(Arc::new(Mutex::new(lines)))
    }
}

impl Lines {
    fn take(&mut self, data: &[u8]) {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            if self.total > STREAM_BYTES {
                return;
            }
            self.total += part.len();
            if self.total > STREAM_BYTES {
                tracing::warn!(target: "guest", handler = %self.handler, stream = self.stream, "wrote too much; silenced");
                return;
            }
            self.line.extend_from_slice(part.strip_suffix(b"\n").unwrap_or(part));
            if part.ends_with(b"\n") || self.line.len() >= LINE_BYTES {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        self.line.truncate(LINE_BYTES);
        let line = String::from_utf8_lossy(&self.line);
        tracing::info!(target: "guest", handler = %self.handler, stream = self.stream, "{line}");
        self.line.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, _context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().take(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().flush();
        Poll::Ready(Ok(()))
    }
}
