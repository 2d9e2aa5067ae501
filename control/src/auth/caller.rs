//! Every request under `/v1` and `/ofrep` but a PoP's first shows a key, before anything else is looked at.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, header, request::Parts};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;

use super::access::{Access, Action};
use super::key::{Key, same};
use super::rate::Rates;
use crate::api::Control;
use crate::api::problem::Problem;
use crate::store::{Store, now_ms};

/// The use of a key is written down at most once in this time.
const USED_EVERY_MS: i64 = 60_000;

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) access: Access,
}

impl Caller {
    /// Whether they may do this to one app; or, with `None`, to what belongs to no app.
    pub(crate) fn may(&self, action: Action, app: Option<&str>) -> Result<(), Problem> {
        match self.access.may(action, app) {
            true => Ok(()),
            false => Err(Problem::forbidden(action, app)),
        }
    }

    /// Whether they may do this to any app at all: to what apps share, such as blobs.
    pub(crate) fn may_somewhere(&self, action: Action) -> Result<(), Problem> {
        self.may(action, self.access.app.as_deref())
    }
}

#[derive(Default)]
pub(crate) struct Keys {
    rates: Rates,
    /// When the use of each was last written down.
    used: Mutex<HashMap<String, i64>>,
}

impl Keys {
    async fn judge(&self, store: &Arc<Store>, headers: &HeaderMap) -> Result<Caller, Problem> {
        let shown = headers.get(header::AUTHORIZATION).ok_or_else(Problem::no_key)?;
        let shown = shown.to_str().ok().and_then(|value| value.split_once(' '));
        let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let key = shown
            .and_then(|(_, text)| Key::parse(text.trim()))
            .ok_or_else(Problem::wrong_key)?;
        let known = store.key(key.id()).await?.ok_or_else(Problem::wrong_key)?;
        let now = now_ms();
        if !same(&known.digest, &key.digest()) || !known.is_valid(now) {
            return Err(Problem::wrong_key());
        }
        self.rates.check(&known.id).map_err(Problem::too_often)?;
        self.note_use(store, &known.id, now);
        Ok(Caller {
            access: known.access(),
            id: known.id,
            name: known.name,
        })
    }

    fn note_use(&self, store: &Arc<Store>, id: &str, now: i64) {
        let mut used = self.used.lock();
        if used.get(id).is_some_and(|last| now - last < USED_EVERY_MS) {
            return;
        }
        used.retain(|_, last| now - *last < USED_EVERY_MS);
        used.insert(id.to_owned(), now);
        let (store, id) = (Arc::clone(store), id.to_owned());
        tokio::spawn(async move {
            if let Err(error) = store.note_use(&id, now).await {
                tracing::warn!(%error, "when a key was used could not be written down");
            }
        });
    }
}

/// Lets nobody through without a key; handlers find the [`Caller`] it belongs to.
pub(crate) async fn authenticate(
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = control.keys.judge(&control.store, request.headers()).await?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(Problem::no_key)
    }
}
