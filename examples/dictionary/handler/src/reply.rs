//! Replies, and how they leave: whole with a length, or as a stream that is written piece by piece.

use crate::address::Query;
use crate::layout;
use crate::wasi::http::types::{ErrorCode, Fields, Request, Response};
use crate::wit_future;
use crate::wit_stream;
use maud::html;
use wit_bindgen::{StreamReader, StreamWriter};

/// Bytes of a form we read. A note has 500 characters, which percent-encoded are some kilobytes.
const FORM_BYTES: usize = 16 * 1024;

pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// Whether a shared cache may keep a reply when the route lets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// Nothing said: the route's policy decides.
    AsConfigured,
    Never,
}

impl Reply {
    pub fn page(status: u16, page: maud::Markup, keep: Keep) -> Reply {
        Reply::new(status, "text/html; charset=utf-8", page.into_string(), keep)
    }

    pub fn json(status: u16, body: String) -> Reply {
        Reply::new(status, "application/json", body, Keep::AsConfigured)
    }

    /// After a form was accepted: look there (RFC 9110, 15.4.4).
    pub fn see_other(location: String) -> Reply {
        let mut reply = Reply::new(
            303,
            "text/plain; charset=utf-8",
            format!("see {location}\n"),
            Keep::Never,
        );
        reply.headers.push(("location", location));
        reply
    }

    pub fn method_not_allowed() -> Reply {
        let body = html! { h1 { "Not like this" } p { "This page can only be read." } };
        let mut reply = Reply::page(405, layout::page("Not allowed", "", body), Keep::Never);
        reply.headers.push(("allow", "GET, HEAD".to_owned()));
        reply
    }

    fn new(status: u16, content_type: &'static str, body: String, keep: Keep) -> Reply {
        let mut headers = vec![
            ("content-type", content_type.to_owned()),
            ("content-length", body.len().to_string()),
        ];
        if keep == Keep::Never {
            headers.push(("cache-control", "no-store".to_owned()));
        }
        Reply { status, headers, body }
    }

    pub fn send(self) -> Response {
        let (writer, response) = begin(self.status, &self.headers);
        writer.finish_with(self.body);
        response
    }
}

/// The body of a response that has begun.
pub struct Body {
    stream: StreamWriter<u8>,
    trailers: wit_bindgen::FutureWriter<Result<Option<Fields>, ErrorCode>>,
}

impl Body {
    /// Returns when the host has taken all of it; `false` when nobody is listening any more.
    pub async fn write(&mut self, text: String) -> bool {
        self.stream.write_all(text.into_bytes()).await.is_empty()
    }

    pub async fn end(self) {
        drop(self.stream);
        let _nobody_waits = self.trailers.write(Ok(None)).await;
    }

    fn finish_with(mut self, text: String) {
        wit_bindgen::spawn_local(async move {
            self.write(text).await;
            self.end().await;
        });
    }
}

/// A response whose body is written after it has been returned.
pub fn begin(status: u16, headers: &[(&'static str, String)]) -> (Body, Response) {
    let (stream, contents): (StreamWriter<u8>, StreamReader<u8>) = wit_stream::new();
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    let entries: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes()))
        .collect();
    let fields = Fields::from_list(&entries).expect("the headers are this site's own");
    let (response, _sent) = Response::new(fields, Some(contents), no_trailers);
    response.set_status_code(status).expect("the status is this site's own");
    (Body { stream, trailers }, response)
}

/// The fields of a form that was sent.
pub async fn read_form(request: Request) -> Result<Query, Reply> {
    let (_received, result) = wit_future::new(|| Ok(()));
    let (mut stream, _trailers) = Request::consume_body(request, result);
    let mut bytes = Vec::new();
    loop {
        let (status, chunk) = stream.read(Vec::with_capacity(4096)).await;
        bytes.extend(chunk);
        if bytes.len() > FORM_BYTES {
            let body = html! { h1 { "Too long" } p { "A note has at most 500 characters." } };
            return Err(Reply::page(413, layout::page("Too long", "", body), Keep::Never));
        }
        if !matches!(status, wit_bindgen::StreamResult::Complete(_)) {
            return Ok(Query::of(&String::from_utf8_lossy(&bytes)));
        }
    }
}
