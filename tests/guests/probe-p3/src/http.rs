//! Requests read, heads made and bodies written through `wasi:http` 0.3.

use crate::wasi::http0_3_0::types::{ErrorCode, Fields, Method, Request, Response, Scheme, Trailers};
use crate::{wit_future, wit_stream};
use probe::{Reply, Target};
use wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult, StreamWriter};

/// How much is asked for at once.
const READ_BYTES: usize = 64 * 1024;

/// What a request says, and its body.
pub fn request(incoming: Request) -> (probe::Request, RequestBody) {
    let path_with_query = incoming.get_path_with_query();
    let request = probe::Request {
        method: match incoming.get_method() {
            Method::Other(name) => name,
            known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
        },
        scheme: incoming.get_scheme().map(|scheme| match scheme {
            Scheme::Http => "http".to_owned(),
            Scheme::Https => "https".to_owned(),
            Scheme::Other(name) => name,
        }),
        authority: incoming.get_authority(),
        target: Target::parse(path_with_query.as_deref().unwrap_or("/")),
        path_with_query,
        headers: incoming.get_headers().copy_all(),
    };
    let (taken, taken_reader) = wit_future::new(|| Ok(()));
    let (stream, trailers) = Request::consume_body(incoming, taken_reader);
    (request, RequestBody { stream, _trailers: trailers, _taken: taken })
}

/// A request body being read.
pub struct RequestBody {
    stream: StreamReader<u8>,
    _trailers: FutureReader<Result<Option<Trailers>, ErrorCode>>,
    _taken: FutureWriter<Result<(), ErrorCode>>,
}

impl RequestBody {
    /// The next bytes, or nothing at the end (or where the client left).
    pub async fn read(&mut self) -> Option<Vec<u8>> {
        match self.stream.read(Vec::with_capacity(READ_BYTES)).await {
            (StreamResult::Complete(_), part) => Some(part),
            (StreamResult::Dropped | StreamResult::Cancelled, _) => None,
        }
    }
}

/// A whole reply.
pub fn send(reply: Reply) -> Response {
    let (response, mut body) = start(reply.status, &reply.headers);
    wit_bindgen::spawn_local(async move {
        body.write(reply.body).await;
        body.finish(&reply.trailers).await;
    });
    response
}

/// A head whose body follows. Headers the host refuses are named in `x-refused`.
pub fn start(status: u16, headers: &[(String, Vec<u8>)]) -> (Response, Body) {
    let (fields, refused) = fields(headers);
    if !refused.is_empty() {
        fields.append("x-refused", refused.join(", ").as_bytes()).expect("a harmless header");
    }
    let (stream, stream_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, Some(stream_reader), trailers_reader);
    if response.set_status_code(status).is_err() {
        response.set_status_code(500).expect("500 is a status");
    }
    (response, Body { stream, trailers })
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

/// A response body being written; each write waits until it was taken.
pub struct Body {
    stream: StreamWriter<u8>,
    trailers: FutureWriter<Result<Option<Trailers>, ErrorCode>>,
}

impl Body {
    /// Writes all of `bytes`; false once nobody takes them any more.
    pub async fn write(&mut self, bytes: Vec<u8>) -> bool {
        self.stream.write_all(bytes).await.is_empty()
    }

    pub async fn finish(self, trailers: &[(String, Vec<u8>)]) {
        drop(self.stream);
        let trailers = (!trailers.is_empty()).then(|| fields(trailers).0);
        // A body of the wrong length is refused here; the host knows and has said so to its log.
        let _ = self.trailers.write(Ok(trailers)).await;
    }
}
