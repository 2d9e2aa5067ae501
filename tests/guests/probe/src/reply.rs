//! The replies that need only the request and the instance: no waiting, no body read, nothing asked of the host.

use crate::Target;

pub struct Request {
    pub method: String,
    pub scheme: Option<String>,
    pub authority: Option<String>,
    pub path_with_query: Option<String>,
    pub target: Target,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }
}

/// The instance that serves: a random id, which two instances do not share, and how many requests came to it.
pub struct Instance {
    pub id: u64,
    pub served: u64,
    pub in_flight: u64,
    pub most_in_flight: u64,
}

pub struct Reply {
    pub status: u16,
    /// Headers the host refuses are left out and named in `x-refused`.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Reply {
    /// Plain text with its length.
    pub fn text(body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        Self::empty(200)
            .with("content-type", "text/plain; charset=utf-8")
            .with("content-length", &body.len().to_string())
            .with_body(body)
    }

    pub fn json(status: u16, body: String) -> Self {
        Self::empty(status)
            .with("content-type", "application/json")
            .with("content-length", &body.len().to_string())
            .with_body(body)
    }

    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), trailers: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// The reply to a path of this file; `random` differs from render to render.
pub fn reply(request: &Request, instance: &Instance, random: u64) -> Option<Reply> {
    let target = &request.target;
    Some(match target.path() {
        "/" | "/hello" => Reply::text("hello\n"),
        "/headers" => Reply::text(describe(request)),
        "/count" => Reply::text(format!(
            "instance {:016x}\nserved {}\nin-flight {}\nmost-in-flight {}\n",
            instance.id, instance.served, instance.in_flight, instance.most_in_flight
        )),
        "/early" => Reply::text("early\n"),
        "/random" => Reply::text(format!("{random:016x}\n")),
        "/204-with-body" => Reply::empty(204).with_body("a body where none may be\n"),
        "/304" => not_modified(request),
        "/cache" => cache(request, random),
        "/set-cookie" => {
            Reply::text("cookies\n").with("set-cookie", "a=1; Path=/").with("set-cookie", "b=2; Path=/; HttpOnly")
        }
        "/trailers" => {
            let trailers = vec![("x-checksum".to_owned(), b"abc123".to_vec())];
            Reply { trailers, ..Reply::empty(200).with("trailer", "x-checksum").with_body("a body with trailers\n") }
        }
        "/hop" => Reply::text("hop by hop\n")
            .with("connection", "keep-alive, x-gone")
            .with("keep-alive", "timeout=1")
            .with("proxy-connection", "keep-alive")
            .with("te", "trailers")
            .with("transfer-encoding", "chunked")
            .with("upgrade", "h2c")
            .with("x-gone", "named by connection")
            .with("x-kept", "end to end"),
        "/bad-header" => Reply::text("bad headers\n")
            .with("x-split", "one\r\nx-injected: two")
            .with("bad name", "space")
            .with("x-control", "a\u{1}b")
            .with("x-good", "kept"),
        "/big-header" => {
            let size = target.number("bytes", 1024) as usize;
            Reply::text("a big header\n").with("x-big", &"x".repeat(size))
        }
        path => match path.strip_prefix("/status/").and_then(|status| status.parse().ok()) {
            Some(status @ (204 | 304)) => Reply::empty(status),
            Some(status) => Reply::text(format!("status {status}\n")).with_status(status),
            None => return None,
        },
    })
}

/// The head of a body of this kind, whose length is not said.
pub fn content_type(value: &str) -> Vec<(String, Vec<u8>)> {
    vec![("content-type".to_owned(), value.as_bytes().to_vec())]
}

pub fn not_found(request: &Request) -> Reply {
    Reply::text(format!("no such probe: {}\n", request.target.path())).with_status(404)
}

fn describe(request: &Request) -> String {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let mut lines = vec![
        format!("method {}", request.method),
        format!("scheme {}", or_none(&request.scheme)),
        format!("authority {}", or_none(&request.authority)),
        format!("target {}", or_none(&request.path_with_query)),
    ];
    lines.extend(
        request.headers.iter().map(|(name, value)| format!("header {name}: {}", String::from_utf8_lossy(value))),
    );
    lines.join("\n") + "\n"
}

fn not_modified(request: &Request) -> Reply {
    let etag = format!("\"{}\"", request.target.get("etag").unwrap_or("1"));
    let reply = match request.header("if-none-match") {
        Some(held) if held == etag.as_bytes() => Reply::empty(304),
        _ => Reply::text("fresh\n"),
    };
    match request.target.get("cc") {
        Some(cache_control) => reply.with("cache-control", cache_control),
        None => reply,
    }
    .with("etag", &etag)
}

/// A page whose caching headers are the query's and whose body differs from render to render.
fn cache(request: &Request, random: u64) -> Reply {
    const HEADERS: [(&str, &str); 9] = [
        ("cc", "cache-control"),
        ("cdn", "cdn-cache-control"),
        ("surrogate", "surrogate-control"),
        ("set-cookie", "set-cookie"),
        ("vary", "vary"),
        ("tag", "cache-tag"),
        ("etag", "etag"),
        ("expires", "expires"),
        ("last-modified", "last-modified"),
    ];
    let target = &request.target;
    let mut body = format!("render {random:016x}\n");
    for name in target.all("vary").flat_map(|names| names.split(',')).map(str::trim) {
        let value = request.header(name).map(String::from_utf8_lossy);
        body.push_str(&format!("{name}: {}\n", value.as_deref().unwrap_or("-")));
    }
    let status = target.number("status", 200) as u16;
    HEADERS.iter().fold(Reply::text(body).with_status(status), |reply, (parameter, header)| {
        target.all(parameter).fold(reply, |reply, value| reply.with(header, value))
    })
}
