//! How bodies move: echoed, drained, ignored, streamed, and of another length than was said.

use crate::exports::wasi::http0_2_12::incoming_handler::{IncomingRequest, ResponseOutparam};
use crate::host;
use crate::http::{self, RequestBody};
use probe::reply::content_type;
use probe::{Checksum, Reply, Target};

/// Sends the head at once and each part of the request body as soon as it is read.
pub fn echo(incoming: &IncomingRequest, outparam: ResponseOutparam) {
    let mut request = RequestBody::of(incoming);
    let mut response = http::start(200, &content_type("application/octet-stream"), outparam);
    while let Some(part) = request.read() {
        if !response.write(&part) {
            return;
        }
    }
    response.finish(&[]);
}

pub fn drain(incoming: &IncomingRequest, outparam: ResponseOutparam) {
    let mut request = RequestBody::of(incoming);
    let (mut bytes, mut checksum) = (0, Checksum::default());
    while let Some(part) = request.read() {
        bytes += part.len();
        checksum.update(&part);
    }
    http::send(Reply::text(format!("bytes {bytes}\nchecksum {:016x}\n", checksum.value())), outparam);
}

/// Holds the request body open, unread, until the response is sent.
pub fn never_read(incoming: &IncomingRequest, outparam: ResponseOutparam) {
    let request = RequestBody::of(incoming);
    http::send(Reply::text("never read\n"), outparam);
    drop(request);
}

pub fn stream(target: &Target, outparam: ResponseOutparam) {
    let size = target.number("size", 16) as usize;
    let mut response = http::start(200, &content_type("text/plain; charset=utf-8"), outparam);
    for index in 0..target.number("chunks", 3) {
        if index > 0 {
            host::sleep_ms(target.number("delay_ms", 0));
        }
        if !response.write(&probe::chunk(index, size)) {
            return;
        }
    }
    response.finish(&[]);
}

pub fn big(target: &Target, outparam: ResponseOutparam) {
    const PART: u64 = 64 * 1024;
    let bytes = target.number("bytes", 1024 * 1024);
    let mut headers = content_type("text/plain; charset=utf-8");
    headers.push(("content-length".to_owned(), bytes.to_string().into_bytes()));
    let mut response = http::start(200, &headers, outparam);
    let mut written = 0;
    while written < bytes {
        let part = (bytes - written).min(PART);
        if !response.write(&probe::alphabet(written, part as usize)) {
            return;
        }
        written += part;
    }
    response.finish(&[]);
}

/// A body of another length than the head says.
pub fn with_length(length: u64, body: &[u8], outparam: ResponseOutparam) {
    let headers = [("content-length".to_owned(), length.to_string().into_bytes())];
    let mut response = http::start(200, &headers, outparam);
    response.write(body);
    response.finish(&[]);
}
