//! `/api/word/LEMMA`: a word as JSON.

use super::word::{self, Sense};
use crate::json::{array, object, string};
use crate::reply::Reply;
use crate::sql::Error;

pub fn word(lemma: &str) -> Result<Reply, Error> {
    let senses = word::senses(lemma)?;
    if senses.is_empty() {
        return Ok(Reply::json(
            404,
            object(&[("error", string("no such word")), ("word", string(lemma))]),
        ));
    }
    Ok(Reply::json(
        200,
        object(&[("word", string(lemma)), ("senses", array(senses.iter().map(sense)))]),
    ))
}

fn sense(sense: &Sense) -> String {
    let relation = |relation: &word::Relation| {
        let words = relation.words.iter().map(|words| array(words.split("; ").map(string)));
        object(&[("kind", string(&relation.kind)), ("words", array(words))])
    };
    object(&[
        ("part", string(&sense.part)),
        ("topic", string(&sense.topic)),
        ("definition", string(&sense.definition)),
        ("examples", array(sense.examples.iter().map(|example| string(example)))),
        ("words", array(sense.words.split("; ").map(string))),
        ("relations", array(sense.relations.iter().map(relation))),
    ])
}
