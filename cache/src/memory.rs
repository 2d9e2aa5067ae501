//! Where pages are kept: in memory, bounded, shared without copying.
//!
//! A hit hands out the stored chunks by reference count. The bound counts bodies, headers and bookkeeping; what was used
//! longest ago leaves first. A complete entry stays what readers find until its replacement is complete, unless it may
//! not be served stale: then readers join the replacement while it is written.
//!
//! The SSD tier belongs behind [`Shelf::get`] and [`Shelf::put`]: what leaves memory would go there, what is not in
//! memory would be looked up there. Nothing else would change.

use std::{
    any::Any,
    collections::HashMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, header};
use lru::LruCache;
use parking_lot::Mutex;
use pingora_cache::{
    CacheKey, CacheMeta, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage,
    eviction::CacheEntryId,
    key::{CacheHashKey, HashBinary},
    storage::{HandleHit, HandleMiss, MissFinishType, streaming_write::U64WriteId},
    trace::SpanHandle,
};
use pingora_error::{Error, ErrorType, Result};

use crate::fill::{Fill, Outcome};

/// Bookkeeping of one entry: map node, list links, allocations.
const ENTRY_OVERHEAD_BYTES: usize = 512;
/// Locks are held for a map operation only; this many keep threads out of each other's way.
const SHELVES: usize = 16;

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    pub entries: usize,
    pub bytes: usize,
    pub fills: usize,
    pub evictions: u64,
}

/// The memory tier. Lives as long as the process, as pingora wants it.
pub struct MemoryStorage {
    shelves: Vec<Mutex<Shelf>>,
    budget_bytes: usize,
    max_object_bytes: usize,
    bytes: AtomicUsize,
    evictions: AtomicU64,
    next_id: AtomicU64,
}

struct Shelf {
    entries: LruCache<HashBinary, Arc<Entry>>,
    fills: HashMap<HashBinary, Arc<Fill>>,
}

impl Shelf {
    /// Takes fill `id` out of sight; `false` when a purge or another fill did so before.
    fn withdraw(&mut self, hash: &HashBinary, id: u64) -> bool {
        let ours = self.fills.get(hash).is_some_and(|fill| fill.id == id);
        if ours {
            self.fills.remove(hash);
        }
        ours
    }
}

/// A complete response.
struct Entry {
    id: u64,
    /// Serialised `CacheMeta`; pingora offers no other way to copy one.
    meta: Mutex<(Vec<u8>, Vec<u8>)>,
    body: Vec<Bytes>,
    body_bytes: usize,
}

impl Entry {
    fn weight(&self) -> usize {
        let meta = self.meta.lock();
        self.body_bytes + meta.0.len() + meta.1.len() + ENTRY_OVERHEAD_BYTES
    }

    fn meta(&self) -> Result<CacheMeta> {
        let meta = self.meta.lock();
        CacheMeta::deserialize(&meta.0, &meta.1)
    }
}

impl MemoryStorage {
    /// A storage of at most `budget_bytes`, keeping no response larger than `max_object_bytes`. Never freed.
    pub fn leak(budget_bytes: u64, max_object_bytes: u64) -> &'static MemoryStorage {
        // The bound is in bytes and held by `evict`.
        let shelf = || {
            Mutex::new(Shelf {
                entries: LruCache::unbounded(),
                fills: HashMap::new(),
            })
        };
        Box::leak(Box::new(MemoryStorage {
            shelves: (0..SHELVES).map(|_| shelf()).collect(),
            budget_bytes: usize::try_from(budget_bytes).unwrap_or(usize::MAX),
            max_object_bytes: usize::try_from(max_object_bytes.min(budget_bytes)).unwrap_or(usize::MAX),
            bytes: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
        }))
    }

    pub fn stats(&self) -> StorageStats {
        let mut stats = StorageStats {
            bytes: self.bytes.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            ..StorageStats::default()
        };
        for shelf in &self.shelves {
            let shelf = shelf.lock();
            stats.entries += shelf.entries.len();
            stats.fills += shelf.fills.len();
        }
        stats
    }

    /// Removes every page and gives up every fill under `key`; `soft` keeps the page as a stale copy instead. Variants
    /// are invalid with their primary entry (pingora compares their provenance).
    pub fn purge_page(&self, key: &CacheKey, soft: bool) -> bool {
        let hash = key.combined_bin();
        let mut shelf = self.shelf(&hash).lock();
        // The fill goes on for its readers, but what began before the purge is not kept.
        let filling = shelf.fills.remove(&hash).is_some();
        let found = match soft {
            true => shelf.entries.peek(&hash).is_some_and(|entry| expire(entry)),
            false => self.remove(&mut shelf, &hash).is_some(),
        };
        found || filling
    }

    /// Removes every page and gives up every fill. Says how many pages there were.
    pub fn purge_everything(&self) -> usize {
        let purged = self.shelves.iter().map(|shelf| {
            let mut shelf = shelf.lock();
            shelf.fills.clear();
            let weight: usize = shelf.entries.iter().map(|(_, entry)| entry.weight()).sum();
            let pages = shelf.entries.len();
            shelf.entries.clear();
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            pages
        });
        purged.sum()
    }

    fn shelf(&self, hash: &HashBinary) -> &Mutex<Shelf> {
        &self.shelves[usize::from(hash[0]) % SHELVES]
    }

    fn remove(&self, shelf: &mut Shelf, hash: &HashBinary) -> Option<Arc<Entry>> {
        let entry = shelf.entries.pop(hash)?;
        self.bytes.fetch_sub(entry.weight(), Ordering::Relaxed);
        Some(entry)
    }

    /// Puts a complete entry in the place of its fill, at once: a reader always finds one of the two. `false` when a
    /// purge or another fill took the fill out of sight before.
    fn put(&self, hash: HashBinary, entry: Entry) -> bool {
        let weight = entry.weight();
        {
            let mut shelf = self.shelf(&hash).lock();
            if !shelf.withdraw(&hash, entry.id) {
                return false;
            }
            self.remove(&mut shelf, &hash);
            shelf.entries.put(hash, Arc::new(entry));
            self.bytes.fetch_add(weight, Ordering::Relaxed);
        }
        self.evict(usize::from(hash[0]));
        true
    }

    /// Removes what was used longest ago, shelf by shelf from `start`, until the budget holds.
    fn evict(&self, start: usize) {
        let mut empty = 0;
        for turn in 0.. {
            if self.bytes.load(Ordering::Relaxed) <= self.budget_bytes || empty == SHELVES {
                return;
            }
            let mut shelf = self.shelves[(start + turn) % SHELVES].lock();
            match shelf.entries.pop_lru() {
                Some((_, entry)) => {
                    self.bytes.fetch_sub(entry.weight(), Ordering::Relaxed);
                    self.evictions.fetch_add(1, Ordering::Relaxed);
                    empty = 0;
                }
                None => empty += 1,
            }
        }
    }
}

fn expire(entry: &Entry) -> bool {
    let Ok(mut meta) = entry.meta() else {
        return false;
    };
    meta.expire_at(SystemTime::now());
    match meta.serialize() {
        Ok(serialised) => {
            *entry.meta.lock() = serialised;
            true
        }
        Err(_) => false,
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn lookup(&'static self, key: &CacheKey, _trace: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let hash = key.combined_bin();
        let (entry, fill) = {
            let mut shelf = self.shelf(&hash).lock();
            (shelf.entries.get(&hash).cloned(), shelf.fills.get(&hash).cloned())
        };
        if let Some(entry) = entry {
            let meta = entry.meta()?;
            let now = SystemTime::now();
            if fill.is_none() || meta.is_fresh(now) || meta.serve_stale_while_revalidate(now) {
                let hit = MemoryHit::complete(entry, fill.is_some());
                return Ok(Some((meta, Box::new(hit))));
            }
        }
        match fill {
            Some(fill) => partial(fill),
            None => Ok(None),
        }
    }

    async fn lookup_streaming_write(
        &'static self,
        key: &CacheKey,
        tag: Option<&[u8]>,
        _trace: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let hash = key.combined_bin();
        let fill = self.shelf(&hash).lock().fills.get(&hash).cloned();
        let wanted = tag.and_then(|tag| tag.try_into().ok()).map(u64::from_be_bytes);
        match fill {
            Some(fill) if wanted.is_none_or(|id| id == fill.id) => partial(fill),
            _ => Ok(None),
        }
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<MissHandler> {
        let hash = key.combined_bin();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let fill = Arc::new(Fill::new(id, meta.serialize()?));
        self.shelf(&hash).lock().fills.insert(hash, Arc::clone(&fill));
        Ok(Box::new(MemoryMiss {
            storage: self,
            hash,
            tag: U64WriteId::from(id),
            fill,
            written: 0,
        }))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _purge_type: PurgeType,
        _trace: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let hash = target.key().combined_bin();
        let mut shelf = self.shelf(&hash).lock();
        let wanted = match target {
            PurgeTarget::Active(_) => {
                shelf.fills.remove(&hash);
                None
            }
            PurgeTarget::Exact(exact) => exact.entry_id(),
        };
        let matches = |entry: &Arc<Entry>| wanted.is_none_or(|id| id == CacheEntryId::new(entry.id));
        if !shelf.entries.peek(&hash).is_some_and(matches) {
            return Ok(PurgeOutcome::NotFound);
        }
        let removed = self.remove(&mut shelf, &hash);
        Ok(PurgeOutcome::Purged(removed.map(|entry| CacheEntryId::new(entry.id))))
    }

    async fn expire(&'static self, target: PurgeTarget<'_>, _trace: &SpanHandle) -> Result<PurgeOutcome> {
        let hash = target.key().combined_bin();
        let expired = self
            .shelf(&hash)
            .lock()
            .entries
            .peek(&hash)
            .is_some_and(|entry| expire(entry));
        Ok(if expired {
            PurgeOutcome::Expired
        } else {
            PurgeOutcome::NotFound
        })
    }

    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _trace: &SpanHandle) -> Result<bool> {
        let hash = key.combined_bin();
        let Some(entry) = self.shelf(&hash).lock().entries.peek(&hash).cloned() else {
            return Ok(false);
        };
        let serialised = meta.serialize()?;
        let mut stored = entry.meta.lock();
        let (before, after) = (stored.0.len() + stored.1.len(), serialised.0.len() + serialised.1.len());
        *stored = serialised;
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        Ok(true)
    }

    fn support_streaming_partial_write(&self) -> bool {
        true
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

fn partial(fill: Arc<Fill>) -> Result<Option<(CacheMeta, HitHandler)>> {
    let Some(reader) = fill.reader() else {
        return Ok(None);
    };
    let meta = CacheMeta::deserialize(&fill.meta.0, &fill.meta.1)?;
    let hit = MemoryHit {
        source: Source::Partial { fill, reader },
        being_replaced: false,
    };
    Ok(Some((meta, Box::new(hit))))
}

/// A reader of a stored response.
pub struct MemoryHit {
    source: Source,
    being_replaced: bool,
}

enum Source {
    Complete {
        entry: Arc<Entry>,
        cursor: Cursor,
        end: usize,
    },
    Partial {
        fill: Arc<Fill>,
        reader: u64,
    },
}

impl MemoryHit {
    fn complete(entry: Arc<Entry>, being_replaced: bool) -> MemoryHit {
        let end = entry.body_bytes;
        MemoryHit {
            source: Source::Complete {
                entry,
                cursor: Cursor::default(),
                end,
            },
            being_replaced,
        }
    }

    /// Whether this is a stale page whose replacement is being written now: no second one must be started.
    pub fn is_being_replaced(hit: &HitHandler) -> bool {
        hit.as_any()
            .downcast_ref::<MemoryHit>()
            .is_some_and(|hit| hit.being_replaced)
    }
}

impl Drop for MemoryHit {
    fn drop(&mut self) {
        if let Source::Partial { fill, reader } = &self.source {
            fill.leave(*reader);
        }
    }
}

/// Where a reader of a complete body stands.
#[derive(Clone, Copy, Default)]
struct Cursor {
    chunk: usize,
    /// Within that chunk.
    offset: usize,
    /// Within the body.
    position: usize,
}

impl Cursor {
    /// At byte `position` of `body`.
    fn at(body: &[Bytes], position: usize) -> Cursor {
        let (mut chunk, mut offset) = (0, position);
        while let Some(current) = body.get(chunk).filter(|current| offset >= current.len()) {
            offset -= current.len();
            chunk += 1;
        }
        Cursor {
            chunk,
            offset,
            position,
        }
    }

    /// The rest of the current chunk, cut at byte `end` of the body; moves past it.
    fn take(&mut self, body: &[Bytes], end: usize) -> Option<Bytes> {
        let chunk = body.get(self.chunk)?;
        let length = (chunk.len() - self.offset).min(end - self.position);
        let taken = chunk.slice(self.offset..self.offset + length);
        *self = Cursor {
            chunk: self.chunk + 1,
            offset: 0,
            position: self.position + length,
        };
        Some(taken)
    }
}

#[async_trait]
impl HandleHit for MemoryHit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.source {
            Source::Complete { entry, cursor, end } if cursor.position < *end => Ok(cursor.take(&entry.body, *end)),
            Source::Complete { .. } => Ok(None),
            Source::Partial { fill, reader } => fill
                .read(*reader)
                .await
                .map_err(|()| Error::explain(ErrorType::ReadError, "the response being stored did not end completely")),
        }
    }

    async fn finish(
        self: Box<Self>,
        _storage: &'static (dyn Storage + Sync),
        _key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        matches!(self.source, Source::Complete { .. })
    }

    /// Reads from byte `start` to before byte `end`.
    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let Source::Complete {
            entry,
            cursor,
            end: until,
        } = &mut self.source
        else {
            return Error::e_explain(ErrorType::InternalError, "a response being stored cannot be ranged");
        };
        if start >= entry.body_bytes {
            return Error::e_explain(ErrorType::InternalError, "range beyond the stored body");
        }
        *cursor = Cursor::at(&entry.body, start);
        *until = end.unwrap_or(entry.body_bytes).min(entry.body_bytes);
        Ok(())
    }

    fn entry_id(&self) -> Option<CacheEntryId> {
        match &self.source {
            Source::Complete { entry, .. } => Some(CacheEntryId::new(entry.id)),
            Source::Partial { fill, .. } => Some(CacheEntryId::new(fill.id)),
        }
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// The writer of a response. Dropped before [`HandleMiss::finish`], the fill has failed.
struct MemoryMiss {
    storage: &'static MemoryStorage,
    hash: HashBinary,
    tag: U64WriteId,
    fill: Arc<Fill>,
    written: usize,
}

impl MemoryMiss {
    fn keeps(&self) -> bool {
        self.written <= self.storage.max_object_bytes
    }

    fn withdraw(&self) {
        self.storage.shelf(&self.hash).lock().withdraw(&self.hash, self.fill.id);
    }
}

#[async_trait]
impl HandleMiss for MemoryMiss {
    async fn write_body(&mut self, data: Bytes, _eof: bool) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.written += data.len();
        if self.keeps() {
            self.fill.append(data);
        } else {
            // Too large to keep: nobody new may join, those who read go on.
            self.withdraw();
            self.fill.pass_on(data).await;
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        let mut kept = false;
        if let Some(body) = self.fill.body().filter(|_| self.keeps()) {
            let meta = with_content_length(&self.fill.meta, self.written)?;
            let entry = Entry {
                id: self.fill.id,
                meta: Mutex::new(meta),
                body,
                body_bytes: self.written,
            };
            kept = self.storage.put(self.hash, entry);
        }
        self.fill.end(Outcome::Complete);
        Ok(MissFinishType::Created(if kept { self.written } else { 0 }))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(self.tag.as_bytes())
    }

    fn entry_id(&self) -> Option<CacheEntryId> {
        Some(CacheEntryId::new(self.fill.id))
    }
}

impl Drop for MemoryMiss {
    fn drop(&mut self) {
        self.withdraw();
        // After `finish` the outcome stands already.
        self.fill.end(Outcome::Failed);
    }
}

/// A body that was streamed without a length has one now; ranges need it.
fn with_content_length(meta: &(Vec<u8>, Vec<u8>), length: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut parsed = CacheMeta::deserialize(&meta.0, &meta.1)?;
    let status = parsed.response_header().status;
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless || parsed.headers().contains_key(header::CONTENT_LENGTH) {
        return Ok(meta.clone());
    }
    let response = parsed.response_header_mut();
    response.remove_header(&header::TRANSFER_ENCODING);
    response.insert_header(header::CONTENT_LENGTH, length)?;
    parsed.serialize()
}

/// The size of an entry in memory without its chunks' own allocations, for the derivation of the overhead.
const _: () = assert!(mem::size_of::<Entry>() + 64 < ENTRY_OVERHEAD_BYTES);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pingora_cache::trace::Span;
    use pingora_http::ResponseHeader;

    use super::*;

    fn span() -> SpanHandle {
        Span::inactive().handle()
    }

    fn key(name: &str) -> CacheKey {
        CacheKey::new(name, "")
    }

    fn meta(fresh: Duration, swr_seconds: u32) -> CacheMeta {
        let now = SystemTime::now();
        let header = ResponseHeader::build(200, None).unwrap();
        CacheMeta::new(now + fresh, now, swr_seconds, 0, header)
    }

    fn fresh() -> CacheMeta {
        meta(Duration::from_secs(60), 0)
    }

    async fn store(storage: &'static MemoryStorage, name: &str, meta: CacheMeta, body: &[&'static str]) {
        let mut miss = storage.get_miss_handler(&key(name), &meta, &span()).await.unwrap();
        for chunk in body {
            miss.write_body(Bytes::from(*chunk), false).await.unwrap();
        }
        miss.finish().await.unwrap();
    }

    async fn read(hit: &mut HitHandler) -> Result<String> {
        let mut body = Vec::new();
        while let Some(chunk) = hit.read_body().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8(body).unwrap())
    }

    async fn found(storage: &'static MemoryStorage, name: &str) -> Option<(CacheMeta, HitHandler)> {
        storage.lookup(&key(name), &span()).await.unwrap()
    }

    async fn body(storage: &'static MemoryStorage, name: &str) -> Option<String> {
        let (_, mut hit) = found(storage, name).await?;
        Some(read(&mut hit).await.unwrap())
    }

    #[tokio::test]
    async fn a_stored_page_is_found_whole_ranged_and_with_its_length() {
        let storage = MemoryStorage::leak(1 << 20, 1 << 20);
        assert_eq!(body(storage, "a").await, None);
        store(storage, "a", fresh(), &["hello ", "wide ", "world"]).await;
        assert_eq!(body(storage, "a").await.as_deref(), Some("hello wide world"));
        let (meta, mut hit) = found(storage, "a").await.unwrap();
        assert_eq!(meta.headers()[header::CONTENT_LENGTH], "16");
        for (start, end, expected) in [(0, Some(5), "hello"), (4, Some(8), "o wi"), (11, None, "world")] {
            hit.seek(start, end).unwrap();
            assert_eq!(read(&mut hit).await.unwrap(), expected);
        }
        assert!(hit.seek(16, None).is_err());
    }

    #[tokio::test]
    async fn waiters_read_a_fill_while_it_is_written_and_see_its_failure() {
        let storage = MemoryStorage::leak(1 << 20, 1 << 20);
        let mut miss = storage.get_miss_handler(&key("a"), &fresh(), &span()).await.unwrap();
        miss.write_body("begin".into(), false).await.unwrap();
        let mut waiters = Vec::new();
        for _ in 0..20 {
            waiters.push(found(storage, "a").await.unwrap().1);
        }
        for waiter in &mut waiters {
            assert_eq!(waiter.read_body().await.unwrap().unwrap(), "begin");
        }
        drop(miss);
        for waiter in &mut waiters {
            assert!(
                waiter.read_body().await.is_err(),
                "a failed fill must not look like an end"
            );
        }
        assert!(found(storage, "a").await.is_none(), "a failed fill is not stored");
    }

    #[tokio::test]
    async fn a_failed_replacement_keeps_the_stale_page_and_is_reported_while_it_runs() {
        let storage = MemoryStorage::leak(1 << 20, 1 << 20);
        store(storage, "a", meta(Duration::ZERO, 600), &["old"]).await;
        let stale = meta(Duration::ZERO, 600);
        assert!(stale.serve_stale_while_revalidate(SystemTime::now()));
        let mut miss = storage.get_miss_handler(&key("a"), &fresh(), &span()).await.unwrap();
        miss.write_body("new".into(), false).await.unwrap();
        let (_, mut hit) = found(storage, "a").await.unwrap();
        assert!(MemoryHit::is_being_replaced(&hit));
        assert_eq!(read(&mut hit).await.unwrap(), "old");
        drop(miss);
        let (_, mut hit) = found(storage, "a").await.unwrap();
        assert!(!MemoryHit::is_being_replaced(&hit));
        assert_eq!(read(&mut hit).await.unwrap(), "old");
    }

    #[tokio::test]
    async fn a_purge_wins_over_the_fill_that_began_before_it() {
        let storage = MemoryStorage::leak(1 << 20, 1 << 20);
        let mut miss = storage.get_miss_handler(&key("a"), &fresh(), &span()).await.unwrap();
        miss.write_body("before".into(), false).await.unwrap();
        let (_, mut reader) = found(storage, "a").await.unwrap();
        assert!(storage.purge_page(&key("a"), false));
        assert!(found(storage, "a").await.is_none(), "nobody joins a purged fill");
        miss.finish().await.unwrap();
        assert_eq!(
            read(&mut reader).await.unwrap(),
            "before",
            "who read it already goes on"
        );
        assert!(found(storage, "a").await.is_none(), "a purged fill is not kept");
        assert!(!storage.purge_page(&key("a"), false));
    }

    #[tokio::test]
    async fn a_soft_purge_keeps_a_stale_copy() {
        let storage = MemoryStorage::leak(1 << 20, 1 << 20);
        store(storage, "a", fresh(), &["page"]).await;
        assert!(storage.purge_page(&key("a"), true));
        let (meta, _) = found(storage, "a").await.unwrap();
        assert!(!meta.is_fresh(SystemTime::now()));
    }

    #[tokio::test]
    async fn the_budget_holds_and_what_is_used_stays() {
        let storage = MemoryStorage::leak(64 * 1024, 64 * 1024);
        let page: &'static str = Box::leak("x".repeat(1000).into_boxed_str());
        for number in 0..1000 {
            store(storage, &number.to_string(), fresh(), &[page]).await;
            assert!(storage.stats().bytes <= 64 * 1024);
        }
        let stats = storage.stats();
        assert!(stats.entries > 10 && stats.evictions > 900, "{stats:?}");
        assert!(body(storage, "999").await.is_some());
    }

    #[tokio::test]
    async fn what_is_too_large_reaches_its_readers_and_is_not_kept() {
        let storage = MemoryStorage::leak(1 << 20, 10);
        let mut miss = storage.get_miss_handler(&key("a"), &fresh(), &span()).await.unwrap();
        miss.write_body("12345678".into(), false).await.unwrap();
        let (_, mut reader) = found(storage, "a").await.unwrap();
        miss.write_body("901234".into(), false).await.unwrap();
        miss.finish().await.unwrap();
        assert_eq!(read(&mut reader).await.unwrap(), "12345678901234");
        assert!(found(storage, "a").await.is_none());
        assert_eq!(storage.stats(), StorageStats::default());
    }
}
