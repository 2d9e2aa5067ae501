//! Whether control lives, and whether it can work.

use std::sync::Arc;

use axum::extract::State;

use super::Control;
use super::problem::{Kind, Problem};

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = String)))]
pub(super) async fn alive() -> &'static str {
    "alive\n"
}

/// Whether changes can be made: the agent beside control is heard, and its databases answer.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses((status = 200, body = String)))]
pub(super) async fn ready(State(control): State<Arc<Control>>) -> Result<&'static str, Problem> {
    if !control.store.is_connected() {
        return Err(Problem::new(Kind::Unavailable, "the agent beside control is not heard"));
    }
    control.store.key("").await?;
    Ok("ready\n")
}
