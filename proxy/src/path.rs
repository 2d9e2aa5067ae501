//! One spelling of a request path: what is matched, authorised, keyed and forwarded is the same bytes.
//!
//! Escapes become canonical (RFC 3986 section 6.2.2), slashes in a row one, dot segments are resolved. What two servers
//! could read differently (`%2f`, `\`, control characters, a path that climbs above its root) is refused, not repaired.

use std::fmt;

use selvedge_schema::{EscapeRefusal, canonical_escapes};

/// A path in origin form; normalising it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NormalisedPath(String);

impl NormalisedPath {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathRefusal {
    NotAbsolute,
    /// `..` beyond the root.
    AboveRoot,
    Escape(EscapeRefusal),
}

impl fmt::Display for PathRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathRefusal::NotAbsolute => f.write_str("the path does not begin with a slash"),
            PathRefusal::AboveRoot => f.write_str("the path climbs above its root"),
            PathRefusal::Escape(refusal) => write!(f, "the path has {refusal}"),
        }
    }
}

/// `raw` is the path of a request target, without query.
pub(crate) fn normalise(raw: &[u8]) -> Result<NormalisedPath, PathRefusal> {
    if raw.first() != Some(&b'/') {
        return Err(PathRefusal::NotAbsolute);
    }
    let spelled = canonical_escapes(raw).map_err(PathRefusal::Escape)?;
    if !spelled.contains("//") && !spelled.contains("/.") {
        return Ok(NormalisedPath(spelled));
    }
    let mut kept: Vec<&str> = Vec::new();
    // A path that ends in a slash or in a dot segment names a folder.
    let mut folder = false;
    for segment in spelled.split('/').skip(1) {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(PathRefusal::AboveRoot)?;
            }
            segment => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(spelled.len());
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if folder {
        path.push('/');
    }
    Ok(NormalisedPath(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.hidden", "/.hidden"),
            ("/a..b/...", "/a..b/..."),
            ("/%7Euser", "/~user"),
            ("/%2e%2e/x/%2E", ""),
            ("/a/%2e%2e/b", "/b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/..", ""),
            ("/a/../..", ""),
            ("a", ""),
            ("/a%2fb", ""),
            ("/a\\b", ""),
            ("/%00", ""),
            ("/%zz", ""),
        ] {
            let normal = normalise(raw.as_bytes());
            match expected {
                "" => assert!(normal.is_err(), "{raw}"),
                expected => {
                    let normal = normal.unwrap();
                    assert_eq!(normal.as_str(), expected, "{raw}");
                    assert_eq!(normalise(normal.as_str().as_bytes()), Ok(normal), "{raw} twice");
                }
            }
        }
    }
}
