//! A request body on its way to a handler, and what ends its exchange before it has ended.
//!
//! While pingora hands a piece of the body over it looks at nothing else, and a guest may let it wait for as long as the
//! guest is allowed to run. Who leaves meanwhile is noticed here. Over HTTP/1 the socket says it: of a reset at once, of an
//! orderly end when all before it has arrived; what does not fit the buffers keeps it from arriving until `limits.wall`.
//! Over HTTP/2 a stream can be given up while its connection lives, and only reading tells: so pingora is not made to wait
//! for longer than [`PATIENCE`] a piece. A piece is a frame of at most 16 KiB: what a guest does not take grows by 64 KiB a
//! second, for as long as `limits.wall`.
//!
//! Two more things pingora knows of HTTP/1 only. A client that sends nothing for too long is given up. And when the answer is
//! complete, whoever still sends is told to stop: the stream is reset with `NO_ERROR` (RFC 9113 section 8.1), as some
//! clients wait for that and others send on for nothing.

use std::time::Duration;

use pingora_error::{Error, ErrorType, Result};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{door, phases::respond::LINGER};

const PATIENCE: Duration = Duration::from_millis(250);
/// How often somebody looks whether the client is still there.
const LOOK: Duration = Duration::from_millis(100);

/// One upload, as the session that feeds it, the phases of its request and the watch over it share it.
pub(crate) struct Upload {
    /// Longest pause over HTTP/2.
    pause: Option<Duration>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    ended: bool,
    /// A piece waits for the guest to take it.
    handing_over: bool,
    last_piece: Instant,
    /// Once it is known.
    answer: Option<Answer>,
    /// What of the answer has passed through the phases.
    passed: Answer,
}

/// The body of a complete answer, as far as it can be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) bytes: u64,
    pub(crate) trailers: bool,
}

impl Upload {
    pub(crate) fn http1() -> Upload {
        Upload::new(None)
    }

    /// `pause`: how long the client may send nothing while the guest waits for it.
    pub(crate) fn http2(pause: Duration) -> Upload {
        Upload::new(Some(pause))
    }

    fn new(pause: Option<Duration>) -> Upload {
        let state = State {
            ended: false,
            handing_over: false,
            last_piece: Instant::now(),
            answer: None,
            passed: Answer::default(),
        };
        Upload {
            pause,
            state: watch::Sender::new(state),
        }
    }

    /// How long a piece may wait for the guest before it is held for it.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.pause.map(|_| PATIENCE)
    }

    pub(crate) fn handing_over(&self, handing_over: bool) {
        self.state.send_modify(|state| {
            state.handing_over = handing_over;
            state.last_piece = Instant::now();
        });
    }

    /// The body is complete, or nobody feeds it any more.
    pub(crate) fn end(&self) {
        self.state.send_modify(|state| state.ended = true);
    }

    /// The handler has handed all of this over.
    pub(crate) fn answered(&self, answer: Answer) {
        self.state.send_modify(|state| state.answer = Some(answer));
    }

    pub(crate) fn passed_bytes(&self, bytes: usize) {
        self.state.send_modify(|state| state.passed.bytes += bytes as u64);
    }

    pub(crate) fn passed_trailers(&self) {
        self.state.send_modify(|state| state.passed.trailers = true);
    }

    /// Whether all of the answer has passed, and the body has not ended.
    pub(crate) fn is_outlived(&self) -> bool {
        let state = self.state.borrow();
        !state.ended && state.answer == Some(state.passed)
    }

    /// Resolves with `true` each time it should be asked whether [`Self::is_outlived`], and with `false` when it never will
    /// be.
    pub(crate) async fn outlived(&self) -> bool {
        if self.pause.is_none() {
            return false;
        }
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| state.ended || state.answer.is_some()).await;
        if known.is_ok_and(|state| state.ended) {
            return false;
        }
        sleep(LINGER).await;
        true
    }

    /// Resolves when the body has ended, or with the reason why the exchange is to end before. To be awaited by the task
    /// that serves the connection.
    pub(crate) async fn watch(&self) -> Result<()> {
        let mut state = self.state.subscribe();
        while timeout(LOOK, state.wait_for(|state| state.ended)).await.is_err() {
            let now = *state.borrow();
            if now.handing_over {
                if door::client_has_left() {
                    let left = Error::explain(ErrorType::ConnectionClosed, "the client left while it sent");
                    return Err(left.into_down());
                }
            } else if self.pause.is_some_and(|pause| now.last_piece.elapsed() > pause) {
                let paused = Error::explain(
                    ErrorType::ReadTimedout,
                    "the client paused its request body for too long",
                );
                return Err(paused.into_down());
            }
        }
        Ok(())
    }
}
