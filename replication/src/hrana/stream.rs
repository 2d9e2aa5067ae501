//! A stream: what a client's requests share, from one HTTP request to the next.
//!
//! The client holds a baton, an unguessable text that names its stream once: every answer carries a new one. A stream
//! belongs to the database and the role its first request had. Nobody comes back: it is closed, and its transaction
//! undone.

use std::collections::HashMap;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use parking_lot::Mutex;

use super::bounds;
use super::failure::Failure;
use crate::Interactive;
use crate::agent::{ClientRole, Refusal};
use crate::position::Position;
use crate::read_transaction::ReadTransaction;

/// Random bytes of a baton.
const BATON_BYTES: usize = 24;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) database: String,
    pub(super) role: ClientRole,
    pub(super) transaction: Transaction,
    /// Whether statements enforce foreign keys: the client's setting, for its stream only.
    pub(super) foreign_keys: bool,
    /// At least this must be read.
    pub(super) wanted: Position,
    /// What was read or written.
    pub(super) seen: Position,
    texts: HashMap<i32, String>,
    texts_bytes: usize,
}

/// What the stream has open.
#[derive(Debug)]
pub(super) enum Transaction {
    /// Each statement by itself.
    None,
    /// At this agent, which is the primary.
    Writing(Interactive),
    /// One state, here.
    Reading(ReadTransaction),
    /// At the primary, in a stream there.
    AtPrimary { baton: String },
    /// It was undone, and the client does not know yet.
    Ended,
}

impl Stream {
    pub(super) fn new(database: String, role: ClientRole) -> Stream {
        Stream {
            database,
            role,
            transaction: Transaction::None,
            foreign_keys: true,
            wanted: Position::default(),
            seen: Position::default(),
            texts: HashMap::new(),
            texts_bytes: 0,
        }
    }

    /// This state was read or written.
    pub(super) fn see(&mut self, position: Position) {
        self.seen = self.seen.max(position);
        self.wanted = self.wanted.max(position);
    }

    /// Outside of a transaction.
    pub(super) fn is_autocommit(&self) -> bool {
        matches!(self.transaction, Transaction::None | Transaction::Ended)
    }

    /// A transaction may have been undone since the last request.
    pub(super) fn look_at_transaction(&mut self) {
        let open = match &self.transaction {
            Transaction::Writing(transaction) => transaction.is_open(),
            Transaction::Reading(transaction) => transaction.is_open(),
            Transaction::None | Transaction::AtPrimary { .. } | Transaction::Ended => true,
        };
        if !open {
            self.transaction = Transaction::Ended;
        }
    }

    pub(super) fn store(&mut self, id: i32, text: String) -> Result<(), Refusal> {
        self.texts_bytes += text.len();
        if self.texts.len() == bounds::STORED_TEXTS || self.texts_bytes > bounds::STORED_BYTES {
            return Err(Refusal::Malformed(format!(
                "a stream stores at most {} SQL texts of {} bytes together",
                bounds::STORED_TEXTS,
                bounds::STORED_BYTES
            )));
        }
        if self.texts.contains_key(&id) {
            return Err(Refusal::Malformed(format!("the SQL text {id} is already stored")));
        }
        self.texts.insert(id, text);
        Ok(())
    }

    pub(super) fn forget(&mut self, id: i32) {
        if let Some(text) = self.texts.remove(&id) {
            self.texts_bytes -= text.len();
        }
    }

    /// The text of a request, which gives either it or its number.
    pub(super) fn text(&self, text: Option<String>, id: Option<i32>) -> Result<String, Refusal> {
        match (text, id) {
            (Some(text), None) => Ok(text),
            (None, Some(id)) => self
                .texts
                .get(&id)
                .cloned()
                .ok_or_else(|| Refusal::Malformed(format!("there is no stored SQL text {id}"))),
            _ => Err(Refusal::Malformed("give either `sql` or `sql_id`".to_owned())),
        }
    }

    pub(super) fn may_write(&self) -> Result<(), Failure> {
        match self.role {
            ClientRole::Write => Ok(()),
            ClientRole::Read => Err(Failure::ReadOnlyToken),
        }
    }
}

/// Streams whose clients are elsewhere, by baton.
#[derive(Default)]
pub(super) struct Streams {
    waiting: Mutex<HashMap<String, (Instant, Stream)>>,
}

impl Streams {
    /// The stream of a baton, which is used up.
    pub(super) fn take(&self, baton: &str, database: &str, role: ClientRole) -> Result<Stream, Refusal> {
        let found = self.waiting.lock().remove(baton);
        let stream = found
            .filter(|(left, stream)| {
                left.elapsed() < bounds::IDLE && stream.database == database && stream.role == role
            })
            .map(|(_, stream)| stream);
        stream.ok_or(Refusal::Stream)
    }

    /// Keeps a stream until its client comes back with the baton.
    pub(super) fn keep(&self, stream: Stream) -> Result<String, Refusal> {
        let mut random = [0; BATON_BYTES];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut random)
            .map_err(|_| Refusal::Internal("the system has no random numbers".to_owned()))?;
        let baton = BASE64_URL_SAFE_NO_PAD.encode(random);
        // Ended outside of the lock: what they hold may take time to end.
        let _expired = self.expire();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= bounds::STREAMS {
            return Err(Refusal::Busy("too many streams are open"));
        }
        waiting.insert(baton.clone(), (Instant::now(), stream));
        Ok(baton)
    }

    /// Takes out what nobody has come back for.
    pub(super) fn expire(&self) -> Vec<Stream> {
        let mut waiting = self.waiting.lock();
        let expired = waiting.extract_if(|_, (left, _)| left.elapsed() >= bounds::IDLE);
        expired.map(|(_, (_, stream))| stream).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new("shop".to_owned(), ClientRole::Write)
    }

    #[test]
    fn a_baton_opens_its_stream_once_and_to_its_owner_only() {
        let streams = Streams::default();
        let baton = streams.keep(stream()).unwrap();
        assert_eq!(baton.len(), 32);
        assert_ne!(baton, streams.keep(stream()).unwrap());
        assert!(streams.take("guessed", "shop", ClientRole::Write).is_err());
        streams.take(&baton, "shop", ClientRole::Write).unwrap();
        assert!(streams.take(&baton, "shop", ClientRole::Write).is_err());
        for (database, role) in [("blog", ClientRole::Write), ("shop", ClientRole::Read)] {
            let baton = streams.keep(stream()).unwrap();
            assert!(streams.take(&baton, database, role).is_err());
        }
    }

    #[test]
    fn streams_are_bounded_in_number_and_time() {
        let streams = Streams::default();
        for _ in 0..bounds::STREAMS {
            streams.keep(stream()).unwrap();
        }
        assert!(matches!(streams.keep(stream()), Err(Refusal::Busy(_))));
        for (left, _) in streams.waiting.lock().values_mut() {
            *left -= bounds::IDLE;
        }
        let baton = streams.keep(stream()).unwrap();
        assert_eq!(streams.waiting.lock().len(), 1);
        streams.waiting.lock().get_mut(&baton).unwrap().0 -= bounds::IDLE;
        assert!(streams.take(&baton, "shop", ClientRole::Write).is_err());
    }

    #[test]
    fn stored_texts_are_found_and_bounded() {
        let mut stream = stream();
        stream.store(1, "SELECT 1".to_owned()).unwrap();
        assert!(stream.store(1, "SELECT 2".to_owned()).is_err());
        assert_eq!(stream.text(None, Some(1)).unwrap(), "SELECT 1");
        stream.forget(1);
        for (text, id) in [(None, Some(1)), (None, None), (Some("SELECT 3".to_owned()), Some(1))] {
            assert!(stream.text(text, id).is_err());
        }
        assert!(stream.store(2, "x".repeat(bounds::STORED_BYTES + 1)).is_err());
        let mut stream = Stream::new("shop".to_owned(), ClientRole::Read);
        for id in 0..bounds::STORED_TEXTS {
            stream.store(id as i32, String::new()).unwrap();
        }
        assert!(stream.store(-1, String::new()).is_err());
        assert!(stream.may_write().is_err());
    }
}
