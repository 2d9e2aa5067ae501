//! Webhooks: who is told of what happens to deployments, and whether they were.

use std::collections::BTreeSet;
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
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use crate::auth::access::Action;
use crate::auth::caller::Caller;
use crate::store::now_ms;
use crate::store::webhooks::{Delivery, Event, Webhook};
use crate::vault::Value;
use crate::webhooks::{check_url, make_secret};

const URL_BYTES: usize = 2048;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateWebhook {
    /// An https URL with a public host.
    url: String,
    events: Vec<Event>,
}

/// A webhook that was made; its secret is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedWebhook {
    #[serde(flatten)]
    webhook: Webhook,
    /// What `webhook-signature` is made with, as the libraries of Standard Webhooks take it.
    secret: String,
}

/// All webhooks.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", params(Paging), responses((status = 200, body = Page<Webhook>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Webhook>>, Problem> {
    caller.may(Action::Webhooks, None)?;
    let webhooks = control.store.webhooks(&paging.after()?, paging.wanted()?).await?;
    Ok(Json(paging.page(webhooks, |webhook| webhook.id.clone())))
}

/// Makes a webhook. What happens from now on is sent to it, signed as Standard Webhooks has it.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", request_body = CreateWebhook,
    responses((status = 201, body = CreatedWebhook))
)]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Received(asked): Received<CreateWebhook>,
) -> Result<Response, Problem> {
    caller.may(Action::Webhooks, None)?;
    if asked.url.len() > URL_BYTES {
        return Err(Problem::new(
            Kind::Invalid,
            format!("a URL has at most {URL_BYTES} bytes"),
        ));
    }
    check_url(&asked.url, control.allow_private_webhooks).map_err(|error| {
        Problem::new(Kind::Invalid, format!("`url` cannot be a webhook's: {error}"))
            .help("use https://… with a public host, or start control with `webhooks: { allow_private: true }`")
    })?;
    let events: BTreeSet<Event> = asked.events.into_iter().collect();
    if events.is_empty() {
        return Err(Problem::new(
            Kind::Invalid,
            "a webhook is told of nothing without `events`",
        ));
    }
    let secret = make_secret();
    let webhook = Webhook {
        id: uuid::Uuid::now_v7().simple().to_string(),
        url: asked.url,
        created_ms: now_ms(),
        events: events.into_iter().collect(),
    };
    let encrypted = control
        .vault
        .load()
        .encrypt("", &webhook.id, &Value::from(secret.clone()));
    control.store.add_webhook(&caller.id, &webhook, encrypted).await?;
    let created = CreatedWebhook { webhook, secret };
    let mut response = (StatusCode::CREATED, Json(created)).into_response();
    response.extensions_mut().insert(ShowsSecret);
    Ok(response)
}

/// Removes a webhook; what waits for it is not sent.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Action::Webhooks, None)?;
    control.store.delete_webhook(&caller.id, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What it was told, newest first, and what waits.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = String, Path), Paging),
    responses((status = 200, body = Page<Delivery>))
)]
pub(super) async fn deliveries(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Delivery>>, Problem> {
    caller.may(Action::Webhooks, None)?;
    let found = control.store.webhook(&id).await?;
    found.ok_or_else(|| Problem::not_found("webhook", &id))?;
    let deliveries = control
        .store
        .webhook_deliveries(&id, paging.after_number()?, paging.wanted()?)
        .await?;
    Ok(Json(paging.page(deliveries, |delivery| delivery.number.to_string())))
}
