//! A handler that imports an interface nobody provides: it has to be refused by that name, before a request comes.

wit_bindgen::generate!({ path: "../wit", world: "unknown-import", generate_all });

use exports::wasi::http0_2_12::incoming_handler::{Guest, IncomingRequest, ResponseOutparam};
use wasi::http0_2_12::types::{Fields, OutgoingResponse};

struct Seeker;

impl Guest for Seeker {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let question = request.path_with_query().unwrap_or_default();
        let response = OutgoingResponse::new(Fields::new());
        let status = if selvedge::guests::oracle::ask(&question).is_empty() { 404 } else { 200 };
        if response.set_status_code(status).is_ok() {
            ResponseOutparam::set(outparam, Ok(response));
        }
    }
}

export!(Seeker);
