//! Secrets of an app's handlers: set, listed by their names, removed. No answer has a value.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::apps::find as find_app;
use super::body::{Asked, Confidential, Named};
use super::etag::{IfMatch, etag};
use super::names::check_variable;
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use super::{Control, Revised};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::sealing;
use crate::store::secrets::Secret;
use crate::vault::{Value, Vault};

/// Every PoP holds all of them in memory.
const VALUE_BYTES: usize = 64 * 1024;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetSecret {
    #[schema(value_type = String, write_only)]
    value: Value,
}

/// What was set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SecretSet {
    #[serde(flatten)]
    secret: Secret,
    /// `GET /v1/changes/{revision}` waits until every PoP has it.
    revision: i64,
}

/// What a rotation has done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rotated {
    /// Id of the newest key in the file: all secrets are encrypted with it now.
    key: String,
    /// Secrets that were encrypted with another.
    encrypted: usize,
}

/// An app's secrets, without their values.
#[utoipa::path(
    get, path = "/v1/apps/{app}/secrets", tag = "secrets", params(("app" = String, Path), Paging),
    responses((status = 200, body = Page<Secret>))
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(app): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Secret>>, Problem> {
    caller.may(Action::Read, Some(&app))?;
    find_app(&control, &app).await?;
    let secrets = control.store.secrets(&app, &paging.after()?, paging.wanted()?).await?;
    Ok(Json(paging.page(secrets, |secret| secret.name.clone())))
}

/// Sets a secret. It is kept encrypted, and sealed for each PoP that has a key. With `If-Match`, only if it is still of the version that was listed; with `If-None-Match: *`, only if it is new.
#[utoipa::path(
    put, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets",
    params(("app" = String, Path), ("name" = String, Path), ("if-match" = Option<String>, Header), ("if-none-match" = Option<String>, Header)),
    request_body = SetSecret, responses((status = 200, body = SecretSet))
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, name)): Named<(String, String)>,
    IfMatch(expected): IfMatch,
    Confidential(asked): Confidential<SetSecret>,
) -> Result<Response, Problem> {
    caller.may(Action::Configure, Some(&app))?;
    check_variable(&name)?;
    let value = asked.value.as_str();
    if value.len() > VALUE_BYTES || value.contains('\0') {
        return Err(Problem::new(
            Kind::Invalid,
            format!("a secret has at most {VALUE_BYTES} bytes, and no NUL"),
        ));
    }
    find_app(&control, &app).await?;
    let encrypted = control.vault.load().encrypt(&app, &name, &asked.value);
    control
        .store
        .set_secret(&caller.id, &app, &name, encrypted, expected)
        .await?;
    let revision = sealing::bring_about(&control, &caller.id).await?;
    let secret = control.store.secret(&app, &name).await?;
    let secret = secret.ok_or_else(|| Problem::not_found("secret", &name))?;
    Ok((etag(secret.version), Json(SecretSet { secret, revision })).into_response())
}

/// Removes a secret, here and from every PoP.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets",
    params(("app" = String, Path), ("name" = String, Path), ("if-match" = Option<String>, Header)),
    responses((status = 200, body = Revised))
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named((app, name)): Named<(String, String)>,
    IfMatch(expected): IfMatch,
) -> Result<Json<Revised>, Problem> {
    caller.may(Action::Configure, Some(&app))?;
    control.store.delete_secret(&caller.id, &app, &name, expected).await?;
    let revision = sealing::bring_about(&control, &caller.id).await?;
    Ok(Json(Revised { revision }))
}

/// Reads the file of keys anew, and encrypts every secret with the newest.
#[utoipa::path(post, path = "/v1/secrets/rotate", tag = "secrets", responses((status = 200, body = Rotated)))]
pub(super) async fn rotate(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Rotated>, Problem> {
    caller.may(Action::Keys, None)?;
    let path = control.vault.load().path().to_owned();
    let vault = Arc::new(Vault::open(&path)?);
    for id in control.store.secret_keys().await? {
        vault.check(&id)?;
    }
    control.vault.store(Arc::clone(&vault));
    let mut encrypted = 0;
    loop {
        match control.store.rotate_secrets(&caller.id, &vault).await?? {
            0 => break,
            some => encrypted += some,
        }
    }
    Ok(Json(Rotated {
        key: vault.newest().to_owned(),
        encrypted,
    }))
}
