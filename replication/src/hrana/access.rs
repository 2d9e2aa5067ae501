//! Who may do what: a client's token names its database and its role; the cluster's token may everything.
//!
//! A token is judged before any name is looked at, and one that is bound to a database is told the same of every other
//! name, whether there is such a database or not.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header};
use sha2::{Digest, Sha256};

use crate::agent::{AgentSettings, ClientRole, Refusal};
use crate::folder::Folder;

/// What a request may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    /// The only database; `None` for all.
    database: Option<String>,
    pub(super) role: ClientRole,
}

/// All tokens, as digests.
pub(super) struct Tokens {
    known: Vec<([u8; 32], Access)>,
    /// Nobody configured a token: whoever reaches the listener may everything.
    open: bool,
}

impl Tokens {
    pub(super) fn of(settings: &AgentSettings) -> Tokens {
        let cluster = settings.token.iter().map(|token| (digest(token), Access::ALL));
        let clients = settings.clients.iter().map(|client| {
            let access = Access {
                database: Some(client.database.clone()),
                role: client.role,
            };
            (digest(&client.token), access)
        });
        Tokens {
            known: cluster.chain(clients).collect(),
            open: settings.token.is_none() && settings.clients.is_empty(),
        }
    }

    pub(super) fn judge(&self, headers: &HeaderMap) -> Result<Access, Refusal> {
        if self.open {
            return Ok(Access::ALL);
        }
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| digest(token.trim()))
            .ok_or(Refusal::Token)?;
        // Every one is compared, in constant time: how long it takes says nothing about any of them.
        let mut found = None;
        for (known, access) in &self.known {
            if known.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0 {
                found = Some(access.clone());
            }
        }
        found.ok_or(Refusal::Token)
    }
}

impl Access {
    const ALL: Access = Access {
        database: None,
        role: ClientRole::Write,
    };

    /// The database a request means: its token's, the one in its path, that of its host name, or the only one.
    /// Those of the platform's are not served to clients.
    pub(super) fn database(&self, path: Option<&str>, host: Option<&str>, known: &[String]) -> Result<String, Refusal> {
        let known: Vec<&String> = known.iter().filter(|name| !Folder::is_platform_name(name)).collect();
        if let Some(bound) = &self.database {
            if Folder::is_platform_name(bound) {
                return Err(Refusal::NoDatabase(bound.clone()));
            }
            return match path {
                Some(path) if path != bound => Err(Refusal::Token),
                _ => Ok(bound.clone()),
            };
        }
        let is_known = |name: &&str| known.iter().any(|known| known.as_str() == *name);
        let named = path.or_else(|| host.and_then(first_label).filter(is_known));
        match (named, &*known) {
            (Some(name), _) if is_known(&name) => Ok(name.to_owned()),
            (Some(name), _) => Err(Refusal::NoDatabase(name.to_owned())),
            (None, [only]) => Ok((*only).clone()),
            (None, _) => Err(Refusal::Malformed(
                "which database? name it in the URL, http://HOST/db/NAME/, or use a token of its own".to_owned(),
            )),
        }
    }
}

/// The host a request was sent to, without its port.
pub(super) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let header = || headers.get(header::HOST)?.to_str().ok();
    let host = uri.host().or_else(header)?;
    Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
}

/// `shop` of `shop.db.example.com`.
fn first_label(host: &str) -> Option<&str> {
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    host.split_once('.').map(|(label, _)| label)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{AgentClientToken, Role};

    const READER: &str = "reader-0123456789abcdef";
    const WRITER: &str = "writer-0123456789abcdef";

    fn settings() -> AgentSettings {
        let client = |token: &str, role| AgentClientToken {
            token: token.to_owned(),
            database: "shop".to_owned(),
            role,
        };
        let mut settings = AgentSettings::new("test", Role::Primary, "/nowhere");
        settings.token = Some("cluster".to_owned());
        settings.clients = vec![client(READER, ClientRole::Read), client(WRITER, ClientRole::Write)];
        settings
    }

    fn judge(tokens: &Tokens, authorization: &str) -> Result<Access, String> {
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        }
        tokens.judge(&headers).map_err(|refusal| refusal.code().to_owned())
    }

    #[test]
    fn a_token_is_bound_to_its_database_and_role() {
        let tokens = Tokens::of(&settings());
        let shop = |role| Access {
            database: Some("shop".to_owned()),
            role,
        };
        for (authorization, expected) in [
            (format!("Bearer {READER}"), Ok(shop(ClientRole::Read))),
            (format!("bearer {WRITER}"), Ok(shop(ClientRole::Write))),
            ("Bearer cluster".to_owned(), Ok(Access::ALL)),
            ("Bearer cluste".to_owned(), Err("token".to_owned())),
            (format!("Basic {READER}"), Err("token".to_owned())),
            (READER.to_owned(), Err("token".to_owned())),
            (String::new(), Err("token".to_owned())),
        ] {
            assert_eq!(judge(&tokens, &authorization), expected, "{authorization}");
        }
        let mut open = settings();
        open.token = None;
        // Clients have tokens: without one nobody comes in.
        assert!(judge(&Tokens::of(&open), "").is_err());
        open.clients.clear();
        assert_eq!(judge(&Tokens::of(&open), ""), Ok(Access::ALL));
    }

    #[test]
    fn the_database_is_the_tokens_the_paths_or_the_hosts() {
        let bound = Access {
            database: Some("shop".to_owned()),
            role: ClientRole::Read,
        };
        let known = ["shop".to_owned(), "blog".to_owned()];
        let check = |access: &Access, path, host, known: &[String], expected: Result<&str, &str>| {
            let found = access.database(path, host, known);
            let found = found.map_err(|refusal| refusal.code().to_owned());
            assert_eq!(
                found.as_deref(),
                expected.map_err(str::to_owned).as_ref().copied(),
                "{path:?} {host:?}"
            );
        };
        check(&bound, None, Some("blog.example.com"), &known, Ok("shop"));
        check(&bound, Some("shop"), None, &known, Ok("shop"));
        // There is one, and there is none: the same answer.
        check(&bound, Some("blog"), None, &known, Err("token"));
        check(&bound, Some("nothing"), None, &known, Err("token"));
        check(&Access::ALL, Some("blog"), Some("shop.example.com"), &known, Ok("blog"));
        check(&Access::ALL, Some("nothing"), None, &known, Err("no_database"));
        check(&Access::ALL, Some("../shop"), None, &known, Err("no_database"));
        check(&Access::ALL, None, Some("shop.example.com"), &known, Ok("shop"));
        check(&Access::ALL, None, Some("127.0.0.1"), &known, Err("malformed"));
        check(&Access::ALL, None, None, &known[..1], Ok("shop"));
        let known = ["_control".to_owned(), "shop".to_owned()];
        check(&Access::ALL, None, None, &known, Ok("shop"));
        check(&Access::ALL, Some("_control"), None, &known, Err("no_database"));
        let platform = Access {
            database: Some("_control".to_owned()),
            role: ClientRole::Read,
        };
        check(&platform, None, None, &known, Err("no_database"));
    }

    #[test]
    fn hosts() {
        let check = |uri: &str, host_header: &str, expected| {
            let mut headers = HeaderMap::new();
            if !host_header.is_empty() {
                headers.insert(header::HOST, host_header.parse().unwrap());
            }
            assert_eq!(host(&uri.parse().unwrap(), &headers), expected, "{uri} {host_header}");
        };
        check("/v2", "shop.example.com:7100", Some("shop.example.com"));
        check("/v2", "shop.example.com", Some("shop.example.com"));
        check("http://shop.example.com:80/v2", "", Some("shop.example.com"));
        check("/v2", "", None);
    }
}
