//! Who is asking: the address and scheme of the client, and what the target is told about them.
//!
//! Invariant: a forwarding field is believed only as far as the chain of trusted proxies reaches. What an untrusted peer
//! says about itself is removed before any filter, handler or upstream sees it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use pingora_error::Result;
use pingora_http::RequestHeader;
use selvedge_filters::{Client, Scheme};
use selvedge_schema::Cidr;

/// Everything a client could use to pretend to be somebody else.
const FORWARDING_FIELDS: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
];

/// The client as far as it can be known. `peer` is whoever opened the connection, `encrypted` whether it is TLS.
pub(crate) fn resolve(peer: Option<IpAddr>, encrypted: bool, headers: &HeaderMap, trusted: &[Cidr]) -> Client {
    let connected = if encrypted { Scheme::Https } else { Scheme::Http };
    let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
        return Client {
            scheme: connected,
            ..Client::unknown()
        };
    };
    if !is_trusted(peer, trusted) {
        return Client {
            address: peer,
            scheme: connected,
        };
    }
    Client {
        address: first_untrusted(peer, &forwarded_for(headers), trusted),
        scheme: forwarded_scheme(headers).unwrap_or(connected),
    }
}

fn is_trusted(address: IpAddr, trusted: &[Cidr]) -> bool {
    trusted.iter().any(|range| range.contains(address))
}

/// From the right, past the proxies we trust; an entry that is no address ends the walk.
fn first_untrusted(peer: IpAddr, chain: &[Option<IpAddr>], trusted: &[Cidr]) -> IpAddr {
    let mut client = peer;
    for hop in chain.iter().rev() {
        let Some(address) = hop else {
            break;
        };
        client = *address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// The chain of addresses, the client first: `X-Forwarded-For`, or without one `Forwarded` (RFC 7239).
fn forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let listed = list(headers, "x-forwarded-for");
    if !listed.is_empty() {
        return listed.into_iter().map(address).collect();
    }
    let elements = list(headers, "forwarded");
    elements
        .into_iter()
        .map(|element| parameter(element, "for").and_then(address))
        .collect()
}

fn forwarded_scheme(headers: &HeaderMap) -> Option<Scheme> {
    let proto = list(headers, "x-forwarded-proto").pop();
    let proto = proto.or_else(|| {
        list(headers, "forwarded")
            .into_iter()
            .rev()
            .find_map(|e| parameter(e, "proto"))
    })?;
    match proto.to_ascii_lowercase().as_str() {
        "https" => Some(Scheme::Https),
        "http" => Some(Scheme::Http),
        _ => None,
    }
}

fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect()
}

fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?.1;
    Some(value.trim_matches('"'))
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let address = bare.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(address.to_canonical())
}

/// Tells the target who is asking. A trusted peer's chain is continued, anybody else's is replaced.
pub(crate) fn replace_forwarding_fields(
    request: &mut RequestHeader,
    peer: Option<IpAddr>,
    client: &Client,
    authority: &str,
    trusted: &[Cidr],
) -> Result<()> {
    let peer = peer.map(|peer| peer.to_canonical());
    let chain = match peer {
        Some(peer) if is_trusted(peer, trusted) => {
            let known = list(&request.headers, "x-forwarded-for").join(", ");
            if known.is_empty() {
                client.address.to_string()
            } else {
                format!("{known}, {peer}")
            }
        }
        _ => client.address.to_string(),
    };
    for name in FORWARDING_FIELDS {
        request.remove_header(name);
    }
    let scheme = client.scheme.as_str();
    let node = match client.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    request.insert_header("x-forwarded-for", chain)?;
    request.insert_header("x-forwarded-proto", scheme)?;
    request.insert_header("x-forwarded-host", authority)?;
    request.insert_header("forwarded", format!("for={node};host=\"{authority}\";proto={scheme}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let check = |peer: &str, fields: &[(&'static str, &str)], expected: &str, scheme: Scheme| {
            let client = resolve(Some(peer.parse().unwrap()), false, &headers(fields), &trusted);
            assert_eq!(client.address.to_string(), expected, "{peer} {fields:?}");
            assert_eq!(client.scheme, scheme, "{peer} {fields:?}");
        };
        use Scheme::{Http, Https};
        let spoofed = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https")];
        check("192.0.2.9", &spoofed, "192.0.2.9", Http);
        check("10.0.0.1", &spoofed, "1.1.1.1", Https);
        check("::ffff:10.0.0.1", &spoofed, "1.1.1.1", Https);
        check(
            "10.0.0.1",
            &[("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.9.9.9")],
            "1.1.1.1",
            Http,
        );
        check(
            "10.0.0.1",
            &[("x-forwarded-for", "6.6.6.6, unknown, 10.9.9.9")],
            "10.9.9.9",
            Http,
        );
        check("10.0.0.1", &[], "10.0.0.1", Http);
        let rfc7239 = [("forwarded", "for=\"[2001:db8::7]:4711\";proto=https, for=10.2.2.2")];
        check("10.0.0.1", &rfc7239, "2001:db8::7", Https);
    }

    #[test]
    fn the_target_learns_what_is_true() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let check = |peer: &str, expected: &str| {
            let peer: IpAddr = peer.parse().unwrap();
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("x-forwarded-for", "1.1.1.1").unwrap();
            request.insert_header("x-real-ip", "6.6.6.6").unwrap();
            let client = resolve(Some(peer), true, &request.headers, &trusted);
            replace_forwarding_fields(&mut request, Some(peer), &client, "a.test:8443", &trusted).unwrap();
            assert_eq!(request.headers["x-forwarded-for"], expected);
            assert_eq!(request.headers["x-forwarded-host"], "a.test:8443");
            assert!(!request.headers.contains_key("x-real-ip"));
        };
        check("192.0.2.9", "192.0.2.9");
        check("10.0.0.1", "1.1.1.1, 10.0.0.1");
    }
}
