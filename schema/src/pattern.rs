//! What a route matches: a host and a path, parsed once into a shape that can be compared.
//!
//! Literal text is kept in the one spelling a normalised request has, so matching is comparing bytes.

use std::fmt;
use std::str::FromStr;

use crate::percent::canonical_escapes;

/// Which hosts a route answers. Text is lower case, without port and without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Any,
    Exact(String),
    /// The suffix with its dot: `.example.com` for `*.example.com`; matches any number of labels before it.
    Wildcard(String),
}

/// Why a pattern is no pattern; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub(crate) String);

fn refuse<T>(why: impl Into<String>) -> Result<T, PatternError> {
    Err(PatternError(why.into()))
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        if text.contains("//") {
            return refuse("a host is written without a scheme, such as shop.example.com");
        }
        if text.contains('/') {
            return refuse("a host is written without a path; the path has its own key");
        }
        if !text.is_ascii() {
            return refuse("write an international name in its ASCII form (xn--…)");
        }
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Some(inside) = host.strip_prefix('[') {
            let address = inside
                .strip_suffix(']')
                .and_then(|a| a.parse::<std::net::Ipv6Addr>().ok());
            return match address {
                Some(address) => Ok(HostPattern::Exact(format!("[{address}]"))),
                None => refuse("not an IPv6 address in brackets; the port belongs to the listener"),
            };
        }
        if host.contains(':') {
            return refuse("a host is written without a port; the port belongs to the listener");
        }
        let (wildcard, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host.as_str()),
        };
        if name.contains('*') {
            return refuse("`*` may only stand for the first labels, as in *.example.com");
        }
        check_dns_name(name)?;
        Ok(if wildcard {
            HostPattern::Wildcard(format!(".{name}"))
        } else {
            HostPattern::Exact(host)
        })
    }
}

/// RFC 1123 section 2.1 lengths; the underscore is allowed because real names have it.
pub(crate) fn check_dns_name(name: &str) -> Result<(), PatternError> {
    if name.is_empty() || name.len() > 253 {
        return refuse("a host name has 1 to 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return refuse("each part of a host name between dots has 1 to 63 characters");
        }
        if let Some(bad) = label
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
        {
            return refuse(format!("`{bad}` cannot be part of a host name"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("a part of a host name neither begins nor ends with a hyphen");
        }
    }
    Ok(())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Exact(host) => f.write_str(host),
            HostPattern::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// `/exact`, `/users/:id/posts`, `/prefix/*` (which also matches `/prefix`), `/*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    segments: Vec<Segment>,
    open: bool,
}

/// What stands between two slashes. The empty literal, always last, is a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    Literal(String),
    /// Exactly one segment that is not empty, under this name.
    Param(String),
}

impl PathPattern {
    /// `/*`
    pub fn any() -> Self {
        Self {
            segments: Vec::new(),
            open: true,
        }
    }

    /// The segments in front of the `*`, or all of them.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What the `*` stands for in a path that matches; without a `*` the last segment of the path.
    pub fn rest<'a>(&self, path: &'a str) -> &'a str {
        if !self.open {
            return path.rsplit('/').next().unwrap_or_default();
        }
        path.splitn(self.segments.len() + 2, '/')
            .nth(self.segments.len() + 1)
            .unwrap_or_default()
    }

    /// True when the pattern ends in `/*`: whatever follows the segments matches, also nothing.
    pub fn is_open(&self) -> bool {
        self.open
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let Some(path) = text.strip_prefix('/') else {
            return refuse("a path begins with `/`");
        };
        if text.contains('?') {
            return refuse("a path pattern has no query");
        }
        let (path, open) = match path.strip_suffix('*') {
            Some("") => return Ok(Self::any()),
            Some(before) => match before.strip_suffix('/') {
                Some(before) => (before, true),
                None => return refuse("`*` stands alone after a slash at the end, as in /prefix/*"),
            },
            None => (path, false),
        };
        let mut segments = Vec::new();
        let count = path.split('/').count();
        for (index, text) in path.split('/').enumerate() {
            if text.is_empty() && (open || index + 1 < count) {
                return refuse("two slashes in a row never match: request paths have them merged");
            }
            segments.push(parse_segment(text, &segments)?);
        }
        Ok(Self { segments, open })
    }
}

fn parse_segment(text: &str, before: &[Segment]) -> Result<Segment, PatternError> {
    if text.contains('*') {
        return refuse("`*` stands alone after a slash at the end, as in /prefix/*");
    }
    if let Some(name) = text.strip_prefix(':') {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return refuse("a parameter is `:` and a name of letters, digits and `_`, as in /users/:id");
        }
        let param = Segment::Param(name.to_owned());
        if before.contains(&param) {
            return refuse(format!("the parameter `:{name}` is there twice"));
        }
        return Ok(param);
    }
    let literal =
        canonical_escapes(text.as_bytes()).map_err(|refusal| PatternError(format!("the path has {refusal}")))?;
    if literal == "." || literal == ".." {
        return refuse("`.` and `..` never match: request paths have them resolved");
    }
    Ok(Segment::Literal(literal))
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/:{name}")?,
            }
        }
        if self.open { f.write_str("/*") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_what_the_star_stands_for() {
        for (pattern, path, expected) in [
            ("/*", "/a/b", "a/b"),
            ("/*", "/", ""),
            ("/assets/*", "/assets/css/x.css", "css/x.css"),
            ("/assets/*", "/assets", ""),
            ("/assets/*", "/assets/", ""),
            ("/u/:id/*", "/u/7/a", "a"),
            ("/favicon.ico", "/favicon.ico", "favicon.ico"),
        ] {
            assert_eq!(
                pattern.parse::<PathPattern>().unwrap().rest(path),
                expected,
                "{pattern} {path}"
            );
        }
    }

    fn shown<T: FromStr<Err = PatternError> + fmt::Display>(text: &str) -> String {
        text.parse::<T>()
            .map_or_else(|e| format!("error: {e}"), |p| p.to_string())
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expected: &str| assert_eq!(shown::<HostPattern>(text), expected, "{text}");
        check("*", "*");
        check("example.com", "example.com");
        check("Shop.Example.COM.", "shop.example.com");
        check("*.Example.com", "*.example.com");
        check("localhost", "localhost");
        check("my_service.internal", "my_service.internal");
        check("127.0.0.1", "127.0.0.1");
        check("[::1]", "[::1]");
        check("[0:0::1]", "[::1]");
        check(
            "[::1]:80",
            "error: not an IPv6 address in brackets; the port belongs to the listener",
        );
        check(
            "example.com:8080",
            "error: a host is written without a port; the port belongs to the listener",
        );
        check(
            "https://example.com",
            "error: a host is written without a scheme, such as shop.example.com",
        );
        check(
            "example.com/a",
            "error: a host is written without a path; the path has its own key",
        );
        check(
            "bücher.example",
            "error: write an international name in its ASCII form (xn--…)",
        );
        check(
            "a.*.com",
            "error: `*` may only stand for the first labels, as in *.example.com",
        );
        check(
            "*example.com",
            "error: `*` may only stand for the first labels, as in *.example.com",
        );
        check(
            "a..b",
            "error: each part of a host name between dots has 1 to 63 characters",
        );
        check("", "error: a host name has 1 to 253 characters");
        check(
            "-a.com",
            "error: a part of a host name neither begins nor ends with a hyphen",
        );
        check("a b.com", "error: ` ` cannot be part of a host name");
    }

    #[test]
    fn paths() {
        let check = |text: &str, expected: &str| assert_eq!(shown::<PathPattern>(text), expected, "{text}");
        check("/", "/");
        check("/*", "/*");
        check("/a", "/a");
        check("/a/", "/a/");
        check("/a/*", "/a/*");
        check("/users/:id/posts", "/users/:id/posts");
        check("/users/:id/*", "/users/:id/*");
        check("/a:b", "/a:b");
        check("/caf\u{e9}", "/caf%C3%A9");
        check("/%7euser/%c3%a9", "/~user/%C3%A9");
        check("a", "error: a path begins with `/`");
        check("", "error: a path begins with `/`");
        check(
            "/a*",
            "error: `*` stands alone after a slash at the end, as in /prefix/*",
        );
        check(
            "/*/a",
            "error: `*` stands alone after a slash at the end, as in /prefix/*",
        );
        check(
            "/a//b",
            "error: two slashes in a row never match: request paths have them merged",
        );
        check(
            "//*",
            "error: two slashes in a row never match: request paths have them merged",
        );
        check(
            "/a/../b",
            "error: `.` and `..` never match: request paths have them resolved",
        );
        check(
            "/a/%2e",
            "error: `.` and `..` never match: request paths have them resolved",
        );
        check("/a%2fb", "error: the path has an escaped slash");
        check(
            "/a%zz",
            "error: the path has a `%` that is not followed by two hexadecimal digits",
        );
        check("/a b", "error: the path has a space that is not escaped");
        check("/a?b=1", "error: a path pattern has no query");
        check("/a#b", "error: the path has a fragment");
        check(
            "/:",
            "error: a parameter is `:` and a name of letters, digits and `_`, as in /users/:id",
        );
        check(
            "/:a-b",
            "error: a parameter is `:` and a name of letters, digits and `_`, as in /users/:id",
        );
        check("/:id/x/:id", "error: the parameter `:id` is there twice");
    }
}
