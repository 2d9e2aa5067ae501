//! What a primary and a follower say to each other over one HTTP/2 stream.
//!
//! The follower sends lines of JSON ([`Request`]). The primary sends frames, integers big-endian: length of the body (4
//! bytes), CRC-32C of the body (4), CRC-32C of these eight bytes (4), body. A body is kind (1 byte) and payload. Kind 1 is
//! JSON ([`Notice`]); kind 2 is a transaction file: number of the question it answers (8 bytes), length of the database's
//! name (2 bytes), name, file.
//!
//! The length has a checksum of its own: a damaged one would have the follower wait for bytes that never come, while
//! signs of life keep the stream open.
//!
//! A follower numbers its questions, and the primary's answers carry the number: what was on its way when the follower
//! asked again is told apart from what it asked for.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};
use serde::{Deserialize, Serialize};

use crate::log::Head;
use crate::position::Epoch;

/// A frame larger than this is not believed.
const FRAME_BYTES: usize = 1024 * 1024 * 1024;
/// Before the body.
const HEADER_BYTES: usize = 12;
const NOTICE: u8 = 1;
const FILE: u8 = 2;
/// Number of the question and length of the name.
const FILE_HEADER_BYTES: usize = 8 + 2;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Who follows.
    Hello { agent: String },
    /// Send what follows this state of the database; question number `ask`.
    Follow { database: String, ask: u64, state: Head },
    /// How far the follower is.
    Applied { heads: BTreeMap<String, Head> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// The newest states, the databases that were deleted, and under which epoch the primary leads; also says that it is
    /// alive. The first of a stream.
    Heads {
        epoch: Epoch,
        heads: BTreeMap<String, Head>,
        #[serde(default)]
        gone: BTreeSet<String>,
    },
    /// What the follower has cannot be continued: it needs a snapshot.
    Resync { database: String, ask: u64, diverged: bool },
    /// The primary has no such database. What the follower has is not wrong for that.
    Unknown { database: String, ask: u64 },
}

#[derive(Debug)]
pub(crate) enum Frame {
    Notice(Notice),
    File { database: String, ask: u64, file: Bytes },
}

pub(crate) fn notice(notice: &Notice) -> Bytes {
    let json = serde_json::to_vec(notice).expect("notices are JSON");
    frame(json.len() + 1, |body| {
        body.put_u8(NOTICE);
        body.put_slice(&json);
    })
}

pub(crate) fn file(database: &str, ask: u64, file: &Bytes) -> Bytes {
    frame(1 + FILE_HEADER_BYTES + database.len() + file.len(), |body| {
        body.put_u8(FILE);
        body.put_u64(ask);
        body.put_u16(database.len() as u16);
        body.put_slice(database.as_bytes());
        body.put_slice(file);
    })
}

fn frame(body_bytes: usize, put_body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + body_bytes);
    bytes.put_bytes(0, HEADER_BYTES);
    put_body(&mut bytes);
    let (header, body) = bytes.split_at_mut(HEADER_BYTES);
    header[0..4].copy_from_slice(&(body.len() as u32).to_be_bytes());
    header[4..8].copy_from_slice(&crc(body).to_be_bytes());
    let of_header = crc(&header[..8]);
    header[8..12].copy_from_slice(&of_header.to_be_bytes());
    bytes.freeze()
}

fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
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
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let u32_at = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, of_body) = (u32_at(0) as usize, u32_at(4));
        if crc(&header[..8]) != u32_at(8) || length == 0 || length > FRAME_BYTES {
            return Err("a frame's header is not valid");
        }
        if self.buffer.len() < HEADER_BYTES + length {
            self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let mut frame = self.buffer.split_to(length).freeze();
        if crc(&frame) != of_body {
            return Err("a frame was damaged on its way");
        }
        match frame.get_u8() {
            NOTICE => serde_json::from_slice(&frame)
                .map(|notice| Some(Frame::Notice(notice)))
                .map_err(|_| "a notice is not valid"),
            FILE if frame.len() >= FILE_HEADER_BYTES => {
                let ask = frame.get_u64();
                let name = usize::from(frame.get_u16());
                if frame.len() < name {
                    return Err("a frame is too short");
                }
                let database = String::from_utf8(frame.split_to(name).to_vec()).map_err(|_| "a name is not text")?;
                Ok(Some(Frame::File {
                    database,
                    ask,
                    file: frame,
                }))
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
            file("shop", 7, &Bytes::from_static(b"pages")),
            notice(&Notice::Resync {
                database: "shop".into(),
                ask: 8,
                diverged: true,
            }),
            file("b", u64::MAX, &Bytes::new()),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut reader = FrameReader::default();
            let mut count = 0;
            for chunk in bytes.chunks(size) {
                reader.push(chunk);
                while let Some(frame) = reader.next().unwrap() {
                    match (count, frame) {
                        (0, Frame::File { database, ask, file }) => {
                            assert_eq!((&*database, ask, &*file), ("shop", 7, &b"pages"[..]))
                        }
                        (
                            1,
                            Frame::Notice(Notice::Resync {
                                ask: 8, diverged: true, ..
                            }),
                        ) => {}
                        (2, Frame::File { database, ask, file }) => {
                            assert!(database == "b" && ask == u64::MAX && file.is_empty());
                        }
                        other => panic!("{other:?}"),
                    }
                    count += 1;
                }
            }
            assert_eq!(count, 3);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_at_once() {
        let whole = file("shop", 7, &Bytes::from_static(b"pages"));
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::default();
            reader.push(&damaged);
            assert!(reader.next().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let empty = frame(0, |_| {});
        let bodies: [&'static [u8]; 3] = [&[9], &[NOTICE, b'x'], &[FILE, 0, 9]];
        let framed = bodies.map(|body| frame(body.len(), |bytes| bytes.put_slice(body)));
        for bytes in framed.iter().chain([&empty, &Bytes::from_static(&[255; HEADER_BYTES])]) {
            let mut reader = FrameReader::default();
            reader.push(bytes);
            assert!(reader.next().is_err(), "{bytes:?}");
        }
    }
}
