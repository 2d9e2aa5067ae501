//! One request through a handler.
//!
//! A task on the handler threads waits for a slot, runs the guest and moves its body into a small channel; the proxy
//! holds the other end. The task reports the end of the body explicitly: a channel that merely closes is a failure, so
//! nothing that ends early can look complete.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header, response::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use selvedge_replication::bookmark::Brought;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use wasmtime::PoolConcurrencyLimitError;
use wasmtime_wasi_http::{
    WasiBody,
    handler::{ExpirationError, InstantiationError, TrapOrPanicError},
};

use crate::{
    body::RequestBody,
    failure::Failure,
    handler::Handler,
    instance::{Call, classify},
};

/// Chunks between the guest and the proxy. Each is at most what the guest wrote at once.
const CHUNKS_IN_FLIGHT: usize = 2;
/// A worker that ended records why right after its requests learn that it ended.
const REASON_WAIT: Duration = Duration::from_millis(500);

enum Message {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Failed(Failure),
}

struct Head {
    parts: Parts,
    /// The body is known to be empty.
    empty: bool,
}

/// A running invocation. Dropping it cancels the guest.
pub struct Invocation {
    head: Option<oneshot::Receiver<Result<Head, Failure>>>,
    messages: mpsc::Receiver<Message>,
    next: Option<Message>,
    trailers: Option<HeaderMap>,
    ended: bool,
    call: Arc<Call>,
}

impl Invocation {
    pub(crate) fn start(handler: Arc<Handler>, mut head: http::request::Parts, body: RequestBody) -> Invocation {
        let (head_sender, head_receiver) = oneshot::channel();
        let (sender, messages) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let deadline = std::time::Instant::now() + handler.limits().wall;
        let brought = head.extensions.remove::<Arc<Brought>>().unwrap_or_default();
        let call = Call::new(deadline, body.gate(), brought);
        let request = http::Request::from_parts(head, body);
        let task = run(Arc::clone(&handler), request, Arc::clone(&call), head_sender, sender);
        handler.runtime().threads().spawn(task);
        Invocation {
            head: Some(head_receiver),
            messages,
            next: None,
            trailers: None,
            ended: false,
            call,
        }
    }

    /// The response head, once. Must not be called again after it returned.
    pub async fn response_head(&mut self) -> Result<Parts, Failure> {
        let Some(receiver) = self.head.as_mut() else {
            return Err(Failure::Cancelled);
        };
        let head = receiver.await.unwrap_or_else(|_| Err(self.lost()));
        self.head = None;
        let head = head?;
        // What a guest says about a body it was not given whole is not an answer to the request.
        if self.call.gate.too_large() {
            return Err(Failure::BodyTooLarge);
        }
        self.ended = head.empty;
        Ok(head.parts)
    }

    /// The next piece of the body; `None` only after the guest ended it completely. Cancel-safe.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let message = match self.next.take() {
                Some(message) => message,
                None => match self.messages.recv().await {
                    Some(message) => message,
                    None => return Err(self.lost()),
                },
            };
            match message {
                Message::Data(data) => return Ok(Some(data)),
                Message::Trailers(trailers) => self.trailers = Some(trailers),
                Message::End => self.ended = true,
                Message::Failed(failure) => return Err(failure),
            }
        }
    }

    /// Whether the body is known to have ended completely. Never waits.
    pub fn finished(&mut self) -> bool {
        if !self.ended && self.next.is_none() {
            self.next = self.messages.try_recv().ok();
        }
        if matches!(self.next, Some(Message::End)) {
            self.next = None;
            self.ended = true;
        }
        self.ended
    }

    /// Trailers, after [`Self::next_chunk`] returned `None`.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The task is gone without a word: it panicked or the runtime is shutting down.
    fn lost(&self) -> Failure {
        self.call.failure().unwrap_or(Failure::Cancelled)
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.ended {
            self.call.cancel();
        }
    }
}

async fn run(
    handler: Arc<Handler>,
    request: http::Request<RequestBody>,
    call: Arc<Call>,
    head: oneshot::Sender<Result<Head, Failure>>,
    messages: mpsc::Sender<Message>,
) {
    let method = request.method().clone();
    let slot = tokio::select! {
        slot = handler.slot() => slot,
        failure = call.interrupted() => Err(failure),
    };
    let _slot = match slot {
        Ok(slot) => slot,
        Err(failure) => {
            let _ = head.send(Err(failure));
            return call.finish();
        }
    };
    match respond(&handler, request, &call).await {
        Err(failure) => {
            let _ = head.send(Err(failure));
        }
        Ok(response) => {
            let (parts, body) = response.into_parts();
            match check_head(&parts, handler.limits().response_header) {
                Err(failure) => {
                    let _ = head.send(Err(failure));
                }
                Ok(()) => {
                    let length = Length::declared(&parts, &method);
                    let empty = body.is_end_stream() && length.is_complete(0);
                    let _ = head.send(Ok(Head { parts, empty }));
                    if !empty {
                        pump(body, length, &call, &messages).await;
                    }
                }
            }
        }
    }
    call.gate.guest_ended();
    call.finish();
}

/// Runs the guest up to its response head.
async fn respond(
    handler: &Handler,
    request: http::Request<RequestBody>,
    call: &Arc<Call>,
) -> Result<http::Response<WasiBody>, Failure> {
    let request = request.map(BodyExt::boxed_unsync);
    // Biased: of a guest that set its head and failed before the head was handed on, the failure counts, because a
    // fallback can still answer then.
    let outcome = tokio::select! {
        biased;
        failure = call.interrupted() => return Err(failure),
        outcome = handler.proxy().handle(Arc::clone(call), request) => outcome,
    };
    match outcome {
        Ok(response) => Ok(response),
        Err(error) => Err(name_failure(&error, call).await),
    }
}

async fn name_failure(error: &wasmtime::Error, call: &Call) -> Failure {
    if call.gate.too_large() {
        return Failure::BodyTooLarge;
    }
    if let Some(failure) = call.failure() {
        return failure;
    }
    if error.downcast_ref::<TrapOrPanicError>().is_some() {
        return reason(call)
            .await
            .unwrap_or_else(|| Failure::Trap("the instance ended".to_owned()));
    }
    if error.downcast_ref::<ExpirationError>().is_some() {
        return Failure::WallDeadline;
    }
    if let Some(instantiation) = error.downcast_ref::<InstantiationError<Arc<Call>>>() {
        if instantiation.error.is::<PoolConcurrencyLimitError>() {
            return Failure::Overloaded;
        }
        return Failure::Instantiate(format!("{:#}", instantiation.error));
    }
    let trapped = error.downcast_ref::<wasmtime::Trap>().is_some()
        || error.downcast_ref::<crate::failure::CpuLimitReached>().is_some();
    if trapped {
        return classify(error, call.memory_refused());
    }
    if call.memory_refused() {
        return Failure::MemoryLimit;
    }
    let text = format!("{error:#}");
    if text.contains("never invoked `response-outparam::set`") {
        // A 0.2 guest that trapped did not answer either; its instance knows which of the two it was.
        return reason(call).await.unwrap_or(Failure::NoResponse);
    }
    Failure::BadResponse(text)
}

fn check_head(parts: &Parts, limit: u64) -> Result<(), Failure> {
    let size: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if size as u64 > limit {
        return Err(Failure::BadResponse(
            "its header is larger than limits.response_header".to_owned(),
        ));
    }
    if parts.status.is_informational() {
        return Err(Failure::BadResponse(format!("its status is {}", parts.status.as_u16())));
    }
    Ok(())
}

/// The declared length of a body that has one.
struct Length(Option<u64>);

impl Length {
    fn declared(parts: &Parts, method: &Method) -> Length {
        let bodiless =
            method == Method::HEAD || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let declared = parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Length(declared.filter(|_| !bodiless))
    }

    fn is_complete(&self, sent: u64) -> bool {
        self.0.is_none_or(|declared| declared == sent)
    }

    fn is_exceeded(&self, sent: u64) -> bool {
        self.0.is_some_and(|declared| sent > declared)
    }
}

/// Moves the body to the proxy, as fast as the proxy takes it.
async fn pump(mut body: WasiBody, length: Length, call: &Call, messages: &mpsc::Sender<Message>) {
    let mut sent = 0;
    let last = loop {
        let frame = tokio::select! {
            biased;
            failure = call.interrupted() => break Message::Failed(failure),
            frame = body.frame() => frame,
        };
        let message = match frame {
            None => match ended(call, &length, sent).await {
                None => break Message::End,
                Some(failure) => break Message::Failed(failure),
            },
            Some(Err(error)) => break Message::Failed(body_failure(&error, call).await),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    sent += data.len() as u64;
                    if length.is_exceeded(sent) {
                        break Message::Failed(Failure::BadResponse(
                            "its body is longer than Content-Length".to_owned(),
                        ));
                    }
                    Message::Data(data)
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Message::Trailers(trailers),
                    Err(_) => continue,
                },
            },
        };
        if !send(messages, message, call).await {
            return;
        }
    };
    if let Message::Failed(failure) = &last {
        call.fail(failure.clone());
    }
    // Before its end is told: what comes next to the instance does not share the fate of what has ended.
    call.finish();
    let _ = messages.send(last).await;
}

/// Hands a message over; while it waits, the request body may go past its bound (see [`crate::body`]).
async fn send(messages: &mpsc::Sender<Message>, message: Message, call: &Call) -> bool {
    match messages.try_send(message) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
        Err(mpsc::error::TrySendError::Full(message)) => {
            call.gate.set_output_blocked(true);
            let taken = tokio::select! {
                taken = messages.send(message) => taken.is_ok(),
                _ = call.interrupted() => false,
            };
            call.gate.set_output_blocked(false);
            taken
        }
    }
}

/// Why a body that ended is not complete; `None` when it is.
async fn ended(call: &Call, length: &Length, sent: u64) -> Option<Failure> {
    if let Some(failure) = call.failure() {
        return Some(failure);
    }
    (!length.is_complete(sent)).then(|| Failure::BadResponse("its body is shorter than Content-Length".to_owned()))
}

async fn body_failure(error: &wasmtime_wasi_http::Error, call: &Call) -> Failure {
    if call.gate.too_large() {
        return Failure::BodyTooLarge;
    }
    // A body breaks because its instance ended; the instance says why a moment later.
    reason(call)
        .await
        .unwrap_or_else(|| Failure::BadResponse(format!("{error:?}")))
}

/// Why the instance ended; `None` when it ended without a reason, or does not say.
async fn reason(call: &Call) -> Option<Failure> {
    timeout(REASON_WAIT, call.instance_verdict()).await.ok().flatten()
}
