//! Guests that fail: before the head, between head and body, in the middle of the body, or by never coming back.

use crate::exports::wasi::http0_2_12::incoming_handler::ResponseOutparam;
use crate::wasi::http0_2_12::types::ErrorCode;
use crate::{host, http};
use probe::Target;
use probe::reply::content_type;

/// Traps `delay_ms` after the head, with no byte of the body sent.
pub fn trap_after_head(target: &Target, outparam: ResponseOutparam) {
    let _response = http::start(200, &content_type("text/plain; charset=utf-8"), outparam);
    host::sleep_ms(target.number("delay_ms", 20));
    probe::trap();
}

/// Traps `delay_ms` after `after` bytes of the body were taken; `length` says how many were promised.
pub fn trap_mid(target: &Target, outparam: ResponseOutparam) {
    let mut response = http::start(200, &probe::trap_mid_headers(target), outparam);
    response.write(&probe::alphabet(0, target.number("after", 1024) as usize));
    host::sleep_ms(target.number("delay_ms", 0));
    probe::trap();
}

pub fn loop_mid(outparam: ResponseOutparam) {
    let mut response = http::start(200, &content_type("text/plain; charset=utf-8"), outparam);
    response.write(b"before the loop\n");
    probe::spin();
}

pub fn sleep_mid(target: &Target, outparam: ResponseOutparam) {
    let mut response = http::start(200, &content_type("text/plain; charset=utf-8"), outparam);
    response.write(b"before the sleep\n");
    host::sleep_ms(target.number("ms", 100));
    response.write(b"after the sleep\n");
    response.finish(&[]);
}

/// Answers with an error instead of a response.
pub fn error(outparam: ResponseOutparam) {
    ResponseOutparam::set(outparam, Err(ErrorCode::InternalError(Some("asked to fail".to_owned()))));
}
