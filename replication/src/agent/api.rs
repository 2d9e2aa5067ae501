//! What an agent answers: on its socket to the proxy of this machine, on its address to other agents and clients.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::link::EPOCH_HEADER;
use super::primary_site::blocking;
use super::replica_site::{Executed, Outcome};
use super::{DatabaseStatus, Refusal, Shared, Site, follow, manage, metrics};
use crate::error::chain;
use crate::hrana;
use crate::operations;
use crate::queue::Operation;
use crate::{Database, Statement, snapshot};

/// A batch with its parameters.
const BODY_BYTES: usize = 64 * 1024 * 1024;
/// Operations in one request: at least one of the largest, with what is around it.
const OPERATIONS_BYTES: usize = BODY_BYTES + 1024 * 1024;
/// Pieces of a snapshot waiting for the network.
pub(super) const PIECES_WAITING: usize = 16;
pub(super) const PIECE_BYTES: usize = 256 * 1024;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) shared: Arc<Shared>,
    pub(super) site: Arc<Site>,
}

/// For the proxy of this machine: the socket's permissions decide who that is.
pub(crate) fn local(shared: Arc<Shared>, site: Arc<Site>) -> Router {
    let api = Api { shared, site };
    common(&api).route("/v1/watch", get(watch)).with_state(api)
}

/// For other agents and clients: the token decides.
pub(crate) fn remote(shared: Arc<Shared>, site: Arc<Site>) -> Router {
    let clients = hrana::router(Arc::clone(&shared), Arc::clone(&site));
    let api = Api { shared, site };
    let guarded = common(&api)
        .route("/v1/follow", post(follow_primary))
        .route("/v1/databases/{database}/snapshot", get(snapshot_of))
        .route("/v1/databases/{database}/store/snapshot", post(snapshot_to_store))
        .route(
            "/v1/databases/{database}/operations",
            post(run_operations).layer(DefaultBodyLimit::max(OPERATIONS_BYTES)),
        )
        .layer(middleware::from_fn_with_state(api.clone(), check_epoch))
        .layer(middleware::from_fn_with_state(api.clone(), check_token));
    guarded
        .route("/healthz", get(async || "alive\n"))
        .with_state(api)
        .merge(clients)
}

fn common(api: &Api) -> Router<Api> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(prometheus))
        .merge(manage::routes(api))
        .route("/v1/databases/{database}/execute", post(execute))
        .route("/v1/databases/{database}/read", post(read))
        .route("/v1/databases/{database}/operations/{id}", get(operation))
        .route("/v1/postgres/{name}", post(run_postgres))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
}

async fn check_token(Extract(api): Extract<Api>, request: Request, next: Next) -> Response {
    let Some(token) = &api.shared.settings.token else {
        return next.run(request).await;
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let wanted = format!("Bearer {token}");
    // Compared in constant time.
    let same = given.is_some_and(|given| {
        given.len() == wanted.len() && given.bytes().zip(wanted.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    });
    if same {
        next.run(request).await
    } else {
        Refusal::Token.into_response()
    }
}

/// A primary does nothing for a replica that has followed a later one.
async fn check_epoch(Extract(api): Extract<Api>, request: Request, next: Next) -> Response {
    let seen = request.headers().get(EPOCH_HEADER);
    let seen = seen.and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    match (&*api.site, seen) {
        (Site::Primary(site), Some(seen)) if seen > site.epoch().0 => {
            let ours = site.epoch().0;
            tracing::error!(
                ours,
                seen,
                "a replica has followed a primary of a higher epoch; this one was deposed"
            );
            Refusal::Deposed { ours, seen }.into_response()
        }
        _ => next.run(request).await,
    }
}

async fn prometheus(Extract(api): Extract<Api>) -> Response {
    let text = metrics::render(&api.shared, &api.site);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

/// Everything there is to know of the agent.
async fn status(Extract(api): Extract<Api>) -> Json<serde_json::Value> {
    let role = match &*api.site {
        Site::Primary(site) => json!({
            "role": "primary",
            "log_bytes": api.log_bytes(),
            "store": site.store_statuses(),
            "postgres": api.shared.postgres.figures(),
        }),
        Site::Replica(site) => {
            let depth = site.queue().depth();
            json!({
                "role": "replica",
                "primary_reachable": site.link().is_reachable(),
                "queue": { "rows": depth.rows, "bytes": depth.bytes },
            })
        }
    };
    Json(json!({ "agent": api.shared.settings.name, "site": role, "databases": api.shared.board.all() }))
}

/// The first line of [`watch`]: what the proxy must know once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WatchHello {
    pub(crate) agent: String,
    pub(crate) bookmark_key: [u8; 32],
}

/// Lines of JSON: first a [`WatchHello`], then the status of each database, and again whenever it changes.
async fn watch(Extract(api): Extract<Api>) -> Response {
    let hello = WatchHello {
        agent: api.shared.settings.name.clone(),
        bookmark_key: api.shared.key.to_bytes(),
    };
    let hello = line(&hello);
    let changes = api.shared.board.changes();
    let stream = futures::stream::unfold(
        (Some(hello), 0, changes, api),
        async |(hello, seen, mut changes, api)| {
            if let Some(hello) = hello {
                return Some((Ok::<_, std::convert::Infallible>(hello), (None, seen, changes, api)));
            }
            loop {
                changes.mark_unchanged();
                let (changed, now) = api.shared.board.since(seen);
                if !changed.is_empty() {
                    let lines: Vec<u8> = changed
                        .iter()
                        .flat_map(|status: &DatabaseStatus| line(status))
                        .collect();
                    return Some((Ok(lines), (None, now, changes, api)));
                }
                tokio::select! {
                    changed = changes.changed() => changed.ok()?,
                    () = Arc::clone(&api.shared).ended() => return None,
                }
            }
        },
    );
    Body::from_stream(stream).into_response()
}

/// As JSON, with the end of its line.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("plain data is JSON");
    line.push(b'\n');
    line
}

/// A write as the proxy and clients send it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Execute {
    /// Made here when it is absent; then the write cannot be repeated safely.
    #[serde(default)]
    pub(crate) operation: Option<String>,
    pub(crate) statements: Vec<Statement>,
    /// Answer as soon as it is queued.
    #[serde(default)]
    pub(crate) optimistic: bool,
}

async fn execute(
    Extract(api): Extract<Api>,
    Path(database): Path<String>,
    Json(execute): Json<Execute>,
) -> Result<Response, Refusal> {
    let id = execute.operation.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    if id.is_empty() || id.len() > operations::ID_BYTES {
        return Err(Refusal::Malformed(format!(
            "an operation id has 1 to {} bytes",
            operations::ID_BYTES
        )));
    }
    let operation = Operation {
        id: id.clone(),
        statements: execute.statements,
    };
    match &*api.site {
        Site::Primary(site) => {
            let done = site.execute(&database, vec![operation]).await?.remove(0)?;
            Ok(Json(Executed::of(done)).into_response())
        }
        Site::Replica(site) if execute.optimistic => {
            site.enqueue(&database, operation).await?;
            Ok((
                StatusCode::ACCEPTED,
                Json(json!({ "operation": id, "state": "queued" })),
            )
                .into_response())
        }
        Site::Replica(site) => Ok(Json(site.execute(&database, operation).await?).into_response()),
    }
}

/// Reads at the primary.
async fn read(
    Extract(api): Extract<Api>,
    Path(database): Path<String>,
    Json(statement): Json<Statement>,
) -> Result<Json<Executed>, Refusal> {
    match &*api.site {
        Site::Primary(site) => read_here(&*site.database(&database).await?, statement).await.map(Json),
        Site::Replica(site) => site.read_strong(&database, &statement).await.map(Json),
    }
}

async fn read_here(database: &Database, statement: Statement) -> Result<Executed, Refusal> {
    let (rows, position) = database.read(statement).await?;
    let rows = rows.ok_or_else(|| Refusal::Malformed("the statement may write; execute it".to_owned()))?;
    Ok(Executed {
        rows: vec![rows],
        position,
    })
}

/// What became of an operation.
async fn operation(
    Extract(api): Extract<Api>,
    Path((database, id)): Path<(String, String)>,
) -> Result<Json<serde_json::Value>, Refusal> {
    if let Site::Replica(site) = &*api.site
        && site.queue().has(&database, &id).await
    {
        return Ok(Json(json!({ "operation": id, "state": "queued" })));
    }
    let path = api.shared.board.get(&database).and_then(|status| status.path);
    let path = path.ok_or_else(|| Refusal::NoDatabase(database.clone()))?;
    let wanted = id.clone();
    let done = blocking(move || {
        let connection = crate::connection::Connection::open_reader(&path).map_err(|error| error.to_string())?;
        operations::find(&connection, &wanted).map_err(|error| error.to_string())
    });
    Ok(Json(match done.await.map_err(Refusal::Internal)? {
        None => json!({ "operation": id, "state": "unknown" }),
        Some(done) => match done.outcome {
            Ok(rows) => {
                json!({ "operation": id, "state": "done", "position": done.position.to_string(), "rows": rows })
            }
            Err(error) => json!({
                "operation": id, "state": "failed", "position": done.position.to_string(),
                "code": error.code(), "message": error.to_string(),
            }),
        },
    }))
}

/// Operations of a replica's queue, in order; one outcome for each.
async fn run_operations(
    Extract(api): Extract<Api>,
    Path(database): Path<String>,
    Json(operations): Json<Vec<Operation>>,
) -> Result<Json<Vec<Outcome>>, Refusal> {
    let Site::Primary(site) = &*api.site else {
        return Err(Refusal::NotPrimary);
    };
    let outcomes = site.execute(&database, operations).await?;
    Ok(Json(outcomes.into_iter().map(Outcome::of).collect()))
}

/// One statement, in the words of `postgres::pool`.
async fn run_postgres(Extract(api): Extract<Api>, Path(name): Path<String>, body: Bytes) -> Result<Response, Refusal> {
    super::postgres::run(&api.shared, &api.site, &name, body).await
}

async fn follow_primary(Extract(api): Extract<Api>, request: Request) -> Result<Response, Refusal> {
    let Site::Primary(site) = &*api.site else {
        return Err(Refusal::NotPrimary);
    };
    let body = follow::serve(&api.shared, site.log(), site.epoch(), request.into_body());
    Ok(body.into_response())
}

/// The database as one transaction file. A body that breaks off is not a snapshot: its checksum is missing.
async fn snapshot_of(Extract(api): Extract<Api>, Path(database): Path<String>) -> Result<Response, Refusal> {
    let Site::Primary(site) = &*api.site else {
        return Err(Refusal::NotPrimary);
    };
    // Open, it agrees with its log; held, it stays open.
    let open = site.database(&database).await?;
    let path = site
        .path(&database)
        .ok_or_else(|| Refusal::NoDatabase(database.clone()))?;
    let log = site.log();
    let (pieces, receiver) = mpsc::channel::<Bytes>(PIECES_WAITING);
    let sending = Arc::clone(site);
    tokio::spawn(async move {
        let (file, name) = (path.clone(), database.clone());
        let written = blocking(move || {
            let _open = open;
            let writer = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
            snapshot::write(&file, &name, &*log, writer)
        });
        if let Err(error) = written.await {
            let text = chain(&error);
            tracing::warn!(database, error = text, "a snapshot could not be sent whole");
            if error.is_damage() {
                sending.close_damaged(&database, &path, &error).await;
            }
        }
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver| {
        receiver
            .recv()
            .await
            .map(|piece| (Ok::<_, std::convert::Infallible>(piece), receiver))
    });
    let epoch = HeaderValue::from(site.epoch().0);
    Ok(([(EPOCH_HEADER, epoch)], Body::from_stream(stream)).into_response())
}

/// Asks for a snapshot in the store, soon and whatever the age of the last one.
async fn snapshot_to_store(Extract(api): Extract<Api>, Path(database): Path<String>) -> Result<StatusCode, Refusal> {
    match &*api.site {
        Site::Primary(site) => site.snapshot_to_store(&database).map(|()| StatusCode::ACCEPTED),
        Site::Replica(_) => Err(Refusal::NotPrimary),
    }
}

/// A blocking writer whose other end is a body.
struct Pieces(mpsc::Sender<Bytes>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0
            .blocking_send(piece)
            .map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Api {
    fn log_bytes(&self) -> u64 {
        match &*self.site {
            Site::Primary(site) => site.log().size_bytes(),
            Site::Replica(_) => 0,
        }
    }
}
