//! What a URL of the site asks for.

/// The pages of the site. A word is in lower case with spaces; in URLs its spaces are underscores.
#[derive(Debug, PartialEq)]
pub enum Address {
    Home,
    /// The list of words that begin with a letter, `#` for those without one; pages count from 1.
    Words {
        letter: char,
        page: u32,
    },
    Word(String),
    WordAsJson(String),
    Search {
        query: String,
        page: u32,
    },
    Notes {
        word: String,
    },
    Stream,
    Fail(Failure),
    Unknown(String),
}

/// Ways to fail on purpose, to see what the edge does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Failure {
    /// Trap before anything is sent.
    Trap,
    /// Never come back.
    Loop,
    /// Trap in the middle of the body.
    Late,
}

impl Address {
    pub fn of(target: &str) -> Address {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = Query::of(query);
        let path = decode(path, Space::Plain);
        match path.as_str() {
            "/" => Address::Home,
            "/words" => Address::Words {
                letter: letter(query.get("letter")),
                page: page(query.get("page")),
            },
            "/search" => Address::Search {
                query: query.get("q").trim().to_owned(),
                page: page(query.get("page")),
            },
            "/notes" => Address::Notes {
                word: lemma(query.get("word")),
            },
            "/stream" => Address::Stream,
            "/fail/trap" => Address::Fail(Failure::Trap),
            "/fail/loop" => Address::Fail(Failure::Loop),
            "/fail/late" => Address::Fail(Failure::Late),
            _ => match (path.strip_prefix("/word/"), path.strip_prefix("/api/word/")) {
                (Some(word), _) if !word.is_empty() => Address::Word(lemma(word)),
                (_, Some(word)) if !word.is_empty() => Address::WordAsJson(lemma(word)),
                _ => Address::Unknown(path),
            },
        }
    }
}

/// Fields of a query string or of a form, decoded, in order.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name, Space::Plus), decode(value, Space::Plus)))
                .collect(),
        )
    }

    /// The first field of that name, or nothing.
    pub fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }
}

/// The address of a word's page.
pub fn of_word(spelling: &str) -> String {
    format!("/word/{}", encode(&spelling.to_lowercase().replace(' ', "_")))
}

/// Text for a path or for the value of a query field.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b'\'' => {
                encoded.push(byte as char)
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// How a word from a URL or a form is looked up.
pub fn lemma(word: &str) -> String {
    let word: String = word.chars().take(100).collect();
    word.replace('_', " ").trim().to_lowercase()
}

enum Space {
    Plain,
    /// `application/x-www-form-urlencoded`
    Plus,
}

fn decode(text: &str, space: Space) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            (b'+', _) if matches!(space, Space::Plus) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn letter(text: &str) -> char {
    match text.chars().next().map(|letter| letter.to_ascii_lowercase()) {
        Some(letter @ 'a'..='z') => letter,
        Some('#') => '#',
        _ => 'a',
    }
}

/// The highest page is above any that has something on it.
fn page(text: &str) -> u32 {
    text.parse().unwrap_or(1).clamp(1, 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |target: &str, expected: Address| assert_eq!(Address::of(target), expected, "{target}");
        let word = |word: &str| Address::Word(word.to_owned());
        check("/", Address::Home);
        check("/?from=here", Address::Home);
        check("/word/dog", word("dog"));
        check("/word/Take_a_breath", word("take a breath"));
        check("/word/caf%C3%A9", word("café"));
        check("/word/24/7", word("24/7"));
        check("/word/a%zz%2", word("a%zz%2"));
        check("/word/%ff", word("\u{fffd}"));
        check("/api/word/dog", Address::WordAsJson("dog".to_owned()));
        check("/word/", Address::Unknown("/word/".to_owned()));
        check("/words", Address::Words { letter: 'a', page: 1 });
        check("/words?letter=Q&page=3", Address::Words { letter: 'q', page: 3 });
        check("/words?letter=%23&page=-1", Address::Words { letter: '#', page: 1 });
        check("/words?page=99999999999", Address::Words { letter: 'a', page: 1 });
        check(
            "/search?q=+hot+dog%3F",
            Address::Search {
                query: "hot dog?".to_owned(),
                page: 1,
            },
        );
        check("/fail/late", Address::Fail(Failure::Late));
        check("/fail", Address::Unknown("/fail".to_owned()));
    }

    #[test]
    fn words_find_the_way_back_from_their_address() {
        for spelling in [
            "dog",
            "take a breath",
            "'s gravenhage",
            "24/7",
            ".22",
            "P/E ratio",
            "café",
            "100%",
        ] {
            assert_eq!(Address::of(&of_word(spelling)), Address::Word(spelling.to_lowercase()));
        }
    }
}
