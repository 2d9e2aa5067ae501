//! WordNet's files as words, synsets and relations. The format: wordnet.princeton.edu/documentation/wndb5wn.
//!
//! A synset is a set of words with one meaning. Its id here is its part of speech and its offset in that part's file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, bail};

#[derive(Debug, Default)]
pub(super) struct Dictionary {
    pub(super) synsets: Vec<Synset>,
    /// Words by their lower-case spelling, with spaces.
    pub(super) words: BTreeMap<String, Word>,
}

#[derive(Debug)]
pub(super) struct Synset {
    pub(super) id: i64,
    /// "noun", "verb", "adjective", "adverb".
    pub(super) part: &'static str,
    /// What it is about, of the file's 45 groups: "animal", "motion", …
    pub(super) topic: &'static str,
    /// As spelled, with spaces, the most usual first.
    pub(super) words: Vec<String>,
    pub(super) definition: String,
    pub(super) examples: Vec<String>,
    pub(super) relations: Vec<Relation>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Relation {
    pub(super) kind: &'static str,
    pub(super) target: i64,
}

#[derive(Debug, Default)]
pub(super) struct Word {
    /// Its meanings, the most usual first within a part of speech.
    pub(super) senses: Vec<Sense>,
}

#[derive(Debug)]
pub(super) struct Sense {
    pub(super) synset: i64,
    /// 1 is the most usual of the word's senses in its part of speech.
    pub(super) number: u32,
    /// How often it was met in the texts that were tagged with senses.
    pub(super) frequency: u32,
}

/// Part of speech, the suffix of its files, its digit in `index.sense`.
const PARTS: &[(&str, &str, u8)] = &[
    ("noun", "noun", 1),
    ("verb", "verb", 2),
    ("adjective", "adj", 3),
    ("adverb", "adv", 4),
];

/// `lexnames`: the topic by file number.
const TOPICS: &[&str] = &[
    "general",
    "pertaining",
    "general",
    "top",
    "act",
    "animal",
    "artifact",
    "attribute",
    "body",
    "cognition",
    "communication",
    "event",
    "feeling",
    "food",
    "group",
    "location",
    "motive",
    "object",
    "person",
    "phenomenon",
    "plant",
    "possession",
    "process",
    "quantity",
    "relation",
    "shape",
    "state",
    "substance",
    "time",
    "body",
    "change",
    "cognition",
    "communication",
    "competition",
    "consumption",
    "contact",
    "creation",
    "emotion",
    "motion",
    "perception",
    "possession",
    "social",
    "stative",
    "weather",
    "participle",
];

/// Pointer symbols that a reader of a dictionary has a use for. Others are left out.
const RELATIONS: &[(&str, &str)] = &[
    ("@", "broader"),
    ("@i", "broader"),
    ("~", "narrower"),
    ("~i", "narrower"),
    ("#p", "part of"),
    ("#m", "member of"),
    ("#s", "substance of"),
    ("%p", "parts"),
    ("%m", "members"),
    ("%s", "substances"),
    ("!", "opposite"),
    ("&", "similar"),
    ("^", "see also"),
    ("*", "entails"),
    (">", "causes"),
];

pub(super) fn read(directory: &Path) -> anyhow::Result<Dictionary> {
    let file = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let usage = usage(&file("index.sense")?)?;
    let mut dictionary = Dictionary::default();
    for (part, suffix, digit) in PARTS {
        let name = format!("data.{suffix}");
        for (index, line) in file(&name)?
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.starts_with("  "))
        {
            let synset = synset(line, part, *digit).with_context(|| format!("{name}:{}", index + 1))?;
            for word in &synset.words {
                let lemma = word.to_lowercase();
                let &(number, frequency) = usage.get(&(synset.id, lemma.clone())).unwrap_or(&(u32::MAX, 0));
                let senses = &mut dictionary.words.entry(lemma).or_default().senses;
                // "Polish" and "polish" may be in one synset.
                if senses.last().is_none_or(|sense| sense.synset != synset.id) {
                    senses.push(Sense {
                        synset: synset.id,
                        number,
                        frequency,
                    });
                }
            }
            dictionary.synsets.push(synset);
        }
    }
    Ok(dictionary)
}

/// `index.sense`: sense number and frequency of a word in a synset.
fn usage(text: &str) -> anyhow::Result<HashMap<(i64, String), (u32, u32)>> {
    let mut usage = HashMap::new();
    for line in text.lines() {
        let read = || {
            let mut fields = line.split(' ');
            let (lemma, key) = fields.next()?.split_once('%')?;
            // A satellite adjective (5) is in the adjectives' file.
            let digit = if key.starts_with('5') {
                3
            } else {
                key.get(..1)?.parse().ok()?
            };
            let (offset, number, frequency) = (fields.next()?, fields.next()?, fields.next()?);
            let id = id(digit, offset.parse().ok()?);
            Some((
                (id, lemma.replace('_', " ")),
                (number.parse().ok()?, frequency.parse().ok()?),
            ))
        };
        let (key, value) = read().with_context(|| format!("index.sense: {line}"))?;
        usage.insert(key, value);
    }
    Ok(usage)
}

/// One line of a data file.
fn synset(line: &str, part: &'static str, digit: u8) -> anyhow::Result<Synset> {
    let (head, gloss) = line.split_once(" | ").context("no gloss")?;
    let mut fields = head.split(' ');
    let mut next = || fields.next().context("the line is too short");
    let id = id(digit, next()?.parse()?);
    let topic = TOPICS.get(next()?.parse::<usize>()?).context("an unknown topic")?;
    let _satellite_or_not = next()?;
    let word_count = usize::from_str_radix(next()?, 16)?;
    let mut words = Vec::with_capacity(word_count);
    for _ in 0..word_count {
        words.push(spelling(next()?));
        let _lexical_id = next()?;
    }
    let mut relations = Vec::new();
    for _ in 0..next()?.parse::<usize>()? {
        let (symbol, offset, part, _words) = (next()?, next()?, next()?, next()?);
        let digit = match part {
            "n" => 1,
            "v" => 2,
            "a" | "s" => 3,
            "r" => 4,
            other => bail!("an unknown part of speech {other}"),
        };
        if let Some((_, kind)) = RELATIONS.iter().find(|(known, _)| *known == symbol) {
            let relation = Relation {
                kind,
                target: self::id(digit, offset.parse()?),
            };
            // Words of both synsets may be related one by one; the synsets are once.
            if !relations.contains(&relation) {
                relations.push(relation);
            }
        }
    }
    let (definition, examples) = gloss_parts(gloss);
    Ok(Synset {
        id,
        part,
        topic,
        words,
        definition,
        examples,
        relations,
    })
}

fn id(part: u8, offset: i64) -> i64 {
    i64::from(part) * 100_000_000 + offset
}

/// `ready_to_hand(p)` is "ready to hand": the mark says where an adjective may stand.
fn spelling(field: &str) -> String {
    let word = ["(p)", "(a)", "(ip)"]
        .iter()
        .find_map(|mark| field.strip_suffix(mark))
        .unwrap_or(field);
    word.replace('_', " ")
}

/// `a definition; "an example"; "another"- Its Author` in its parts. Quotation marks inside a definition stay.
fn gloss_parts(gloss: &str) -> (String, Vec<String>) {
    let gloss = gloss.trim();
    let Some(start) = ["; \"", ": \""].iter().filter_map(|mark| gloss.find(mark)).min() else {
        return (gloss.to_owned(), Vec::new());
    };
    let examples = gloss[start + 2..].split("; \"").map(|example| {
        let example = example.trim().trim_start_matches('"');
        match example.rsplit_once('"') {
            Some((text, author)) => {
                let author = author.trim_start_matches([' ', '-', ';', ',']).trim();
                if author.is_empty() {
                    text.to_owned()
                } else {
                    format!("{text} — {author}")
                }
            }
            None => example.to_owned(),
        }
    });
    (
        gloss[..start].to_owned(),
        examples.filter(|example| !example.is_empty()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glosses() {
        let check = |gloss: &str, definition: &str, examples: &[&str]| {
            assert_eq!(
                gloss_parts(gloss),
                (
                    definition.to_owned(),
                    examples.iter().map(|e| (*e).to_owned()).collect()
                )
            );
        };
        check("a hot spiciness  ", "a hot spiciness", &[]);
        check(
            "easy to reach; \"found a handy spot\"  ",
            "easy to reach",
            &["found a handy spot"],
        );
        check("a; b; \"one\"; \"two\"", "a; b", &["one", "two"]);
        check("a change: \"from F to C\"", "a change", &["from F to C"]);
        check(
            "in the habit; \"...was wont\"- Henry David Thoreau",
            "in the habit",
            &["...was wont — Henry David Thoreau"],
        );
        check(
            "a demand especially in \"the call\"",
            "a demand especially in \"the call\"",
            &[],
        );
        check(
            "it; \"`moo-cow' is a child's term\"",
            "it",
            &["`moo-cow' is a child's term"],
        );
    }

    #[test]
    fn lines_of_data_files() {
        let line = "00014377 05 s 02 abounding 0 galore(ip) 0 003 & 00013906 a 0000 ! 00000007 r 0101 + 00000001 n 0101 \
                    | existing in abundance; \"whiskey galore\"  ";
        let synset = synset(line, "adjective", 3).expect("the line is valid");
        assert_eq!(
            (synset.id, synset.topic, synset.words),
            (300_014_377, "animal", vec!["abounding".to_owned(), "galore".to_owned()])
        );
        let relation = |kind, target| Relation { kind, target };
        assert_eq!(
            synset.relations,
            [relation("similar", 300_013_906), relation("opposite", 400_000_007)]
        );
        assert!(super::synset("00014377 05 s 02 abounding 0 | x", "adjective", 3).is_err());
        assert!(super::synset("not a line", "adjective", 3).is_err());
    }

    #[test]
    fn usage_of_a_satellite_adjective() {
        let usage =
            usage("able%5:00:00:fit:01 01021031 4 12\nable%1:00:00:: 00000001 1 0\n").expect("the line is valid");
        assert_eq!(usage[&(301_021_031, "able".to_owned())], (4, 12));
        assert_eq!(usage[&(100_000_001, "able".to_owned())], (1, 0));
        assert!(super::usage("able 1 2 3").is_err());
    }
}
