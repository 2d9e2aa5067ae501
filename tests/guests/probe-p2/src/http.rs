//! Requests read, heads sent and bodies written through `wasi:http` 0.2.

use crate::exports::wasi::http0_2_12::incoming_handler::{IncomingRequest, ResponseOutparam};
use crate::wasi::http0_2_12::types::{Fields, IncomingBody, Method, OutgoingBody, OutgoingResponse, Scheme};
use crate::wasi::io::streams::{InputStream, OutputStream};
use probe::{Reply, Request, Target};

/// How much one `blocking-write-and-flush` may carry (wasi:io/streams).
const WRITE_LIMIT: usize = 4096;

pub fn request(incoming: &IncomingRequest) -> Request {
    let path_with_query = incoming.path_with_query();
    Request {
        method: match incoming.method() {
            Method::Other(name) => name,
            known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
        },
        scheme: incoming.scheme().map(|scheme| match scheme {
            Scheme::Http => "http".to_owned(),
            Scheme::Https => "https".to_owned(),
            Scheme::Other(name) => name,
        }),
        authority: incoming.authority(),
        target: Target::parse(path_with_query.as_deref().unwrap_or("/")),
        path_with_query,
        headers: incoming.headers().entries(),
    }
}

/// Sends a whole reply.
pub fn send(reply: Reply, outparam: ResponseOutparam) {
    let mut body = start(reply.status, &reply.headers, outparam);
    body.write(&reply.body);
    body.finish(&reply.trailers);
}

/// Sends a head; the body follows. Headers the host refuses are named in `x-refused`.
pub fn start(status: u16, headers: &[(String, Vec<u8>)], outparam: ResponseOutparam) -> Body {
    let (fields, refused) = fields(headers);
    if !refused.is_empty() {
        fields.append("x-refused", refused.join(", ").as_bytes()).expect("a harmless header");
    }
    let response = OutgoingResponse::new(fields);
    if response.set_status_code(status).is_err() {
        response.set_status_code(500).expect("500 is a status");
    }
    let body = response.body().expect("a new response has its body");
    ResponseOutparam::set(outparam, Ok(response));
    let stream = body.write().expect("a new body has its stream");
    Body { stream, body, open: true }
}

fn fields(headers: &[(String, Vec<u8>)]) -> (Fields, Vec<String>) {
    let fields = Fields::new();
    let refused = headers
        .iter()
        .filter(|(name, value)| fields.append(name, value).is_err())
        .map(|(name, _)| name.replace(' ', "_"))
        .collect();
    (fields, refused)
}

/// A response body being written; each write is flushed.
pub struct Body {
    // Before `body`: a stream has to be gone before the body it belongs to.
    stream: OutputStream,
    body: OutgoingBody,
    open: bool,
}

impl Body {
    /// Writes all of `bytes`; false once nobody takes them any more.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.chunks(WRITE_LIMIT) {
            self.open = self.open && self.stream.blocking_write_and_flush(part).is_ok();
        }
        self.open
    }

    pub fn finish(self, trailers: &[(String, Vec<u8>)]) {
        drop(self.stream);
        let trailers = (!trailers.is_empty()).then(|| fields(trailers).0);
        // A body of the wrong length is refused here; the host knows and has said so to its log.
        let _ = OutgoingBody::finish(self.body, trailers);
    }
}

/// A request body being read.
pub struct RequestBody {
    stream: InputStream,
    _body: IncomingBody,
}

impl RequestBody {
    pub fn of(incoming: &IncomingRequest) -> Self {
        let body = incoming.consume().expect("the body is taken once");
        Self { stream: body.stream().expect("the stream is taken once"), _body: body }
    }

    /// The next bytes, or nothing at the end (or where the client left).
    pub fn read(&mut self) -> Option<Vec<u8>> {
        self.stream.blocking_read(64 * 1024).ok()
    }
}

/// The whole body, and in how many reads it came.
pub fn read_all(incoming: &IncomingRequest) -> (Vec<u8>, u64) {
    let mut body = RequestBody::of(incoming);
    let (mut bytes, mut reads) = (Vec::new(), 0);
    while let Some(part) = body.read() {
        bytes.extend(part);
        reads += 1;
    }
    (bytes, reads)
}
