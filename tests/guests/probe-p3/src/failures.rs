//! Guests that fail: before the head, between head and body, in the middle of the body, or by never coming back.

use crate::wasi::http0_3_0::types::{ErrorCode, Response};
use crate::{host, http};
use probe::Target;
use probe::reply::content_type;

/// Traps `delay_ms` after the head, with no byte of the body sent.
pub fn trap_after_head(target: &Target) -> Response {
    let delay_ms = target.number("delay_ms", 20);
    let (response, body) = http::start(200, &content_type("text/plain; charset=utf-8"));
    wit_bindgen::spawn_local(async move {
        let _body = body;
        host::sleep_ms(delay_ms).await;
        probe::trap();
    });
    response
}

/// Traps `delay_ms` after `after` bytes of the body were taken; `length` says how many were promised.
pub fn trap_mid(target: &Target) -> Response {
    let (after, delay_ms) = (target.number("after", 1024) as usize, target.number("delay_ms", 0));
    let (response, mut body) = http::start(200, &probe::trap_mid_headers(target));
    wit_bindgen::spawn_local(async move {
        body.write(probe::alphabet(0, after)).await;
        host::sleep_ms(delay_ms).await;
        probe::trap();
    });
    response
}

pub fn loop_mid() -> Response {
    let (response, mut body) = http::start(200, &content_type("text/plain; charset=utf-8"));
    wit_bindgen::spawn_local(async move {
        body.write(b"before the loop\n".to_vec()).await;
        probe::spin();
    });
    response
}

pub fn sleep_mid(target: &Target) -> Response {
    let ms = target.number("ms", 100);
    let (response, mut body) = http::start(200, &content_type("text/plain; charset=utf-8"));
    wit_bindgen::spawn_local(async move {
        body.write(b"before the sleep\n".to_vec()).await;
        host::sleep_ms(ms).await;
        body.write(b"after the sleep\n".to_vec()).await;
        body.finish(&[]).await;
    });
    response
}

/// What a guest returns instead of a response.
pub fn error() -> ErrorCode {
    ErrorCode::InternalError(Some("asked to fail".to_owned()))
}
