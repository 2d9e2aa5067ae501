//! `/fail/…`: failures on purpose, to see what the edge makes of them.

use maud::html;

use crate::Failure;
use crate::layout;
use crate::reply;
use crate::wasi::clocks::monotonic_clock;
use crate::wasi::http::types::Response;

/// Long enough for the beginning of a page to reach the visitor.
const A_MOMENT_NS: u64 = 300_000_000;

pub fn respond(failure: Failure) -> Response {
    match failure {
        Failure::Trap => trap(),
        Failure::Loop => loop {
            std::hint::black_box(());
        },
        Failure::Late => late(),
    }
}

/// Traps when the visitor has the beginning of the page.
fn late() -> Response {
    let headers = [
        ("content-type", "text/html; charset=utf-8".to_owned()),
        ("cache-control", "no-store".to_owned()),
    ];
    let (mut body, response) = reply::begin(200, &headers);
    wit_bindgen::spawn_local(async move {
        let beginning = html! { (layout::begin("Late")) h1 { "This page ends too ear" } };
        body.write(beginning.into_string()).await;
        monotonic_clock::wait_for(A_MOMENT_NS).await;
        trap()
    });
    response
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    panic!("a trap on purpose");
}
