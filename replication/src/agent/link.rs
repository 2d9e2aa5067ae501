//! A replica's way to the primary: requests over HTTP/2, and whether it is heard.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::refusal::{Problem, Refusal};
use crate::SqlError;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    base: String,
    token: Option<String>,
    /// Whether the stream of transactions stands.
    reachable: watch::Sender<bool>,
}

impl Link {
    pub(crate) fn new(primary: &str, token: Option<String>) -> Result<Link, reqwest::Error> {
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
        Ok(Link {
            client: builder.build()?,
            base: primary.trim_end_matches('/').to_owned(),
            token,
            reachable: watch::Sender::new(false),
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

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.get(format!("{}{path}", self.base)))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.post(format!("{}{path}", self.base)))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
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
    /// Reads ahead a few chunks. The task ends with the reader or the body.
    pub(crate) fn of(mut response: Response) -> BodyReader {
        let (sender, chunks) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let chunk = match response.chunk().await {
                    Ok(Some(chunk)) => Ok(chunk),
                    Ok(None) => return,
                    Err(error) => Err(std::io::Error::other(error)),
                };
                if sender.send(chunk).await.is_err() {
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

impl Refusal {
    /// Whether another try of the same operation may end otherwise.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Refusal::Sql(SqlError::Remote { code, .. }) => {
                ["busy", "disk_full", "io", "closed", "unconfirmed", "cancelled"].contains(&code.as_str())
            }
            Refusal::Sql(error) => !error.is_final(),
            _ => true,
        }
    }
}
