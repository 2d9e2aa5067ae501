//! A replica's way to the primary: requests over HTTP/2, and whether it is heard.
//!
//! Every request says the highest epoch this replica has followed. A primary of a lower one refuses it: it was deposed, and
//! what it has is not what others have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::refusal::{Problem, Refusal};
use super::{AgentError, AgentSettings, tls};
use crate::position::Epoch;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// The highest epoch the sender of a request has followed, in decimal; of a snapshot, the epoch of who sent it.
pub(crate) const EPOCH_HEADER: &str = "x-selvedge-epoch";

#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    base: String,
    token: Option<String>,
    /// Whether the stream of transactions stands.
    reachable: watch::Sender<bool>,
    epoch: Arc<AtomicU32>,
}

impl Link {
    pub(crate) fn new(primary: &str, settings: &AgentSettings) -> Result<Link, AgentError> {
        let builder = Client::builder()
            .connect_timeout(CONNECT)
            .http2_adaptive_window(true)
            .tcp_nodelay(true);
        // Without TLS nothing negotiates the protocol.
        let builder = if primary.starts_with("http://") {
            builder.http2_prior_knowledge()
        } else {
            builder
        };
        let mut authorities = Vec::new();
        if let Some(ca) = &settings.ca {
            for certificate in tls::certificates(ca)? {
                authorities.push(reqwest::Certificate::from_der(&certificate)?);
            }
        }
        Ok(Link {
            client: builder.tls_certs_merge(authorities).build()?,
            base: primary.trim_end_matches('/').to_owned(),
            token: settings.token.clone(),
            reachable: watch::Sender::new(false),
            epoch: Arc::default(),
        })
    }

    pub(crate) fn is_reachable(&self) -> bool {
        *self.reachable.borrow()
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable
            .send_if_modified(|before| std::mem::replace(before, reachable) != reachable);
    }

    pub(crate) fn reachability(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }

    /// The highest epoch seen.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Whether no higher epoch was seen before.
    pub(crate) fn see_epoch(&self, epoch: Epoch) -> bool {
        self.epoch.fetch_max(epoch.0, Ordering::SeqCst) <= epoch.0
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.get(format!("{}{path}", self.base)))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.post(format!("{}{path}", self.base)))
    }

    /// Any request, for what is passed on as it came.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.authorized(self.client.request(method, format!("{}{path}", self.base)))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(EPOCH_HEADER, self.epoch().0);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// The epoch of who answered; 0 if it does not say.
pub(crate) fn epoch_of(response: &Response) -> Epoch {
    let epoch = response.headers().get(EPOCH_HEADER);
    Epoch(
        epoch
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or_default(),
    )
}

/// Sends JSON and reads JSON. A request that did not reach the primary is told apart from one it refused.
pub(crate) async fn ask<T: DeserializeOwned>(request: RequestBuilder, body: &impl Serialize) -> Result<T, Asked> {
    let response = request
        .json(body)
        .send()
        .await
        .map_err(|error| Asked::Lost(error.to_string()))?;
    let response = judged(response).await?;
    response.json().await.map_err(|error| Asked::Lost(error.to_string()))
}

/// Passes an answer on, unless it is a refusal.
pub(crate) async fn judged(response: Response) -> Result<Response, Asked> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    match response.json::<Problem>().await {
        Ok(problem) if status.is_server_error() && status != 504 => Err(Asked::NotNow(problem.into())),
        Ok(problem) => Err(Asked::Refused(problem.into())),
        // Refused by the server below the agent's own code: the request itself is not taken.
        Err(_) if matches!(status.as_u16(), 400 | 413 | 415 | 422) => Err(Asked::Refused(Refusal::Malformed(format!(
            "the primary does not take it: {status}"
        )))),
        Err(_) => Err(Asked::Lost(format!("the primary answered {status}"))),
    }
}

/// How a request to the primary failed.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Whether it arrived is not known.
    Lost(String),
    /// The primary cannot do it now.
    NotNow(Refusal),
    /// The primary will not do it.
    Refused(Refusal),
}

impl From<Asked> for Refusal {
    fn from(asked: Asked) -> Refusal {
        match asked {
            Asked::Lost(message) => {
                tracing::debug!(message, "the primary did not answer");
                Refusal::PrimaryUnreachable
            }
            Asked::NotNow(refusal) | Asked::Refused(refusal) => refusal,
        }
    }
}

/// The body of a response as a blocking reader.
pub(crate) struct BodyReader {
    chunks: tokio::sync::mpsc::Receiver<Result<Bytes, std::io::Error>>,
    current: Bytes,
}

impl BodyReader {
    pub(crate) fn of(response: Response) -> BodyReader {
        BodyReader::of_stream(response.bytes_stream())
    }

    /// Reads ahead a few chunks. The task ends with the reader or the body.
    pub(crate) fn of_stream<E>(stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> BodyReader
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let (sender, chunks) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(std::io::Error::other);
                let ended = chunk.is_err();
                if sender.send(chunk).await.is_err() || ended {
                    return;
                }
            }
        });
        BodyReader {
            chunks,
            current: Bytes::new(),
        }
    }
}

impl std::io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
