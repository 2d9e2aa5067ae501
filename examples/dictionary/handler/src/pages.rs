//! One file a page.

pub mod home;

pub mod words;

pub mod word;

pub mod search;

pub mod stream;

pub mod notes;

pub mod api;

pub mod fail;

use maud::{Markup, html};

use crate::address;
use crate::layout;
use crate::reply::{Keep, Reply};
use crate::sql;

pub fn not_found(path: &str) -> Reply {
    let body = html! {
        h1 { "No such page" }
        p { "There is nothing at " code { (path) } ". Try the search, or the " a href="/words" { "list of words" } "." }
    };
    Reply::page(404, layout::page("No such page", "", body), Keep::AsConfigured)
}

pub fn unavailable(error: &sql::Error) -> Reply {
    let body = html! {
        h1 { "The dictionary is closed for a moment" }
        p { "Its database did not answer: " (sql::explain(error)) "." }
    };
    Reply::page(503, layout::page("Closed for a moment", "", body), Keep::Never)
}

fn word_link(spelling: &str) -> Markup {
    html! { a href=(address::of_word(spelling)) { (spelling) } }
}

/// The words of a synset, which are stored separated by "; ".
fn word_links(words: &str) -> Markup {
    html! {
        @for (index, word) in words.split("; ").enumerate() {
            @if index > 0 { ", " }
            (word_link(word))
        }
    }
}

/// Links to the pages before and after this one.
fn pager(address: impl Fn(u32) -> String, page: u32, last: u32) -> Markup {
    html! {
        @if last > 1 {
            nav.pager aria-label="Pages" {
                @if page > 1 { a href=(address(page - 1)) rel="prev" { "← Previous" } }
                span { "Page " (page) " of " (last) }
                @if page < last { a href=(address(page + 1)) rel="next" { "Next →" } }
            }
        }
    }
}

/// 147478 as "147,478".
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        let check = |number, expected| assert_eq!(super::grouped(number), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(147_478, "147,478");
        check(1_000_000, "1,000,000");
    }
}
