//! The agent that a command talks to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder, Response};
use selvedge_replication::Statement;
use selvedge_replication::log::Head;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Failure, Reach};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Tries of a write whose answer was lost; each has the same id, so it is done once.
const TRIES: u32 = 8;
/// Pause before the second try, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// How often this agent is asked whether it has what was done at the primary.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long that may take: a copy of gigabytes over a slow line.
const COPYING: Duration = Duration::from_secs(30 * 60);

pub(super) struct Agent {
    client: Client,
    base: String,
    token: Option<String>,
    /// What messages call it.
    place: String,
}

impl Agent {
    pub(super) fn find(reach: &Reach) -> Result<Agent, Failure> {
        selvedge_replication::agent::install_crypto();
        let environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let configured = reach.config.as_deref().map(agent_of).transpose()?;
        let place = reach
            .agent
            .clone()
            .or(configured)
            .or_else(|| environment("SELVEDGE_AGENT"));
        let place = place.ok_or_else(|| {
            Failure::Usage("which agent? Give --agent SOCKET|URL or --config FILE, or set SELVEDGE_AGENT".to_owned())
        })?;
        let ca = reach
            .ca
            .clone()
            .or_else(|| environment("SELVEDGE_CA").map(PathBuf::from));
        let authorities = ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let builder = Client::builder().no_proxy().connect_timeout(CONNECT).tcp_nodelay(true);
        let is_url = place.starts_with("http://") || place.starts_with("https://");
        let (builder, base) = match is_url {
            true => (builder, place.trim_end_matches('/').to_owned()),
            false => (builder.unix_socket(Path::new(&place)), "http://agent".to_owned()),
        };
        let client = builder
            .tls_certs_merge(authorities)
            .build()
            .map_err(|error| Failure::Usage(format!("{place} cannot be an agent's address: {error}")))?;
        Ok(Agent {
            client,
            base,
            token: reach.token.clone().or_else(|| environment("SELVEDGE_TOKEN")),
            place,
        })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(self.request(Method::GET, path)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| self.lost(&error))
    }

    /// The answer to a request, unless it is a refusal.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let problem: Value = response.json().await.unwrap_or_default();
        Err(refused(&problem).unwrap_or_else(|| {
            let message = format!("{} answered {status}; is it an agent of this version?", self.place);
            Failure::new("answer", message)
        }))
    }

    /// What is done at the end of an answer that tells first how far it is, in bytes.
    pub(super) async fn post_watched(
        &self,
        path: &str,
        body: &Value,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Value, Failure> {
        let mut response = self.send(self.request(Method::POST, path).json(body)).await?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(&error))? {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Value = serde_json::from_slice(&text[..end]).unwrap_or_default();
                text.drain(..=end);
                if let Some(failure) = refused(&line["problem"]) {
                    return Err(failure);
                }
                if let (Some(done), Some(all)) = (line["bytes_done"].as_u64(), line["bytes"].as_u64()) {
                    progress(done, all);
                }
                if line["done"].is_object() {
                    return Ok(line["done"].clone());
                }
            }
        }
        let message = format!("{} ended its answer without saying what was done", self.place);
        Err(Failure::new("answer", message))
    }

    /// Writes at the primary, once, however often it must be asked for.
    pub(super) async fn execute(&self, database: &str, statements: &[Statement]) -> Result<Value, Failure> {
        let path = format!("/v1/databases/{database}/execute");
        let body = json!({ "operation": uuid::Uuid::now_v7().to_string(), "statements": statements });
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.post(&path, &body).await {
                Err(failure) if is_passing(failure.code()) => {}
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.post(&path, &body).await
    }

    /// Returns when this agent's copy of the database has what was done: a replica follows in its own time.
    pub(super) async fn wait_until_here(&self, database: &str, head: &Value) -> Result<(), Failure> {
        let Ok(wanted) = serde_json::from_value::<Head>(head.clone()) else {
            return Ok(());
        };
        let waited = async {
            loop {
                let status: Value = self.get("/v1/status").await?;
                let databases = status["databases"].as_array().map(Vec::as_slice).unwrap_or_default();
                let is_here = databases.iter().any(|status| {
                    status["database"] == *database
                        && status["path"].is_string()
                        && serde_json::from_value::<Head>(status["head"].clone())
                            .is_ok_and(|head| head.lineage == wanted.lineage && head.position >= wanted.position)
                });
                if is_here {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(COPYING, waited).await {
            Ok(waited) => waited,
            Err(_) => Err(Failure::new(
                "replica_behind",
                "it is done at the primary, but this agent does not have it yet",
            )
            .help("`selvedge db lag` says how far it is")),
        }
    }

    pub(super) fn lost(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let failure = Failure::new("agent_unreachable", format!("the agent at {}: {cause}", self.place));
        failure.help(match self.base.starts_with("https://") {
            true => "start it, give another one with --agent, or the authority of its certificate with --ca",
            false => "start it with `selvedge agent FILE`, or give another one with --agent",
        })
    }
}

/// A refusal of an agent, if it is one.
fn refused(problem: &Value) -> Option<Failure> {
    let code = problem["code"].as_str()?;
    let failure = Failure::new(code, problem["message"].as_str()?);
    Some(match code {
        "no_database" => failure.help("`selvedge db list` shows the databases there are"),
        "token" => failure.help("give --token, or set SELVEDGE_TOKEN to the agent's `token`"),
        "primary_unreachable" => failure.help("try again when the primary runs, or ask its own agent: --agent URL"),
        "disk_full" => failure.help("make room at the primary's `data_dir` and try again"),
        _ => failure,
    })
}

/// Whether the same operation may be asked for again.
fn is_passing(code: &str) -> bool {
    [
        "agent_unreachable",
        "busy",
        "closed",
        "unconfirmed",
        "outcome_unknown",
        "queue_full",
    ]
    .contains(&code)
}

/// The certificates in a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let text = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let certificates = Certificate::from_pem_bundle(&text).map_err(|error| Failure::file(path, &error))?;
    match certificates.is_empty() {
        true => Err(Failure::new("file", format!("{} holds no certificate", path.display()))),
        false => Ok(certificates),
    }
}

/// The socket of a configuration's agent.
fn agent_of(file: &Path) -> Result<String, Failure> {
    let document = selvedge_proxy::read_configuration(file).map_err(|error| match error {
        selvedge_proxy::OpenError::Invalid(diagnostics) => Failure::new("configuration", diagnostics.trim_end()),
        other => Failure::new("configuration", crate::explain(&other)),
    })?;
    let agent = document.config.agent.ok_or_else(|| {
        let message = format!("{} has no `agent`", file.display());
        Failure::new("configuration", message).help("give a file that has one, or --agent SOCKET|URL")
    })?;
    Ok(agent.socket.display().to_string())
}
