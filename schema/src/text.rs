//! Values that are one string in YAML and something better in use: durations, addresses, patterns, names.
//!
//! [`Text<T>`] reads and writes such a value and puts its format into the JSON Schema under [`FORMAT_KEY`]; the walker
//! looks the format up in [`check_format`], so one parser decides for the diagnostic and for the value.
//!
//! A new format is one `impl TextFormat` and its line in THE list at [`check_format`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::pattern::check_dns_name;
use crate::percent::canonical_escapes;
use crate::units::{parse_duration, parse_size, show_duration, show_size};
use crate::{Cidr, HostPattern, PathPattern, Sites};

/// Key of our formats in the JSON Schema; other tools ignore it.
pub(crate) const FORMAT_KEY: &str = "x-selvedge-format";

/// A type with one textual form.
pub trait TextFormat: Sized {
    /// Name of the format in the JSON Schema.
    const FORMAT: &'static str;
    /// For the JSON Schema and thereby for editors.
    const DESCRIPTION: &'static str;
    /// Regular expression for editors, where one is short enough to be useful. The parser decides, not the pattern.
    const PATTERN: Option<&'static str> = None;
    /// A whole number without unit is accepted too.
    const BARE_NUMBER: bool = false;

    /// The error completes the sentence "`text`: …".
    fn parse(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

/// A value written as one string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<T: TextFormat> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.show())
    }
}

impl<'de, T: TextFormat> Deserialize<'de> for Text<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(u64),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        T::parse(&text).map(Text).map_err(serde::de::Error::custom)
    }
}

impl<T: TextFormat> JsonSchema for Text<T> {
    fn schema_name() -> Cow<'static, str> {
        T::FORMAT.into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "description": T::DESCRIPTION });
        let kinds = if T::BARE_NUMBER {
            json!(["string", "integer"])
        } else {
            json!("string")
        };
        schema.insert("type".to_owned(), kinds);
        schema.insert(FORMAT_KEY.to_owned(), T::FORMAT.into());
        if let Some(pattern) = T::PATTERN {
            schema.insert("pattern".to_owned(), pattern.into());
        }
        schema
    }
}

/// Says why a text does not fit a format; an unknown format takes everything.
pub(crate) fn check_format(format: &str, text: &str) -> Result<(), String> {
    macro_rules! formats {
        ($($kind:ty),* $(,)?) => {
            match format {
                $(<$kind as TextFormat>::FORMAT => <$kind as TextFormat>::parse(text).map(drop),)*
                _ => Ok(()),
            }
        };
    }
    formats![
        Duration,
        PositiveDuration,
        ByteSize,
        SocketAddr,
        ServerAddress,
        Cidr,
        HostPattern,
        PathPattern,
        RequestPath,
        Location,
        Method,
        HeaderName,
        ContentType,
        HostName,
        CacheTag,
        Name,
        Sites,
        Verbatim,
    ]
}

impl TextFormat for Duration {
    const FORMAT: &'static str = "duration";
    const DESCRIPTION: &'static str = "A duration: 500ms, 5s, 1m, 2h, 1d.";
    const PATTERN: Option<&'static str> = Some("^[0-9]+ *(ms|s|m|h|d)$");

    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }

    fn show(&self) -> String {
        show_duration(*self)
    }
}

/// A duration that is not zero: a deadline of zero would refuse everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositiveDuration(pub Duration);

impl TextFormat for PositiveDuration {
    const FORMAT: &'static str = "positive-duration";
    const DESCRIPTION: &'static str = "A duration longer than zero: 500ms, 5s, 1m, 2h, 1d.";
    const PATTERN: Option<&'static str> = Duration::PATTERN;

    fn parse(text: &str) -> Result<Self, String> {
        match parse_duration(text)? {
            Duration::ZERO => Err("must be longer than zero".to_owned()),
            duration => Ok(Self(duration)),
        }
    }

    fn show(&self) -> String {
        show_duration(self.0)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl TextFormat for ByteSize {
    const FORMAT: &'static str = "size";
    const DESCRIPTION: &'static str = "A size: bytes, or 64KiB, 10MiB, 1GiB (powers of 1024), 1KB, 1MB, 1GB (of 1000).";
    const PATTERN: Option<&'static str> = Some("^[0-9]+ *([KMGT]iB|[KMGT]B|kB|B)?$");
    const BARE_NUMBER: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        parse_size(text).map(Self)
    }

    fn show(&self) -> String {
        show_size(self.0)
    }
}

/// Text as it stands, also where YAML would see a number or a boolean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verbatim(pub(crate) String);

impl TextFormat for Verbatim {
    const FORMAT: &'static str = Self::NAME;
    const DESCRIPTION: &'static str = "Text; a number or a boolean is taken as it is written.";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Verbatim {
    pub(crate) const NAME: &'static str = "verbatim";
}

impl TextFormat for SocketAddr {
    const FORMAT: &'static str = "socket-address";
    const DESCRIPTION: &'static str = "An IP address and a port: 0.0.0.0:8080, 127.0.0.1:8080, [::]:8080.";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            let port = text
                .rsplit(':')
                .next()
                .filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
            let port = port.unwrap_or("8080");
            format!("expected an IP address and a port, such as 0.0.0.0:{port} (every address) or 127.0.0.1:{port}")
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// `host:port` of a server to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerAddress(pub(crate) String);

impl TextFormat for ServerAddress {
    const FORMAT: &'static str = "server-address";
    const DESCRIPTION: &'static str =
        "A host name or an IP address, and a port: 127.0.0.1:3000, app.internal:80, [::1]:80.";

    fn parse(text: &str) -> Result<Self, String> {
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!(
                "a server is host:port, without {scheme}:// (TLS is the upstream's `tls` key)"
            ));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("a server needs a port, as in 127.0.0.1:3000")?;
        match port.parse::<u16>() {
            Ok(number) if number != 0 && !port.starts_with('+') => {}
            _ => return Err(format!("`{port}` is not a port from 1 to 65535")),
        }
        match host.strip_prefix('[') {
            Some(inside) => {
                let address = inside
                    .strip_suffix(']')
                    .and_then(|a| a.parse::<std::net::Ipv6Addr>().ok());
                address.ok_or("not an IPv6 address in brackets")?;
            }
            None if host.contains(':') => return Err("an IPv6 address stands in brackets, as in [::1]:80".to_owned()),
            None => check_dns_name(host).map_err(|e| e.to_string())?,
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl TextFormat for Cidr {
    const FORMAT: &'static str = "address-range";
    const DESCRIPTION: &'static str = "An address or a range: 10.0.0.0/8, 2001:db8::/32, 127.0.0.1.";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<Cidr>().map_err(|e| e.to_string())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl TextFormat for HostPattern {
    const FORMAT: &'static str = "host-pattern";
    const DESCRIPTION: &'static str = "A host name, *.example.com for every name below it, or * for every host.";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<HostPattern>().map_err(|e| e.to_string())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl TextFormat for PathPattern {
    const FORMAT: &'static str = "path-pattern";
    const DESCRIPTION: &'static str = "A path: /exact, /users/:id/posts, /prefix/* (also matches /prefix), /*.";
    const PATTERN: Option<&'static str> = Some("^/");

    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<PathPattern>().map_err(|e| e.to_string())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A path with an optional query, sent as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestPath(pub(crate) String);

impl TextFormat for RequestPath {
    const FORMAT: &'static str = "request-path";
    const DESCRIPTION: &'static str = "A path to request: /healthz.";
    const PATTERN: Option<&'static str> = Some("^/");

    fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("a path begins with `/`".to_owned());
        }
        canonical_escapes(text.as_bytes()).map_err(|refusal| format!("the path has {refusal}"))?;
        if text.parse::<http::uri::PathAndQuery>().is_err() {
            return Err("not a path that can be requested".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Where a redirect leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location(pub(crate) String);

impl TextFormat for Location {
    const FORMAT: &'static str = "location";
    const DESCRIPTION: &'static str = "Where to go: https://www.example.com/new, or a path on the same host, /new.";

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(bad) = text.chars().find(|c| c.is_control() || *c == ' ' || !c.is_ascii()) {
            return Err(format!("`{}` must be escaped in a location", bad.escape_default()));
        }
        let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match address {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Err("the URL has no host".to_owned()),
            Some(_) => Ok(Self(text.to_owned())),
            None if text.starts_with("//") => Err("write the scheme: https://…".to_owned()),
            None if text.starts_with('/') => Ok(Self(text.to_owned())),
            None => Err("expected https://…, http://… or a path that begins with `/`".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl TextFormat for Method {
    const FORMAT: &'static str = "method";
    const DESCRIPTION: &'static str = "A request method: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS.";

    fn parse(text: &str) -> Result<Self, String> {
        let method = Method::from_bytes(text.as_bytes()).map_err(|_| "not a request method".to_owned())?;
        match method {
            Method::CONNECT => Err("CONNECT never reaches a route".to_owned()),
            _ if text.bytes().any(|b| b.is_ascii_lowercase()) => Err(format!(
                "methods are written in capitals: {}",
                text.to_ascii_uppercase()
            )),
            method => Ok(method),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl TextFormat for HeaderName {
    const FORMAT: &'static str = "header-name";
    const DESCRIPTION: &'static str = "The name of a header field, in any case.";

    fn parse(text: &str) -> Result<Self, String> {
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| "not the name of a header".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A field value for `Content-Type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentType(pub(crate) String);

impl TextFormat for ContentType {
    const FORMAT: &'static str = "content-type";
    const DESCRIPTION: &'static str = "A media type: text/html; charset=utf-8.";

    fn parse(text: &str) -> Result<Self, String> {
        let value = http::HeaderValue::from_str(text).map_err(|_| "not a media type".to_owned())?;
        match value.to_str() {
            Ok(text) if text.contains('/') => Ok(Self(text.to_owned())),
            _ => Err("expected a media type such as text/html; charset=utf-8".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A DNS name or an IP address, without port; in a certificate also `*.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostName(pub(crate) String);

impl TextFormat for HostName {
    const FORMAT: &'static str = "host-name";
    const DESCRIPTION: &'static str = "A host name or an IP address, without scheme and port.";

    fn parse(text: &str) -> Result<Self, String> {
        if text.parse::<std::net::IpAddr>().is_err() {
            match HostPattern::parse(text)? {
                HostPattern::Any => return Err("expected a name".to_owned()),
                HostPattern::Exact(_) | HostPattern::Wildcard(_) => {}
            }
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A tag to purge by, as it may stand in `Cache-Tag` and `Surrogate-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheTag(pub(crate) String);

impl TextFormat for CacheTag {
    const FORMAT: &'static str = "cache-tag";
    const DESCRIPTION: &'static str = "A tag to purge by: 1 to 256 visible ASCII characters without comma.";

    fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("a tag is 1 to 256 visible ASCII characters without comma".to_owned())
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A name given to an upstream, a handler, a database, a binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(pub(crate) String);

impl TextFormat for Name {
    const FORMAT: &'static str = "name";
    const DESCRIPTION: &'static str = "A name: letters, digits, `_`, `-` and `.`, at most 64.";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$");

    fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) || text.starts_with(['-', '.']) {
            return Err("a name has letters, digits, `_`, `-` and `.`, at most 64".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}
