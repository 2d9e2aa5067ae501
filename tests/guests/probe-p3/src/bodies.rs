//! How bodies move: echoed, drained, ignored, streamed, and of another length than was said.

use crate::http::{self, RequestBody};
use crate::host;
use crate::wasi::http0_3_0::types::Response;
use probe::reply::content_type;
use probe::{Checksum, Reply, Target};

/// Sends the head at once and each part of the request body as soon as it is read.
pub fn echo(mut request: RequestBody) -> Response {
    let (response, mut body) = http::start(200, &content_type("application/octet-stream"));
    wit_bindgen::spawn_local(async move {
        while let Some(part) = request.read().await {
            if !body.write(part).await {
                return;
            }
        }
        body.finish(&[]).await;
    });
    response
}

pub async fn drain(mut request: RequestBody) -> Response {
    let (mut bytes, mut checksum) = (0, Checksum::default());
    while let Some(part) = request.read().await {
        bytes += part.len();
        checksum.update(&part);
    }
    http::send(Reply::text(format!("bytes {bytes}\nchecksum {:016x}\n", checksum.value())))
}

/// Holds the request body open, unread, until the response is sent.
pub fn never_read(request: RequestBody) -> Response {
    let reply = Reply::text("never read\n");
    let (response, mut body) = http::start(reply.status, &reply.headers);
    wit_bindgen::spawn_local(async move {
        body.write(reply.body).await;
        body.finish(&[]).await;
        drop(request);
    });
    response
}

pub fn stream(target: &Target) -> Response {
    let size = target.number("size", 16) as usize;
    let (chunks, delay_ms) = (target.number("chunks", 3), target.number("delay_ms", 0));
    let (response, mut body) = http::start(200, &content_type("text/plain; charset=utf-8"));
    wit_bindgen::spawn_local(async move {
        for index in 0..chunks {
            if index > 0 {
                host::sleep_ms(delay_ms).await;
            }
            if !body.write(probe::chunk(index, size)).await {
                return;
            }
        }
        body.finish(&[]).await;
    });
    response
}

pub fn big(target: &Target) -> Response {
    const PART: u64 = 64 * 1024;
    let bytes = target.number("bytes", 1024 * 1024);
    let mut headers = content_type("text/plain; charset=utf-8");
    headers.push(("content-length".to_owned(), bytes.to_string().into_bytes()));
    let (response, mut body) = http::start(200, &headers);
    wit_bindgen::spawn_local(async move {
        let mut written = 0;
        while written < bytes {
            let part = (bytes - written).min(PART);
            if !body.write(probe::alphabet(written, part as usize)).await {
                return;
            }
            written += part;
        }
        body.finish(&[]).await;
    });
    response
}

/// A body of another length than the head says.
pub fn with_length(length: u64, bytes: Vec<u8>) -> Response {
    let headers = [("content-length".to_owned(), length.to_string().into_bytes())];
    let (response, mut body) = http::start(200, &headers);
    wit_bindgen::spawn_local(async move {
        body.write(bytes).await;
        body.finish(&[]).await;
    });
    response
}
