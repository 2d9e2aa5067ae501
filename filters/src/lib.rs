//! Middleware: what happens to a request before its target sees it and to the response on its way back.
//!
//! A filter is one file that holds its settings, their JSON Schema (derived) and what it does; a new one is that file and
//! its line in [`FILTERS`]. A route runs its filters in the order written; the response passes those that saw the request
//! in the opposite order. Filters never see pingora's session: they read and change a request head, or answer.
//!
//! Invariant: a filter that cannot decide refuses. None of them lets a request pass because something broke.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod basic_auth;
mod headers;
mod jwt;
mod keys;
mod rate_limit;
mod redirect;
mod request_id;
mod rewrite;

#[cfg(test)]
mod test_support;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora_http::{RequestHeader, ResponseHeader};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// THE list: every filter there is, by the name a configuration uses.
pub const FILTERS: &[FilterKind] = &[
    FilterKind::new::<request_id::Settings>("request_id", request_id::build),
    FilterKind::new::<headers::Settings>("headers", headers::build),
    FilterKind::new::<redirect::Settings>("redirect", redirect::build),
    FilterKind::new::<rewrite::Settings>("rewrite", rewrite::build),
    FilterKind::new::<jwt::Settings>("jwt", jwt::build),
    FilterKind::new::<rate_limit::Settings>("rate_limit", rate_limit::build),
    FilterKind::new::<basic_auth::Settings>("basic_auth", basic_auth::build),
];

/// One filter of one route. Shared by all requests, for as long as its configuration serves.
#[async_trait]
pub trait Filter: Send + Sync + 'static {
    /// As in [`FILTERS`].
    fn name(&self) -> &'static str;

    /// Sees the request before the target does, and may change its head or answer it.
    async fn on_request(&self, request: &mut Request<'_>) -> Flow;

    /// Sees the response head, also of responses made here. What it changes is not stored in the cache.
    fn on_response(&self, _state: &FilterState, _response: &mut ResponseHeader) {}

    /// Decides only whether a request may pass. Such a filter does not run for the background regeneration of a page,
    /// which has no client; it must not change what the target sees.
    fn is_admission(&self) -> bool {
        false
    }
}

/// A request as filters see it.
pub struct Request<'a> {
    /// The target is in origin form with a normalised path. Changing the path changes what is forwarded, not the route
    /// and not the page's key.
    pub head: &'a mut RequestHeader,
    pub client: &'a Client,
    /// Canonical: lower case, without port.
    pub host: &'a str,
    /// The normalised path without the query.
    pub path: &'a str,
    /// Name of the matched route.
    pub route: &'a str,
    pub state: &'a mut FilterState,
}

/// Who is asking, as far as trusted proxies tell the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub address: IpAddr,
    pub scheme: Scheme,
}

impl Client {
    /// Before the request was read, and for regenerations in the background.
    pub fn unknown() -> Client {
        Client {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            scheme: Scheme::Http,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What filters leave for the response and for the access log.
#[derive(Clone, Debug, Default)]
pub struct FilterState {
    /// Set by `request_id`.
    pub request_id: Option<String>,
    /// Who the request was found to come from: the token's subject, or the user of basic authentication.
    pub user: Option<String>,
}

/// What a filter decided.
#[derive(Debug)]
pub enum Flow {
    Continue,
    Respond(Response),
}

/// An answer made by a filter.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Named reason for log and metrics, such as `rate_limited`.
    pub reason: &'static str,
}

impl Response {
    /// One line of text that says what happened, never cached.
    pub fn refusal(status: StatusCode, reason: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Response {
            status,
            headers,
            body: format!("{} {}\n", status.as_u16(), reason.replace('_', " ")).into(),
            reason,
        }
    }
}

/// Why a filter's settings cannot be used.
#[derive(Debug)]
pub struct BuildError {
    pub message: String,
    /// JSON pointer of the setting, relative to the filter's settings; empty for all of them.
    pub pointer: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// What building may use.
#[derive(Clone, Debug)]
pub struct BuildContext {
    base_dir: PathBuf,
    confined: bool,
}

impl BuildContext {
    /// Relative paths in settings are resolved against `base_dir`, the folder of the configuration file.
    pub fn new(base_dir: PathBuf) -> BuildContext {
        BuildContext {
            base_dir,
            confined: false,
        }
    }

    /// Whoever wrote the settings is not whose machine it is: files outside `base_dir` are not theirs to name.
    pub fn confined(base_dir: PathBuf) -> BuildContext {
        BuildContext {
            base_dir,
            confined: true,
        }
    }

    pub(crate) fn resolve(&self, path: &Path, pointer: &str) -> Result<PathBuf, BuildError> {
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if self.confined && !path.components().all(inside) {
            return Err(BuildError {
                message: format!("{} is outside the deployment", path.display()),
                pointer: pointer.to_owned(),
                help: Some("name one of the deployment's files, by its path in it".to_owned()),
            });
        }
        Ok(self.base_dir.join(path))
    }
}

type Build = fn(Value, &BuildContext) -> Result<Arc<dyn Filter>, BuildError>;

/// An entry of [`FILTERS`].
pub struct FilterKind {
    pub name: &'static str,
    schema: fn() -> schemars::Schema,
    build: Build,
}

impl FilterKind {
    const fn new<S: schemars::JsonSchema>(name: &'static str, build: Build) -> FilterKind {
        FilterKind {
            name,
            schema: schema_of::<S>,
            build,
        }
    }
}

/// The settings' schemas, for [`selvedge_schema::parse`] and the reference.
pub fn schemas() -> Vec<selvedge_schema::FilterSchema> {
    FILTERS
        .iter()
        .map(|kind| selvedge_schema::FilterSchema {
            name: kind.name.to_owned(),
            schema: (kind.schema)(),
        })
        .collect()
}

/// Builds the filter `name`. Reads the files its settings name; starts no task and opens no connection.
pub fn build(name: &str, settings: Value, context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let kind = FILTERS
        .iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| BuildError {
            message: format!("there is no filter \"{name}\""),
            pointer: String::new(),
            help: None,
        })?;
    (kind.build)(settings, context)
}

/// Settings as their type. The schema was checked before, so this fails only where the schema says less than the type.
pub(crate) fn settings<S: DeserializeOwned>(settings: Value) -> Result<S, BuildError> {
    serde_json::from_value(settings).map_err(|error| BuildError {
        message: error.to_string(),
        pointer: String::new(),
        help: None,
    })
}

fn schema_of<S: schemars::JsonSchema>() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<S>()
}

/// A header name from settings.
pub(crate) fn field_name(text: &str, pointer: &str) -> Result<http::HeaderName, BuildError> {
    text.parse().map_err(|_| BuildError {
        message: format!("\"{text}\" is not the name of a header field"),
        pointer: pointer.to_owned(),
        help: Some("a name has letters, digits and `-`".to_owned()),
    })
}

/// A regular expression from settings. Matching it takes time linear in the text, whatever it says.
pub(crate) fn pattern(text: &str, pointer: &str) -> Result<regex::Regex, BuildError> {
    regex::Regex::new(text).map_err(|error| BuildError {
        message: format!(
            "not a regular expression: {}",
            error.to_string().lines().last().unwrap_or_default()
        ),
        pointer: pointer.to_owned(),
        help: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_names_its_own_files_only() {
        let context = BuildContext::confined(PathBuf::from("/deployment"));
        let inside = context.resolve(Path::new("./keys/jwks.json"), "/jwks").unwrap();
        assert_eq!(inside, Path::new("/deployment/keys/jwks.json"));
        for outside in ["/etc/shadow", "../other/key.pem", "keys/../../key.pem"] {
            let refused = context.resolve(Path::new(outside), "/jwks").unwrap_err();
            assert_eq!((refused.pointer.as_str(), refused.help.is_some()), ("/jwks", true));
        }
        let machine = BuildContext::new(PathBuf::from("/etc/selvedge"));
        assert_eq!(
            machine.resolve(Path::new("/etc/keys"), "").unwrap(),
            Path::new("/etc/keys")
        );
    }
}
