//! Which version of which app answers a request.
//!
//! A host that an app has belongs to the app alone; every other host is the configuration file's. Of an app's versions a
//! request gets, in this order:
//!
//! * at a preview's host, that version;
//! * what a page asks for after it was loaded (scripts, images, calls): the version that made the page, as long as it is
//!   kept ([`KEPT`] after it was replaced), because its assets may exist there only;
//! * during a rollout, the new version for its percentage of clients. A client is put into one of 10,000 buckets, by its
//!   address, and remembers the bucket: raising the percentage takes nobody out;
//! * the active version.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use pingora_http::RequestHeader;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::generation::Generation;

/// How long a version that was replaced still answers the pages it has made.
pub(crate) const KEPT: Duration = Duration::from_secs(60 * 60);
/// Says to the target, and to the regeneration of a page, which deployment it is; a client's own is dropped.
pub(crate) const DEPLOYMENT_FIELD: &str = "x-selvedge-deployment";
/// The deployment that made the page.
const DEPLOYMENT_COOKIE: &str = "selvedge-deployment";
/// Where a client is among those a rollout divides.
const BUCKET_COOKIE: &str = "selvedge-bucket";
const BUCKETS: u32 = 10_000;
const BUCKET_SECONDS: u32 = 30 * 24 * 60 * 60;

/// Every host that control has given to an app.
#[derive(Default)]
pub(crate) struct Sites {
    hosts: HashMap<String, Site>,
}

#[derive(Clone)]
pub(crate) enum Site {
    App(Arc<App>),
    /// One version of an app, whether it serves or not.
    Preview(Arc<Generation>),
}

/// The versions of an app that this PoP could build.
#[derive(Default)]
pub(crate) struct App {
    /// `None` while there is none, or none that could be built.
    pub(crate) active: Option<Arc<Generation>>,
    pub(crate) rollout: Option<Rollout>,
    /// Every version that serves or has served a moment ago, by its deployment's id.
    pub(crate) kept: BTreeMap<String, Arc<Generation>>,
}

pub(crate) struct Rollout {
    pub(crate) generation: Arc<Generation>,
    pub(crate) percent: u32,
}

/// What a request is answered by, and what its client remembers of it.
pub(crate) struct Choice {
    pub(crate) generation: Arc<Generation>,
    pub(crate) cookies: Vec<HeaderValue>,
}

/// An app has the host and serves nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NothingServes;

impl Sites {
    pub(crate) fn new(hosts: HashMap<String, Site>) -> Sites {
        Sites { hosts }
    }

    /// What answers a request for `host`; `Ok(None)`: the configuration file does.
    pub(crate) fn choose(
        &self,
        host: &str,
        request: &RequestHeader,
        client: IpAddr,
        background: bool,
    ) -> Result<Option<Choice>, NothingServes> {
        match self.hosts.get(host) {
            None => Ok(None),
            Some(Site::Preview(generation)) => Ok(Some(Choice {
                generation: Arc::clone(generation),
                cookies: Vec::new(),
            })),
            Some(Site::App(app)) => app.choose(request, client, background).map(Some),
        }
    }

    /// What may answer at a host; `None`: the configuration file.
    pub(crate) fn at(&self, host: &str) -> Option<Vec<Arc<Generation>>> {
        match self.hosts.get(host)? {
            Site::Preview(generation) => Some(vec![Arc::clone(generation)]),
            Site::App(app) => Some(app.kept.values().cloned().collect()),
        }
    }

    /// What serves now, each once.
    pub(crate) fn serving(&self) -> Vec<Arc<Generation>> {
        let mut serving: BTreeMap<&str, &Arc<Generation>> = BTreeMap::new();
        let apps = self.hosts.values().filter_map(|site| match site {
            Site::App(app) => Some(app),
            Site::Preview(_) => None,
        });
        for generation in apps.flat_map(|app| app.active.iter().chain(app.rollout.iter().map(|r| &r.generation))) {
            serving.insert(id(generation), generation);
        }
        serving.into_values().cloned().collect()
    }
}

impl Sites {
    /// Every host, and what it gets.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let version = |generation: &Generation| match &generation.deployment {
            Some(deployment) => json!({ "id": deployment.id, "app": deployment.app, "version": deployment.version }),
            None => json!(null),
        };
        let hosts = self.hosts.iter().map(|(host, site)| {
            let described = match site {
                Site::Preview(generation) => json!({ "preview": version(generation) }),
                Site::App(app) => json!({
                    "active": app.active.as_deref().map(version),
                    "rollout": app.rollout.as_ref().map(|rollout| {
                        json!({ "deployment": version(&rollout.generation), "percent": rollout.percent })
                    }),
                    "kept": app.kept.keys().collect::<Vec<_>>(),
                }),
            };
            (host.clone(), described)
        });
        hosts.collect::<BTreeMap<_, _>>().into_iter().collect()
    }
}

impl App {
    fn choose(&self, request: &RequestHeader, client: IpAddr, background: bool) -> Result<Choice, NothingServes> {
        let headers = &request.headers;
        if background {
            // The page's key says which deployment's it is.
            let asked = headers.get(DEPLOYMENT_FIELD).and_then(|id| id.to_str().ok());
            let made_it = asked.and_then(|id| self.kept.get(id)).or(self.active.as_ref());
            let generation = Arc::clone(made_it.ok_or(NothingServes)?);
            return Ok(Choice {
                generation,
                cookies: Vec::new(),
            });
        }
        let is_page = is_page(headers);
        let remembered = cookie(headers, DEPLOYMENT_COOKIE);
        if let Some(made_the_page) = remembered.and_then(|id| self.kept.get(id)).filter(|_| !is_page) {
            return Ok(Choice {
                generation: Arc::clone(made_the_page),
                cookies: Vec::new(),
            });
        }
        let mut cookies = Vec::new();
        let active = self.active.as_ref();
        let generation = match &self.rollout {
            None => active.ok_or(NothingServes)?,
            Some(rollout) => {
                let known = cookie(headers, BUCKET_COOKIE).and_then(|bucket| bucket.parse().ok());
                let known = known.filter(|bucket| *bucket < BUCKETS);
                let bucket = known.unwrap_or_else(|| bucket_of(client, headers));
                if known.is_none() {
                    cookies.push(remember(BUCKET_COOKIE, &bucket.to_string(), BUCKET_SECONDS));
                }
                match bucket < rollout.percent * (BUCKETS / 100) {
                    true => &rollout.generation,
                    false => active.unwrap_or(&rollout.generation),
                }
            }
        };
        if is_page && remembered != Some(id(generation)) {
            cookies.push(remember(DEPLOYMENT_COOKIE, id(generation), KEPT.as_secs() as u32));
        }
        Ok(Choice {
            generation: Arc::clone(generation),
            cookies,
        })
    }
}

/// A deployment's id; empty for the configuration file.
pub(crate) fn id(generation: &Generation) -> &str {
    generation
        .deployment
        .as_ref()
        .map_or("", |deployment| deployment.id.as_str())
}

/// Whether a browser asks for a page, by Fetch Metadata (section 2.1) or, where it sends none, by what it accepts.
fn is_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-dest") {
        Some(destination) => matches!(destination, "document" | "iframe" | "frame"),
        None => text("accept").is_some_and(|accepted| accepted.contains("text/html")),
    }
}

fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

fn remember(name: &str, value: &str, seconds: u32) -> HeaderValue {
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax");
    HeaderValue::from_str(&cookie).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The same for a client that keeps no cookies, each time and at every PoP.
fn bucket_of(client: IpAddr, headers: &HeaderMap) -> u32 {
    let mut hash = Sha256::new();
    hash.update(client.to_string());
    hash.update([0]);
    if let Some(agent) = headers.get(header::USER_AGENT) {
        hash.update(agent.as_bytes());
    }
    let hash = hash.finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % BUCKETS
}
