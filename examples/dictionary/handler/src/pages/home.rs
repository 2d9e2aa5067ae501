//! `/`: the word of the day, and what there is.

use maud::html;

use super::{grouped, word_link, word_links};
use crate::layout;
use crate::moment;
use crate::reply::{Keep, Reply};
use crate::sql::{self, Error, integer};

/// Steps through the words in an order that looks random: it has no divisor in common with their number.
const STRIDE: i64 = 7_919;

pub fn page() -> Result<Reply, Error> {
    let words = sql::number("SELECT count(*) FROM word", &[])?;
    let meanings = sql::number("SELECT count(*) FROM synset", &[])?;
    let relations = sql::number("SELECT count(*) FROM relation", &[])?;
    let notes = sql::query("SELECT word, author, body FROM note ORDER BY id DESC LIMIT 3", &[])?;
    let day = word_of(moment::today(), words)?;
    let body = html! {
        @if let Some(day) = day {
            section.day {
                p.kicker { "Word of the day" }
                h1 { (word_link(&day.lemma)) }
                p.part { (day.part) " · " (day.topic) }
                p.definition { (day.definition) }
                p.synonyms { "In other words: " (word_links(&day.words)) }
            }
        }
        section.figures {
            dl {
                div { dt { "words" } dd { (grouped(words)) } }
                div { dt { "meanings" } dd { (grouped(meanings)) } }
                div { dt { "relations" } dd { (grouped(relations)) } }
            }
        }
        section {
            h2 { "Browse" }
            p.letters { @for letter in 'a'..='z' { a href={ "/words?letter=" (letter) } { (letter) } } }
        }
        @if !notes.is_empty() {
            section {
                h2 { "Visitors have noted" }
                @for mut note in notes {
                    @let (word, author, body) = (note.text(), note.text(), note.text());
                    blockquote { p { (body) } footer { (author) ", on " (word_link(&word)) } }
                }
            }
        }
    };
    Ok(Reply::page(
        200,
        layout::page("A dictionary of English", "", body),
        Keep::AsConfigured,
    ))
}

struct Day {
    lemma: String,
    part: String,
    topic: String,
    words: String,
    definition: String,
}

/// A word that is in use but not one of the commonest, with another word of the same meaning.
fn word_of(day: i64, words: i64) -> Result<Option<Day>, Error> {
    let from = (day * STRIDE).rem_euclid(words.max(1));
    let rows = sql::query(
        "SELECT word.lemma, synset.part, synset.topic, synset.words, synset.definition
         FROM word JOIN sense ON sense.word = word.id JOIN synset ON synset.id = sense.synset
         WHERE word.id >= ?1 AND word.frequency BETWEEN 1 AND 20 AND sense.number = 1 AND synset.words LIKE '%; %'
         ORDER BY word.id LIMIT 1",
        &[integer(from)],
    )?;
    Ok(rows.into_iter().next().map(|mut row| Day {
        lemma: row.text(),
        part: row.text(),
        topic: row.text(),
        words: row.text(),
        definition: row.text(),
    }))
}
