//! Hrana over HTTP, versions 2 and 3: the protocol of libSQL's clients and of the ORMs on them, at every agent.
//!
//! A request's way, in the order of the files: `access` judges the token and finds the database, `stream` gives back
//! what the client left, `request` resolves the pipeline, `pipeline` runs it, in `batch`es and by `text`, `place`
//! knows where, `forward` keeps transactions at the primary, and `encoding` answers. The specification is
//! `docs/HRANA_3_SPEC.md` of github.com/tursodatabase/libsql; where its server and it differ, clients expect the
//! server.

mod access;
mod stream;

mod request;

mod pipeline;

mod batch;

mod text;

mod place;

mod forward;

mod encoding;
mod proto;

mod failure;

mod bounds;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::agent::{Refusal, Shared, Site};
use crate::bookmark;
use access::Tokens;
use encoding::Encoding;
use pipeline::Pipeline;
use place::Replicas;
use stream::{Stream, Streams};

pub(crate) struct Hrana {
    shared: Arc<Shared>,
    site: Arc<Site>,
    tokens: Tokens,
    streams: Streams,
    replicas: Replicas,
    /// One permit for each transaction that reads one state.
    reading: Arc<Semaphore>,
}

/// The endpoints, each with the database in its path or without.
pub(crate) fn router(shared: Arc<Shared>, site: Arc<Site>) -> Router {
    let hrana = Hrana {
        tokens: Tokens::of(&shared.settings),
        shared,
        site,
        streams: Streams::default(),
        replicas: Replicas::default(),
        reading: Arc::new(Semaphore::new(bounds::READ_TRANSACTIONS)),
    };
    let mut router = Router::new().route("/health", get(async || "")).route(
        "/version",
        get(async || concat!("selvedge ", env!("CARGO_PKG_VERSION"))),
    );
    for prefix in ["", "/db/{database}"] {
        for (version, encoding) in [
            ("v2", Encoding::Json),
            ("v3", Encoding::Json),
            ("v3-protobuf", Encoding::Protobuf),
        ] {
            // A client asks without its token, which says nothing of any database.
            let supported = get(async || "");
            let run = move |hrana, path, uri, headers, body| run_pipeline(encoding, hrana, path, uri, headers, body);
            router = router
                .route(&format!("{prefix}/{version}"), supported)
                .route(&format!("{prefix}/{version}/pipeline"), post(run));
            if version != "v2" {
                let run = move |hrana, path, uri, headers, body| run_cursor(encoding, hrana, path, uri, headers, body);
                router = router.route(&format!("{prefix}/{version}/cursor"), post(run));
            }
        }
    }
    router
        .layer(DefaultBodyLimit::max(bounds::BODY_BYTES))
        .with_state(Arc::new(hrana))
}

async fn run_pipeline(
    encoding: Encoding,
    State(hrana): State<Arc<Hrana>>,
    path: Option<Path<String>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let target = hrana.target(path.as_deref().map(String::as_str), &uri, &headers)?;
    let body: proto::PipelineReqBody = encoding.decode(&body)?;
    let mut stream = hrana.stream(body.baton.as_deref(), target, &headers)?;
    let requests = request::resolve(&mut stream, body.requests)?;
    let mut pipeline = Pipeline::new(&hrana, stream, encoding);
    let results = pipeline.run(requests).await?;
    let (closed, stream) = (pipeline.closed, pipeline.stream);
    let bookmark = hrana.bookmark(&stream);
    let answer = proto::PipelineRespBody {
        baton: if closed {
            None
        } else {
            Some(hrana.streams.keep(stream)?)
        },
        base_url: None,
        results: results.into_iter().map(proto::StreamResult::into_message).collect(),
    };
    Ok(with_bookmark(encoding.answer(&answer), bookmark))
}

/// One batch, whose answer is a list of entries. It is complete before the first of them leaves: results are bounded,
/// and the baton, which comes first, must name a stream that is free again.
async fn run_cursor(
    encoding: Encoding,
    State(hrana): State<Arc<Hrana>>,
    path: Option<Path<String>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let target = hrana.target(path.as_deref().map(String::as_str), &uri, &headers)?;
    let body: proto::CursorReqBody = encoding.decode(&body)?;
    let mut stream = hrana.stream(body.baton.as_deref(), target, &headers)?;
    let steps = request::steps(&mut stream, body.batch)?;
    let mut pipeline = Pipeline::new(&hrana, stream, encoding);
    let mut results = pipeline.run(vec![request::Request::Batch(steps)]).await?;
    let entries = results.pop().map(entries).unwrap_or_default();
    let bookmark = hrana.bookmark(&pipeline.stream);
    let head = proto::CursorRespBody {
        baton: Some(hrana.streams.keep(pipeline.stream)?),
        base_url: None,
    };
    let mut items = Vec::new();
    encoding.item(&head, &mut items);
    for entry in entries {
        encoding.item(&proto::EntryMessage { entry: Some(entry) }, &mut items);
    }
    Ok(with_bookmark(encoding.items(items), bookmark))
}

/// A batch's result as the entries of a cursor.
fn entries(result: proto::StreamResult) -> Vec<proto::CursorEntry> {
    use proto::CursorEntry as E;
    let response = match result {
        proto::StreamResult::Ok(message) => message.response,
        proto::StreamResult::Error(error) => return vec![E::Error(error)],
    };
    let Some(proto::StreamResponse::Batch(proto::BatchResp { mut result })) = response else {
        return Vec::new();
    };
    let mut entries = Vec::new();
    for step in 0..result.steps {
        if let Some(done) = result.step_results.remove(&step) {
            entries.push(E::StepBegin(proto::StepBegin { step, cols: done.cols }));
            entries.extend(done.rows.into_iter().map(E::Row));
            entries.push(E::StepEnd(proto::StepEnd {
                affected_row_count: done.affected_row_count,
                last_insert_rowid: done.last_insert_rowid,
            }));
        }
        if let Some(error) = result.step_errors.remove(&step) {
            entries.push(E::StepError(proto::StepError { step, error }));
        }
    }
    entries
}

/// What a request may do, and to which database.
struct Target {
    database: String,
    role: crate::agent::ClientRole,
}

impl Hrana {
    fn target(&self, path: Option<&str>, uri: &Uri, headers: &HeaderMap) -> Result<Target, Refusal> {
        let access = self.tokens.judge(headers)?;
        let known: Vec<String> = self
            .shared
            .board
            .all()
            .into_iter()
            .map(|status| status.database)
            .collect();
        let database = access.database(path, access::host(uri, headers), &known)?;
        if !known.contains(&database) {
            return Err(Refusal::NoDatabase(database));
        }
        Ok(Target {
            database,
            role: access.role,
        })
    }

    /// The stream the baton names, or a new one; it reads at least what the request's bookmark says.
    fn stream(&self, baton: Option<&str>, target: Target, headers: &HeaderMap) -> Result<Stream, Refusal> {
        let mut stream = match baton {
            Some(baton) => self.streams.take(baton, &target.database, target.role)?,
            None => Stream::new(target.database, target.role),
        };
        let brought = headers
            .get_all(bookmark::HEADER)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter_map(|text| self.shared.key.read(text).remove(&stream.database));
        // Signed by this cluster: it was seen.
        if let Some(position) = brought.max() {
            stream.see(position);
        }
        Ok(stream)
    }

    /// What the client has seen now.
    fn bookmark(&self, stream: &Stream) -> Option<HeaderValue> {
        if stream.seen == crate::position::Position::default() {
            return None;
        }
        HeaderValue::from_str(&self.shared.key.sign(&stream.database, stream.seen)).ok()
    }
}

fn with_bookmark(mut response: Response, bookmark: Option<HeaderValue>) -> Response {
    if let Some(bookmark) = bookmark {
        response
            .headers_mut()
            .insert(HeaderName::from_static(bookmark::HEADER), bookmark);
    }
    response
}
