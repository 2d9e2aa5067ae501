//! What a primary and a follower say to each other over one HTTP/2 stream.
//!
//! The follower sends lines of JSON ([`Request`]). The primary sends frames: length (4 bytes, big-endian) of what follows,
//! kind (1 byte), payload. Kind 1 is JSON ([`Notice`]); kind 2 is a transaction file: length of the database's name (2
//! bytes), name, file.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::log::Head;

/// A frame larger than this is not believed.
const FRAME_BYTES: usize = 1024 * 1024 * 1024;
const NOTICE: u8 = 1;
const FILE: u8 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Who follows.
    Hello { agent: String },
    /// Send what follows this state of the database.
    Follow { database: String, state: Head },
    /// How far the follower is.
    Applied { heads: BTreeMap<String, Head> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// The newest states; also says that the primary is alive.
    Heads { heads: BTreeMap<String, Head> },
    /// What the follower has cannot be continued: it needs a snapshot.
    Resync { database: String, diverged: bool },
}

#[derive(Debug)]
pub(crate) enum Frame {
    Notice(Notice),
    File { database: String, file: Bytes },
}

pub(crate) fn notice(notice: &Notice) -> Bytes {
    let json = serde_json::to_vec(notice).expect("notices are JSON");
    let mut bytes = BytesMut::with_capacity(json.len() + 5);
    bytes.put_u32(json.len() as u32 + 1);
    bytes.put_u8(NOTICE);
    bytes.put_slice(&json);
    bytes.freeze()
}

pub(crate) fn file(database: &str, file: &Bytes) -> Bytes {
    let length = 1 + 2 + database.len() + file.len();
    let mut bytes = BytesMut::with_capacity(4 + length);
    bytes.put_u32(length as u32);
    bytes.put_u8(FILE);
    bytes.put_u16(database.len() as u16);
    bytes.put_slice(database.as_bytes());
    bytes.put_slice(file);
    bytes.freeze()
}

/// Cuts a stream of bytes into frames.
#[derive(Default)]
pub(crate) struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; an error when the stream makes no sense.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, &'static str> {
        let Some(length) = self
            .buffer
            .first_chunk::<4>()
            .map(|bytes| u32::from_be_bytes(*bytes) as usize)
        else {
            return Ok(None);
        };
        if length == 0 || length > FRAME_BYTES {
            return Err("a frame's length is not valid");
        }
        if self.buffer.len() < 4 + length {
            self.buffer.reserve(4 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(4);
        let mut frame = self.buffer.split_to(length).freeze();
        match frame.get_u8() {
            NOTICE => serde_json::from_slice(&frame)
                .map(|notice| Some(Frame::Notice(notice)))
                .map_err(|_| "a notice is not valid"),
            FILE if frame.len() >= 2 => {
                let name = usize::from(frame.get_u16());
                if frame.len() < name {
                    return Err("a frame is too short");
                }
                let database = String::from_utf8(frame.split_to(name).to_vec()).map_err(|_| "a name is not text")?;
                Ok(Some(Frame::File { database, file: frame }))
            }
            _ => Err("a frame's kind is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let bytes = [
            file("shop", &Bytes::from_static(b"pages")),
            notice(&Notice::Resync {
                database: "shop".into(),
                diverged: true,
            }),
            file("b", &Bytes::new()),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut reader = FrameReader::default();
            let mut count = 0;
            for chunk in bytes.chunks(size) {
                reader.push(chunk);
                while let Some(frame) = reader.next().unwrap() {
                    match (count, frame) {
                        (0, Frame::File { database, file }) => {
                            assert_eq!((&*database, &*file), ("shop", &b"pages"[..]))
                        }
                        (1, Frame::Notice(Notice::Resync { diverged: true, .. })) => {}
                        (2, Frame::File { database, file }) => assert!(database == "b" && file.is_empty()),
                        other => panic!("{other:?}"),
                    }
                    count += 1;
                }
            }
            assert_eq!(count, 3);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [
            &[0, 0, 0, 0][..],
            &[255; 5],
            &[0, 0, 0, 1, 9],
            &[0, 0, 0, 2, 1, b'x'],
            &[0, 0, 0, 3, 2, 0, 9],
        ] {
            let mut reader = FrameReader::default();
            reader.push(bytes);
            assert!(reader.next().is_err(), "{bytes:?}");
        }
    }
}
