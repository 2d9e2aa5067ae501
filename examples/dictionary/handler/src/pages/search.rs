//! `/search`: full-text search over words, definitions and examples.

use maud::{Markup, html};

use super::{grouped, pager, word_link, word_links};
use crate::address;
use crate::layout;
use crate::reply::{Keep, Reply};
use crate::sql::{self, Error, integer, text};

const RESULTS_PER_PAGE: u32 = 20;

/// Words of a query that count; the rest is left out.
const QUERY_WORDS: usize = 8;

/// Around what matched, in the snippets that SQLite makes; the characters are in no text and become `<mark>`.
const MARKS: [char; 2] = ['\u{1}', '\u{2}'];

pub fn page(query: &str, page: u32) -> Result<Reply, Error> {
    let Some(expression) = expression(query) else {
        let body = html! { h1 { "Search" } p { "Look for a word, or for words in a definition: “sea bird”." } };
        return Ok(Reply::page(
            200,
            layout::page("Search", query, body),
            Keep::AsConfigured,
        ));
    };
    let count = sql::number(
        "SELECT count(*) FROM search WHERE search MATCH ?1",
        &[text(&expression)],
    )?;
    let last = u32::try_from(count)
        .unwrap_or(0)
        .div_ceil(RESULTS_PER_PAGE)
        .clamp(1, 1000);
    let rows = sql::query(
        "SELECT synset.words, synset.part, snippet(search, 1, ?2, ?3, '…', 32)
         FROM search JOIN synset ON synset.id = search.rowid
         WHERE search MATCH ?1 ORDER BY bm25(search, 10, 3, 1), search.rowid LIMIT ?4 OFFSET ?5",
        &[
            text(&expression),
            text(&MARKS[0].to_string()),
            text(&MARKS[1].to_string()),
            integer(RESULTS_PER_PAGE),
            integer((page - 1) * RESULTS_PER_PAGE),
        ],
    )?;
    let lemma = address::lemma(query);
    let entry = sql::number("SELECT count(*) FROM word WHERE lemma = ?1", &[text(&lemma)])? > 0;
    let address = |page: u32| format!("/search?q={}&page={page}", address::encode(query));
    let body = html! {
        h1 { (grouped(count)) @if count == 1 { " meaning" } @else { " meanings" } " for “" (query) "”" }
        @if entry { p.entry { "The entry: " (word_link(&lemma)) } }
        ol.results {
            @for mut row in rows {
                @let (words, part, snippet) = (row.text(), row.text(), row.text());
                li {
                    p.found { (word_links(&words)) " " span.part { (part) } }
                    p.definition { (marked(&snippet)) }
                }
            }
        }
        (pager(address, page.min(last), last))
    };
    Ok(Reply::page(
        200,
        layout::page(&format!("Search: {query}"), query, body),
        Keep::AsConfigured,
    ))
}

/// What a visitor typed as an FTS5 expression: every word must be there, the last one may be a beginning. Words are
/// letters and digits in quotation marks, so nothing a visitor types is syntax. None when there is no word.
fn expression(query: &str) -> Option<String> {
    let words: Vec<&str> = query
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(QUERY_WORDS)
        .collect();
    let (last, others) = words.split_last()?;
    let mut expression: String = others.iter().map(|word| format!("\"{word}\" ")).collect();
    expression.push_str(&format!("\"{last}\""));
    if last.chars().count() >= 3 {
        expression.push_str(" *");
    }
    Some(expression)
}

fn marked(snippet: &str) -> Markup {
    html! {
        @for piece in snippet.split(MARKS[0]) {
            @match piece.split_once(MARKS[1]) {
                Some((found, rest)) => { mark { (found) } (rest) }
                None => (piece)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_visitor_types_is_syntax() {
        let check = |query, expected: Option<&str>| assert_eq!(expression(query).as_deref(), expected, "{query}");
        check("dog", Some("\"dog\" *"));
        check("sea bird", Some("\"sea\" \"bird\" *"));
        check("a", Some("\"a\""));
        check(
            "dog OR cat NOT (fish",
            Some("\"dog\" \"OR\" \"cat\" \"NOT\" \"fish\" *"),
        );
        check(
            "\"dog\" NEAR/2 words:x*",
            Some("\"dog\" \"NEAR\" \"2\" \"words\" \"x\""),
        );
        check("café", Some("\"café\" *"));
        check(
            "1 2 3 4 5 6 7 8 9 10",
            Some("\"1\" \"2\" \"3\" \"4\" \"5\" \"6\" \"7\" \"8\""),
        );
        check("\"'*-^:(){}", None);
        check("", None);
    }

    #[test]
    fn snippets_are_escaped_and_marked() {
        let snippet = "\u{1}sea\u{2} <b> & \u{1}bird\u{2}";
        assert_eq!(
            marked(snippet).into_string(),
            "<mark>sea</mark> &lt;b&gt; &amp; <mark>bird</mark>"
        );
        assert_eq!(marked("nothing").into_string(), "nothing");
    }
}
