//! `/stream`: the shell leaves before its data is there; each section follows as its query ends.

use maud::{Markup, html};

use super::{grouped, word_link};
use crate::layout;
use crate::reply::{self, Body};
use crate::sql::{self, Error};
use crate::wasi::http::types::Response;

/// A section and the query that takes its time.
type Section = (&'static str, fn() -> Result<Markup, Error>);

const SECTIONS: &[Section] = &[
    ("Words with the most meanings", most_meanings),
    ("How much is below the broadest meanings", broadest),
    ("Topics that relate to the most others", topics),
];

pub fn respond() -> Response {
    let headers = [
        ("content-type", "text/html; charset=utf-8".to_owned()),
        ("cache-control", "no-store".to_owned()),
    ];
    let (body, response) = reply::begin(200, &headers);
    wit_bindgen::spawn_local(write(body));
    response
}

async fn write(mut body: Body) {
    let shell = html! {
        (layout::begin("Streamed"))
        h1 { "Streamed as it is found" }
        p { "This much was sent before the first query began. Each section below was sent when its query ended." }
    };
    let mut listening = body.write(shell.into_string()).await;
    for (title, query) in SECTIONS {
        // A visitor who has left needs no further query.
        if !listening {
            return;
        }
        let content = query().unwrap_or_else(|error| html! { p { "Not available: " (sql::explain(&error)) "." } });
        let section = html! { section.streamed { h2 { (title) } (content) } };
        listening = body.write(section.into_string()).await;
    }
    body.write(layout::end().into_string()).await;
    body.end().await;
}

fn most_meanings() -> Result<Markup, Error> {
    table(
        "SELECT word.lemma, count(*) AS meanings FROM sense JOIN word ON word.id = sense.word
         GROUP BY sense.word ORDER BY meanings DESC, word.lemma LIMIT 12",
        "meanings",
        word_link,
    )
}

/// Walks down from each of the meanings right below "entity".
fn broadest() -> Result<Markup, Error> {
    table(
        "WITH RECURSIVE
             top (id) AS (
                 SELECT target FROM relation WHERE kind = 'narrower' AND source IN (
                     SELECT target FROM relation JOIN synset ON synset.id = source
                     WHERE kind = 'narrower' AND synset.words = 'entity')),
             below (top, id) AS (
                 SELECT id, id FROM top
                 UNION
                 SELECT below.top, relation.target FROM below JOIN relation ON relation.source = below.id
                 WHERE relation.kind = 'narrower')
         SELECT substr(words, 1, instr(words || ';', ';') - 1), count(*) AS meanings
         FROM below JOIN synset ON synset.id = below.top GROUP BY below.top ORDER BY meanings DESC LIMIT 12",
        "narrower meanings",
        word_link,
    )
}

fn topics() -> Result<Markup, Error> {
    table(
        "SELECT source.topic || ' → ' || target.topic, count(*) AS relations
         FROM relation JOIN synset AS source ON source.id = relation.source
         JOIN synset AS target ON target.id = relation.target
         WHERE source.topic <> target.topic GROUP BY source.topic, target.topic ORDER BY relations DESC LIMIT 12",
        "relations",
        |topics| html! { (topics) },
    )
}

/// Rows of a name and a number.
fn table(query: &str, unit: &str, name: impl Fn(&str) -> Markup) -> Result<Markup, Error> {
    let rows = sql::query(query, &[])?;
    Ok(html! {
        table {
            @for mut row in rows {
                tr { th scope="row" { (name(&row.text())) } td { (grouped(row.number())) " " (unit) } }
            }
        }
    })
}
