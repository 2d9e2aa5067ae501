//! Making, replacing, copying, checking and deleting databases.
//!
//! All of it happens at the primary; a replica's agent passes the request on as it is, both ways as a stream. What asks
//! this agent about itself is answered here.

mod content;
mod forward;
mod lifecycle;
mod migrate;
mod query;
mod restore;
mod verify;

use std::sync::Arc;

use axum::routing::{delete, get, post};
use axum::{Router, middleware};

use super::api::Api;
use super::primary_site::PrimarySite;
use super::{Refusal, Site};

pub(super) fn routes(api: &Api) -> Router<Api> {
    let at_primary = Router::new()
        .route("/v1/databases", post(lifecycle::create))
        .route("/v1/databases/{database}", delete(lifecycle::delete))
        .route("/v1/databases/{database}/undelete", post(lifecycle::undelete))
        .route("/v1/databases/{database}/branch", post(lifecycle::branch))
        .route(
            "/v1/databases/{database}/content",
            get(content::export).put(content::import),
        )
        .route("/v1/databases/{database}/migrate", post(migrate::migrate))
        .route("/v1/databases/{database}/restore", post(restore::restore))
        .route("/v1/databases/{database}/vacuum", post(lifecycle::vacuum))
        .route("/v1/databases/{database}/schema", get(query::schema))
        .route("/v1/databases/{database}/states/{txid}", get(verify::state))
        .route("/v1/replicas", get(lifecycle::replicas))
        .route_layer(middleware::from_fn_with_state(api.clone(), forward::to_primary));
    Router::new()
        .route("/v1/databases", get(lifecycle::list))
        .route("/v1/databases/{database}/query", post(query::query))
        .route("/v1/databases/{database}/verify", post(verify::verify))
        .merge(at_primary)
}

impl Api {
    fn primary(&self) -> Result<&Arc<PrimarySite>, Refusal> {
        match &*self.site {
            Site::Primary(site) => Ok(site),
            Site::Replica(_) => Err(Refusal::NotPrimary),
        }
    }
}
