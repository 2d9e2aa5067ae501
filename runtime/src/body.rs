//! The request body on its way from the proxy to the guest.
//!
//! Memory is bounded by waiting: a write waits until the guest has taken enough. It must not wait for ever, though: a
//! guest that is itself blocked on its output (because the proxy is busy writing here) would never read again. So a
//! write also goes through when the guest waits for its output to be taken, or has ended. In between, bytes beyond the
//! soft bound are held. What a guest that ended did not want is discarded up to the body's limit: many clients read the
//! answer only when they have sent everything.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Bytes held for a guest that is slower than the client.
const SOFT_BOUND_BYTES: usize = 256 * 1024;
/// Bytes discarded beyond the limit, so that a client that is not far over it reads that it is.
const EXCESS_BYTES: u64 = 256 * 1024;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyRefused {
    #[error("the request body is larger than the handler allows")]
    TooLarge,
    #[error("the request body goes on and on beyond what the handler allows")]
    Endless,
}

/// A request body of at most `limit` bytes; `content_length` is what the request declared.
pub fn request_body(limit: u64, content_length: Option<u64>) -> (RequestBodyWriter, RequestBody) {
    let gate = Arc::new(Gate::default());
    let writer = RequestBodyWriter {
        gate: Arc::clone(&gate),
        limit,
        written: 0,
    };
    (writer, RequestBody { gate, content_length })
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Woken when a writer should look again.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    held: usize,
    end: Option<End>,
    reader: Option<Waker>,
    /// The guest cannot go on until somebody takes its output.
    output_blocked: bool,
    guest_ended: bool,
    too_large: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Complete,
    Aborted,
}

impl Gate {
    pub(crate) fn set_output_blocked(&self, blocked: bool) {
        self.state.lock().output_blocked = blocked;
        if blocked {
            self.room.notify_one();
        }
    }

    pub(crate) fn guest_ended(&self) {
        let mut state = self.state.lock();
        state.guest_ended = true;
        state.chunks.clear();
        state.held = 0;
        drop(state);
        self.room.notify_one();
    }

    pub(crate) fn too_large(&self) -> bool {
        self.state.lock().too_large
    }
}

/// The proxy's end of the body.
#[derive(Debug)]
pub struct RequestBodyWriter {
    gate: Arc<Gate>,
    limit: u64,
    written: u64,
}

impl RequestBodyWriter {
    /// Hands over `data`, waiting for the guest as the module says.
    pub async fn write(&mut self, data: Bytes) -> Result<(), BodyRefused> {
        self.hand_over(data, None).await
    }

    /// The same, but waits for no longer than `patience` each time; then `data` is held beyond the bound.
    pub async fn write_within(&mut self, data: Bytes, patience: Duration) -> Result<(), BodyRefused> {
        self.hand_over(data, Some(Instant::now() + patience)).await
    }

    async fn hand_over(&mut self, data: Bytes, deadline: Option<Instant>) -> Result<(), BodyRefused> {
        if data.is_empty() {
            return Ok(());
        }
        self.written += data.len() as u64;
        if self.written > self.limit {
            self.refuse_too_large();
            return Err(match self.written - self.limit {
                ..=EXCESS_BYTES => BodyRefused::TooLarge,
                _ => BodyRefused::Endless,
            });
        }
        loop {
            let room = self.gate.room.notified();
            {
                let mut state = self.gate.state.lock();
                if state.guest_ended {
                    return Ok(());
                }
                let waited_enough = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if state.held < SOFT_BOUND_BYTES || state.output_blocked || waited_enough {
                    state.held += data.len();
                    state.chunks.push_back(data);
                    wake(&mut state);
                    return Ok(());
                }
            }
            match deadline {
                Some(deadline) => drop(timeout_at(deadline, room).await),
                None => room.await,
            }
        }
    }

    fn refuse_too_large(&self) {
        let mut state = self.gate.state.lock();
        state.too_large = true;
        state.end = Some(End::Aborted);
        wake(&mut state);
    }

    /// The body is complete.
    pub fn finish(&mut self) {
        self.end(End::Complete);
    }

    /// The client left: the guest sees an error, never a clean end.
    pub fn abort(&mut self) {
        self.end(End::Aborted);
    }

    fn end(&self, end: End) {
        let mut state = self.gate.state.lock();
        state.end.get_or_insert(end);
        wake(&mut state);
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

/// The guest's end of the body.
#[derive(Debug)]
pub struct RequestBody {
    gate: Arc<Gate>,
    content_length: Option<u64>,
}

impl RequestBody {
    pub(crate) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, wasmtime_wasi_http::Error>>> {
        let mut state = self.gate.state.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            state.held -= chunk.len();
            let room = state.held < SOFT_BOUND_BYTES;
            drop(state);
            if room {
                self.gate.room.notify_one();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end {
            Some(End::Complete) => Poll::Ready(None),
            Some(End::Aborted) => Poll::Ready(Some(Err(wasmtime_wasi_http::Error::ConnectionTerminated))),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.gate.state.lock();
        state.chunks.is_empty() && matches!(state.end, Some(End::Complete))
    }

    fn size_hint(&self) -> SizeHint {
        self.content_length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    fn chunk(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[tokio::test]
    async fn a_slow_guest_makes_the_writer_wait_but_a_blocked_one_does_not() {
        let (mut writer, body) = request_body(u64::MAX, None);
        writer.write(chunk(SOFT_BOUND_BYTES)).await.unwrap();
        assert!(
            writer.write(chunk(1)).now_or_never().is_none(),
            "over the bound, the guest could read"
        );
        writer.write_within(chunk(1), Duration::ZERO).await.unwrap();
        body.gate.set_output_blocked(true);
        writer.write(chunk(1)).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_is_clean_only_when_finished() {
        let (mut writer, body) = request_body(10, None);
        writer.write(chunk(3)).await.unwrap();
        writer.finish();
        assert_eq!(body.collect().await.unwrap().to_bytes(), chunk(3));
        let (mut writer, body) = request_body(10, None);
        writer.write(chunk(3)).await.unwrap();
        writer.abort();
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_and_the_guest_sees_an_error() {
        let (mut writer, body) = request_body(4, None);
        writer.write(chunk(4)).await.unwrap();
        assert_eq!(writer.write(chunk(1)).await, Err(BodyRefused::TooLarge));
        let more = chunk(EXCESS_BYTES as usize);
        assert_eq!(writer.write(more).await, Err(BodyRefused::Endless));
        assert!(body.gate.too_large());
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn what_a_guest_that_ended_did_not_read_is_discarded() {
        let (mut writer, body) = request_body(u64::MAX, None);
        writer.write(chunk(SOFT_BOUND_BYTES)).await.unwrap();
        body.gate.guest_ended();
        writer.write(chunk(40 * SOFT_BOUND_BYTES)).await.unwrap();
        assert_eq!(body.gate.state.lock().held, 0);
    }
}
