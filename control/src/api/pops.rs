//! PoPs: how they join, report and leave, and when all of them have a change.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use selvedge_replication::chain;
use selvedge_schema::sealed::PublicSealingKey;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Control;
use super::body::{Asked, Named, Received};
use super::deployments::reconsider;
use super::idempotency::ShowsSecret;
use super::names::check_name;
use super::page::{Page, Paging};
use super::problem::{Kind, Problem};
use crate::auth::access::{Access, Action, Role};
use crate::auth::caller::Caller;
use crate::auth::key::Key;
use crate::fleet::Propagation;
use crate::sealing;
use crate::store::keys::NewKey;
use crate::store::now_ms;
use crate::store::pops::{Pop, Report};

/// How long an invitation holds unless it says otherwise, and at most.
const INVITED_SECONDS: u32 = 60 * 60;
const LONGEST_INVITED_SECONDS: u32 = 30 * 24 * 60 * 60;
/// How long a change is waited for unless the request says otherwise, and at most: shorter than proxies wait.
const WAIT_MS: u64 = 10_000;
const LONGEST_WAIT_MS: u64 = 30_000;
/// Deployments one PoP has at a time.
const DEPLOYMENTS: usize = 10_000;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Invite {
    /// The only PoP that may join with it; needed by one that joins anew.
    #[serde(default)]
    pop: Option<String>,
    /// How long it holds: an hour, without it.
    #[serde(default)]
    seconds: Option<u32>,
}

/// A token with which one PoP joins, once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invitation {
    token: String,
    expires_ms: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Join {
    name: String,
    /// Its public X25519 key, in base64: apps' secrets are sealed to it. Without one it gets none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    sealing_key: Option<PublicSealingKey>,
}

/// What a PoP shows from now on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Joined {
    pop: String,
    key: String,
}

/// What control answers to a report.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Heard {
    /// The newest revision there is.
    revision: i64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Patience {
    /// How long to wait at most.
    #[param(minimum = 0, maximum = 30000)]
    wait_ms: Option<u64>,
}

/// Every PoP, as it was when it was heard last.
#[utoipa::path(get, path = "/v1/pops", tag = "pops", params(Paging), responses((status = 200, body = Page<Pop>)))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<Pop>>, Problem> {
    caller.may(Action::Read, None)?;
    let pops = control.store.pops(&paging.after()?, paging.wanted()?).await?;
    Ok(Json(paging.page(pops, |pop| pop.name.clone())))
}

/// Makes a join token; it is shown this once.
#[utoipa::path(post, path = "/v1/pops/invite", tag = "pops", request_body = Invite, responses((status = 201, body = Invitation)))]
pub(super) async fn invite(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Received(asked): Received<Invite>,
) -> Result<Response, Problem> {
    caller.may(Action::Pops, None)?;
    if let Some(pop) = &asked.pop {
        check_name("the name of a PoP", pop)?;
    }
    let seconds = asked.seconds.unwrap_or(INVITED_SECONDS);
    if !(1..=LONGEST_INVITED_SECONDS).contains(&seconds) {
        return Err(Problem::new(
            Kind::Invalid,
            format!("an invitation holds 1 to {LONGEST_INVITED_SECONDS} seconds"),
        ));
    }
    let token = Key::make();
    let expires_ms = now_ms() + i64::from(seconds) * 1000;
    control
        .store
        .invite(&caller.id, &token, asked.pop.as_deref(), expires_ms)
        .await?;
    let token = token.reveal().to_owned();
    let mut response = (StatusCode::CREATED, Json(Invitation { token, expires_ms })).into_response();
    response.extensions_mut().insert(ShowsSecret);
    Ok(response)
}

/// A PoP joins with a join token in place of a key, and gets its key.
#[utoipa::path(post, path = "/v1/pops", tag = "pops", request_body = Join, responses((status = 201, body = Joined)))]
pub(super) async fn join(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Received(asked): Received<Join>,
) -> Result<(StatusCode, Json<Joined>), Problem> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown
        .and_then(|value| value.split_once(' '))
        .map(|(_, token)| token.trim());
    let wrong = || {
        let problem = Problem::new(
            Kind::WrongKey,
            "the join token is mistyped, unknown, used, expired or another PoP's",
        );
        problem.help("ask an admin for one: POST /v1/pops/invite")
    };
    let token = shown.and_then(Key::parse).ok_or_else(wrong)?;
    check_name("the name of a PoP", &asked.name)?;
    let key = Key::make();
    let new = NewKey {
        name: asked.name.clone(),
        access: Access {
            role: Role::Pop,
            app: None,
            actions: None,
        },
        expires_ms: None,
    };
    use crate::store::{Refused, change::ChangeError};
    match control
        .store
        .join(&token, &asked.name, &key, &new, asked.sealing_key)
        .await
    {
        Ok(()) => {}
        Err(ChangeError::Refused(Refused::Conflict(_))) => return Err(wrong()),
        Err(ChangeError::Refused(refused @ Refused::Exists { .. })) => {
            let help = format!(
                "to let it join anew, invite it by its name: {{ \"pop\": \"{}\" }}",
                asked.name
            );
            return Err(Problem::from(refused).help(help));
        }
        Err(error) => return Err(error.into()),
    }
    bring_secrets(&control, key.id()).await;
    let joined = Joined {
        pop: asked.name,
        key: key.reveal().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(joined)))
}

/// Removes a PoP; its key is refused from now on.
#[utoipa::path(delete, path = "/v1/pops/{pop}", tag = "pops", params(("pop" = String, Path)), responses((status = 204)))]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(pop): Named<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Action::Pops, None)?;
    control.store.remove_pop(&caller.id, &pop).await?;
    control.fleet.forget(&pop);
    bring_secrets(&control, &caller.id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// A PoP says what it has, every few seconds and as soon as something has changed.
#[utoipa::path(
    post, path = "/v1/pops/{pop}/report", tag = "pops", params(("pop" = String, Path)), request_body = Report,
    responses((status = 200, body = Heard))
)]
pub(super) async fn report(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(pop): Named<String>,
    Received(report): Received<Report>,
) -> Result<Json<Heard>, Problem> {
    caller.may(Action::Report, None)?;
    if caller.name != pop {
        return Err(Problem::new(
            Kind::Forbidden,
            format!("this is the key of {}, not of {pop}", caller.name),
        ));
    }
    let mut newest = control.store.config.revision();
    if report.revision > newest {
        // Another process of control may have made it.
        newest = control.store.config.learn_revision().await?;
    }
    if !(0..=newest).contains(&report.revision) {
        return Err(Problem::new(
            Kind::Invalid,
            format!("there is no revision {} yet", report.revision),
        ));
    }
    if report.deployments.len() > DEPLOYMENTS {
        return Err(Problem::new(
            Kind::Invalid,
            format!("a report has at most {DEPLOYMENTS} deployments"),
        ));
    }
    if let Some(key) = &report.sealing_key {
        let key = key.to_string();
        if !control.store.has_sealing_key(&pop, &key).await? {
            control.store.set_sealing_key(&caller.id, &pop, &key).await?;
            bring_secrets(&control, &caller.id).await;
        }
    }
    let now = now_ms();
    // Whoever waits for the revision is told at once; what is kept is for those who look later.
    control.fleet.hear(&pop, report.revision, now);
    if control.store.keep_report(&pop, &report, now).await? {
        for id in report.deployments.keys() {
            if let Some(deployment) = control.store.deployment(id).await? {
                reconsider(&control, &caller.id, &deployment).await?;
            }
        }
    }
    Ok(Json(Heard { revision: newest }))
}

/// Lets the PoPs have what is theirs now. What cannot be done is done later; the PoP is there all the same.
async fn bring_secrets(control: &Control, actor: &str) {
    if let Err(error) = sealing::bring_about(control, actor).await {
        tracing::warn!(error = chain(&error), "secrets could not be sealed for the PoPs yet");
    }
}

/// Waits until every live PoP has the revision, and says since when each has.
#[utoipa::path(
    get, path = "/v1/changes/{revision}", tag = "pops", params(("revision" = i64, Path), Patience),
    responses((status = 200, body = Propagation))
)]
pub(super) async fn changes(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(revision): Named<i64>,
    Asked(patience): Asked<Patience>,
) -> Result<Json<Propagation>, Problem> {
    caller.may_somewhere(Action::Read)?;
    let newest = control.store.config.revision();
    if !(0..=newest).contains(&revision) {
        return Err(Problem::not_found("revision", &revision.to_string()).help(format!("the newest is {newest}")));
    }
    let patience = Duration::from_millis(patience.wait_ms.unwrap_or(WAIT_MS).min(LONGEST_WAIT_MS));
    Ok(Json(control.fleet.wait(revision, patience, now_ms).await))
}
