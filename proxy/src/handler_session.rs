//! A handler is an upstream: pingora's custom connector, answered by a wasm invocation in this process.
//!
//! Because the invocation speaks pingora's upstream session, cache admission, request collapsing, stale-while-revalidate,
//! fallback and logging treat it exactly as a network upstream, without a socket or a serialisation. This file is the only
//! one that implements pingora's `doc(hidden)` custom traits.
//!
//! Invariants: dropping or releasing the session cancels the guest; a body that did not end cleanly is an error and never
//! an end; hop-by-hop fields cross in neither direction (pingora does not clean them on this path); a response without
//! body (HEAD, 204, 304) yields none whatever the guest writes; writing the request body never deadlocks against a guest
//! that is blocked on its output (the bound is soft there, see [`selvedge_runtime::RequestBodyWriter`]).
//!
//! pingora joins four things into one exchange: the body towards the guest, the answer from it, and side-band messages each
//! way, of which there are none. What would forward them towards the guest watches over the body instead, see
//! [`crate::upload`]: when it fails, the exchange does. The other way goes one message without contents, again and again, once
//! the answer is complete: "has the client all of it?" is a question only the phase that receives it can answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Method, StatusCode, Uri, header, uri};
use pingora_core::{
    connectors::http::custom::{Connection, Connector},
    protocols::{
        Digest, UniqueIDType,
        http::custom::{BodyWrite, CustomMessageWrite, client::Session},
        l4::socket::SocketAddr,
        tls::{ALPN, CustomALPN},
    },
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use selvedge_runtime::{BodyRefused, Handler, Invocation, RequestBodyWriter, request_body};

use crate::{
    fail::handler_error,
    upload::{Answer, Upload},
};

/// What the session needs to start the guest; travels in the request header's extensions.
#[derive(Clone)]
pub struct HandlerCall {
    pub handler: Arc<Handler>,
    pub scheme: uri::Scheme,
    /// Canonical host with port, as the client addressed it.
    pub authority: String,
    /// Most bytes of request body; a handler may allow fewer.
    pub body_bytes: u64,
}

/// The peer that makes pingora choose the [`HandlerConnector`].
pub fn handler_peer() -> Box<HttpPeer> {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut peer = HttpPeer::new(nowhere, false, String::new());
    peer.options.alpn = ALPN::Custom(CustomALPN::new(b"selvedge-handler".to_vec()));
    Box::new(peer)
}

pub struct HandlerConnector;

#[async_trait]
impl Connector for HandlerConnector {
    type Session = HandlerSession;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        _peer: &P,
    ) -> Result<(Connection<HandlerSession>, bool)> {
        Ok((Connection::Session(HandlerSession::default()), false))
    }

    // Always "reused": pingora would otherwise search its connection pool for a socket to this peer first.
    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<HandlerSession> {
        Some(HandlerSession::default())
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: HandlerSession,
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
        drop(session);
    }
}

/// One invocation seen as an upstream session. Idle until the request header is written.
#[derive(Default)]
pub struct HandlerSession {
    invocation: Option<Invocation>,
    body_writer: Option<RequestBodyWriter>,
    upload: Option<Arc<Upload>>,
    response: Option<ResponseHeader>,
    /// The response has no body by RFC 9110 section 6.4.1.
    bodiless: bool,
    head_request: bool,
    body_ended: bool,
    body_bytes: u64,
}

impl HandlerSession {
    fn invocation(&mut self) -> Result<&mut Invocation> {
        self.invocation
            .as_mut()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "handler session used before its request"))
    }
}

#[async_trait]
impl Session for HandlerSession {
    async fn write_request_header(&mut self, request: Box<RequestHeader>, end: bool) -> Result<()> {
        let mut head = http::request::Parts::from(*request);
        let call = head.extensions.remove::<HandlerCall>().ok_or_else(|| {
            Error::explain(
                ErrorType::InternalError,
                "request for a handler without a handler call attached",
            )
        })?;
        self.upload = head.extensions.remove::<Arc<Upload>>();
        strip_hop_by_hop(&mut head.headers);
        head.uri = absolute(&head.uri, &call)?;
        let content_length = head
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        let limit = call.handler.limits().request_body.min(call.body_bytes);
        let (mut writer, body) = request_body(limit, content_length);
        if end {
            writer.finish();
        }
        self.head_request = head.method == Method::HEAD;
        self.invocation = Some(call.handler.invoke(head, body));
        self.body_writer = Some(writer);
        Ok(())
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        if let Some(writer) = self.body_writer.as_mut() {
            write_body(writer, data, self.upload.as_deref()).await?;
            if end {
                writer.finish();
            }
        }
        Ok(())
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        if let Some(writer) = self.body_writer.as_mut() {
            writer.finish();
        }
        Ok(())
    }

    // Deadlines belong to the handler's limits, which the runtime enforces; a peer has none here.
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    async fn read_response_header(&mut self) -> Result<()> {
        let head = self.invocation()?.response_head().await.map_err(handler_error)?;
        self.bodiless = self.head_request || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.response = Some(response_header(head)?);
        Ok(())
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        if self.bodiless || self.body_ended {
            return Ok(None);
        }
        let chunk = self.invocation()?.next_chunk().await.map_err(handler_error)?;
        self.body_ended = chunk.is_none();
        self.body_bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(chunk)
    }

    fn response_finished(&self) -> bool {
        self.body_ended || self.bodiless
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.invocation = None;
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.response.as_ref()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        let trailers = match self.bodiless {
            true => None,
            false => self.invocation()?.trailers(),
        };
        if let Some(upload) = &self.upload {
            upload.answered(Answer {
                bytes: self.body_bytes,
                trailers: trailers.is_some(),
            });
        }
        Ok(trailers)
    }

    fn fd(&self) -> UniqueIDType {
        -1
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        Ok(self.bodiless || self.invocation()?.finished())
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let writer = self.body_writer.take()?;
        Some(Box::new(GuestBody {
            writer,
            upload: self.upload.clone(),
            finished: false,
        }))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    // pingora fails the request without a reader and a writer.
    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync>> {
        let Some(upload) = self.upload.clone() else {
            return Some(Box::new(futures::stream::empty()));
        };
        let questions = futures::stream::unfold(upload, |upload| async {
            upload.outlived().await.then_some((Ok(Bytes::new()), upload))
        });
        Some(Box::new(Box::pin(questions)))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        match &self.upload {
            Some(upload) => Some(Box::new(UploadWatch(Arc::clone(upload)))),
            None => Some(Box::new(())),
        }
    }
}

/// The request body on its way to the guest. Dropped before [`BodyWrite::finish`], the guest sees an error, not an end.
struct GuestBody {
    writer: RequestBodyWriter,
    upload: Option<Arc<Upload>>,
    finished: bool,
}

#[async_trait]
impl BodyWrite for GuestBody {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        write_body(&mut self.writer, data.split_to(data.len()), self.upload.as_deref()).await
    }

    async fn finish(&mut self) -> Result<()> {
        self.finished = true;
        self.writer.finish();
        if let Some(upload) = &self.upload {
            upload.end();
        }
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if !self.finished {
            self.writer.abort();
        }
    }
}

/// Takes no message; pingora ends it at once, as nobody sends any, and waits until it has ended.
struct UploadWatch(Arc<Upload>);

#[async_trait]
impl CustomMessageWrite for UploadWatch {
    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    async fn write_custom_message(&mut self, _message: Bytes) -> Result<()> {
        Ok(())
    }

    async fn finish_custom(&mut self) -> Result<()> {
        self.0.watch().await
    }
}

/// A body that is too large is not refused here: the invocation fails with it, and that answers 413 in order.
async fn write_body(writer: &mut RequestBodyWriter, data: Bytes, upload: Option<&Upload>) -> Result<()> {
    let Some(upload) = upload else {
        return written(writer.write(data).await);
    };
    upload.handing_over(true);
    let outcome = match upload.patience() {
        Some(patience) => writer.write_within(data, patience).await,
        None => writer.write(data).await,
    };
    upload.handing_over(false);
    written(outcome)
}

fn written(outcome: Result<(), BodyRefused>) -> Result<()> {
    match outcome {
        Ok(()) | Err(BodyRefused::TooLarge) => Ok(()),
        Err(refused @ BodyRefused::Endless) => Err(Error::because(
            ErrorType::WriteError,
            "request body for the handler",
            refused,
        )),
    }
}

/// The target in absolute form: a `wasi:http` 0.3 guest learns scheme and authority from nothing else.
fn absolute(target: &Uri, call: &HandlerCall) -> Result<Uri> {
    let path = target.path_and_query().map_or("/", |pq| pq.as_str());
    Uri::builder()
        .scheme(call.scheme.clone())
        .authority(call.authority.as_str())
        .path_and_query(path)
        .build()
        .map_err(|error| Error::because(ErrorType::InternalError, "absolute request target", error))
}

fn response_header(head: http::response::Parts) -> Result<ResponseHeader> {
    let mut headers = head.headers;
    strip_hop_by_hop(&mut headers);
    let mut response = ResponseHeader::build_no_case(head.status, Some(headers.len() + 4))?;
    for (name, value) in &headers {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(response)
}

/// Removes what RFC 9110 section 7.6.1 says belongs to one connection, including what `Connection` nominates.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const HOP_BY_HOP: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let nominated = selvedge_cache::connection_nominated(headers);
    for name in HOP_BY_HOP.iter().copied().chain(nominated.iter().map(String::as_str)) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_fields_and_what_connection_nominates_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ] {
            headers.append(name, value.parse().expect("valid"));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-kept"]);
    }
}
