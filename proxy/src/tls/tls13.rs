//! A key that serves TLS 1.3 only.
//!
//! Pingora's listener settings accept TLS 1.2 and 1.3 and cannot be told otherwise, so `min_version: "1.3"` is kept by
//! the key: every full handshake of either version needs its signature, and what is signed says which version it is.

use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

/// RFC 8446 section 4.4.3: 64 spaces, then the context. In TLS 1.2 (RFC 5246 section 7.4.3) the same place holds 32
/// bytes from the client and 32 random bytes of ours.
const CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";

#[derive(Debug)]
pub(super) struct Tls13Only(pub(super) Arc<dyn SigningKey>);

impl SigningKey for Tls13Only {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0
            .choose_scheme(offered)
            .map(|signer| Box::new(Tls13Signer(signer)) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct Tls13Signer(Box<dyn Signer>);

impl Signer for Tls13Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let is_tls13 = message
            .strip_prefix(&[b' '; 64])
            .is_some_and(|rest| rest.starts_with(CONTEXT));
        match is_tls13 {
            true => self.0.sign(message),
            false => Err(Error::General("this listener requires TLS 1.3".into())),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
