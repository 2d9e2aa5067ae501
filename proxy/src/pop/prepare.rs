//! A deployment becomes a generation: its files are fetched, and all of it is built, as a configuration file would be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use selvedge_replication::bookmark::Session;
use selvedge_replication::{Database, chain};
use selvedge_runtime::{Runtime, request_body};
use selvedge_schema::{Diagnostics, FilterSchema, check_manifest, read_manifest};
use serde_json::Value;

use super::files::Files;
use super::link::Link;
use super::wanted::{self, Content, File, WantedError};
use crate::generation::{Deployment, Generation, HandlerSlot, Purpose};

/// Mistakes that a failed deployment names.
const NAMED: usize = 5;

/// What a deployment is built from besides what it is.
#[derive(Clone, PartialEq)]
pub(super) struct Inputs {
    /// The configuration file's generation.
    pub(super) base: u64,
    /// The app's variables; they come before those of the manifest.
    pub(super) env: BTreeMap<String, String>,
    /// The app's secrets, sealed for this PoP, in hex.
    pub(super) secrets: BTreeMap<String, String>,
}

pub(super) struct Preparation {
    pub(super) deployment: Arc<Deployment>,
    pub(super) inputs: Inputs,
    /// Lends what is unchanged.
    pub(super) previous: Arc<Generation>,
    pub(super) base: Arc<Generation>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) housekeeping: tokio::runtime::Handle,
    pub(super) database: Arc<Database>,
    pub(super) session: Session,
    pub(super) link: Arc<Link>,
    pub(super) files: Arc<Files>,
    pub(super) filters: Arc<[FilterSchema]>,
}

/// Why a deployment could not be built.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// Whether another try makes sense, with nothing changed.
    pub(super) is_passing: bool,
}

impl Failure {
    fn lasting(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            is_passing: false,
        }
    }
}

impl Preparation {
    pub(super) async fn run(self) -> Result<Generation, Failure> {
        let id = &self.deployment.id;
        let content = wanted::content(&self.database, &self.session, id).await;
        let content = content.map_err(|error| Failure {
            message: chain(&error),
            is_passing: matches!(error, WantedError::Read(_)),
        })?;
        let manifest = self.check(&content)?;
        let folder = self.files.folder(&self.link, id, &content.files).await;
        let folder = folder.map_err(|error| Failure {
            message: chain(&error),
            is_passing: error.is_passing(),
        })?;
        let this = Arc::new(self);
        let building = Arc::clone(&this);
        // Building compiles components and opens databases.
        let built = tokio::task::spawn_blocking(move || building.build(&manifest, &folder)).await;
        let generation = built.unwrap_or_else(|panic| Err(Failure::lasting(format!("building it failed: {panic}"))))?;
        this.ask(&generation).await?;
        Ok(generation)
    }

    /// One request to each handler that says with which.
    async fn ask(&self, generation: &Generation) -> Result<(), Failure> {
        for (name, handler) in &generation.document.config.handlers {
            let (Some(path), Some(HandlerSlot::Loaded(loaded))) =
                (&handler.health_check, generation.handlers.get(name))
            else {
                continue;
            };
            // It may need a row that is on its way.
            let failed = |why: String| Failure {
                message: format!("/handlers/{name}/health_check: {path} {why}"),
                is_passing: true,
            };
            let request = http::Request::get(format!("http://{}{path}", self.deployment.app)).body(());
            let (head, ()) = request.map_err(|error| failed(error.to_string()))?.into_parts();
            let (mut nothing, body) = request_body(0, Some(0));
            nothing.finish();
            match loaded.invoke(head, body).response_head().await {
                Ok(head) if head.status.is_server_error() => return Err(failed(format!("answers {}", head.status))),
                Ok(_) => {}
                Err(failure) => return Err(failed(format!("fails: {failure}"))),
            }
        }
        Ok(())
    }

    /// Whoever wrote `_config` has checked this; it is checked again before a path of it is used.
    fn check(&self, content: &Content) -> Result<Value, Failure> {
        let is_id = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_digest =
            |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_id(&self.deployment.id) {
            return Err(Failure::lasting("its id is none"));
        }
        if let Some(File { path, .. }) = content.files.iter().find(|file| !is_digest(&file.digest)) {
            return Err(Failure::lasting(format!("the digest of {path:?} is none")));
        }
        let manifest = serde_json::from_str(&content.manifest)
            .map_err(|error| Failure::lasting(format!("its manifest is not JSON: {error}")))?;
        let paths: Vec<_> = content.files.iter().map(|file| file.path.as_str()).collect();
        check_manifest(&manifest, &paths, &self.filters).map_err(|findings| {
            let named = findings
                .iter()
                .map(|finding| format!("{}: {}", finding.pointer, finding.message));
            Failure::lasting(several(named))
        })?;
        Ok(manifest)
    }

    fn build(&self, manifest: &Value, folder: &Path) -> Result<Generation, Failure> {
        let name = format!("{} version {}", self.deployment.app, self.deployment.version);
        let wrong = |problems: Diagnostics| {
            let named = problems
                .items()
                .iter()
                .map(|item| format!("{}: {}", item.pointer, item.message));
            Failure::lasting(several(named))
        };
        let mut document = read_manifest(&name, manifest, folder, &self.filters).map_err(wrong)?;
        document.config = self.base.document.config.with_deployed(document.config);
        for handler in document.config.handlers.values_mut() {
            handler.env.extend(self.inputs.env.clone());
        }
        let secrets = self.secrets().map_err(Failure::lasting)?;
        let purpose = Purpose::Deploy {
            deployment: &self.deployment,
            secrets: &secrets,
        };
        Generation::build(
            document,
            &self.runtime,
            Some(&self.previous),
            purpose,
            &self.housekeeping,
        )
        .map_err(wrong)
    }
}

impl Preparation {
    fn secrets(&self) -> Result<BTreeMap<String, String>, String> {
        let opened = self.inputs.secrets.iter().map(|(name, sealed)| {
            let opened = self.link.open_secret(&self.deployment.app, name, sealed);
            opened.map(|value| (name.clone(), value))
        });
        opened.collect()
    }
}

fn several(mistakes: impl Iterator<Item = String>) -> String {
    mistakes.take(NAMED).collect::<Vec<_>>().join("; ")
}
