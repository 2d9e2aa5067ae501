//! Keys: who may do what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Control;
use super::body::{Asked, Named, Received};
use super::idempotency::ShowsSecret;
use super::names::check_app;
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use crate::auth::access::{Access, Action, Role};
use crate::auth::caller::Caller;
use crate::auth::key::Key;
use crate::store::keys::{KnownKey, NewKey};
use crate::store::now_ms;

const NAME_BYTES: usize = 128;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKey {
    /// What people call it.
    name: String,
    role: Role,
    /// The one app it reaches; all, without one.
    app: Option<String>,
    /// What it is confined to; all its role has, without a list.
    actions: Option<Vec<Action>>,
    /// Milliseconds since 1970; never, without it.
    expires_ms: Option<i64>,
}

/// A key that was made; its text is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedKey {
    id: String,
    key: String,
}

/// All keys but those of PoPs.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(Paging), responses((status = 200, body = Page<KnownKey>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<KnownKey>>, Problem> {
    caller.may(Action::Keys, None)?;
    let keys = control.store.keys(&paging.after()?, paging.wanted()?).await?;
    Ok(Json(paging.page(keys, |key| key.id.clone())))
}

/// Makes a key that may no more than the one that makes it.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = CreateKey, responses((status = 201, body = CreatedKey)))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Received(asked): Received<CreateKey>,
) -> Result<Response, Problem> {
    caller.may(Action::Keys, asked.app.as_deref())?;
    if !(1..=NAME_BYTES).contains(&asked.name.len()) {
        return Err(Problem::new(
            Kind::Invalid,
            format!("a key's name has 1 to {NAME_BYTES} bytes"),
        ));
    }
    if let Some(app) = &asked.app {
        check_app(app)?;
    }
    if asked.expires_ms.is_some_and(|expires| expires <= now_ms()) {
        return Err(Problem::new(Kind::Invalid, "`expires_ms` has passed already"));
    }
    let access = Access {
        role: asked.role,
        app: asked.app,
        actions: asked.actions,
    };
    if !caller.access.may_give(&access) {
        let problem = Problem::new(Kind::Forbidden, "a key cannot give what it does not have");
        return Err(
            problem.help("ask for a lower role, fewer actions or one app; PoPs join with `POST /v1/pops/invite`")
        );
    }
    let key = Key::make();
    let new = NewKey {
        name: asked.name,
        access,
        expires_ms: asked.expires_ms,
    };
    control.store.add_key(&caller.id, &key, &new).await?;
    let created = CreatedKey {
        id: key.id().to_owned(),
        key: key.reveal().to_owned(),
    };
    let mut response = (StatusCode::CREATED, Json(created)).into_response();
    response.extensions_mut().insert(ShowsSecret);
    Ok(response)
}

/// One key; `self` is the one that asks.
#[utoipa::path(get, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path)), responses((status = 200, body = KnownKey)))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<String>,
) -> Result<Json<KnownKey>, Problem> {
    let id = match id.as_str() {
        "self" => caller.id.clone(),
        _ => id,
    };
    if id != caller.id {
        caller.may(Action::Keys, None)?;
    }
    let key = control.store.key(&id).await?;
    key.map(Json).ok_or_else(|| Problem::not_found("key", &id))
}

/// From now on the key is refused.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Action::Keys, None)?;
    let key = control
        .store
        .key(&id)
        .await?
        .ok_or_else(|| Problem::not_found("key", &id))?;
    if key.role == Role::Pop {
        let problem = Problem::new(Kind::Conflict, "this is the key of a PoP");
        return Err(problem.help(format!("remove the PoP: DELETE /v1/pops/{}", key.name)));
    }
    if !caller.access.may_give(&key.access()) {
        return Err(Problem::new(
            Kind::Forbidden,
            "this key may more than the one that asks",
        ));
    }
    control.store.revoke_key(&caller.id, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
