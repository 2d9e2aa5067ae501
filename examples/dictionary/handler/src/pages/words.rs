//! `/words`: the words under a letter, a page at a time.

use maud::html;

use super::{grouped, pager, word_link};
use crate::address;
use crate::layout;
use crate::reply::{Keep, Reply};
use crate::sql::{self, Error, integer, text};

const WORDS_PER_PAGE: u32 = 120;

pub fn page(letter: char, page: u32) -> Result<Reply, Error> {
    let initial = text(&letter.to_string());
    let letters = sql::query(
        "SELECT initial, count(*) FROM word GROUP BY initial ORDER BY initial",
        &[],
    )?;
    let letters: Vec<(String, i64)> = letters.into_iter().map(|mut row| (row.text(), row.number())).collect();
    let count = letters
        .iter()
        .find(|(initial, _)| initial.starts_with(letter))
        .map_or(0, |(_, count)| *count);
    let last = u32::try_from(count).unwrap_or(0).div_ceil(WORDS_PER_PAGE).max(1);
    let rows = sql::query(
        "SELECT lemma FROM word WHERE initial = ?1 ORDER BY lemma LIMIT ?2 OFFSET ?3",
        &[initial, integer(WORDS_PER_PAGE), integer((page - 1) * WORDS_PER_PAGE)],
    )?;
    let status = if page > last { 404 } else { 200 };
    let address = |page: u32| format!("/words?letter={}&page={page}", address::encode(&letter.to_string()));
    let body = html! {
        h1 { "Words under " span.initial { (letter) } }
        p.letters {
            @for (initial, count) in &letters {
                a href={ "/words?letter=" (address::encode(initial)) } title={ (grouped(*count)) " words" }
                    aria-current=[initial.starts_with(letter).then_some("true")] { (initial) }
            }
        }
        @if rows.is_empty() {
            p { "There is no page " (page) " under this letter; the last is " a href=(address(last)) { (last) } "." }
        }
        ul.words { @for mut row in rows { li { (word_link(&row.text())) } } }
        (pager(address, page.min(last), last))
    };
    Ok(Reply::page(
        status,
        layout::page(&format!("Words under {letter}"), "", body),
        Keep::AsConfigured,
    ))
}
