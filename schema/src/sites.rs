//! Where apps are reached: a URL whose host begins with `*.`, where the name of an app belongs.

use std::fmt;

use crate::pattern::check_dns_name;
use crate::text::TextFormat;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sites {
    scheme: Scheme,
    /// In lower case.
    domain: String,
    /// Not the scheme's own.
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn word(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Sites {
    /// Browsers and curl look for names below it on their own machine (RFC 6761 section 6.3).
    pub const DEFAULT: &str = "http://*.localhost";

    /// Where the app is that serves.
    pub fn app(&self, app: &str) -> String {
        self.url(app)
    }

    /// Where one version of it is, whether it serves or not.
    pub fn preview(&self, app: &str, version: i64) -> String {
        self.url(&format!("{app}-v{version}"))
    }

    fn url(&self, label: &str) -> String {
        let (scheme, domain) = (self.scheme.word(), &self.domain);
        match self.port {
            Some(port) => format!("{scheme}://{label}.{domain}:{port}/"),
            None => format!("{scheme}://{label}.{domain}/"),
        }
    }
}

impl Default for Sites {
    fn default() -> Sites {
        Sites::parse(Sites::DEFAULT).expect("the default is one")
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url("*").trim_end_matches('/'))
    }
}

impl TextFormat for Sites {
    const FORMAT: &'static str = "sites";
    const DESCRIPTION: &'static str =
        "A URL whose host begins with `*.`: https://*.edge.example.com, http://*.localhost:8080.";
    const PATTERN: Option<&'static str> = Some(r"^https?://\*\.[^/]+/?$");

    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            _ => return Err("expected http://*.… or https://*.…".to_owned()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let rest = rest
            .strip_prefix("*.")
            .ok_or("the host begins with `*.`, where the name of an app belongs")?;
        let (domain, port) = match rest.split_once(':') {
            None => (rest, None),
            Some((domain, port)) => match port.parse::<u16>() {
                Ok(number) if number != 0 && !port.starts_with('+') => (domain, Some(number)),
                _ => return Err(format!("`{port}` is not a port from 1 to 65535")),
            },
        };
        check_dns_name(domain).map_err(|error| error.to_string())?;
        Ok(Sites {
            scheme,
            domain: domain.to_ascii_lowercase(),
            port: port.filter(|port| *port != scheme.port()),
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_app_is() {
        for (sites, app, preview) in [
            (
                "http://*.localhost:8080",
                "http://shop.localhost:8080/",
                "http://shop-v3.localhost:8080/",
            ),
            (Sites::DEFAULT, "http://shop.localhost/", "http://shop-v3.localhost/"),
            (
                "https://*.Edge.example.com:443/",
                "https://shop.edge.example.com/",
                "https://shop-v3.edge.example.com/",
            ),
        ] {
            let sites = Sites::parse(sites).unwrap();
            assert_eq!(
                (sites.app("shop").as_str(), sites.preview("shop", 3).as_str()),
                (app, preview)
            );
            assert_eq!(Sites::parse(&sites.show()).unwrap(), sites);
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "*.localhost",
            "ftp://*.localhost",
            "http://localhost",
            "http://*.",
            "http://*.localhost/apps",
            "http://*.local host",
            "http://*.localhost:0",
            "http://*.localhost:x",
        ] {
            assert!(Sites::parse(text).is_err(), "{text}");
        }
    }
}
