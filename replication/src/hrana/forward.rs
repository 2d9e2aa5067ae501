//! A replica's part in a transaction that may write: it is kept open at the primary, in a stream there.
//!
//! From the request that opens the transaction on, the rest of the pipeline goes there in one request, and comes back
//! when the transaction has ended. It does not pass the write queue: whoever keeps a transaction open is there to see
//! that it failed.

use super::bounds;
use super::encoding;
use super::pipeline::Pipeline;
use super::proto::{self, StreamRequest, StreamResponse, StreamResult};
use super::request::{Request, Script, Step};
use super::stream::{Stream, Transaction};
use super::text;
use crate::agent::Refusal;
use crate::agent::link;
use crate::agent::replica_site::ReplicaSite;
use crate::bookmark;
use crate::{Statement, Value};

/// Runs the requests at the primary; one result for each.
pub(super) async fn forward(
    pipeline: &mut Pipeline<'_>,
    site: &ReplicaSite,
    requests: Vec<Request>,
) -> Result<Vec<StreamResult>, Refusal> {
    let stream = &mut pipeline.stream;
    let baton = match std::mem::replace(&mut stream.transaction, Transaction::None) {
        Transaction::AtPrimary { baton } => Some(baton),
        _ => None,
    };
    let mut sent = Vec::with_capacity(requests.len() + 2);
    if baton.is_none() && !stream.foreign_keys {
        sent.push(execute(Step {
            condition: None,
            statement: Statement::new("PRAGMA foreign_keys = off", vec![]),
            want_rows: false,
        }));
    }
    let first = sent.len();
    // What is answered here; everything else is the next result from there.
    let mut here: Vec<Option<StreamResult>> = Vec::with_capacity(requests.len());
    for request in requests {
        note_foreign_keys(stream, &request);
        here.push(match request {
            Request::Close => {
                pipeline.closed = true;
                Some(StreamResponse::Close(proto::Nothing {}).into_result())
            }
            Request::Done(response) => Some(response.into_result()),
            Request::Execute(step) => {
                sent.push(execute(step));
                None
            }
            Request::Batch(steps) => {
                sent.push(StreamRequest::Batch(batch(steps)));
                None
            }
            Request::Sequence(Script(sql)) => {
                sent.push(StreamRequest::Sequence(text_only(sql)));
                None
            }
            Request::Describe(Script(sql)) => {
                sent.push(StreamRequest::Describe(text_only(sql)));
                None
            }
            Request::GetAutocommit => {
                sent.push(StreamRequest::GetAutocommit(proto::Nothing {}));
                None
            }
        });
    }
    sent.push(StreamRequest::GetAutocommit(proto::Nothing {}));
    if pipeline.closed {
        sent.push(StreamRequest::Close(proto::Nothing {}));
    }
    let newer = || Refusal::Internal("the primary is of another version".to_owned());
    let count = sent.len();
    let answer = ask(pipeline, site, baton, sent).await?;
    if answer.results.len() != count {
        return Err(Refusal::Internal(format!(
            "the primary answered {} of {count} requests",
            answer.results.len()
        )));
    }
    let mut there = answer.results.into_iter().skip(first).map(|message| message.result);
    let results = here
        .into_iter()
        .map(|result| result.or_else(|| there.next().flatten()).ok_or_else(newer))
        .collect::<Result<_, _>>()?;
    // Asked last.
    let autocommit = match there.next().flatten() {
        Some(StreamResult::Ok(message)) => match message.response {
            Some(StreamResponse::GetAutocommit(answer)) => answer.is_autocommit,
            _ => return Err(newer()),
        },
        _ => return Err(newer()),
    };
    match answer.baton {
        // The stream there is of no use any more.
        Some(baton) if autocommit || pipeline.closed => close(pipeline, site, baton),
        Some(baton) => pipeline.stream.transaction = Transaction::AtPrimary { baton },
        None => {}
    }
    if autocommit {
        pipeline.hrana.wait_until_visible(&pipeline.stream).await;
    }
    Ok(results)
}

/// The client's setting is also this stream's, for what it does here later.
fn note_foreign_keys(stream: &mut Stream, request: &Request) {
    let texts: Vec<&str> = match request {
        Request::Execute(step) => vec![&step.statement.sql],
        Request::Batch(steps) => steps.iter().map(|step| step.statement.sql.as_str()).collect(),
        Request::Sequence(Script(script)) => text::split(script),
        _ => vec![],
    };
    if let Some(on) = texts.into_iter().filter_map(text::foreign_keys).next_back() {
        stream.foreign_keys = on;
    }
}

async fn ask(
    pipeline: &mut Pipeline<'_>,
    site: &ReplicaSite,
    baton: Option<String>,
    requests: Vec<StreamRequest>,
) -> Result<proto::PipelineRespBody, Refusal> {
    let requests = requests.into_iter().map(StreamRequest::into_message).collect();
    if !site.link().is_reachable() {
        return Err(Refusal::PrimaryUnreachable);
    }
    let stream = &mut pipeline.stream;
    let key = &pipeline.hrana.shared.key;
    let request = site
        .link()
        .post(&path(stream))
        .header(bookmark::HEADER, key.sign(&stream.database, stream.seen))
        .timeout(bounds::FORWARD)
        .json(&proto::PipelineReqBody { baton, requests });
    let lost = |error: reqwest::Error| {
        tracing::debug!(%error, "the primary did not answer");
        Refusal::TransactionLost
    };
    let response = link::judged(request.send().await.map_err(lost)?).await?;
    let seen = response
        .headers()
        .get(bookmark::HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| key.read(text).remove(&stream.database));
    stream.see(seen.unwrap_or_default());
    let body = response.bytes().await.map_err(lost)?;
    serde_json::from_slice(&body).map_err(|error| Refusal::Internal(format!("the primary's answer: {error}")))
}

fn path(stream: &Stream) -> String {
    format!("/db/{}/v3/pipeline", stream.database)
}

/// Says that nobody comes back; it would find out by itself.
fn close(pipeline: &Pipeline<'_>, site: &ReplicaSite, baton: String) {
    let request = site
        .link()
        .post(&path(&pipeline.stream))
        .timeout(bounds::FORWARD)
        .json(&proto::PipelineReqBody {
            baton: Some(baton),
            requests: vec![StreamRequest::Close(proto::Nothing {}).into_message()],
        });
    tokio::spawn(async move {
        if let Err(error) = request.send().await {
            tracing::debug!(%error, "a stream at the primary could not be closed");
        }
    });
}

fn execute(step: Step) -> StreamRequest {
    StreamRequest::Execute(proto::ExecuteReq { stmt: stmt(step).1 })
}

fn text_only(sql: String) -> proto::SqlReq {
    proto::SqlReq {
        sql: Some(sql),
        ..proto::SqlReq::default()
    }
}

fn batch(steps: Vec<Step>) -> proto::BatchReq {
    let step = |step: Step| {
        let (condition, stmt) = stmt(step);
        proto::BatchStep { condition, stmt }
    };
    proto::BatchReq {
        batch: proto::Batch {
            steps: steps.into_iter().map(step).collect(),
            replication_index: None,
        },
    }
}

fn stmt(step: Step) -> (Option<proto::CondMessage>, proto::Stmt) {
    let Statement { sql, params, named } = step.statement;
    let named_arg = |(name, value): (String, Value)| proto::NamedArg {
        name,
        value: encoding::to_proto(value),
    };
    let stmt = proto::Stmt {
        sql: Some(sql),
        args: params.into_iter().map(encoding::to_proto).collect(),
        named_args: named.into_iter().map(named_arg).collect(),
        want_rows: Some(step.want_rows),
        ..proto::Stmt::default()
    };
    (step.condition, stmt)
}
