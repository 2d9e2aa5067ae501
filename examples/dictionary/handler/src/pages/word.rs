//! `/word/LEMMA`: what a word means, and what its meanings have to do with others.

use maud::{Markup, html};

use super::{word_link, word_links};
use crate::address;
use crate::layout;
use crate::reply::{Keep, Reply};
use crate::sql::{self, Error, integer, text};

/// Related meanings shown of each kind; "person" has four hundred narrower ones.
const RELATED: i64 = 24;

/// A meaning of a word.
pub struct Sense {
    pub part: String,
    pub topic: String,
    /// All words with this meaning, separated by "; ".
    pub words: String,
    pub definition: String,
    pub examples: Vec<String>,
    pub relations: Vec<Relation>,
}

/// "broader", "narrower", "opposite", … and the words of those meanings.
pub struct Relation {
    pub kind: String,
    pub words: Vec<String>,
}

pub fn page(lemma: &str) -> Result<Reply, Error> {
    let senses = senses(lemma)?;
    if senses.is_empty() {
        return not_found(lemma);
    }
    let notes = sql::number("SELECT count(*) FROM note WHERE word = ?1", &[text(lemma)])?;
    let body = html! {
        h1 { (lemma) }
        @for part in senses.chunk_by(|one, next| one.part == next.part) {
            section {
                h2.part { (part[0].part) }
                ol.senses { @for sense in part { li { (meaning(sense, lemma)) } } }
            }
        }
        p.notes {
            a href={ "/notes?word=" (address::encode(lemma)) } {
                @match notes { 0 => "Be the first to note something on this word", 1 => "One note", n => { (n) " notes" } }
            }
            " · " a href={ "/api" (address::of_word(lemma)) } { "as JSON" }
        }
    };
    Ok(Reply::page(200, layout::page(lemma, "", body), Keep::AsConfigured))
}

/// The word's meanings by part of speech, the most usual first; none for an unknown word.
pub fn senses(lemma: &str) -> Result<Vec<Sense>, Error> {
    let related = sql::query(
        "SELECT source, kind, words FROM (
             SELECT relation.source, relation.kind, synset.words,
                 row_number() OVER (PARTITION BY relation.source, relation.kind ORDER BY synset.words) AS place
             FROM word JOIN sense ON sense.word = word.id
             JOIN relation ON relation.source = sense.synset JOIN synset ON synset.id = relation.target
             WHERE word.lemma = ?1
         ) WHERE place <= ?2 ORDER BY source, kind, place",
        &[text(lemma), integer(RELATED)],
    )?;
    let related: Vec<(i64, String, String)> = related
        .into_iter()
        .map(|mut row| (row.number(), row.text(), row.text()))
        .collect();
    let rows = sql::query(
        "SELECT synset.id, part, topic, words, definition, examples
         FROM word JOIN sense ON sense.word = word.id JOIN synset ON synset.id = sense.synset
         WHERE lemma = ?1 ORDER BY part = 'noun' DESC, part, number",
        &[text(lemma)],
    )?;
    Ok(rows
        .into_iter()
        .map(|mut row| {
            let id = row.number();
            let own = related.iter().filter(|(source, ..)| *source == id);
            let own: Vec<_> = own.collect();
            let kinds = own.chunk_by(|(_, one, _), (_, next, _)| one == next);
            let relation = |kind: &[&(i64, String, String)]| Relation {
                kind: kind[0].1.clone(),
                words: kind.iter().map(|(.., words)| words.clone()).collect(),
            };
            Sense {
                part: row.text(),
                topic: row.text(),
                words: row.text(),
                definition: row.text(),
                examples: row.text().lines().map(str::to_owned).collect(),
                relations: kinds.map(relation).collect(),
            }
        })
        .collect())
}

fn meaning(sense: &Sense, lemma: &str) -> Markup {
    let synonyms: Vec<&str> = sense
        .words
        .split("; ")
        .filter(|word| word.to_lowercase() != lemma)
        .collect();
    html! {
        p.definition { span.topic { (sense.topic) } " " (sense.definition) }
        @for example in &sense.examples { p.example { "“" (example) "”" } }
        @if !synonyms.is_empty() { p.synonyms { "Also: " (word_links(&synonyms.join("; "))) } }
        @if !sense.relations.is_empty() {
            dl.relations {
                @for relation in &sense.relations {
                    dt { (relation.kind) }
                    dd { @for words in &relation.words { span { (first_link(words)) } } }
                }
            }
        }
    }
}

/// A related meaning by its first word; its others are the title.
fn first_link(words: &str) -> Markup {
    let first = words.split("; ").next().unwrap_or(words);
    html! { a href=(address::of_word(first)) title=(words) { (first) } }
}

fn not_found(lemma: &str) -> Result<Reply, Error> {
    let beginning: String = lemma.chars().take(4).collect();
    let rows = sql::query(
        "SELECT lemma FROM word WHERE lemma >= ?1 ORDER BY lemma LIMIT 8",
        &[text(if beginning.is_empty() { "a" } else { &beginning })],
    )?;
    let body = html! {
        h1 { "Not in this dictionary" }
        p { "There is no entry for " b { (lemma) } ". "
            a href={ "/search?q=" (address::encode(lemma)) } { "Search the definitions for it" } ", or look nearby:" }
        ul.words { @for mut row in rows { li { (word_link(&row.text())) } } }
    };
    Ok(Reply::page(
        404,
        layout::page("Not in this dictionary", lemma, body),
        Keep::AsConfigured,
    ))
}
