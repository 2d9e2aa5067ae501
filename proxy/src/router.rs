//! Which route answers: host, then path, then method; the most specific wins.
//!
//! Hosts: exact before wildcard, a longer wildcard before a shorter one, any host last. Paths, segment by segment:
//! literal before parameter before `/*`. At one place a route with methods comes before one for every method. A route
//! that does not fit the rest of the request gives way to the next less specific one, also to one for another host
//! pattern. Two routes that would tie are a [`Conflict`], so the order of the file never decides.

use std::collections::HashMap;

use http::Method;
use selvedge_schema::{HostPattern, Route, Segment};

/// Immutable; made once per configuration.
#[derive(Debug, Default)]
pub(crate) struct RoutingTable {
    exact: HashMap<String, Node>,
    /// By suffix with its leading dot, the longest first.
    wildcards: Vec<(String, Node)>,
    any: Node,
}

/// Where a prefix of segments leads.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    param: Option<Box<Node>>,
    /// Routes whose pattern ends here, those with methods first.
    end: Vec<Candidate>,
    /// Routes whose pattern goes on with `/*`.
    open: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    /// Position of the route in the configuration.
    index: usize,
    methods: Option<Vec<Method>>,
}

/// Two routes that match the same requests and are equally specific.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Positions in the configuration, `a` before `b`.
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// A request both would match.
    pub(crate) example: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Find {
    /// Position of the route in the configuration.
    Route(usize),
    /// Routes match host and path, but none the method; what they would allow, sorted.
    MethodNotAllowed(Vec<Method>),
    NotFound,
}

impl RoutingTable {
    pub(crate) fn build(routes: &[Route]) -> Result<RoutingTable, Vec<Conflict>> {
        let mut table = RoutingTable::default();
        let mut conflicts = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let matcher = &route.matcher;
            let mut node = table.tier(&matcher.host);
            for segment in matcher.path.segments() {
                node = match segment {
                    Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                    Segment::Param(_) => node.param.get_or_insert_default(),
                };
            }
            let here = match matcher.path.is_open() {
                true => &mut node.open,
                false => &mut node.end,
            };
            let candidate = Candidate {
                index,
                methods: matcher.methods.clone(),
            };
            conflicts.extend(here.iter().filter_map(|other| {
                let method = other.tie(&candidate)?;
                Some(Conflict {
                    a: other.index,
                    b: index,
                    example: example(route, &method),
                })
            }));
            here.push(candidate);
            here.sort_by_key(|candidate| candidate.methods.is_none());
        }
        table.wildcards.sort_by_key(|(suffix, _)| usize::MAX - suffix.len());
        if conflicts.is_empty() {
            Ok(table)
        } else {
            Err(conflicts)
        }
    }

    fn tier(&mut self, host: &HostPattern) -> &mut Node {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::Wildcard(suffix) => {
                let at = self.wildcards.iter().position(|(known, _)| known == suffix);
                let at = at.unwrap_or_else(|| {
                    self.wildcards.push((suffix.clone(), Node::default()));
                    self.wildcards.len() - 1
                });
                &mut self.wildcards[at].1
            }
        }
    }

    /// `host` canonical, `path` normalised.
    pub(crate) fn find(&self, host: &str, method: &Method, path: &str) -> Find {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let fits = |suffix: &String| host.len() > suffix.len() && host.ends_with(suffix.as_str());
        let wildcards = self.wildcards.iter().filter(|(suffix, _)| fits(suffix));
        let tiers = self.exact.get(host).into_iter();
        let tiers = tiers.chain(wildcards.map(|(_, node)| node)).chain([&self.any]);
        let mut allowed = Vec::new();
        for tier in tiers {
            if let Some(index) = tier.find(&segments, method, &mut allowed) {
                return Find::Route(index);
            }
        }
        if allowed.is_empty() {
            return Find::NotFound;
        }
        allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allowed.dedup();
        Find::MethodNotAllowed(allowed)
    }
}

impl Node {
    /// Depth first, the most specific branch first; notes in `allowed` what fits but for its method.
    fn find(&self, segments: &[&str], method: &Method, allowed: &mut Vec<Method>) -> Option<usize> {
        let deeper = match segments {
            [] => choose(&self.end, method, allowed),
            [first, rest @ ..] => {
                let literal = self.literals.get(*first);
                let param = self.param.as_deref().filter(|_| !first.is_empty());
                literal
                    .and_then(|node| node.find(rest, method, allowed))
                    .or_else(|| param.and_then(|node| node.find(rest, method, allowed)))
            }
        };
        deeper.or_else(|| choose(&self.open, method, allowed))
    }
}

fn choose(candidates: &[Candidate], method: &Method, allowed: &mut Vec<Method>) -> Option<usize> {
    let found = candidates.iter().find(|candidate| candidate.allows(method));
    if found.is_none() {
        for methods in candidates.iter().filter_map(|candidate| candidate.methods.as_ref()) {
            allowed.extend(methods.iter().cloned());
            if methods.contains(&Method::GET) {
                allowed.push(Method::HEAD);
            }
        }
    }
    found.map(|candidate| candidate.index)
}

impl Candidate {
    /// A list with GET answers HEAD too.
    fn allows(&self, method: &Method) -> bool {
        let Some(methods) = &self.methods else {
            return true;
        };
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }

    /// A method that both answer, when neither is more specific.
    fn tie(&self, other: &Candidate) -> Option<Method> {
        match (&self.methods, &other.methods) {
            (None, None) => Some(Method::GET),
            (Some(mine), Some(_)) => mine.iter().find(|method| other.allows(method)).cloned(),
            _ => None,
        }
    }
}

fn example(route: &Route, method: &Method) -> String {
    let host = match &route.matcher.host {
        HostPattern::Any => String::new(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(suffix) => format!("x{suffix}"),
    };
    let mut path = String::new();
    for segment in route.matcher.path.segments() {
        path.push('/');
        path.push_str(match segment {
            Segment::Literal(text) => text,
            Segment::Param(_) => "x",
        });
    }
    if route.matcher.path.is_open() {
        path.push_str("/x");
    }
    format!("{method} {host}{path}")
}

/// The host of an authority: lower case, without port and trailing dot. `None` when it is no host.
pub(crate) fn canonical_host(authority: &str) -> Option<String> {
    if authority.contains('@') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (
                format!("[{}]", address.to_ascii_lowercase()),
                after.strip_prefix(':').or(after.is_empty().then_some(""))?,
            )
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = host.strip_suffix('.').unwrap_or(host);
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let labels = host.len() <= 253 && host.split('.').all(|label| !label.is_empty() && label.len() <= 63);
            if !labels || !host.bytes().all(valid) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)
}

#[cfg(test)]
mod tests {
    use selvedge_schema::{FixedResponse, Match, Target, Writes};

    use super::*;

    /// `"GET,POST host/path"`; host may be empty, methods may be missing.
    fn route(text: &str) -> Route {
        let (methods, rest) = text
            .split_once(' ')
            .map_or((None, text), |(methods, rest)| (Some(methods), rest));
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        Route {
            name: text.to_owned(),
            matcher: Match {
                host: if host.is_empty() {
                    HostPattern::Any
                } else {
                    host.parse().unwrap()
                },
                path: path.parse().unwrap(),
                methods: methods.map(|list| list.split(',').map(|m| m.parse().unwrap()).collect()),
            },
            filters: Vec::new(),
            cache: None,
            target: Target::Respond(FixedResponse {
                status: 200,
                body: String::new(),
                content_type: String::new(),
            }),
            fallback: None,
            error_page: None,
            writes: Writes::Wait,
            pointer: String::new(),
        }
    }

    fn routes(texts: &[&str]) -> Vec<Route> {
        texts.iter().map(|text| route(text)).collect()
    }

    #[test]
    fn the_most_specific_route_answers() {
        const ROUTES: &[&str] = &[
            "/*",
            "/products/*",
            "/products/:id",
            "/products/new",
            "GET /products/:id/edit",
            "POST /products/new",
            "shop.example.com/products/:id",
            "*.example.com/*",
            "*.eu.example.com/*",
            "GET only.test/a",
            "/exact",
        ];
        let table = RoutingTable::build(&routes(ROUTES)).unwrap();
        for (method, host, path, expected) in [
            ("GET", "a.test", "/", "/*"),
            ("GET", "a.test", "/exact", "/exact"),
            ("GET", "a.test", "/exact/", "/*"),
            ("GET", "a.test", "/products", "/products/*"),
            ("GET", "a.test", "/products/", "/products/*"),
            ("GET", "a.test", "/products/7", "/products/:id"),
            ("GET", "a.test", "/products/new", "/products/new"),
            ("POST", "a.test", "/products/new", "POST /products/new"),
            ("GET", "a.test", "/products/7/edit", "GET /products/:id/edit"),
            ("HEAD", "a.test", "/products/7/edit", "GET /products/:id/edit"),
            ("POST", "a.test", "/products/7/edit", "/products/*"),
            (
                "GET",
                "shop.example.com",
                "/products/7",
                "shop.example.com/products/:id",
            ),
            ("GET", "shop.example.com", "/other", "*.example.com/*"),
            ("GET", "x.eu.example.com", "/other", "*.eu.example.com/*"),
            ("GET", "example.com", "/other", "/*"),
            ("POST", "only.test", "/a", "/*"),
        ] {
            let found = table.find(host, &method.parse().unwrap(), path);
            let Find::Route(index) = found else {
                panic!("{method} {host}{path}: {found:?}")
            };
            assert_eq!(ROUTES[index], expected, "{method} {host}{path}");
        }
    }

    #[test]
    fn a_method_nobody_answers_names_those_that_are() {
        let table = RoutingTable::build(&routes(&["GET /a", "PUT /a", "POST /b/*"])).unwrap();
        let allow = |method: &str, path: &str| match table.find("h", &method.parse().unwrap(), path) {
            Find::MethodNotAllowed(methods) => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(allow("DELETE", "/a"), "GET HEAD PUT");
        assert_eq!(allow("GET", "/b/c"), "POST");
        assert_eq!(allow("GET", "/c"), "NotFound");
    }

    #[test]
    fn ties_are_conflicts() {
        let check = |texts: &[&str], expected: Option<&str>| {
            let found = RoutingTable::build(&routes(texts))
                .err()
                .map(|conflicts| conflicts[0].example.clone());
            assert_eq!(found.as_deref(), expected, "{texts:?}");
        };
        check(&["/a", "/a"], Some("GET /a"));
        check(&["/a/:x", "/a/:y"], Some("GET /a/x"));
        check(&["GET,POST h.test/a/*", "POST h.test/a/*"], Some("POST h.test/a/x"));
        check(&["HEAD /a", "GET /a"], Some("HEAD /a"));
        check(&["/a", "GET /a"], None);
        check(&["GET /a", "POST /a"], None);
        check(&["/a", "/a/*", "/:a", "h.test/a"], None);
    }

    #[test]
    fn hosts_are_canonical() {
        for (authority, expected) in [
            ("Example.COM", Some("example.com")),
            ("example.com:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("[::1]x", None),
            ("[nonsense]", None),
            ("user@example.com", None),
            ("", None),
            ("a..b", None),
            ("a b", None),
            ("a:b", None),
            ("a/b", None),
        ] {
            assert_eq!(canonical_host(authority).as_deref(), expected, "{authority}");
        }
    }
}
