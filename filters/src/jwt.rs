//! `jwt`: lets a request pass with a signed token (RFC 7519, with the advice of RFC 8725).
//!
//! Invariants: the algorithms are those of the key and of the settings, never the token's choice alone; headers that
//! carry claims are taken from the token or not there at all, whatever the client sent.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, StatusCode, header};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use selvedge_schema::Text;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    BuildContext, BuildError, Filter, Flow, Request, Response, field_name,
    keys::{Key, Keys},
    settings,
};

/// Longer tokens do not fit the header section anyway.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Verifies a JSON Web Token. Exactly one of `jwks`, `secret` and `public_key` says with which key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// File or URL of the key set (RFC 7517); read again while it serves.
    jwks: Option<String>,
    /// Shared secret for HS256, HS384 and HS512; at least 32 bytes.
    secret: Option<String>,
    /// PEM file with one public key.
    public_key: Option<PathBuf>,
    /// Accepted algorithms; by default all that the key serves.
    #[schemars(with = "Option<Vec<AlgorithmName>>")]
    algorithms: Option<Vec<Algorithm>>,
    /// The token must be meant for this audience, or one of these.
    audience: Option<OneOrMore>,
    /// The token must come from this issuer, or one of these.
    issuer: Option<OneOrMore>,
    /// How far clocks may differ.
    #[serde(default = "leeway")]
    leeway: Text<Duration>,
    /// Header that carries the token, with or without `Bearer`.
    #[serde(default = "authorization")]
    header: String,
    /// Cookie that carries the token, looked at when the header does not.
    cookie: Option<String>,
    /// Claims for the target: claim to header. The client cannot send these headers.
    #[serde(default)]
    forward_claims: BTreeMap<String, String>,
    /// Let requests without any token pass.
    #[serde(default)]
    optional: bool,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
#[schemars(inline)]
enum AlgorithmName {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(&self) -> Vec<&str> {
        match self {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts.iter().map(String::as_str).collect(),
        }
    }
}

fn leeway() -> Text<Duration> {
    Text(Duration::from_secs(60))
}

fn authorization() -> String {
    "authorization".to_owned()
}

struct Jwt {
    keys: Keys,
    algorithms: Option<Vec<Algorithm>>,
    /// Everything but the algorithms.
    validation: Validation,
    header: HeaderName,
    cookie: Option<String>,
    forward: Vec<(String, HeaderName)>,
    optional: bool,
}

pub(crate) fn build(value: Value, context: &BuildContext) -> Result<Arc<dyn Filter>, BuildError> {
    let settings: Settings = settings(value)?;
    let keys = match (&settings.jwks, &settings.secret, &settings.public_key) {
        (Some(place), None, None) => Keys::jwks(place, context, "/jwks")?,
        (None, Some(secret), None) => Keys::secret(secret, "/secret")?,
        (None, None, Some(path)) => Keys::public_key(&context.resolve(path, "/public_key")?, "/public_key")?,
        _ => {
            return Err(BuildError {
                message: "exactly one of jwks, secret and public_key says how tokens are verified".to_owned(),
                pointer: String::new(),
                help: None,
            });
        }
    };
    let mut validation = Validation {
        leeway: settings.leeway.0.as_secs(),
        validate_nbf: true,
        validate_aud: settings.audience.is_some(),
        ..Validation::default()
    };
    let mut required = vec!["exp"];
    if let Some(audience) = &settings.audience {
        validation.set_audience(&audience.list());
        required.push("aud");
    }
    if let Some(issuer) = &settings.issuer {
        validation.set_issuer(&issuer.list());
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    let forwarded = settings.forward_claims.iter();
    let forward =
        forwarded.map(|(claim, name)| Ok((claim.clone(), field_name(name, &format!("/forward_claims/{claim}"))?)));
    Ok(Arc::new(Jwt {
        keys,
        algorithms: settings.algorithms,
        validation,
        header: field_name(&settings.header, "/header")?,
        cookie: settings.cookie,
        forward: forward.collect::<Result<_, BuildError>>()?,
        optional: settings.optional,
    }))
}

/// Why a token does not let its request pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refused {
    Missing,
    Invalid,
    Expired,
    /// No key could be read so far: ours to mend, not the client's.
    NoKeys,
}

impl Refused {
    fn response(self) -> Response {
        let (status, reason, challenge) = match self {
            Refused::Missing => (StatusCode::UNAUTHORIZED, "jwt_missing", Some("Bearer")),
            Refused::Invalid => (
                StatusCode::UNAUTHORIZED,
                "jwt_invalid",
                Some("Bearer error=\"invalid_token\""),
            ),
            Refused::Expired => (
                StatusCode::UNAUTHORIZED,
                "jwt_expired",
                Some("Bearer error=\"invalid_token\", error_description=\"expired\""),
            ),
            Refused::NoKeys => (StatusCode::SERVICE_UNAVAILABLE, "jwt_keys_unavailable", None),
        };
        let mut response = Response::refusal(status, reason);
        if let Some(challenge) = challenge {
            response
                .headers
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

#[async_trait]
impl Filter for Jwt {
    fn name(&self) -> &'static str {
        "jwt"
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Flow {
        for (_, name) in &self.forward {
            request.head.remove_header(name);
        }
        let Some(token) = self.token(request.head) else {
            return if self.optional {
                Flow::Continue
            } else {
                Flow::Respond(Refused::Missing.response())
            };
        };
        match self
            .verify(&token)
            .await
            .and_then(|claims| self.forward(&claims, request))
        {
            Ok(()) => Flow::Continue,
            Err(refused) => Flow::Respond(refused.response()),
        }
    }
}

impl Jwt {
    fn token(&self, head: &RequestHeader) -> Option<String> {
        let field = head.headers.get(&self.header).and_then(|value| value.to_str().ok());
        let token = field.and_then(|field| match field.split_once(' ') {
            Some((scheme, token)) => scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()),
            None => (self.header != header::AUTHORIZATION).then(|| field.to_owned()),
        });
        token
            .or_else(|| cookie(head, self.cookie.as_deref()?))
            .filter(|token| !token.is_empty())
    }

    async fn verify(&self, token: &str) -> Result<Value, Refused> {
        if token.len() > LONGEST_TOKEN {
            return Err(Refused::Invalid);
        }
        let head = decode_header(token).map_err(|_| Refused::Invalid)?;
        let keys = self
            .keys
            .for_token(head.kid.as_deref())
            .await
            .map_err(|_| Refused::NoKeys)?;
        let mut refused = Refused::Invalid;
        for key in keys
            .iter()
            .filter(|key| may_be_meant(key, head.kid.as_deref(), head.alg))
        {
            let mut validation = self.validation.clone();
            validation.algorithms = key.algorithms.clone();
            if let Some(allowed) = &self.algorithms {
                validation.algorithms.retain(|algorithm| allowed.contains(algorithm));
            }
            if !validation.algorithms.contains(&head.alg) {
                continue;
            }
            match decode::<Value>(token, &key.decoding, &validation) {
                Ok(verified) => return Ok(verified.claims),
                Err(error) if *error.kind() == ErrorKind::ExpiredSignature => refused = Refused::Expired,
                Err(_) => {}
            }
        }
        Err(refused)
    }

    fn forward(&self, claims: &Value, request: &mut Request<'_>) -> Result<(), Refused> {
        for (claim, name) in &self.forward {
            let text = match claims.get(claim) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Bool(flag)) => flag.to_string(),
                Some(other) => other.to_string(),
            };
            let visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            let value = HeaderValue::from_str(&text)
                .ok()
                .filter(|_| visible)
                .ok_or(Refused::Invalid)?;
            let _ = request.head.insert_header(name.clone(), value);
        }
        request.state.user = claims.get("sub").and_then(Value::as_str).map(str::to_owned);
        Ok(())
    }
}

/// A token that names a key is tried with that key only; one that does not, with every key of its algorithm.
fn may_be_meant(key: &Key, id: Option<&str>, algorithm: Algorithm) -> bool {
    let named = match (id, &key.id) {
        (Some(wanted), Some(id)) => wanted == id,
        _ => true,
    };
    named && key.algorithms.contains(&algorithm)
}

fn cookie(head: &RequestHeader, name: &str) -> Option<String> {
    let fields = head
        .headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = fields
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::json;

    use super::*;
    use crate::test_support::{Trial, refused_at};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const EC_PRIVATE: &str = include_str!("../testdata/p256.pem");
    const EC_PUBLIC: &str = include_str!("../testdata/p256.pub.pem");
    const RSA_PRIVATE: &str = include_str!("../testdata/rsa.pem");

    fn claims(more: Value) -> Value {
        let mut claims = json!({ "sub": "ada", "exp": get_current_timestamp() + 600 });
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        claims
    }

    fn signed(algorithm: Algorithm, id: Option<&str>, claims: &Value, key: &EncodingKey) -> String {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        format!("Bearer {}", encode(&header, claims, key).unwrap())
    }

    fn hs256(more: Value) -> String {
        signed(
            Algorithm::HS256,
            None,
            &claims(more),
            &EncodingKey::from_secret(SECRET.as_bytes()),
        )
    }

    async fn reason(trial: &Trial, token: &str) -> &'static str {
        trial.request("GET", "/", &[("authorization", token)]).await.reason()
    }

    #[tokio::test]
    async fn claims_are_checked() {
        let settings = json!({ "secret": SECRET, "audience": "shop", "issuer": ["id"], "leeway": "60s" });
        let trial = Trial::of("jwt", settings);
        let now = get_current_timestamp();
        let good = json!({ "aud": "shop", "iss": "id" });
        for (more, expected) in [
            (good, ""),
            (json!({ "aud": ["x", "shop"], "iss": "id" }), ""),
            (json!({ "aud": "other", "iss": "id" }), "jwt_invalid"),
            (json!({ "iss": "id" }), "jwt_invalid"),
            (json!({ "aud": "shop" }), "jwt_invalid"),
            (json!({ "aud": "shop", "iss": "evil" }), "jwt_invalid"),
            (json!({ "aud": "shop", "iss": "id", "exp": now - 30 }), ""),
            (json!({ "aud": "shop", "iss": "id", "exp": now - 90 }), "jwt_expired"),
            (json!({ "aud": "shop", "iss": "id", "exp": null }), "jwt_invalid"),
            (json!({ "aud": "shop", "iss": "id", "nbf": now + 90 }), "jwt_invalid"),
        ] {
            assert_eq!(reason(&trial, &hs256(more.clone())).await, expected, "{more}");
        }
        assert_eq!(reason(&trial, "Bearer nonsense").await, "jwt_invalid");
        assert_eq!(reason(&trial, "Basic eA==").await, "jwt_missing");
        let seen = trial.request("GET", "/", &[]).await;
        assert_eq!((seen.status(), seen.answer_header("www-authenticate")), (401, "Bearer"));
    }

    #[tokio::test]
    async fn a_token_never_chooses_its_algorithm() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.pem"), EC_PUBLIC).unwrap();
        let trial = Trial::in_folder("jwt", json!({ "public_key": "key.pem" }), folder.path());
        let own = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
        assert_eq!(
            reason(&trial, &signed(Algorithm::ES256, None, &claims(json!({})), &own)).await,
            ""
        );
        // The public key as a shared secret, the oldest trick there is.
        let trick = EncodingKey::from_secret(EC_PUBLIC.as_bytes());
        assert_eq!(
            reason(&trial, &signed(Algorithm::HS256, None, &claims(json!({})), &trick)).await,
            "jwt_invalid"
        );
        // {"alg":"none","typ":"JWT"}.{"sub":"ada","exp":9999999999}.
        let none = "Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhZGEiLCJleHAiOjk5OTk5OTk5OTl9.";
        assert_eq!(reason(&trial, none).await, "jwt_invalid");
        let narrow = Trial::of("jwt", json!({ "secret": SECRET, "algorithms": ["HS512"] }));
        assert_eq!(reason(&narrow, &hs256(json!({}))).await, "jwt_invalid");
    }

    #[tokio::test]
    async fn headers_with_claims_come_from_the_token_only() {
        let settings = json!({
            "secret": SECRET, "optional": true, "cookie": "session",
            "forward_claims": { "sub": "x-user", "level": "x-level" },
        });
        let trial = Trial::of("jwt", settings);
        let spoofed = ("x-user", "root");
        let anonymous = trial.request("GET", "/", &[spoofed, ("x-level", "9")]).await;
        assert_eq!(
            (
                anonymous.status(),
                anonymous.header("x-user"),
                anonymous.header("x-level")
            ),
            (0, "", "")
        );
        let token = hs256(json!({ "level": 3 }));
        let seen = trial.request("GET", "/", &[spoofed, ("authorization", &token)]).await;
        assert_eq!((seen.header("x-user"), seen.header("x-level")), ("ada", "3"));
        assert_eq!(seen.state.user.as_deref(), Some("ada"));
        let in_cookie = format!("a=b; session={}", token.trim_start_matches("Bearer "));
        assert_eq!(
            trial
                .request("GET", "/", &[("cookie", &in_cookie)])
                .await
                .header("x-user"),
            "ada"
        );
        let wrong = trial.request("GET", "/", &[("authorization", "Bearer x.y.z")]).await;
        assert_eq!(wrong.reason(), "jwt_invalid", "optional is not for bad tokens");
        let strange = hs256(json!({ "level": "a\nb" }));
        assert_eq!(reason(&trial, &strange).await, "jwt_invalid");
    }

    /// An RSA and an EC key under ids, and one of a kind that is not known here.
    fn jwks() -> String {
        let public = |key: &EncodingKey, algorithm, id: &str| {
            let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(key, algorithm).unwrap();
            jwk.common.key_id = Some(id.to_owned());
            serde_json::to_value(jwk).unwrap()
        };
        let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
        let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
        let unknown = json!({ "kty": "LATTICE", "kid": "future" });
        let symmetric = json!({ "kty": "oct", "kid": "oct", "k": "c2VjcmV0", "alg": "HS256" });
        let keys = [
            public(&rsa, Algorithm::RS256, "rsa"),
            unknown,
            symmetric,
            public(&ec, Algorithm::ES256, "ec"),
        ];
        json!({ "keys": keys }).to_string()
    }

    async fn accepts_both(trial: &Trial) {
        let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
        let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
        let claims = claims(json!({}));
        for (algorithm, id, key, expected) in [
            (Algorithm::RS256, Some("rsa"), &rsa, ""),
            (Algorithm::ES256, Some("ec"), &ec, ""),
            (Algorithm::ES256, None, &ec, ""),
            (Algorithm::RS256, Some("ec"), &rsa, "jwt_invalid"),
            (Algorithm::ES256, Some("unknown"), &ec, "jwt_invalid"),
        ] {
            assert_eq!(
                reason(trial, &signed(algorithm, id, &claims, key)).await,
                expected,
                "{algorithm:?} {id:?}"
            );
        }
    }

    #[tokio::test]
    async fn key_sets_from_a_file_and_from_a_url() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys.json"), jwks()).unwrap();
        accepts_both(&Trial::in_folder("jwt", json!({ "jwks": "keys.json" }), folder.path())).await;

        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let fetches = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&fetches);
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let body = jwks();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        accepts_both(&Trial::of("jwt", json!({ "jwks": url }))).await;
        // The unknown id within ten seconds of the first fetch is not worth another one.
        assert_eq!(fetches.load(std::sync::atomic::Ordering::Relaxed), 1);

        let nobody = Trial::of("jwt", json!({ "jwks": "http://127.0.0.1:1/keys" }));
        assert_eq!(reason(&nobody, &hs256(json!({}))).await, "jwt_keys_unavailable");
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        refused_at("jwt", json!({}), "");
        refused_at("jwt", json!({ "secret": SECRET, "jwks": "x" }), "");
        refused_at("jwt", json!({ "secret": "short" }), "/secret");
        refused_at("jwt", json!({ "jwks": "missing.json" }), "/jwks");
        refused_at("jwt", json!({ "jwks": "http://id.example.com/keys" }), "/jwks");
        refused_at("jwt", json!({ "public_key": "missing.pem" }), "/public_key");
        refused_at(
            "jwt",
            json!({ "secret": SECRET, "forward_claims": { "sub": "a b" } }),
            "/forward_claims/sub",
        );
    }
}
