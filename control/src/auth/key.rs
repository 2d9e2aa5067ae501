//! The text of a key: `sel_<id, 8>_<secret, 32>_<checksum, 6>`, all base62.
//!
//! The id is public and finds the key. The secret has 190 bits; of the whole only SHA-256 is kept. The checksum (CRC-32C of
//! what stands before it) lets scanners and this crate tell a mistyped key without asking a database.

use std::fmt;

use crc_fast::{CrcAlgorithm, checksum};
use sha2::{Digest, Sha256};

use crate::chain::hex;

const PREFIX: &str = "sel";
const ID: usize = 8;
const SECRET: usize = 32;
const CHECKSUM: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The largest multiple of 62 in a byte: larger ones are thrown away, so that every letter is as likely.
const FAIR: u8 = 248;

/// A key in clear. Shown once; never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    text: String,
}

impl Key {
    pub(crate) fn make() -> Key {
        let text = format!("{PREFIX}_{}_{}", random(ID), random(SECRET));
        let sum = check(&text);
        Key {
            text: format!("{text}_{sum}"),
        }
    }

    /// A text that could be a key.
    pub(crate) fn parse(text: &str) -> Option<Key> {
        let (body, sum) = text.rsplit_once('_')?;
        let parts: Vec<&str> = body.split('_').collect();
        let [PREFIX, id, secret] = parts[..] else { return None };
        let is_whole = |part: &str, length| part.len() == length && part.bytes().all(|byte| ALPHABET.contains(&byte));
        let fits = is_whole(id, ID) && is_whole(secret, SECRET) && check(body) == sum;
        fits.then(|| Key { text: text.to_owned() })
    }

    pub(crate) fn id(&self) -> &str {
        &self.text[PREFIX.len() + 1..][..ID]
    }

    /// What is kept of it.
    pub(crate) fn digest(&self) -> String {
        hex(&Sha256::digest(&self.text))
    }

    /// The key itself, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

/// Without the secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

/// Whether two digests are the same; how long it takes does not say where they differ.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn random(length: usize) -> String {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).expect("the system has randomness");
        let letters = bytes.iter().filter(|byte| **byte < FAIR);
        let letters = letters.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(letters.take(length - text.len()));
    }
    text
}

fn check(text: &str) -> String {
    let mut rest = checksum(CrcAlgorithm::Crc32Iscsi, text.as_bytes());
    let mut letters = [b'0'; CHECKSUM];
    for letter in letters.iter_mut().rev() {
        *letter = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    letters.iter().map(|letter| char::from(*letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let key = Key::make();
        assert_eq!(key.reveal().len(), 3 + 1 + ID + 1 + SECRET + 1 + CHECKSUM);
        assert_eq!(Key::parse(key.reveal()), Some(key.clone()));
        assert_ne!(Key::make(), key);
        assert_eq!(key.digest().len(), 64);
        assert!(same(&key.digest(), &key.digest()) && !same(&key.digest(), &Key::make().digest()));
        assert!(!format!("{key:?}").contains(&key.reveal()[13..]));
    }

    #[test]
    fn a_mistyped_key_is_none() {
        let text = Key::make().reveal().to_owned();
        for position in 0..text.len() {
            let other = if text.as_bytes()[position] == b'x' { "y" } else { "x" };
            let mut typed = text.clone();
            typed.replace_range(position..=position, other);
            assert_eq!(Key::parse(&typed), None, "{typed}");
        }
        for typed in ["", "sel", "sel___", &text[1..], &format!("{text} ")] {
            assert_eq!(Key::parse(typed), None, "{typed}");
        }
    }
}
