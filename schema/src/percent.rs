//! One spelling for the bytes of a path, so that a pattern and a request cannot differ by spelling alone.
//!
//! Shared by the patterns here and by the proxy's normalisation of request paths. It knows bytes and escapes
//! (RFC 3986 sections 2 and 6.2.2), not segments: dots and slashes are the caller's business.

/// Why a byte or an escape is refused rather than rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EscapeRefusal {
    #[error("a `%` that is not followed by two hexadecimal digits")]
    InvalidEscape,
    #[error("a control character, raw or escaped")]
    ControlCharacter,
    #[error("a space that is not escaped")]
    RawSpace,
    #[error("a backslash, raw or escaped")]
    Backslash,
    #[error("an escaped slash")]
    EncodedSlash,
    #[error("a fragment")]
    Fragment,
    #[error("an overlong UTF-8 sequence")]
    OverlongUtf8,
}

/// Escapes of unreserved characters are decoded, other escapes get upper-case digits, bytes that may not stand in a
/// path are escaped. `/` and `?` pass as they are. Applying it twice changes nothing more.
pub fn canonical_escapes(raw: &[u8]) -> Result<String, EscapeRefusal> {
    let mut text = String::with_capacity(raw.len());
    let mut overlong = OverlongDetector::default();
    let mut rest = raw.iter().copied();
    while let Some(byte) = rest.next() {
        let escaped = byte == b'%';
        let byte = if escaped {
            let high = rest.next().and_then(hex_digit).ok_or(EscapeRefusal::InvalidEscape)?;
            let low = rest.next().and_then(hex_digit).ok_or(EscapeRefusal::InvalidEscape)?;
            high << 4 | low
        } else {
            byte
        };
        match byte {
            0x00..=0x1f | 0x7f => return Err(EscapeRefusal::ControlCharacter),
            b'\\' => return Err(EscapeRefusal::Backslash),
            b'/' if escaped => return Err(EscapeRefusal::EncodedSlash),
            b'#' if !escaped => return Err(EscapeRefusal::Fragment),
            b' ' if !escaped => return Err(EscapeRefusal::RawSpace),
            _ => {}
        }
        overlong.feed(byte)?;
        if is_unreserved(byte) || (!escaped && may_stand_raw(byte)) {
            text.push(char::from(byte));
        } else {
            push_escape(&mut text, byte);
        }
    }
    Ok(text)
}

/// `%XX` with upper-case digits.
pub(crate) fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The rest of `pchar` (RFC 3986 section 3.3) and the separators the caller looks at.
fn may_stand_raw(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/' | b'?'
    )
}

/// `%C0%AE` is an old disguise of `.`: a decoder that accepts overlong forms sees other bytes than we matched.
/// Bytes that are merely not UTF-8 (a Latin-1 path of a legacy backend) pass.
#[derive(Default)]
struct OverlongDetector {
    lead: u8,
}

impl OverlongDetector {
    fn feed(&mut self, byte: u8) -> Result<(), EscapeRefusal> {
        let lead = std::mem::replace(&mut self.lead, byte);
        match (lead, byte) {
            (0xc0 | 0xc1, 0x80..=0xbf) | (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f) => Err(EscapeRefusal::OverlongUtf8),
            _ => Ok(()),
        }
    }
}
