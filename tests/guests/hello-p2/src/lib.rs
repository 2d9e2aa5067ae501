//! The smallest 0.2 handler, which any host of `wasi:http` runs: for the bench, where peers have no other interfaces.

wit_bindgen::generate!({ path: "../wit", world: "hello-p2", generate_all });

use exports::wasi::http0_2_12::incoming_handler::{Guest, IncomingRequest, ResponseOutparam};
use wasi::http0_2_12::types::{Fields, OutgoingBody, OutgoingResponse};

struct Hello;

impl Guest for Hello {
    fn handle(_request: IncomingRequest, outparam: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(outparam, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        stream.blocking_write_and_flush(b"hello\n").expect("the client is there");
        drop(stream);
        OutgoingBody::finish(body, None).expect("the body has no declared length");
    }
}

export!(Hello);
