//! Versions of what can be changed, as RFC 9110 has them: `ETag`, `If-Match`, `If-None-Match: *`.

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

use super::problem::{Kind, Problem};
use crate::store::change::Expected;

/// What the sender of a change believes is there.
pub(crate) struct IfMatch(pub(crate) Expected);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IfMatch, Problem> {
        expected(&parts.headers).map(IfMatch)
    }
}

fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Expected::Anything),
        (None, Some("*")) => Ok(Expected::Nothing),
        (Some("*"), None) => Ok(Expected::Something),
        (Some(tag), None) => match tag.trim_matches('"').parse() {
            Ok(version) => Ok(Expected::Version(version)),
            Err(_) => Err(Problem::new(Kind::Changed, format!("{tag} was never an ETag of this"))),
        },
        _ => Err(Problem::new(
            Kind::Malformed,
            "send If-Match with an ETag, or If-None-Match: *",
        )),
    }
}

pub(crate) fn etag(version: i64) -> [(HeaderName, HeaderValue); 1] {
    let tag = HeaderValue::from_str(&format!("\"{version}\"")).expect("digits are a header");
    [(header::ETAG, tag)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected() {
        for (name, value, wanted) in [
            (None, "", Some(Expected::Anything)),
            (Some(header::IF_MATCH), "\"7\"", Some(Expected::Version(7))),
            (Some(header::IF_MATCH), "*", Some(Expected::Something)),
            (Some(header::IF_NONE_MATCH), "*", Some(Expected::Nothing)),
            (Some(header::IF_MATCH), "\"x\"", None),
            (Some(header::IF_NONE_MATCH), "\"7\"", None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(name) = name {
                headers.insert(name, HeaderValue::from_static(value));
            }
            assert_eq!(expected(&headers).ok(), wanted, "{value}");
        }
    }
}
