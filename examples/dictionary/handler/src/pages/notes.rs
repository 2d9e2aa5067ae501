//! `/notes`: what visitors have written about a word, and the form to add to it.
//!
//! Never cached: after the form was sent the visitor is sent back here (Post/Redirect/Get) and finds the note.

use maud::html;

use super::word_link;
use crate::address::{self, Query};
use crate::layout;
use crate::reply::{Keep, Reply};
use crate::sql::{self, Error, integer, text};

/// As the table's CHECK has it.
const BODY_CHARACTERS: usize = 500;
const AUTHOR_CHARACTERS: usize = 40;
const NOTES_SHOWN: i64 = 50;

/// A note that was not accepted, and why.
pub struct Rejected<'a> {
    form: &'a Query,
    reason: &'static str,
}

pub fn page(word: &str, rejected: Option<&Rejected>) -> Result<Reply, Error> {
    if !exists(word)? {
        return Ok(super::not_found("/notes"));
    }
    let notes = sql::query(
        "SELECT author, body, written_at FROM note WHERE word = ?1 ORDER BY id DESC LIMIT ?2",
        &[text(word), integer(NOTES_SHOWN)],
    )?;
    let typed = |name| rejected.map_or("", |rejected| rejected.form.get(name));
    let body = html! {
        h1 { "Notes on " (word_link(word)) }
        form.note method="post" action="/notes" {
            @if let Some(rejected) = rejected { p.problem role="alert" { (rejected.reason) } }
            input type="hidden" name="word" value=(word);
            label { "Your note" textarea name="body" rows="3" maxlength=(BODY_CHARACTERS) required { (typed("body")) } }
            label { "Your name" input name="author" maxlength=(AUTHOR_CHARACTERS) value=(typed("author")) placeholder="Anonymous"; }
            button { "Add the note" }
        }
        @if notes.is_empty() { p { "Nobody has written about this word yet." } }
        @for mut note in notes {
            @let (author, body, written_at) = (note.text(), note.text(), note.text());
            blockquote { p { (body) } footer { (author) ", " time datetime=(written_at) { (written_at) } } }
        }
    };
    let status = if rejected.is_some() { 422 } else { 200 };
    Ok(Reply::page(
        status,
        layout::page(&format!("Notes on {word}"), "", body),
        Keep::Never,
    ))
}

/// Adds the note that a form holds.
pub fn add(form: &Query) -> Result<Reply, Error> {
    let word = address::lemma(form.get("word"));
    if !exists(&word)? {
        return Ok(super::not_found("/notes"));
    }
    let (body, author) = (form.get("body").trim(), form.get("author").trim());
    let reason = match (body.chars().count(), author.chars().count()) {
        (0, _) => Some("The note is empty."),
        (length, _) if length > BODY_CHARACTERS => Some("A note has at most 500 characters."),
        (_, length) if length > AUTHOR_CHARACTERS => Some("A name has at most 40 characters."),
        _ => None,
    };
    if let Some(reason) = reason {
        return page(&word, Some(&Rejected { form, reason }));
    }
    let author = if author.is_empty() { "Anonymous" } else { author };
    sql::query(
        "INSERT INTO note (word, author, body) VALUES (?1, ?2, ?3)",
        &[text(&word), text(author), text(body)],
    )?;
    Ok(Reply::see_other(format!("/notes?word={}", address::encode(&word))))
}

fn exists(word: &str) -> Result<bool, Error> {
    Ok(sql::number("SELECT count(*) FROM word WHERE lemma = ?1", &[text(word)])? > 0)
}
