//! Which page a request means.
//!
//! The key is the length-prefixed sequence of its parts, so that no two different sequences of parts share an encoding:
//! a host that contains a path, or a query that contains a host, cannot collide with another page (RUSTSEC-2026-0035 was
//! a key without host).

use pingora_cache::CacheKey;
use selvedge_schema::QueryKey;

/// The parts of a key. All of them are canonical already: what is matched, keyed and forwarded is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyParts<'a> {
    /// Route and build: a new build or another route never serves this one's pages.
    pub scope: &'a str,
    pub scheme: &'a str,
    /// Lower case, without port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    /// What the policy keeps of the query; see [`keyed_query`].
    pub query: Option<&'a str>,
}

/// The cache key of a page. Its variants (RFC 9111 section 4.1) are told apart by pingora's variance.
pub fn cache_key(parts: &KeyParts<'_>) -> CacheKey {
    let KeyParts {
        scope,
        scheme,
        host,
        path,
        query,
    } = parts;
    let mut bytes = Vec::with_capacity(scope.len() + host.len() + path.len() + 64);
    for part in [scope, scheme, host, path] {
        push(&mut bytes, part.as_bytes());
    }
    match query {
        Some(query) => push(&mut bytes, query.as_bytes()),
        // Distinct from the empty query: `/a` and `/a?` are different URLs.
        None => bytes.extend_from_slice(&u32::MAX.to_be_bytes()),
    }
    CacheKey::new(bytes, String::new())
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("a header section is smaller than 4 GiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(part);
}

/// The part of the query that makes another page. `Only` keeps the listed parameters, sorted by name, in their order
/// among equal names; `All` keeps the query byte for byte, since its order may matter to whoever reads it.
pub fn keyed_query(policy: &QueryKey, query: Option<&str>) -> Option<String> {
    match policy {
        QueryKey::All => query.map(str::to_owned),
        QueryKey::None => None,
        QueryKey::Only(names) => {
            let mut kept: Vec<&str> = query
                .unwrap_or_default()
                .split('&')
                .filter(|pair| names.iter().any(|name| name == parameter(pair)))
                .collect();
            kept.sort_by_key(|pair| parameter(pair));
            (!kept.is_empty()).then(|| kept.join("&"))
        }
    }
}

fn parameter(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use pingora_cache::key::CacheHashKey;

    use super::*;

    const PAGE: KeyParts<'static> = KeyParts {
        scope: "shop",
        scheme: "https",
        host: "a.example",
        path: "/x",
        query: None,
    };

    #[test]
    fn every_part_makes_another_page() {
        let other = [
            KeyParts {
                scope: "shop@2",
                ..PAGE
            },
            KeyParts { scheme: "http", ..PAGE },
            KeyParts {
                host: "b.example",
                ..PAGE
            },
            KeyParts { path: "/y", ..PAGE },
            KeyParts {
                query: Some(""),
                ..PAGE
            },
            KeyParts {
                query: Some("q"),
                ..PAGE
            },
            KeyParts {
                host: "a.example/x",
                path: "",
                ..PAGE
            },
            KeyParts {
                scope: "shophttps",
                scheme: "",
                ..PAGE
            },
        ];
        let primary = |parts: &KeyParts<'_>| cache_key(parts).primary();
        assert_eq!(primary(&PAGE), primary(&PAGE.clone()));
        for parts in other {
            assert_ne!(primary(&PAGE), primary(&parts), "{parts:?}");
        }
    }

    #[test]
    fn the_policy_decides_what_of_the_query_is_keyed() {
        let only = QueryKey::Only(vec!["page".into(), "sort".into()]);
        for (policy, query, expected) in [
            (&QueryKey::All, Some("b=2&a=1"), Some("b=2&a=1")),
            (&QueryKey::All, None, None),
            (&QueryKey::None, Some("b=2"), None),
            (&only, Some("utm=1&sort=up&page=2"), Some("page=2&sort=up")),
            (&only, Some("page=2&page=1"), Some("page=2&page=1")),
            (&only, Some("utm=1"), None),
            (&only, Some("pages=1&page"), Some("page")),
            (&only, None, None),
        ] {
            assert_eq!(keyed_query(policy, query).as_deref(), expected, "{policy:?} {query:?}");
        }
    }
}
