//! Control, as a command talks to it.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::profile::Target;
use crate::outcome::Failure;

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than control waits itself when it is asked to wait.
const ANSWER: Duration = Duration::from_secs(60);
/// Tries of a request that may be sent again.
const TRIES: u32 = 4;
/// Pause before the second try, doubled each time.
const PAUSE: Duration = Duration::from_millis(200);
/// The largest page there is.
const PAGE: &str = "limit=200";

#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    pub(super) target: Target,
}

/// A refusal, with what else it says.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) failure: Failure,
    pub(super) problem: Value,
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Failure {
        denied.failure
    }
}

impl From<Failure> for Denied {
    fn from(failure: Failure) -> Denied {
        let problem = Value::Null;
        Denied { failure, problem }
    }
}

impl Client {
    pub(super) fn of(target: Target) -> Result<Client, Failure> {
        selvedge_replication::agent::install_crypto();
        let authorities = target.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tls_certs_merge(authorities)
            .user_agent(concat!("selvedge/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::new("client", error.to_string()))?;
        Ok(Client { http, target })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.target.url));
        match &self.target.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Denied> {
        self.ask(self.request(Method::GET, path).timeout(ANSWER)).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, Denied> {
        self.ask(self.request(Method::PUT, path).timeout(ANSWER).json(body))
            .await
    }

    /// Only if it is still this version, when one is given.
    pub(super) async fn put_if(&self, path: &str, body: &Value, version: Option<i64>) -> Result<Value, Denied> {
        let mut request = self.request(Method::PUT, path).timeout(ANSWER).json(body);
        if let Some(version) = version {
            request = request.header("if-match", format!("\"{version}\""));
        }
        self.ask(request).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, Denied> {
        self.ask(self.request(Method::DELETE, path).timeout(ANSWER)).await
    }

    /// Done once, however often it must be sent.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Denied> {
        let key = uuid::Uuid::now_v7().to_string();
        let request = self.request(Method::POST, path).timeout(ANSWER);
        self.ask(request.header("idempotency-key", key).json(body)).await
    }

    /// All items of a list.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut page = format!("{path}?{PAGE}");
        loop {
            let mut answer = self.get(&page).await?;
            if let Value::Array(more) = answer["items"].take() {
                items.extend(more);
            }
            let Some(next) = answer["next"].as_str() else {
                return Ok(items);
            };
            page = format!("{path}?{PAGE}&cursor={next}");
        }
    }

    /// Sends it until it is answered, or refused for good.
    async fn ask(&self, request: RequestBuilder) -> Result<Value, Denied> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            let Some(copy) = request.try_clone() else { break };
            match self.send(copy).await {
                Ok(response) => return self.read(response).await,
                Err(denied) if is_passing(&denied) => {}
                Err(denied) => return Err(denied),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let response = self.send(request).await?;
        self.read(response).await
    }

    async fn read(&self, response: Response) -> Result<Value, Denied> {
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(json!({}));
        }
        let read = response.json().await;
        read.map_err(|error| self.lost(&error).into())
    }

    /// The answer, unless it is a refusal.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Denied> {
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Value = response.json().await.unwrap_or_default();
        Err(self.refused(status, problem))
    }

    fn refused(&self, status: StatusCode, problem: Value) -> Denied {
        let Some(detail) = problem["detail"].as_str() else {
            let message = format!("{} answered {status}; is it a control?", self.target.url);
            return Failure::new("answer", message)
                .help("give the address of `selvedge control`: --control URL")
                .into();
        };
        let code = problem["type"].as_str().and_then(|text| text.rsplit(':').next());
        let code = code.unwrap_or("answer").to_owned();
        let mut message = detail.to_owned();
        for finding in problem["errors"].as_array().into_iter().flatten() {
            let text = |key: &str| finding[key].as_str().unwrap_or_default();
            message.push_str(&format!("\n  {}: {}", text("pointer"), text("message")));
            if let Some(help) = finding["help"].as_str() {
                message.push_str(&format!(" ({help})"));
            }
        }
        let help = match code.as_str() {
            "no_key" | "wrong_key" => Some(format!(
                "`selvedge login --control {}` with a key that is valid, or set SELVEDGE_TOKEN",
                self.target.url
            )),
            _ => problem["help"].as_str().map(str::to_owned),
        };
        let mut failure = Failure::new(&code, message);
        if let Some(help) = help {
            failure = failure.help(help);
        }
        Denied { failure, problem }
    }

    fn lost(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let failure = Failure::new(
            "control_unreachable",
            format!("control at {}: {cause}", self.target.url),
        );
        failure.help(match self.target.url.starts_with("https://") {
            true => "is the address right, and does control run? The authority of its certificate is given with --ca",
            false => "is the address right, and does control run? `selvedge doctor` looks at the rest",
        })
    }
}

/// Whether the same request may be sent again.
pub(super) fn is_passing(denied: &Denied) -> bool {
    let first_is_under_way = denied.failure.code() == "conflict"
        && denied.problem["detail"]
            .as_str()
            .is_some_and(|text| text.contains("Idempotency-Key is not answered"));
    first_is_under_way || ["control_unreachable", "unavailable"].contains(&denied.failure.code())
}

/// A part of a path.
pub(super) fn part(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
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
