//! Keys that tokens are verified with: fixed ones, or a JWKS (RFC 7517) that changes while it is used.
//!
//! Invariants: every key says which algorithms it serves, so a token never chooses; a symmetric key never comes from a
//! JWKS; a set that cannot be read again stays as it was.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use parking_lot::Mutex;

use crate::{BuildContext, BuildError};

/// A set from a URL is fetched again after this long; identity providers announce new keys hours before they use them.
const URL_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// A file is looked at again after this long.
const FILE_LIFETIME: Duration = Duration::from_secs(10);
/// Between two attempts, whatever tokens with unknown keys arrive meanwhile.
const PAUSE: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// A set of a hundred RSA keys takes 60 KiB.
const LARGEST_SET: usize = 1024 * 1024;

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

/// RFC 7518 section 3.2: a key at least as long as the hash.
const SHORTEST_SECRET: usize = 32;

pub(crate) struct Key {
    pub(crate) id: Option<String>,
    /// Never empty, all of one family.
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) decoding: DecodingKey,
}

pub(crate) enum Keys {
    Fixed(Arc<Vec<Key>>),
    Changing(Jwks),
}

/// No key was ever read.
#[derive(Debug)]
pub(crate) struct Unavailable;

impl Keys {
    /// For tokens signed with a shared secret.
    pub(crate) fn secret(secret: &str, pointer: &str) -> Result<Keys, BuildError> {
        if secret.len() < SHORTEST_SECRET {
            return Err(BuildError {
                message: format!(
                    "the secret has {} bytes, HS256 needs at least {SHORTEST_SECRET}",
                    secret.len()
                ),
                pointer: pointer.to_owned(),
                help: Some("make one with `openssl rand -base64 48`".to_owned()),
            });
        }
        Ok(Keys::Fixed(Arc::new(vec![Key {
            id: None,
            algorithms: HMAC.to_vec(),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
        }])))
    }

    /// For tokens signed with the private half of the key in a PEM file.
    pub(crate) fn public_key(path: &Path, pointer: &str) -> Result<Keys, BuildError> {
        let refused = |message: String| BuildError {
            message,
            pointer: pointer.to_owned(),
            help: Some("a PEM file with `BEGIN PUBLIC KEY`: RSA, P-256, P-384 or Ed25519".to_owned()),
        };
        let pem = fs::read(path).map_err(|error| refused(format!("cannot read {}: {error}", path.display())))?;
        let parsed = DecodingKey::from_rsa_pem(&pem)
            .map(|key| (RSA.to_vec(), key))
            .or_else(|_| DecodingKey::from_ec_pem(&pem).map(|key| (vec![Algorithm::ES256, Algorithm::ES384], key)))
            .or_else(|_| DecodingKey::from_ed_pem(&pem).map(|key| (vec![Algorithm::EdDSA], key)));
        let (algorithms, decoding) = parsed.map_err(|_| refused(format!("{} has no usable key", path.display())))?;
        Ok(Keys::Fixed(Arc::new(vec![Key {
            id: None,
            algorithms,
            decoding,
        }])))
    }

    /// A path or a URL. A file is read now, so that a mistake is found now; a URL when the first token comes.
    pub(crate) fn jwks(place: &str, context: &BuildContext, pointer: &str) -> Result<Keys, BuildError> {
        let refused = |message: String, help: &str| BuildError {
            message,
            pointer: pointer.to_owned(),
            help: Some(help.to_owned()),
        };
        if place.starts_with("http://") || place.starts_with("https://") {
            let url =
                reqwest::Url::parse(place).map_err(|error| refused(format!("not a URL: {error}"), "https://…"))?;
            let host = url.host_str().unwrap_or_default();
            let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
            if url.scheme() == "http" && !local {
                return Err(refused(format!("{place} would be read unencrypted"), "use https://"));
            }
            return Ok(Keys::Changing(Jwks::new(Place::Url(url))));
        }
        let path = context.resolve(Path::new(place), pointer)?;
        let jwks = Jwks::new(Place::File(path.clone()));
        let keys = read_file(&path).map_err(|why| refused(why, "a JSON file `{\"keys\": […]}` (RFC 7517)"))?;
        jwks.state.lock().store(keys, modified(&path));
        Ok(Keys::Changing(jwks))
    }

    /// The keys to try for a token that names `id`.
    pub(crate) async fn for_token(&self, id: Option<&str>) -> Result<Arc<Vec<Key>>, Unavailable> {
        match self {
            Keys::Fixed(keys) => Ok(Arc::clone(keys)),
            Keys::Changing(jwks) => jwks.for_token(id).await,
        }
    }
}

enum Place {
    File(PathBuf),
    Url(reqwest::Url),
}

pub(crate) struct Jwks {
    place: Place,
    state: Mutex<State>,
    /// Held by whoever reads the set again.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    keys: Arc<Vec<Key>>,
    read: Option<Instant>,
    tried: Option<Instant>,
    modified: Option<SystemTime>,
}

impl State {
    fn store(&mut self, keys: Vec<Key>, modified: Option<SystemTime>) {
        self.keys = Arc::new(keys);
        self.read = Some(Instant::now());
        self.modified = modified;
    }

    fn knows(&self, id: Option<&str>) -> bool {
        !self.keys.is_empty() && id.is_none_or(|id| self.keys.iter().any(|key| key.id.as_deref() == Some(id)))
    }
}

impl Jwks {
    fn new(place: Place) -> Jwks {
        Jwks {
            place,
            state: Mutex::default(),
            reading: tokio::sync::Mutex::new(()),
        }
    }

    async fn for_token(&self, id: Option<&str>) -> Result<Arc<Vec<Key>>, Unavailable> {
        if self.needs_reading(id) {
            let known = self.state.lock().knows(id);
            // Whoever knows the key goes on with it while somebody else reads; the others wait for the new set.
            let guard = match known {
                true => self.reading.try_lock().ok(),
                false => Some(self.reading.lock().await),
            };
            if guard.is_some() && self.needs_reading(id) {
                self.read_again().await;
            }
        }
        let state = self.state.lock();
        match state.keys.is_empty() {
            true => Err(Unavailable),
            false => Ok(Arc::clone(&state.keys)),
        }
    }

    fn needs_reading(&self, id: Option<&str>) -> bool {
        let lifetime = match self.place {
            Place::File(_) => FILE_LIFETIME,
            Place::Url(_) => URL_LIFETIME,
        };
        let state = self.state.lock();
        let fresh = state.read.is_some_and(|read| read.elapsed() < lifetime);
        let tried_lately = state.tried.is_some_and(|tried| tried.elapsed() < PAUSE);
        !(tried_lately || fresh && state.knows(id))
    }

    async fn read_again(&self) {
        self.state.lock().tried = Some(Instant::now());
        let outcome = match &self.place {
            Place::File(path) => {
                let now = modified(path);
                if now.is_some() && now == self.state.lock().modified {
                    self.state.lock().read = Some(Instant::now());
                    return;
                }
                read_file(path).map(|keys| (keys, now))
            }
            Place::Url(url) => fetch(url).await.map(|keys| (keys, None)),
        };
        match outcome {
            Ok((keys, modified)) => self.state.lock().store(keys, modified),
            Err(why) => tracing::warn!(why, "keys not read again; the previous ones stay"),
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

fn read_file(path: &Path) -> Result<Vec<Key>, String> {
    let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text).map_err(|why| format!("{}: {why}", path.display()))
}

async fn fetch(url: &reqwest::Url) -> Result<Vec<Key>, String> {
    let refused = |error: reqwest::Error| format!("{url}: {error}");
    let client = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .build()
        .map_err(refused)?;
    let mut response = client
        .get(url.clone())
        .send()
        .await
        .and_then(|r| r.error_for_status())
        .map_err(refused)?;
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(refused)? {
        text.extend_from_slice(&chunk);
        if text.len() > LARGEST_SET {
            return Err(format!("{url}: larger than {LARGEST_SET} bytes"));
        }
    }
    parse(&text).map_err(|why| format!("{url}: {why}"))
}

fn parse(text: &[u8]) -> Result<Vec<Key>, String> {
    // Key by key: one of a kind nobody here knows must not take the others with it.
    let set: serde_json::Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    let listed = set
        .get("keys")
        .and_then(|keys| keys.as_array())
        .ok_or("has no list `keys`")?;
    let single = |key: &serde_json::Value| {
        let set = serde_json::json!({ "keys": [key] });
        serde_json::from_value::<JwkSet>(set).ok()?.keys.pop()
    };
    let keys: Vec<Key> = listed
        .iter()
        .filter_map(single)
        .filter_map(|jwk| usable(&jwk))
        .collect();
    if keys.is_empty() {
        Err("has no key for verifying RS, PS, ES or EdDSA signatures".to_owned())
    } else {
        Ok(keys)
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    if jwk
        .common
        .public_key_use
        .as_ref()
        .is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
    {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => RSA.to_vec(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => return None,
    };
    if let Some(named) = &jwk.common.key_algorithm {
        algorithms.retain(|algorithm| format!("{algorithm:?}") == named.to_string());
    }
    let decoding = DecodingKey::from_jwk(jwk).ok()?;
    (!algorithms.is_empty()).then(|| Key {
        id: jwk.common.key_id.clone(),
        algorithms,
        decoding,
    })
}
