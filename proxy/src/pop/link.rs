//! The way to control: joining, reporting, fetching blobs. Nothing a request waits for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use selvedge_schema::ControlLink;
use selvedge_schema::sealed::{PublicSealingKey, SealingKey, open};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

const CONNECT: Duration = Duration::from_secs(5);
/// A blob of hundreds of megabytes takes longer than a report.
const SILENCE: Duration = Duration::from_secs(30);
/// Of a refusal, as the log shows it.
const SHOWN: usize = 300;

/// What this PoP says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// The revision of `_config` that it serves.
    pub(super) revision: i64,
    /// Of this executable.
    pub(super) version: &'static str,
    /// Of `_config` in its agent.
    pub(super) position: Option<String>,
    pub(super) deployments: BTreeMap<String, Said>,
    /// What its secrets are sealed to.
    pub(super) sealing_key: PublicSealingKey,
    pub(super) load: Load,
}

/// What it says of one deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Said {
    Prepared,
    Active,
    Failed { message: String },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Load {
    pub(super) requests_in_flight: u64,
    pub(super) connections: u64,
}

#[derive(Debug, Error)]
pub enum LinkError {
    #[error("cannot read the authorities in {path}: {reason}")]
    Authorities { path: PathBuf, reason: String },
    #[error("preparing the client for control")]
    Client(#[source] reqwest::Error),
    #[error("control does not answer")]
    Unreachable(#[from] reqwest::Error),
    #[error("control has refused it: {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
    #[error("cannot keep a key of this PoP in {path}")]
    Keep { path: PathBuf, source: io::Error },
}

impl LinkError {
    /// Whether asking again is of no use.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, LinkError::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

pub(super) struct Link {
    http: Client,
    base: String,
    name: String,
    /// From the configuration: a join token, or a key.
    token: String,
    /// Where the key is kept that the join token was exchanged for.
    key_file: PathBuf,
    key: Mutex<Option<Arc<str>>>,
    /// What this PoP's secrets are opened with.
    sealing: SealingKey,
}

#[derive(Deserialize)]
struct Joined {
    key: String,
}

#[derive(Deserialize)]
struct Heard {
    revision: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    help: String,
}

impl Link {
    pub(super) fn new(settings: &ControlLink, name: &str, data_dir: &Path) -> Result<Link, LinkError> {
        let mut authorities = Vec::new();
        if let Some(path) = &settings.ca {
            let unreadable = |reason: String| LinkError::Authorities {
                path: path.clone(),
                reason,
            };
            let pem = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            let read = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
            authorities.extend(read);
        }
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_nodelay(true)
            .tls_certs_merge(authorities)
            .build()
            .map_err(LinkError::Client)?;
        let sealing = sealing_key(&data_dir.join("sealing.key"))?;
        let key_file = data_dir.join("control.key");
        let kept = fs::read_to_string(&key_file).ok();
        Ok(Link {
            http,
            base: settings.url.trim_end_matches('/').to_owned(),
            name: name.to_owned(),
            token: settings.token.clone(),
            key: Mutex::new(kept.map(|key| key.trim().into())),
            key_file,
            sealing,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn sealing_key(&self) -> PublicSealingKey {
        self.sealing.public()
    }

    /// A secret of an app that was sealed for this PoP, in hex. The error says which, never what.
    pub(super) fn open_secret(&self, app: &str, name: &str, sealed: &str) -> Result<String, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("the secret {name} cannot be opened: {why}");
        let sealed = bytes_of(sealed).ok_or_else(|| wrong(&"it is damaged"))?;
        let opened = open(&self.sealing, &self.name, app, name, &sealed).map_err(|error| wrong(&error))?;
        let text = std::str::from_utf8(&opened).map_err(|_| wrong(&"it is not text"))?;
        Ok(text.to_owned())
    }

    /// The newest revision that control has.
    pub(super) async fn report(&self, report: &Report) -> Result<i64, LinkError> {
        let url = format!("{}/v1/pops/{}/report", self.base, self.name);
        let response = self.ask(|http| http.post(&url).json(report)).await?;
        Ok(response.json::<Heard>().await?.revision)
    }

    pub(super) async fn blob(
        &self,
        digest: &str,
    ) -> Result<impl Stream<Item = reqwest::Result<Bytes>> + Unpin + use<>, LinkError> {
        let url = format!("{}/v1/blobs/{digest}", self.base);
        let response = self.ask(|http| http.get(&url)).await?;
        Ok(Box::pin(response.bytes_stream()))
    }

    /// With the key of this PoP. Joins when it has none, or none that is believed any more.
    async fn ask(&self, request: impl Fn(&Client) -> RequestBuilder) -> Result<Response, LinkError> {
        let kept = self.key.lock().clone();
        if let Some(key) = kept {
            match accepted(request(&self.http).bearer_auth(key).send().await?).await {
                Err(LinkError::Refused {
                    status: StatusCode::UNAUTHORIZED,
                    ..
                }) => {
                    tracing::warn!("control does not know this PoP's key any more; trying to join with `control.token`")
                }
                answered => return answered,
            }
        }
        let key = match self.join().await {
            Ok(key) => key,
            // It may be a key already.
            Err(LinkError::Refused {
                status: StatusCode::UNAUTHORIZED,
                ..
            }) => self.token.as_str().into(),
            Err(error) => return Err(error),
        };
        let answered = accepted(request(&self.http).bearer_auth(&key).send().await?).await?;
        *self.key.lock() = Some(key);
        Ok(answered)
    }

    /// Exchanges the join token for a key, and keeps that before it is used.
    async fn join(&self) -> Result<Arc<str>, LinkError> {
        let url = format!("{}/v1/pops", self.base);
        let body = json!({ "name": self.name, "sealing_key": self.sealing.public() });
        let request = self.http.post(url).bearer_auth(&self.token).json(&body);
        let joined: Joined = accepted(request.send().await?).await?.json().await?;
        keep(&self.key_file, joined.key.as_bytes())?;
        tracing::info!(pop = self.name, "joined the control plane");
        Ok(joined.key.into())
    }
}

async fn accepted(response: Response) -> Result<Response, LinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let detail = match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => [problem.title, problem.detail, problem.help]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; "),
        Err(_) => text.chars().take(SHOWN).collect(),
    };
    Err(LinkError::Refused { status, detail })
}

/// The key of before, or a new one: control seals everything anew when it hears of it.
fn sealing_key(path: &Path) -> Result<SealingKey, LinkError> {
    if let Ok(bytes) = fs::read(path)
        && let Ok(key) = SealingKey::from_bytes(&bytes)
    {
        return Ok(key);
    }
    let key = SealingKey::generate();
    keep(path, &*key.to_bytes())?;
    Ok(key)
}

/// Readable by this user only, whole or not at all.
fn keep(path: &Path, content: &[u8]) -> Result<(), LinkError> {
    let partial = path.with_extension("partial");
    let write = || -> io::Result<()> {
        let options = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .clone();
        let mut file = options.open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| LinkError::Keep {
        path: path.to_owned(),
        source,
    })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bytes.collect()
}
