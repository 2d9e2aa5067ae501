//! Deployments: made of blobs that are there, prepared by PoPs, activated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use selvedge_schema::check_manifest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Control;
use super::apps::find as find_app;
use super::body::{Asked, Named, Received};
use super::etag::IfMatch;
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use crate::artifacts::Digest;
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::deployment::{Event, State as Stage, judge};
use crate::store::databases::{DatabaseState, Migrated, NeededDatabase};
use crate::store::deployments::{DeployedBlob, Deployment, Why};
use crate::store::now_ms;
use crate::store::pops::PopSaid;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateDeployment {
    /// `handlers`, `routes`, `databases` and `upstreams` as in an edge's file; paths name the blobs.
    #[schema(value_type = Object)]
    manifest: serde_json::Value,
    blobs: Vec<NamedBlob>,
}

/// A file of the deployment.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedBlob {
    /// Where the manifest finds it: relative, with `/`.
    path: String,
    /// SHA-256 of an uploaded blob, in lower-case hex.
    digest: String,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Activate {
    /// The part of the clients that gets it, the same ones each time; all, without it.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100)]
    percent: Option<i64>,
}

/// A deployment, and where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownDeployment {
    #[serde(flatten)]
    deployment: Deployment,
    /// Where PoPs serve this version, whether it is the app's or not.
    preview_url: String,
}

impl ShownDeployment {
    pub(super) fn of(control: &Control, deployment: Deployment) -> ShownDeployment {
        let preview_url = control.sites.preview(&deployment.app, deployment.version);
        ShownDeployment {
            deployment,
            preview_url,
        }
    }
}

/// A deployment with all there is to know of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeDeployment {
    #[serde(flatten)]
    deployment: ShownDeployment,
    #[schema(value_type = Object)]
    manifest: serde_json::Value,
    blobs: Vec<DeployedBlob>,
    /// What PoPs say of it.
    pops: Vec<PopSaid>,
    /// What it needs of databases; it is not prepared before they are ready.
    databases: Vec<NeededDatabase>,
}

/// What was activated.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Activated {
    revision: i64,
    deployment: ShownDeployment,
}

/// An app's deployments, newest first.
#[utoipa::path(
    get, path = "/v1/apps/{app}/deployments", tag = "deployments", params(("app" = String, Path), Paging),
    responses((status = 200, body = Page<ShownDeployment>))
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<ShownDeployment>>, Problem> {
    caller.may(Action::Read, Some(&app))?;
    find_app(&control, &app).await?;
    let deployments = control
        .store
        .deployments(&app, paging.after_number()?, paging.wanted()?)
        .await?;
    let deployments = deployments.into_iter();
    let shown = deployments.map(|deployment| ShownDeployment::of(&control, deployment));
    Ok(Json(paging.page(shown.collect(), |shown: &ShownDeployment| {
        shown.deployment.version.to_string()
    })))
}

/// Makes a deployment, which never changes. PoPs prepare it; it serves when it is activated.
#[utoipa::path(
    post, path = "/v1/apps/{app}/deployments", tag = "deployments", params(("app" = String, Path)),
    request_body = CreateDeployment, responses((status = 201, body = WholeDeployment))
)]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    Received(asked): Received<CreateDeployment>,
) -> Result<(StatusCode, Json<WholeDeployment>), Problem> {
    caller.may(Action::Deploy, Some(&app))?;
    find_app(&control, &app).await?;
    let paths: Vec<&str> = asked.blobs.iter().map(|blob| blob.path.as_str()).collect();
    if let Err(findings) = check_manifest(&asked.manifest, &paths, &control.filters) {
        let first = findings
            .first()
            .map_or(String::new(), |finding| finding.message.clone());
        let problem = Problem::new(Kind::Invalid, format!("the deployment is not valid: {first}"));
        return Err(problem
            .with("errors", json!(findings))
            .help("mend what `errors` points at"));
    }
    let blobs = sized(&control, asked.blobs).await?;
    check_owners(&control, &app, &asked.manifest).await?;
    let id = control
        .store
        .add_deployment(&caller.id, &app, &asked.manifest, &blobs)
        .await?;
    control.databases.notify_one();
    Ok((
        StatusCode::CREATED,
        Json(whole(&control, find(&control, &id).await?).await?),
    ))
}

/// Says whose a database is that this app cannot have. The change itself refuses it too.
async fn check_owners(control: &Control, app: &str, manifest: &serde_json::Value) -> Result<(), Problem> {
    let databases = manifest["databases"].as_object();
    for name in databases.into_iter().flat_map(|databases| databases.keys()) {
        let Some(found) = control.store.app_database(name).await? else {
            continue;
        };
        let is_free = found.state == DatabaseState::Deleted && found.until_ms.is_some_and(|until| until <= now_ms());
        let there = matches!(found.state, DatabaseState::Wanted | DatabaseState::Made);
        if found.app != app && !is_free {
            let problem = Problem::new(Kind::Conflict, format!("the database {name} is {}'s", found.app));
            return Err(problem.help("names are the cluster's: choose another"));
        }
        if !there && !is_free {
            let problem = Problem::new(Kind::Conflict, format!("the database {name} was deleted"));
            return Err(problem.help("its name is free when `until_ms` of GET /v1/databases/{name} has passed"));
        }
    }
    Ok(())
}

/// The blobs with their sizes, when all of them are there.
async fn sized(control: &Control, named: Vec<NamedBlob>) -> Result<Vec<DeployedBlob>, Problem> {
    if let Some(wrong) = named.iter().find(|blob| Digest::parse(&blob.digest).is_none()) {
        let problem = Problem::new(Kind::Invalid, format!("{:?} is no digest", wrong.digest));
        return Err(problem.help("use SHA-256 in lower-case hex, 64 letters"));
    }
    let digests: BTreeSet<&str> = named.iter().map(|blob| blob.digest.as_str()).collect();
    let digests: Vec<&str> = digests.into_iter().collect();
    let known: BTreeMap<String, i64> = control.store.need(&digests).await?.into_iter().collect();
    let missing: Vec<&str> = digests
        .into_iter()
        .filter(|digest| !known.contains_key(*digest))
        .collect();
    if !missing.is_empty() {
        let problem = Problem::new(Kind::Invalid, format!("{} blobs are not uploaded", missing.len()));
        let problem = problem.with("missing", json!(missing));
        return Err(problem.help("upload those in `missing` with PUT /v1/blobs/{digest}, then send this again"));
    }
    let sized = named.into_iter().map(|blob| DeployedBlob {
        bytes: known[&blob.digest],
        path: blob.path,
        digest: blob.digest,
    });
    Ok(sized.collect())
}

/// One deployment.
#[utoipa::path(
    get, path = "/v1/deployments/{id}", tag = "deployments", params(("id" = String, Path)),
    responses((status = 200, body = WholeDeployment))
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<String>,
) -> Result<Json<WholeDeployment>, Problem> {
    let deployment = find(&control, &id).await?;
    caller.may(Action::Read, Some(&deployment.app))?;
    whole(&control, deployment).await.map(Json)
}

/// Lets it serve: all clients, or a part of them. With `If-Match`, only if the app is still what was read.
#[utoipa::path(
    post, path = "/v1/deployments/{id}/activate", tag = "deployments",
    params(("id" = String, Path), ("if-match" = Option<String>, Header)),
    request_body = Activate, responses((status = 200, body = Activated))
)]
pub(super) async fn activate(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<String>,
    IfMatch(expected): IfMatch,
    Received(asked): Received<Activate>,
) -> Result<Json<Activated>, Problem> {
    let deployment = find(&control, &id).await?;
    caller.may(Action::Deploy, Some(&deployment.app))?;
    // Where no PoP is left that has not said it, it is prepared: so also where there is none yet.
    reconsider(&control, &caller.id, &deployment).await?;
    let deployment = find(&control, &id).await?;
    if deployment.state.on(Event::Activate).is_none() {
        return Err(not_yet(&control, &deployment).await?);
    }
    let revision = match asked.percent {
        None | Some(100) => {
            let store = &control.store;
            store
                .activate(&caller.id, &deployment, Why::Activated, expected)
                .await?
        }
        Some(percent @ 0..100) => {
            let store = &control.store;
            store.roll_out(&caller.id, &deployment, percent, expected).await?
        }
        Some(_) => return Err(Problem::new(Kind::Invalid, "`percent` is 0 to 100")),
    };
    let deployment = ShownDeployment::of(&control, find(&control, &id).await?);
    Ok(Json(Activated { revision, deployment }))
}

/// Who has not prepared it, or why it failed.
async fn not_yet(control: &Control, deployment: &Deployment) -> Result<Problem, Problem> {
    let said = control.store.said_of(&deployment.id).await?;
    let live = control.fleet.live(now_ms());
    let waiting: Vec<&String> = live
        .iter()
        .filter(|pop| said.iter().all(|said| said.pop != **pop))
        .collect();
    let detail = match deployment.state {
        Stage::Failed => format!(
            "version {} failed: {}",
            deployment.version,
            deployment.message.as_deref().unwrap_or("unknown")
        ),
        _ => format!("version {} is not prepared everywhere yet", deployment.version),
    };
    let problem = Problem::new(Kind::Conflict, detail)
        .with("waiting_for", json!(waiting))
        .with("pops", json!(said))
        .with(
            "databases",
            json!(control.store.needed_databases(&deployment.id).await?),
        );
    Ok(problem
        .help("wait for the PoPs in `waiting_for`, or remove those that are gone; a failed one needs a new deployment"))
}

/// Lets what the PoPs say together happen to the deployment. Its databases have a say too.
pub(crate) async fn reconsider(control: &Control, actor: &str, deployment: &Deployment) -> Result<(), Problem> {
    let said = control.store.said_of(&deployment.id).await?;
    let live = control.fleet.live(now_ms());
    let of = |pop: &String| said.iter().find(|said| said.pop == *pop);
    let databases = control.store.needed_databases(&deployment.id).await?;
    let needed = databases.iter().map(|database| database.state.said());
    let event = judge(live.iter().map(|pop| of(pop).map(|said| said.state)).chain(needed));
    let Some(event) = event.filter(|event| deployment.state.on(*event).is_some()) else {
        return Ok(());
    };
    let failed = live
        .iter()
        .filter_map(of)
        .find(|said| said.state == crate::deployment::Said::Failed);
    let message = failed.map(|said| {
        let why = said.message.as_deref().unwrap_or("no reason given");
        format!("{}: {why}", said.pop)
    });
    let failed = databases
        .into_iter()
        .find(|database| database.state == Migrated::Failed);
    let of_database = failed.map(|failed| {
        let why = failed.message.as_deref().unwrap_or("no reason given");
        format!("database {}: {why}", failed.database)
    });
    let message = of_database.or(message);
    let news = control
        .store
        .judge_deployment(actor, deployment, event, message.as_deref());
    if news.await? {
        tracing::info!(
            deployment = deployment.id,
            app = deployment.app,
            ?event,
            "the PoPs have judged a deployment"
        );
    }
    Ok(())
}

pub(super) async fn find(control: &Control, id: &str) -> Result<Deployment, Problem> {
    let found = control.store.deployment(id).await?;
    found.ok_or_else(|| Problem::not_found("deployment", id))
}

async fn whole(control: &Control, deployment: Deployment) -> Result<WholeDeployment, Problem> {
    let manifest = control.store.manifest(&deployment.id).await?;
    Ok(WholeDeployment {
        manifest: manifest.ok_or_else(|| Problem::not_found("deployment", &deployment.id))?,
        blobs: control.store.blobs(&deployment.id).await?,
        pops: control.store.said_of(&deployment.id).await?,
        databases: control.store.needed_databases(&deployment.id).await?,
        deployment: ShownDeployment::of(control, deployment),
    })
}
