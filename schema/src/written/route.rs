//! Routes: what they match, what is done on the way, where they end.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::json;

use super::resolve;
use crate::config::{self, QueryKey};
use crate::json_schema::FILTER_DEFINITION;
use crate::source::child;
use crate::text::{CacheTag, ContentType, Location, PositiveDuration, Text};
use crate::{HostPattern, PathPattern};

/// The keys that say where a route ends; a route has exactly one.
pub(crate) const TARGETS: [&str; 5] = ["handler", "upstream", "static", "redirect", "respond"];

/// One route. It ends at exactly one of `handler`, `upstream`, `static`, `redirect` and `respond`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = exactly_one_target)]
pub(super) struct Route {
    /// Name in metrics and logs; without it host and path.
    #[schemars(length(min = 1, max = 128))]
    name: Option<String>,
    /// Which requests the route answers.
    r#match: Match,
    /// Filters in the order they run.
    #[serde(default)]
    filters: Vec<FilterEntry>,
    /// How responses are stored; without it nothing is.
    cache: Option<CachePolicy>,
    /// Name of a handler.
    handler: Option<String>,
    /// Name of an upstream.
    upstream: Option<String>,
    /// Files from a folder.
    r#static: Option<StaticFiles>,
    /// Send the client elsewhere.
    redirect: Option<RedirectTarget>,
    /// Always the same answer.
    respond: Option<FixedResponse>,
    /// Name of the upstream to ask when the target failed before the first byte of a response.
    fallback: Option<String>,
    /// File to show, with the status of the failure, when nothing else could answer.
    error_page: Option<PathBuf>,
    /// When the writes of a handler are answered: `wait` until they are done, or `queue_when_slow`: with 202 once they are
    /// durable on this machine, while the primary is slow.
    #[serde(default)]
    writes: Writes,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Writes {
    #[default]
    Wait,
    QueueWhenSlow,
}

fn exactly_one_target(schema: &mut Schema) {
    let choices: Vec<_> = TARGETS.iter().map(|key| json!({ "required": [key] })).collect();
    schema.insert("oneOf".to_owned(), choices.into());
}

/// Which requests a route answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Match {
    /// Host name, `*.example.com` or `*`.
    #[serde(default = "any_host")]
    host: Text<HostPattern>,
    /// Path, with parameters (`/users/:id`) and an open end (`/assets/*`).
    #[serde(default = "any_path")]
    path: Text<PathPattern>,
    /// Methods; GET includes HEAD. Without it every method.
    #[schemars(length(min = 1))]
    methods: Option<Vec<Text<Method>>>,
}

fn any_host() -> Text<HostPattern> {
    Text(HostPattern::Any)
}

fn any_path() -> Text<PathPattern> {
    Text(PathPattern::any())
}

impl Match {
    fn into_used(self) -> config::Match {
        config::Match {
            host: self.host.0,
            path: self.path.0,
            methods: self
                .methods
                .map(|methods| methods.into_iter().map(|method| method.0).collect()),
        }
    }
}

/// `{ name: settings }`; the definition is put together from the filters' own schemas.
#[derive(Debug, Deserialize)]
struct FilterEntry(serde_json::Map<String, serde_json::Value>);

impl JsonSchema for FilterEntry {
    fn schema_name() -> Cow<'static, str> {
        FILTER_DEFINITION.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::default()
    }
}

impl FilterEntry {
    fn into_used(self, pointer: &str) -> config::FilterEntry {
        let (name, settings) = self.0.into_iter().next().expect("the schema asks for exactly one key");
        let pointer = child(pointer, &name);
        config::FilterEntry {
            name,
            settings,
            pointer,
        }
    }
}

/// How responses of a route are stored.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CachePolicy {
    /// The route decides how long a page is fresh and makes it anew in the background.
    isr: Option<Isr>,
    /// Tags for every response of the route, to purge by.
    #[serde(default)]
    #[schemars(length(max = 128))]
    tags: Vec<Text<CacheTag>>,
    /// Request headers that make different responses.
    #[serde(default)]
    vary: Vec<Text<HeaderName>>,
    /// The part of the query that makes different responses: `all`, `none` or names. With `isr` the default is `none`.
    query: Option<Query>,
}

/// `all`, `none` or a list of parameter names.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Query {
    Word(QueryWord),
    Only(Vec<String>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum QueryWord {
    All,
    None,
}

/// Incremental regeneration.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Isr {
    /// A page older than this is served once more while it is made anew.
    revalidate: Text<PositiveDuration>,
    /// A page older than this is not served; without it pages stay until purged.
    expire: Option<Text<PositiveDuration>>,
    /// How long a page may stand in for one that cannot be made.
    #[serde(default = "stale_if_error")]
    stale_if_error: Text<Duration>,
    /// Query parameters that make different pages; others are ignored.
    allow_query: Option<Vec<String>>,
    /// A request that shows this token sees the page made anew.
    #[schemars(length(min = 16))]
    bypass_token: Option<String>,
}

fn stale_if_error() -> Text<Duration> {
    Text(config::Isr::STALE_IF_ERROR)
}

/// The token is not shown.
impl std::fmt::Debug for Isr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isr")
            .field("revalidate", &self.revalidate)
            .finish_non_exhaustive()
    }
}

impl CachePolicy {
    fn into_used(self) -> config::CachePolicy {
        let query = match (self.query, &self.isr) {
            (Some(Query::Word(QueryWord::All)), _) => QueryKey::All,
            (Some(Query::Word(QueryWord::None)), _) => QueryKey::None,
            (Some(Query::Only(names)), _) => QueryKey::Only(names),
            (
                None,
                Some(Isr {
                    allow_query: Some(names),
                    ..
                }),
            ) if !names.is_empty() => QueryKey::Only(names.clone()),
            (None, Some(_)) => QueryKey::None,
            (None, None) => QueryKey::All,
        };
        config::CachePolicy {
            isr: self.isr.map(|isr| config::Isr {
                revalidate: isr.revalidate.0.0,
                expire: isr.expire.map(|expire| expire.0.0),
                stale_if_error: isr.stale_if_error.0,
                bypass_token: isr.bypass_token,
            }),
            tags: self.tags.into_iter().map(|tag| tag.0.0).collect(),
            vary: self.vary.into_iter().map(|name| name.0).collect(),
            query,
        }
    }
}

/// Files from a folder.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StaticFiles {
    /// The folder. What the path's `*` stands for is looked up in it.
    root: PathBuf,
    /// File to serve for a folder.
    #[serde(default = "index")]
    #[schemars(length(min = 1))]
    index: String,
    /// The files never change under their name: clients may keep them for a year.
    #[serde(default)]
    immutable: bool,
}

fn index() -> String {
    "index.html".to_owned()
}

/// Send the client elsewhere.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RedirectTarget {
    /// URL, or path on the same host.
    to: Text<Location>,
    /// 301 and 308 are permanent, 302, 303 and 307 are not; 307 and 308 keep the method.
    #[serde(default = "redirect_status")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    status: u16,
}

fn redirect_status() -> u16 {
    302
}

/// Always the same answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FixedResponse {
    /// Status of the response.
    #[serde(default = "respond_status")]
    #[schemars(range(min = 200, max = 599))]
    status: u16,
    /// Body of the response.
    #[serde(default)]
    body: String,
    /// Media type of the body.
    #[serde(default = "content_type")]
    content_type: Text<ContentType>,
}

fn respond_status() -> u16 {
    200
}

fn content_type() -> Text<ContentType> {
    Text(ContentType("text/plain; charset=utf-8".to_owned()))
}

pub(super) fn into_used(written: Vec<Route>, base: &Path) -> Vec<config::Route> {
    let mut names: BTreeSet<String> = written.iter().filter_map(|route| route.name.clone()).collect();
    let routes = written.into_iter().enumerate();
    routes
        .map(|(index, route)| route.into_used(index, &mut names, base))
        .collect()
}

impl Route {
    fn into_used(self, index: usize, names: &mut BTreeSet<String>, base: &Path) -> config::Route {
        let pointer = child("/routes", &index.to_string());
        let target = self.handler.map(config::Target::Handler);
        let target = target.or(self.upstream.map(config::Target::Upstream));
        let target = target.or(self.r#static.map(|files| {
            let StaticFiles { root, index, immutable } = files;
            config::Target::Static(config::StaticFiles {
                root: resolve(base, root),
                index,
                immutable,
            })
        }));
        let target = target.or(self.redirect.map(|redirect| {
            config::Target::Redirect(config::RedirectTarget {
                to: redirect.to.0.0,
                status: redirect.status,
            })
        }));
        let target = target.or(self.respond.map(|respond| {
            let FixedResponse {
                status,
                body,
                content_type,
            } = respond;
            config::Target::Respond(config::FixedResponse {
                status,
                body,
                content_type: content_type.0.0,
            })
        }));
        let matcher = self.r#match.into_used();
        let filters = self.filters.into_iter().enumerate();
        config::Route {
            name: self.name.unwrap_or_else(|| derive_name(&matcher, names)),
            filters: filters
                .map(|(index, entry)| entry.into_used(&format!("{pointer}/filters/{index}")))
                .collect(),
            matcher,
            cache: self.cache.map(CachePolicy::into_used),
            target: target.expect("the schema asks for exactly one target"),
            fallback: self.fallback,
            error_page: self.error_page.map(|path| resolve(base, path)),
            writes: match self.writes {
                Writes::Wait => config::Writes::Wait,
                Writes::QueueWhenSlow => config::Writes::QueueWhenSlow,
            },
            pointer,
        }
    }
}

/// Host and path; the methods in front only where that is needed to tell two routes apart.
fn derive_name(matcher: &config::Match, names: &mut BTreeSet<String>) -> String {
    let short = config::Match {
        methods: None,
        ..matcher.clone()
    }
    .to_string();
    let numbered = (2..).map(|number| format!("{matcher} #{number}"));
    let mut candidates = [short, matcher.to_string()].into_iter().chain(numbered);
    let free = candidates
        .find(|name| !names.contains(name))
        .expect("numbers do not run out");
    names.insert(free.clone());
    free
}
