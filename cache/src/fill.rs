//! A response being written while it is read.
//!
//! Readers tail the chunks as they come. A fill that is dropped before it is complete is an error for every reader,
//! never an end. A response that outgrows what the cache may keep goes on to its readers with a bounded window: the
//! writer waits for the slowest of them, as a proxy without a cache would.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes held for readers of a response that will not be kept.
const WINDOW_BYTES: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete,
    Failed,
}

#[derive(Debug, Default)]
struct State {
    /// Chunks from number `dropped` on.
    chunks: Vec<Bytes>,
    dropped: usize,
    held_bytes: usize,
    outcome: Option<Outcome>,
    /// Next chunk number of every reader.
    readers: HashMap<u64, usize>,
}

/// One response on its way into the cache.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) id: u64,
    /// Serialised `CacheMeta`.
    pub(crate) meta: (Vec<u8>, Vec<u8>),
    state: Mutex<State>,
    changed: Notify,
    next_reader: AtomicU64,
}

impl Fill {
    pub(crate) fn new(id: u64, meta: (Vec<u8>, Vec<u8>)) -> Fill {
        Fill {
            id,
            meta,
            state: Mutex::default(),
            changed: Notify::new(),
            next_reader: AtomicU64::new(0),
        }
    }

    /// A reader from the first byte on; `None` when the first bytes are gone already.
    pub(crate) fn reader(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.dropped > 0 {
            return None;
        }
        let reader = self.next_reader.fetch_add(1, Ordering::Relaxed);
        state.readers.insert(reader, 0);
        Some(reader)
    }

    pub(crate) fn leave(&self, reader: u64) {
        self.state.lock().readers.remove(&reader);
        self.changed.notify_waiters();
    }

    /// The reader's next chunk; `Ok(None)` only at the end of a complete response. Cancel-safe.
    pub(crate) async fn read(&self, reader: u64) -> Result<Option<Bytes>, ()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(ready) = self.try_read(reader) {
                return ready;
            }
            changed.await;
        }
    }

    fn try_read(&self, reader: u64) -> Option<Result<Option<Bytes>, ()>> {
        let mut state = self.state.lock();
        let Some(next) = state.readers.get(&reader).copied() else {
            return Some(Err(()));
        };
        if let Some(chunk) = state.chunks.get(next - state.dropped).cloned() {
            state.readers.insert(reader, next + 1);
            drop(state);
            self.changed.notify_waiters();
            return Some(Ok(Some(chunk)));
        }
        match state.outcome {
            None => None,
            Some(Outcome::Complete) => Some(Ok(None)),
            Some(Outcome::Failed) => Some(Err(())),
        }
    }

    /// Appends a chunk that will be kept.
    pub(crate) fn append(&self, chunk: Bytes) {
        let mut state = self.state.lock();
        state.held_bytes += chunk.len();
        state.chunks.push(chunk);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Appends a chunk of a response that will not be kept; waits while the slowest reader is too far behind.
    pub(crate) async fn pass_on(&self, chunk: Bytes) {
        self.append(chunk);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.drop_read_chunks() {
                return;
            }
            changed.await;
        }
    }

    /// Forgets what every reader has; `true` when the window has room.
    fn drop_read_chunks(&self) -> bool {
        let mut state = self.state.lock();
        let end = state.dropped + state.chunks.len();
        let slowest = state.readers.values().copied().min().unwrap_or(end);
        let count = slowest - state.dropped;
        let freed: usize = state.chunks.drain(..count).map(|chunk| chunk.len()).sum();
        state.dropped = slowest;
        state.held_bytes -= freed;
        state.held_bytes <= WINDOW_BYTES
    }

    pub(crate) fn end(&self, outcome: Outcome) {
        self.state.lock().outcome.get_or_insert(outcome);
        self.changed.notify_waiters();
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.state.lock().held_bytes
    }

    /// The whole body so far; `None` when its beginning is gone.
    pub(crate) fn body(&self) -> Option<Vec<Bytes>> {
        let state = self.state.lock();
        (state.dropped == 0).then(|| state.chunks.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;

    fn fill() -> Arc<Fill> {
        Arc::new(Fill::new(1, (Vec::new(), Vec::new())))
    }

    #[tokio::test]
    async fn every_reader_gets_every_byte_in_order() {
        let fill = fill();
        let early = fill.reader().unwrap();
        fill.append("a".into());
        let late = fill.reader().unwrap();
        fill.append("b".into());
        fill.end(Outcome::Complete);
        for reader in [early, late] {
            assert_eq!(fill.read(reader).await, Ok(Some("a".into())));
            assert_eq!(fill.read(reader).await, Ok(Some("b".into())));
            assert_eq!(fill.read(reader).await, Ok(None));
        }
    }

    #[tokio::test]
    async fn a_failed_fill_is_an_error_and_never_an_end() {
        let fill = fill();
        let reader = fill.reader().unwrap();
        fill.append("a".into());
        fill.end(Outcome::Failed);
        assert_eq!(fill.read(reader).await, Ok(Some("a".into())));
        assert_eq!(fill.read(reader).await, Err(()));
    }

    #[tokio::test]
    async fn what_is_not_kept_waits_for_the_slowest_reader_and_stays_small() {
        let fill = fill();
        let reader = fill.reader().unwrap();
        let chunk = Bytes::from(vec![0; WINDOW_BYTES]);
        fill.pass_on(chunk.clone()).await;
        let mut waiting = Box::pin(fill.pass_on(chunk.clone()));
        assert!((&mut waiting).now_or_never().is_none(), "nobody has read anything");
        assert!(fill.read(reader).await.unwrap().is_some());
        waiting.await;
        assert!(fill.held_bytes() <= WINDOW_BYTES);
        assert_eq!(fill.reader(), None, "the beginning is gone");
        fill.leave(reader);
        fill.pass_on(chunk).await;
        assert_eq!(fill.held_bytes(), 0, "nobody reads");
    }
}
