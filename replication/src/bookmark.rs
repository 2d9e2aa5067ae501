//! What a client has seen of a database, in its own hands: sent with every answer, brought with every request.
//!
//! `<database>=<epoch>-<txid>-<tag>`, several separated by `,`. The tag is the first eight bytes of HMAC-SHA256 over database and
//! position, so that nobody can make a PoP wait for a future that was never written.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::position::Position;

/// Header of requests and responses.
pub const HEADER: &str = "x-selvedge-bookmark";
/// Cookie of the same content, for browsers.
pub const COOKIE: &str = "__selvedge_bookmark";
const TAG_BYTES: usize = 8;
/// Databases one bookmark may name.
const DATABASES: usize = 32;

/// Signs and reads bookmarks; the same at every PoP of a cluster.
#[derive(Clone)]
pub struct BookmarkKey([u8; 32]);

impl BookmarkKey {
    /// Derived from the secret that the cluster shares.
    pub fn derive(secret: &str) -> BookmarkKey {
        let mut digest = Sha256::new();
        digest.update(b"selvedge bookmark\0");
        digest.update(secret.as_bytes());
        BookmarkKey(digest.finalize().into())
    }

    pub fn from_bytes(bytes: [u8; 32]) -> BookmarkKey {
        BookmarkKey(bytes)
    }

    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// One database's bookmark.
    pub fn sign(&self, database: &str, position: Position) -> String {
        let mut text = format!("{database}={position}-");
        for byte in self.tag(database, position) {
            write!(text, "{byte:02x}").expect("a string takes every write");
        }
        text
    }

    /// The positions of a bookmark. What is not ours, or damaged, is left out.
    pub fn read(&self, text: &str) -> BTreeMap<String, Position> {
        text.split(',')
            .take(DATABASES)
            .filter_map(|one| self.read_one(one.trim()))
            .collect()
    }

    fn read_one(&self, text: &str) -> Option<(String, Position)> {
        let (database, rest) = text.split_once('=')?;
        let (position, tag) = rest.rsplit_once('-')?;
        let position = position.parse().ok()?;
        let mut wanted = String::with_capacity(2 * TAG_BYTES);
        for byte in self.tag(database, position) {
            write!(wanted, "{byte:02x}").expect("a string takes every write");
        }
        // Compared in constant time: a tag must not be found byte by byte.
        let same =
            wanted.len() == tag.len() && wanted.bytes().zip(tag.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
        same.then(|| (database.to_owned(), position))
    }

    fn tag(&self, database: &str, position: Position) -> [u8; TAG_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(database.as_bytes());
        mac.update(&position.epoch.0.to_be_bytes());
        mac.update(&position.txid.0.to_be_bytes());
        let tag = mac.finalize().into_bytes();
        std::array::from_fn(|index| tag[index])
    }
}

/// How fresh a request's reads must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// What this machine has.
    Eventual,
    /// At least what the client has seen.
    #[default]
    Session,
    /// What the primary has now.
    Strong,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    /// When it is done and visible here.
    #[default]
    Wait,
    /// While the primary is slow: when it is queued on this machine's disk.
    QueueWhenSlow,
}

/// What a request brought, and the session that was opened for it once somebody served it.
#[derive(Debug, Default)]
pub struct Brought {
    pub positions: BTreeMap<String, Position>,
    pub consistency: Consistency,
    pub writes: Writes,
    pub session: OnceLock<Arc<Session>>,
    /// What the session knew when the request left it.
    left: OnceLock<Left>,
}

/// Of the requests that shared a session.
#[derive(Debug, Clone, Default)]
struct Left {
    queued: Vec<QueuedWrite>,
    unavailable: bool,
}

impl Brought {
    pub fn new(positions: BTreeMap<String, Position>, consistency: Consistency, writes: Writes) -> Brought {
        Brought {
            positions,
            consistency,
            writes,
            ..Brought::default()
        }
    }

    /// Writes that were answered before they were done.
    pub fn queued_writes(&self) -> Vec<QueuedWrite> {
        self.left().queued
    }

    /// Whether the data layer could not do what was asked, for now.
    pub fn was_unavailable(&self) -> bool {
        self.left().unavailable
    }

    fn left(&self) -> Left {
        let now = || self.session.get().map(|session| session.state.lock().left.clone());
        self.left.get().cloned().or_else(now).unwrap_or_default()
    }
}

/// A write that was answered before it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedWrite {
    pub database: String,
    pub operation: String,
}

/// What the requests of one instance have seen so far. Requests that share an instance share it: each then waits for
/// at least what it needs, and is told of at least what it saw.
#[derive(Debug, Default)]
pub struct Session {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests under way, and those of them that want what the primary has now, or may have their writes queued.
    requests: usize,
    strong: usize,
    queueing: usize,
    positions: BTreeMap<String, Seen>,
    /// Since the instance was last idle.
    left: Left,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// At least this must be read.
    wanted: Position,
    touched: bool,
}

impl Session {
    /// A request joins, and later [leaves](Session::leave).
    pub fn join(self: &Arc<Self>, brought: &Brought) {
        let mut state = self.state.lock();
        if state.requests == 0 {
            state.left = Left::default();
        }
        state.requests += 1;
        for (database, position) in &brought.positions {
            let seen = state.positions.entry(database.clone()).or_default();
            seen.wanted = seen.wanted.max(*position);
        }
        state.strong += usize::from(brought.consistency == Consistency::Strong);
        state.queueing += usize::from(brought.writes == Writes::QueueWhenSlow);
        drop(state);
        // A request joins one instance; were it a second one, the first stays the one that answers.
        let _ = brought.session.set(Arc::clone(self));
    }

    pub fn leave(&self, brought: &Brought) {
        let mut state = self.state.lock();
        let _ = brought.left.set(state.left.clone());
        state.requests = state.requests.saturating_sub(1);
        state.strong = state
            .strong
            .saturating_sub(usize::from(brought.consistency == Consistency::Strong));
        state.queueing = state
            .queueing
            .saturating_sub(usize::from(brought.writes == Writes::QueueWhenSlow));
    }

    pub fn is_strong(&self) -> bool {
        self.state.lock().strong > 0
    }

    /// Whether a write may be answered when it is queued. Only when every request under way allows it.
    pub fn may_queue(&self) -> bool {
        let state = self.state.lock();
        state.queueing > 0 && state.queueing == state.requests
    }

    /// What a read of the database must have at least.
    pub fn wanted(&self, database: &str) -> Position {
        let state = self.state.lock();
        state.positions.get(database).copied().unwrap_or_default().wanted
    }

    /// A request has seen this state.
    pub fn see(&self, database: &str, position: Position) {
        let mut state = self.state.lock();
        let seen = match state.positions.get_mut(database) {
            Some(seen) => seen,
            None => state.positions.entry(database.to_owned()).or_default(),
        };
        seen.wanted = seen.wanted.max(position);
        seen.touched = true;
    }

    /// A write was answered before it was done.
    pub fn queued(&self, database: &str, operation: String) {
        self.state.lock().left.queued.push(QueuedWrite {
            database: database.to_owned(),
            operation,
        });
    }

    /// The data layer could not do what was asked, for now.
    pub fn note_unavailable(&self) {
        self.state.lock().left.unavailable = true;
    }

    /// The bookmark to answer with: all that the client has seen now. `None` when nothing was touched.
    pub fn bookmark(&self, key: &BookmarkKey) -> Option<String> {
        let state = self.state.lock();
        if !state.positions.values().any(|seen| seen.touched) {
            return None;
        }
        let each = state
            .positions
            .iter()
            .filter(|(_, seen)| seen.wanted != Position::default());
        Some(
            each.map(|(database, seen)| key.sign(database, seen.wanted))
                .collect::<Vec<_>>()
                .join(","),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Txid};

    fn position(txid: u64) -> Position {
        Position {
            epoch: Epoch(1),
            txid: Txid(txid),
        }
    }

    #[test]
    fn only_what_was_signed_is_read() {
        let key = BookmarkKey::derive("secret");
        let text = key.sign("shop", position(7));
        assert!(text.starts_with("shop=00000001-0000000000000007-"), "{text}");
        assert_eq!(key.read(&format!("{text}, {}", key.sign("b", position(2)))).len(), 2);
        for forged in [
            text.replace("07-", "08-"),
            text.replace("shop", "other"),
            text[..text.len() - 1].to_owned(),
            BookmarkKey::derive("other").sign("shop", position(7)),
            "shop".to_owned(),
            String::new(),
        ] {
            assert_eq!(key.read(&forged), BTreeMap::new(), "{forged}");
        }
    }

    #[test]
    fn a_session_never_goes_back() {
        let key = BookmarkKey::derive("secret");
        let session = Arc::new(Session::default());
        let brought = Brought {
            positions: key.read(&key.sign("shop", position(7))),
            ..Brought::default()
        };
        session.join(&brought);
        assert_eq!(session.bookmark(&key), None);
        session.see("shop", position(5));
        assert_eq!(session.wanted("shop"), position(7));
        session.see("shop", position(9));
        assert_eq!(session.bookmark(&key), Some(key.sign("shop", position(9))));
    }

    #[test]
    fn what_was_queued_is_told_to_whoever_was_there() {
        let session = Arc::new(Session::default());
        let queueing = || Brought {
            writes: Writes::QueueWhenSlow,
            ..Brought::default()
        };
        let (first, waiting, second) = (queueing(), Brought::default(), queueing());
        session.join(&first);
        assert!(session.may_queue());
        session.join(&waiting);
        assert!(!session.may_queue(), "one of them did not ask for it");
        session.leave(&waiting);
        session.queued("shop", "1".to_owned());
        session.note_unavailable();
        let told = |brought: &Brought| (brought.queued_writes().len(), brought.was_unavailable());
        assert_eq!(told(&first), (1, true));
        session.leave(&first);
        session.join(&second);
        assert_eq!((told(&first), told(&second)), ((1, true), (0, false)));
    }
}
