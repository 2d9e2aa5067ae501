//! The requests of a pipeline, resolved: texts in place of their numbers, values of ours, everything within bounds.
//!
//! A whole pipeline is resolved before any of it runs, so that a malformed one does nothing.

use super::batch;
use super::bounds;
use super::encoding;
use super::proto;
use super::stream::Stream;
use crate::Statement;
use crate::agent::Refusal;
use crate::position::Position;

#[derive(Debug)]
pub(super) enum Request {
    Close,
    Execute(Step),
    Batch(Vec<Step>),
    Sequence(Script),
    Describe(Script),
    /// `store_sql` and `close_sql`, which are done when they are resolved.
    Done(proto::StreamResponse),
    GetAutocommit,
}

/// One statement, by itself or of a batch.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) condition: Option<proto::CondMessage>,
    pub(super) statement: Statement,
    pub(super) want_rows: bool,
}

#[derive(Debug)]
pub(super) struct Script(pub(super) String);

/// The requests in their order.
pub(super) fn resolve(stream: &mut Stream, requests: Vec<proto::RequestMessage>) -> Result<Vec<Request>, Refusal> {
    if requests.len() > bounds::REQUESTS {
        return Err(Refusal::Malformed(format!(
            "a pipeline has at most {} requests",
            bounds::REQUESTS
        )));
    }
    requests.into_iter().map(|request| one(stream, request)).collect()
}

fn one(stream: &mut Stream, message: proto::RequestMessage) -> Result<Request, Refusal> {
    use proto::StreamRequest as R;
    let unknown = || Refusal::Malformed("a request has no known type".to_owned());
    Ok(match message.request.ok_or_else(unknown)? {
        R::Close(_) => Request::Close,
        R::Execute(execute) => Request::Execute(step(stream, None, execute.stmt)?),
        R::Batch(request) => Request::Batch(steps(stream, request.batch)?),
        R::Sequence(sequence) => {
            want(stream, sequence.replication_index);
            Request::Sequence(Script(stream.text(sequence.sql, sequence.sql_id)?))
        }
        R::Describe(describe) => {
            want(stream, describe.replication_index);
            Request::Describe(Script(stream.text(describe.sql, describe.sql_id)?))
        }
        R::StoreSql(store) => {
            stream.store(store.sql_id, store.sql)?;
            Request::Done(proto::StreamResponse::StoreSql(proto::Nothing {}))
        }
        R::CloseSql(close) => {
            stream.forget(close.sql_id);
            Request::Done(proto::StreamResponse::CloseSql(proto::Nothing {}))
        }
        R::GetAutocommit(_) => Request::GetAutocommit,
    })
}

/// The steps of a batch, each with a condition that looks back only.
pub(super) fn steps(stream: &mut Stream, batch: proto::Batch) -> Result<Vec<Step>, Refusal> {
    if batch.steps.len() > bounds::STEPS {
        return Err(Refusal::Malformed(format!(
            "a batch has at most {} steps",
            bounds::STEPS
        )));
    }
    want(stream, batch.replication_index);
    let mut steps = Vec::with_capacity(batch.steps.len());
    for proto::BatchStep { condition, stmt } in batch.steps {
        if let Some(condition) = &condition {
            batch::check(condition, steps.len())?;
        }
        steps.push(step(stream, condition, stmt)?);
    }
    Ok(steps)
}

fn step(stream: &mut Stream, condition: Option<proto::CondMessage>, stmt: proto::Stmt) -> Result<Step, Refusal> {
    want(stream, stmt.replication_index);
    let params = stmt.args.into_iter().map(encoding::from_proto);
    let named = stmt
        .named_args
        .into_iter()
        .map(|arg| Ok::<_, Refusal>((arg.name, encoding::from_proto(arg.value)?)));
    Ok(Step {
        condition,
        statement: Statement {
            sql: stream.text(stmt.sql, stmt.sql_id)?,
            params: params.collect::<Result<_, _>>()?,
            named: named.collect::<Result<_, _>>()?,
        },
        want_rows: stmt.want_rows.unwrap_or(true),
    })
}

/// The client has seen this. It is a wish and no more: only what was really read is signed into a bookmark.
fn want(stream: &mut Stream, index: Option<u64>) {
    let position = index.map_or(Position::default(), encoding::from_index);
    stream.wanted = stream.wanted.max(position);
}
