//! What was changed, by whom.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Control;
use super::body::Asked;
use super::page::{Page, Paging};
use super::problem::Problem;
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::audit::{AuditEntry, Verified};

/// Every change, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Paging), responses((status = 200, body = Page<AuditEntry>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    caller.may(Action::Audit, None)?;
    let entries = control.store.audit(paging.after_number()?, paging.wanted()?).await?;
    Ok(Json(paging.page(entries, |entry| entry.entry.number.to_string())))
}

/// Reads the whole log, and says whether it is what was written.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit", responses((status = 200, body = Verified)))]
pub(super) async fn verify(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Verified>, Problem> {
    caller.may(Action::Audit, None)?;
    Ok(Json(control.store.verify_audit().await?))
}
