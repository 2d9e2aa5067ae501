//! A project as written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{handler, route, upstream};
use crate::text::{Name, Text};

/// An app: how it is built, and what a deployment of it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "the manifest's keys are read as those of an edge; here is which there are"
)]
pub(crate) struct Project {
    /// Name of the app, a DNS label: it becomes part of its address.
    pub(crate) app: String,
    /// How what is deployed comes to be.
    #[serde(default)]
    pub(crate) build: Build,
    /// Wasm components by name.
    #[serde(default)]
    handlers: BTreeMap<Text<Name>, handler::Handler>,
    /// What is answered and how. The most specific match wins, whatever the order; ties are errors.
    #[serde(default)]
    routes: Vec<route::Route>,
    /// SQLite databases by name, replicated to every PoP.
    #[serde(default)]
    databases: BTreeMap<Text<Name>, handler::Database>,
    /// Legacy backends by name.
    #[serde(default)]
    upstreams: BTreeMap<Text<Name>, upstream::Upstream>,
}

/// How what is deployed comes to be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Build {
    /// Command for the shell, run in the project's folder before each deployment.
    pub(crate) command: Option<String>,
    /// Files and folders that the command reads.
    pub(crate) watch: Vec<PathBuf>,
}
