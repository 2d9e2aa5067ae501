//! `basic_auth`: user names and passwords (RFC 7617), kept as bcrypt hashes.
//!
//! Invariants: a password is never stored or logged, only a salted digest of one that was right, for a minute; an
//! unknown user takes as long as a wrong password; the credentials do not reach the target.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{BuildContext, BuildError, Filter, Flow, Request, Response, field_name, settings};

/// How long a password that was right is not hashed again: a page with thirty images costs one bcrypt, not thirty-one.
const REMEMBERED: Duration = Duration::from_secs(60);
const REMEMBERED_USERS: usize = 1024;
/// Hashing takes a processor for tens of milliseconds; wrong guesses must not take all of them.
const HASHED_AT_ONCE: usize = 2;
/// Of a random password nobody knows, at the cost most tools use.
const NOBODY: &str = "$2y$10$VkRSX3Wqxk8pJvq0OtC1KeV8zSbhbYlAiFqmUTnAn0v9Uu1JQf6nW";

/// Asks for a user name and a password.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What browsers show when they ask.
    #[serde(default = "realm")]
    realm: String,
    /// Users and their bcrypt hashes.
    #[serde(default)]
    users: BTreeMap<String, String>,
    /// File in the format of `htpasswd -B`.
    file: Option<PathBuf>,
    /// Header that tells the target who it is. The client cannot send it.
    forward_user: Option<String>,
}

fn realm() -> String {
    "Restricted".to_owned()
}

struct BasicAuth {
    challenge: HeaderValue,
    users: HashMap<String, String>,
    forward_user: Option<HeaderName>,
    salt: [u8; 32],
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
    hashing: Arc<Semaphore>,
}

pub(crate) fn build(value: Value, context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let settings: Settings = settings(value)?;
    let refused = |message: String, pointer: &str, help: &str| BuildError {
        message,
        pointer: pointer.to_owned(),
        help: Some(help.to_owned()),
    };
    let mut users = HashMap::new();
    let mut add = |user: &str, hash: &str, pointer: &str| {
        if user.is_empty() || user.contains(':') {
            return Err(refused(
                format!("\"{user}\" cannot be a user name"),
                pointer,
                "without a colon",
            ));
        }
        if !["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind)) || hash.len() != 60 {
            let message = format!("the password of {user} is not a bcrypt hash");
            return Err(refused(message, pointer, "make it with `htpasswd -nB USER`"));
        }
        users.insert(user.to_owned(), hash.to_owned());
        Ok(())
    };
    for (user, hash) in &settings.users {
        add(user, hash, &format!("/users/{user}"))?;
    }
    if let Some(file) = &settings.file {
        let path = context.resolve(file, "/file")?;
        let unreadable = |error| {
            refused(
                format!("cannot read {}: {error}", path.display()),
                "/file",
                "htpasswd -cB FILE USER",
            )
        };
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (user, hash) = line.split_once(':').unwrap_or((line, ""));
            add(user, hash, "/file")?;
        }
    }
    if users.is_empty() {
        return Err(refused(
            "nobody could ever log in".to_owned(),
            "",
            "give `users` or `file`",
        ));
    }
    let realm: String = settings.realm.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
    let mut salt = [0; 32];
    salt[..16].copy_from_slice(Uuid::now_v7().as_bytes());
    salt[16..].copy_from_slice(Uuid::now_v7().as_bytes());
    Ok(Arc::new(BasicAuth {
        challenge: HeaderValue::from_str(&challenge).map_err(|_| {
            refused(
                "the realm has unusable characters".to_owned(),
                "/realm",
                "use visible ASCII",
            )
        })?,
        users,
        forward_user: settings
            .forward_user
            .map(|name| field_name(&name, "/forward_user"))
            .transpose()?,
        salt,
        remembered: Mutex::default(),
        hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
    }))
}

#[async_trait]
impl Filter for BasicAuth {
    fn name(&self) -> &'static str {
        "basic_auth"
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        if let Some(name) = &self.forward_user {
            request.head.remove_header(name);
        }
        let Some((user, password)) = credentials(request.head) else {
            return self.ask("basic_auth_missing");
        };
        if !self.is_right(&user, &password).await {
            return self.ask("basic_auth_failed");
        }
        request.head.remove_header(&header::AUTHORIZATION);
        if let Some(name) = &self.forward_user {
            let Ok(value) = HeaderValue::from_str(&user) else {
                return self.ask("basic_auth_failed");
            };
            let _ = request.head.insert_header(name.clone(), value);
        }
        request.state.user = Some(user);
        Flow::Continue
    }
}

impl BasicAuth {
    fn ask(&self, reason: &'static str) -> Flow {
        let mut response = Response::refusal(StatusCode::UNAUTHORIZED, reason);
        response
            .headers
            .insert(header::WWW_AUTHENTICATE, self.challenge.clone());
        Flow::Respond(response)
    }

    async fn is_right(&self, user: &str, password: &str) -> bool {
        let digest = self.digest(user, password);
        if self
            .remembered
            .lock()
            .get(&digest)
            .is_some_and(|at| at.elapsed() < REMEMBERED)
        {
            return true;
        }
        let known = self.users.get(user).cloned();
        let password = password.to_owned();
        let Ok(permit) = Arc::clone(&self.hashing).acquire_owned().await else {
            return false;
        };
        let hashed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let right = bcrypt::verify(password, known.as_deref().unwrap_or(NOBODY)).unwrap_or(false);
            right && known.is_some()
        });
        let right = hashed.await.unwrap_or(false);
        if right {
            let mut remembered = self.remembered.lock();
            if remembered.len() >= REMEMBERED_USERS {
                remembered.clear();
            }
            remembered.insert(digest, Instant::now());
        }
        right
    }

    fn digest(&self, user: &str, password: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.salt);
        hasher.update((user.len() as u64).to_be_bytes());
        hasher.update(user);
        hasher.update(password);
        hasher.finalize().into()
    }
}

fn credentials(head: &RequestHeader) -> Option<(String, String)> {
    let field = head.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = field.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::{Trial, refused_at};

    fn header(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    #[tokio::test]
    async fn the_right_password_passes_and_goes_no_further() {
        // The least cost there is: the test is about who passes.
        let hash = bcrypt::hash("sésame:open", 4).unwrap().replacen("$2b$", "$2y$", 1);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("users"), format!("# people\n\ngrace:{hash}\n")).unwrap();
        let settings =
            json!({ "users": { "ada": hash }, "file": "users", "realm": "Sel\"vedge", "forward_user": "x-user" });
        let trial = Trial::in_folder("basic_auth", settings, folder.path());
        for (user, password, reason) in [
            ("ada", "sésame:open", ""),
            ("ada", "sésame:open", ""),
            ("grace", "sésame:open", ""),
            ("ada", "wrong", "basic_auth_failed"),
            ("nobody", "sésame:open", "basic_auth_failed"),
        ] {
            let sent = header(user, password);
            let seen = trial
                .request("GET", "/", &[("authorization", &sent), ("x-user", "root")])
                .await;
            assert_eq!(seen.reason(), reason, "{user} {password}");
            let passed = reason.is_empty();
            assert_eq!(seen.header("x-user"), if passed { user } else { "" });
            assert_eq!(seen.header("authorization").is_empty(), passed);
        }
        for bad in ["Basic !!", "Basic", "Bearer x", "Basic YQ=="] {
            let seen = trial.request("GET", "/", &[("authorization", bad)]).await;
            assert_eq!((seen.status(), seen.reason()), (401, "basic_auth_missing"), "{bad}");
            assert_eq!(
                seen.answer_header("www-authenticate"),
                "Basic realm=\"Selvedge\", charset=\"UTF-8\""
            );
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        refused_at("basic_auth", json!({}), "");
        refused_at("basic_auth", json!({ "users": { "a": "plain" } }), "/users/a");
        refused_at("basic_auth", json!({ "users": { "a:b": "x" } }), "/users/a:b");
        refused_at("basic_auth", json!({ "file": "missing" }), "/file");
        assert!(
            bcrypt::verify("anything", NOBODY).is_ok(),
            "the stand-in is a valid hash"
        );
    }
}
