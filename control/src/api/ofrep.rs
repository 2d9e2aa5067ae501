//! OpenFeature's remote evaluation protocol (OFREP 0.2): flags for whoever has an OpenFeature SDK.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use selvedge_schema::{Flag, FlagContext, Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::Control;
use super::body::{Named, Received};
use super::problem::Problem;
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::chain::hex;
use crate::store::versions::{Kind, Versioned};

/// More flags than that no page asks for at once.
const FLAGS: i64 = 10_000;

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct Evaluate {
    /// Who asks; `targetingKey` is what percentages go by.
    #[serde(default)]
    #[schema(value_type = Object)]
    context: FlagContext,
}

/// What they get of one flag.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Evaluation {
    key: String,
    #[schema(value_type = String)]
    reason: Reason,
    variant: String,
    value: Value,
    metadata: BTreeMap<String, Value>,
}

/// What they get of every flag.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Evaluations {
    flags: Vec<Evaluation>,
}

/// One flag.
#[utoipa::path(
    post, path = "/ofrep/v1/evaluate/flags/{key}", tag = "ofrep", params(("key" = String, Path)),
    request_body = Evaluate, responses((status = 200, body = Evaluation))
)]
pub(super) async fn evaluate(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(key): Named<String>,
    Received(asked): Received<Evaluate>,
) -> Result<Response, Problem> {
    caller.may_somewhere(Action::Read)?;
    let Some(flag) = control.store.versioned(Kind::Flag, &key).await? else {
        let failure =
            json!({ "key": key, "errorCode": "FLAG_NOT_FOUND", "errorDetails": format!("there is no flag {key}") });
        return Ok((StatusCode::NOT_FOUND, Json(failure)).into_response());
    };
    Ok(match evaluated(flag, &asked.context) {
        Some(evaluation) => Json(evaluation).into_response(),
        None => {
            let failure = json!({ "key": key, "errorCode": "PARSE_ERROR", "errorDetails": "the flag cannot be read" });
            (StatusCode::BAD_REQUEST, Json(failure)).into_response()
        }
    })
}

/// All flags. The ETag is the same as long as this context gets the same.
#[utoipa::path(
    post, path = "/ofrep/v1/evaluate/flags", tag = "ofrep", params(("if-none-match" = Option<String>, Header)),
    request_body = Evaluate, responses((status = 200, body = Evaluations), (status = 304))
)]
pub(super) async fn evaluate_all(
    State(control): State<Arc<Control>>,
    caller: Caller,
    headers: HeaderMap,
    Received(asked): Received<Evaluate>,
) -> Result<Response, Problem> {
    caller.may_somewhere(Action::Read)?;
    let flags = control.store.all_versioned(Kind::Flag, "", FLAGS).await?;
    let flags = flags
        .into_iter()
        .filter_map(|flag| evaluated(flag, &asked.context))
        .collect();
    let body = json!(Evaluations { flags }).to_string();
    let tag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let described = [
        (header::ETAG, tag),
        (header::CONTENT_TYPE, "application/json".to_owned()),
    ];
    Ok((described, body).into_response())
}

/// `None` when the flag was written by a version with other rules.
fn evaluated(found: Versioned, context: &FlagContext) -> Option<Evaluation> {
    let flag = Flag::parse(&found.value).ok()?;
    let evaluation = flag.evaluate(&found.name, context);
    Some(Evaluation {
        reason: evaluation.reason,
        variant: evaluation.variant.to_owned(),
        value: evaluation.value.clone(),
        metadata: [("version".to_owned(), found.version.into())].into(),
        key: found.name,
    })
}
