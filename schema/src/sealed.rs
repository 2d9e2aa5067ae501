//! Secrets on their way to a PoP: sealed to its public key, so that what carries them cannot read them.
//!
//! `docs/formats/sealed.md` is the format. What is sealed is bound to its PoP, its app and its name; for any other it does not
//! open. A private key and an opened secret are overwritten when they are dropped, and no `Debug` shows them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_sender, single_shot_open, single_shot_seal};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// Of a key, private or public.
pub const KEY_BYTES: usize = 32;

const FORMAT: u8 = 1;
const INFO: &[u8] = b"selvedge/sealed/1";
/// The format and the encapsulated key.
const HEAD: usize = 1 + KEY_BYTES;

type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// What a PoP opens its secrets with. It never leaves the PoP.
pub struct SealingKey(Zeroizing<[u8; KEY_BYTES]>);

/// What secrets are sealed to. As text, and in JSON, it is base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicSealingKey([u8; KEY_BYTES]);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("a sealing key is {KEY_BYTES} bytes, not {0}")]
    Length(usize),
    #[error("a public sealing key is written in base64")]
    Text,
    /// RFC 7748, section 6.1: with a point of small order everybody agrees on the same.
    #[error("this public sealing key keeps nothing secret")]
    Weak,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    #[error("what is sealed has another format; was it written by a newer version?")]
    Format,
    #[error("what is sealed does not open: it is for another key, PoP, app or name, or damaged")]
    Sealed,
}

/// Seals `plaintext` so that only the PoP with the other half of `public` can open it, as this secret of this app.
pub fn seal(public: &PublicSealingKey, pop: &str, app: &str, name: &str, plaintext: &[u8]) -> Vec<u8> {
    let sealed = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public.point(),
        INFO,
        plaintext,
        &bound_to(pop, app, name),
    );
    // A point of small order was refused when the key was read, and no secret has the 256 GiB that the cipher can do.
    let (encapped, ciphertext) = sealed.expect("a checked key seals");
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&encapped.to_bytes());
    bytes.extend_from_slice(&ciphertext);
    bytes
}

/// Opens what was sealed for this PoP as this secret of this app.
pub fn open(
    key: &SealingKey,
    pop: &str,
    app: &str,
    name: &str,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (head, ciphertext) = sealed.split_at_checked(HEAD).ok_or(OpenError::Format)?;
    let [FORMAT, encapped @ ..] = head else {
        return Err(OpenError::Format);
    };
    let encapped = EncappedKey::from_bytes(encapped).map_err(|_| OpenError::Sealed)?;
    let opened = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key.scalar(),
        &encapped,
        INFO,
        ciphertext,
        &bound_to(pop, app, name),
    );
    opened.map(Zeroizing::new).map_err(|_| OpenError::Sealed)
}

impl SealingKey {
    /// A new one, of the system's randomness.
    pub fn generate() -> SealingKey {
        let (private, _) = X25519HkdfSha256::gen_keypair();
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        private.write_exact(&mut *bytes);
        SealingKey(bytes)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<SealingKey, KeyError> {
        let bytes: &[u8; KEY_BYTES] = bytes.try_into().map_err(|_| KeyError::Length(bytes.len()))?;
        Ok(SealingKey(Zeroizing::new(*bytes)))
    }

    /// The key itself, for the file that keeps it.
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        self.0.clone()
    }

    pub fn public(&self) -> PublicSealingKey {
        PublicSealingKey(X25519HkdfSha256::sk_to_pk(&self.scalar()).to_bytes().into())
    }

    fn scalar(&self) -> PrivateKey {
        PrivateKey::from_bytes(&*self.0).expect("any 32 bytes are a private key")
    }
}

/// Without the key.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl PublicSealingKey {
    pub fn from_bytes(bytes: &[u8]) -> Result<PublicSealingKey, KeyError> {
        let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| KeyError::Length(bytes.len()))?;
        let key = PublicSealingKey(bytes);
        let tried = setup_sender::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(&OpModeS::Base, &key.point(), INFO);
        tried.map(|_| key).map_err(|_| KeyError::Weak)
    }

    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn point(&self) -> PublicKey {
        PublicKey::from_bytes(&self.0).expect("any 32 bytes are a point")
    }
}

impl fmt::Display for PublicSealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl FromStr for PublicSealingKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicSealingKey, KeyError> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| KeyError::Text)?;
        PublicSealingKey::from_bytes(&bytes)
    }
}

impl TryFrom<String> for PublicSealingKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<PublicSealingKey, KeyError> {
        text.parse()
    }
}

impl From<PublicSealingKey> for String {
    fn from(key: PublicSealingKey) -> String {
        key.to_string()
    }
}

fn bound_to(pop: &str, app: &str, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [pop, app, name] {
        let length = u32::try_from(part.len()).expect("names are short");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_for_its_pop_app_and_name_alone() {
        let (key, other) = (SealingKey::generate(), SealingKey::generate());
        for plaintext in [&b""[..], b"sk_live_1", &[0xff; 70_000]] {
            let sealed = seal(&key.public(), "fra", "shop", "STRIPE_KEY", plaintext);
            assert_eq!(sealed.len(), HEAD + plaintext.len() + 16);
            let opened = open(&key, "fra", "shop", "STRIPE_KEY", &sealed).unwrap();
            assert_eq!(*opened, plaintext);
            for (key, pop, app, name) in [
                (&other, "fra", "shop", "STRIPE_KEY"),
                (&key, "nyc", "shop", "STRIPE_KEY"),
                (&key, "fra", "blog", "STRIPE_KEY"),
                (&key, "fra", "shop", "OTHER_KEY"),
                // The same letters, cut elsewhere.
                (&key, "fras", "hop", "STRIPE_KEY"),
            ] {
                assert_eq!(open(key, pop, app, name, &sealed).unwrap_err(), OpenError::Sealed);
            }
        }
    }

    #[test]
    fn no_two_seals_are_the_same_and_damage_is_seen() {
        let key = SealingKey::generate();
        let sealed = seal(&key.public(), "p", "a", "n", b"value");
        assert_ne!(sealed, seal(&key.public(), "p", "a", "n", b"value"));
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            let expected = if position == 0 {
                OpenError::Format
            } else {
                OpenError::Sealed
            };
            assert_eq!(open(&key, "p", "a", "n", &damaged).unwrap_err(), expected, "{position}");
        }
        for cut in [0, 1, HEAD - 1, HEAD, sealed.len() - 1] {
            assert!(open(&key, "p", "a", "n", &sealed[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let key = SealingKey::generate();
        let again = SealingKey::from_bytes(&*key.to_bytes()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        let json = serde_json::to_value(key.public()).unwrap();
        assert_eq!(serde_json::from_value::<PublicSealingKey>(json).unwrap(), key.public());
        for (text, expected) in [
            ("", KeyError::Length(0)),
            ("AAAA", KeyError::Length(3)),
            ("not base64", KeyError::Text),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", KeyError::Weak),
            ("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", KeyError::Weak),
        ] {
            assert_eq!(text.parse::<PublicSealingKey>(), Err(expected), "{text}");
        }
        assert_eq!(SealingKey::from_bytes(&[0; 31]).unwrap_err(), KeyError::Length(31));
    }

    #[test]
    fn debug_does_not_show_the_key() {
        assert_eq!(format!("{:?}", SealingKey::generate()), "SealingKey");
    }

    /// RFC 7748, section 6.1: Alice's keys.
    #[test]
    fn the_public_half_is_that_of_the_rfc() {
        let bytes = |hex: &str| -> Vec<u8> {
            let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
            pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
        };
        let private = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let public = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let key = SealingKey::from_bytes(&private).unwrap();
        assert_eq!(key.public().as_bytes()[..], public);
    }
}
