//! The demo site: a dictionary of English, rendered at the edge from a local SQLite database.
//!
//! A request becomes a [`address::Address`], which `pages/` turns into a reply; only this file and `reply.rs` know
//! that the world outside speaks `wasi:http`.

mod address;

mod pages;

mod layout;

mod reply;

mod sql;

mod moment;

mod json;

wit_bindgen::generate!({ path: "wit", world: "dictionary", generate_all });

use address::{Address, Failure};
use exports::wasi::http::handler::Guest;
use reply::Reply;
use wasi::http::types::{ErrorCode, Method, Request, Response};

struct Dictionary;

impl Guest for Dictionary {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let method = request.get_method();
        let address = Address::of(&target);
        if let Address::Notes { .. } = address
            && matches!(method, Method::Post)
        {
            let form = match reply::read_form(request).await {
                Ok(form) => form,
                Err(refusal) => return Ok(refusal.send()),
            };
            return Ok(answered(pages::notes::add(&form)).send());
        }
        if !matches!(method, Method::Get | Method::Head) {
            return Ok(Reply::method_not_allowed().send());
        }
        Ok(match address {
            Address::Stream => pages::stream::respond(),
            Address::Fail(failure) => pages::fail::respond(failure),
            address => answered(page(&address)).send(),
        })
    }
}

fn page(address: &Address) -> Result<Reply, sql::Error> {
    match address {
        Address::Home => pages::home::page(),
        Address::Words { letter, page } => pages::words::page(*letter, *page),
        Address::Word(lemma) => pages::word::page(lemma),
        Address::WordAsJson(lemma) => pages::api::word(lemma),
        Address::Search { query, page } => pages::search::page(query, *page),
        Address::Notes { word } => pages::notes::page(word, None),
        Address::Stream | Address::Fail(_) => unreachable!("answered while their bodies are written"),
        Address::Unknown(path) => Ok(pages::not_found(path)),
    }
}

/// A database that does not answer is the site's failure, not the visitor's.
fn answered(result: Result<Reply, sql::Error>) -> Reply {
    result.unwrap_or_else(|error| pages::unavailable(&error))
}

export!(Dictionary);
