//! Tells webhooks what happened, as Standard Webhooks has it (<https://www.standardwebhooks.com>, 1.0).
//!
//! At least once: what was sent when the process was killed is sent again, with the same `webhook-id`. What waits is read
//! from `_control` each time. No redirect is followed, and no address of a private network is connected to unless control
//! was started so: whoever makes a webhook chooses where control connects to.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use futures::stream;
use hmac::{Hmac, Mac};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};
use selvedge_replication::chain;
use selvedge_schema::Cidr;
use sha2::Sha256;
use thiserror::Error;

use crate::api::Control;
use crate::store::webhooks::{DeliveryState, Due, Tried};
use crate::store::{StoreError, now_ms};

/// Pauses after the first tries, in seconds, as Standard Webhooks advises; after the last the delivery has failed.
const PAUSES_S: [i64; 9] = [
    5,
    5 * 60,
    30 * 60,
    2 * 3600,
    5 * 3600,
    10 * 3600,
    14 * 3600,
    20 * 3600,
    24 * 3600,
];
/// For one try, from the name to the end of the answer's head.
const ANSWER: Duration = Duration::from_secs(15);
/// Deliveries under way at the same time.
const TOGETHER: usize = 16;
/// Deliveries in one round.
const ROUND: i64 = 64;
/// Time between two looks, if nothing happens.
const EVERY: Duration = Duration::from_secs(10);
/// Pause after what could not be done now.
const PAUSE: Duration = Duration::from_secs(1);
/// Stands before a secret in base64.
const SECRET_PREFIX: &str = "whsec_";
/// Standard Webhooks: between 24 and 64.
const SECRET_BYTES: usize = 32;

/// Not for the public, or not for one receiver (IANA's registries of special-purpose addresses). Those that carry an
/// IPv4 address in them reach private ones too.
const NOT_PUBLIC: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
];

static RANGES: LazyLock<Vec<Cidr>> = LazyLock::new(|| {
    let ranges = NOT_PUBLIC.iter().map(|range| range.parse().expect("a range"));
    ranges.collect()
});

pub(crate) fn is_public(address: IpAddr) -> bool {
    !RANGES.iter().any(|range| range.contains(address))
}

/// Why a URL is no webhook's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum UrlError {
    #[error("it is not a URL")]
    NoUrl,
    #[error("it is not an https URL")]
    NoTls,
    #[error("it has a name or a password in it")]
    Credentials,
    #[error("its host is not public")]
    Private,
}

/// The URL, if control may connect to what it names; names are judged again when they are resolved.
pub(crate) fn check_url(text: &str, allow_private: bool) -> Result<Url, UrlError> {
    let url = Url::parse(text).map_err(|_| UrlError::NoUrl)?;
    let host = url.host_str().ok_or(UrlError::NoUrl)?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return Err(UrlError::NoTls),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    let name = host.trim_end_matches('.');
    let is_local = name == "localhost" || name.ends_with(".localhost");
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_private = is_local || address.is_ok_and(|address| !is_public(address));
    match is_private && !allow_private {
        true => Err(UrlError::Private),
        false => Ok(url),
    }
}

/// A new secret, as its receiver gets it.
pub(crate) fn make_secret() -> String {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).expect("the system has randomness");
    format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(secret))
}

/// `v1,` and the base64 of HMAC-SHA256; `None` when the secret is none.
pub(crate) fn signature(secret: &str, id: &str, timestamp_s: i64, body: &str) -> Option<String> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

/// Resolves names, and gives none but public addresses.
struct PublicOnly;

#[derive(Debug, Error)]
#[error("the name has no public address")]
struct NoPublicAddress;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            match public.is_empty() {
                true => Err(NoPublicAddress.into()),
                false => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

pub(crate) fn client(allow_private: bool) -> Result<Client, reqwest::Error> {
    selvedge_replication::agent::install_crypto();
    let builder = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(ANSWER)
        .user_agent(concat!("selvedge/", env!("CARGO_PKG_VERSION")));
    match allow_private {
        true => builder.build(),
        false => builder.dns_resolver(Arc::new(PublicOnly)).build(),
    }
}

pub(crate) async fn run(control: Arc<Control>, client: Client) {
    loop {
        match round(&control, &client).await {
            Ok(0) => {
                let wait = match control.store.next_delivery_ms().await {
                    Ok(Some(at_ms)) => Duration::from_millis((at_ms - now_ms()).max(0).unsigned_abs()).min(EVERY),
                    Ok(None) | Err(_) => EVERY,
                };
                // Told or not, it looks.
                let _ = tokio::time::timeout(wait, control.store.told.notified()).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = chain(&error), "webhooks cannot be told now; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Tries what is due; how many that were.
async fn round(control: &Control, client: &Client) -> Result<usize, StoreError> {
    let due = control.store.due_deliveries(now_ms(), ROUND).await?;
    let count = due.len();
    let tries = due
        .into_iter()
        .map(|due| async move { (due.number, deliver(control, client, &due).await) });
    let mut tries = stream::iter(tries).buffer_unordered(TOGETHER);
    // Each is written down as soon as it has ended: one that takes long lets no other be sent twice.
    while let Some(tried) = tries.next().await {
        control.store.note_tries(&[tried]).await?;
    }
    Ok(count)
}

async fn deliver(control: &Control, client: &Client, due: &Due) -> Tried {
    // No app has an empty name: no secret of an app is taken for it.
    let secret = control.vault.load().decrypt("", &due.webhook, &due.secret());
    let secret = match secret {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(
                error = chain(&error),
                webhook = due.webhook,
                "a webhook's secret cannot be read"
            );
            return after(
                due.tries,
                now_ms(),
                Err("its secret cannot be read; see control's log".to_owned()),
            );
        }
    };
    let url = match check_url(&due.url, control.allow_private_webhooks) {
        Ok(url) => url,
        Err(error) => return after(due.tries, now_ms(), Err(error.to_string())),
    };
    let timestamp_s = now_ms() / 1000;
    let Some(signature) = signature(secret.as_str(), &due.id, timestamp_s, &due.body) else {
        return after(due.tries, now_ms(), Err("its secret is none; make it anew".to_owned()));
    };
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .header("webhook-id", &due.id)
        .header("webhook-timestamp", timestamp_s)
        .header("webhook-signature", signature)
        .body(due.body.clone());
    // The URL may hold a secret of its receiver's.
    let answer = request.send().await.map_err(|error| chain(&error.without_url()));
    after(due.tries, now_ms(), answer.map(|answer| answer.status().as_u16()))
}

/// What becomes of a delivery that was tried `tries` times before this answer.
fn after(tries: i64, now_ms: i64, answer: Result<u16, String>) -> Tried {
    let (status, message) = match answer {
        Ok(status @ 200..300) => {
            return Tried {
                state: DeliveryState::Delivered,
                at_ms: now_ms,
                status: Some(status.into()),
                message: None,
            };
        }
        Ok(status) => (Some(status.into()), format!("it answered {status}")),
        Err(message) => (None, message),
    };
    let pause_s = usize::try_from(tries).ok().and_then(|tries| PAUSES_S.get(tries));
    Tried {
        state: pause_s.map_or(DeliveryState::Failed, |_| DeliveryState::Waiting),
        at_ms: now_ms + pause_s.map_or(0, |pause_s| pause_s * 1000),
        status,
        message: Some(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_as_the_specification_has_it() {
        // The example of the specification's reference libraries.
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signed.as_deref(),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
        assert_eq!(signature("secret", "a", 1, ""), None);
        assert_ne!(make_secret(), make_secret());
    }

    #[test]
    fn where_control_connects_to() {
        for (url, expected, expected_of_private) in [
            ("https://hooks.example.com/x", Ok(()), Ok(())),
            ("https://8.8.8.8/x", Ok(()), Ok(())),
            ("http://hooks.example.com/x", Err(UrlError::NoTls), Ok(())),
            ("https://localhost/", Err(UrlError::Private), Ok(())),
            ("https://a.localhost./", Err(UrlError::Private), Ok(())),
            ("https://127.0.0.1:9/", Err(UrlError::Private), Ok(())),
            ("https://0x7f.1/", Err(UrlError::Private), Ok(())),
            ("https://2130706433/", Err(UrlError::Private), Ok(())),
            ("https://169.254.169.254/latest", Err(UrlError::Private), Ok(())),
            ("https://[::1]/", Err(UrlError::Private), Ok(())),
            ("https://[::ffff:10.0.0.1]/", Err(UrlError::Private), Ok(())),
            ("https://[64:ff9b::a00:1]/", Err(UrlError::Private), Ok(())),
            ("https://[fd00::1]/", Err(UrlError::Private), Ok(())),
            ("https://[2606:4700::1111]/", Ok(()), Ok(())),
            (
                "https://a:b@hooks.example.com/",
                Err(UrlError::Credentials),
                Err(UrlError::Credentials),
            ),
            ("ftp://hooks.example.com/", Err(UrlError::NoTls), Err(UrlError::NoTls)),
            ("hooks", Err(UrlError::NoUrl), Err(UrlError::NoUrl)),
        ] {
            assert_eq!(check_url(url, false).map(drop), expected, "{url}");
            assert_eq!(check_url(url, true).map(drop), expected_of_private, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_of_a_private_address_has_none() {
        let resolved = PublicOnly.resolve("localhost".parse().unwrap()).await;
        assert!(resolved.err().unwrap().is::<NoPublicAddress>());
    }

    #[test]
    fn tries_end() {
        let tried = after(0, 1_000, Ok(204));
        assert_eq!((tried.state, tried.status), (DeliveryState::Delivered, Some(204)));
        let (mut tries, mut now_ms) = (0, 0);
        loop {
            let tried = after(tries, now_ms, Ok(302));
            if tried.state == DeliveryState::Failed {
                break;
            }
            assert!(
                tried.state == DeliveryState::Waiting && tried.at_ms > now_ms,
                "{tried:?}"
            );
            (tries, now_ms) = (tries + 1, tried.at_ms);
        }
        assert_eq!(tries, 9);
        assert!(
            now_ms > 72 * 3600 * 1000,
            "a receiver that is away for three days hears of it: {now_ms}"
        );
    }
}
