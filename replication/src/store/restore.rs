//! A database file made of what the store has, as it was at a transaction or at a time.
//!
//! Every file's checksum is compared, and after each the checksum of the whole database: the file appears under its name
//! only when it is what the primary had. An object that is missing or damaged is gone around if others lead past it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};

use bytes::Bytes;
use object_store::path::Path;
use thiserror::Error;
use tokio::sync::mpsc;

use super::layout::{ChainFolder, ChainName, Inventory, Item, Kind, LEVELS_OF_FILES, SNAPSHOTS};
use super::objects::{PIECE_BYTES, Store, StoreError};
use super::plan::{PlanError, plan};
use crate::agent::primary_site::blocking;
use crate::checksum::PageChecksums;
use crate::log::Head;
use crate::ltx::{Decoder, LtxError};
use crate::position::{Lineage, Txid};

/// Which state is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest there is.
    Latest,
    /// What the database was at a time, in milliseconds since 1970: the newest upload that is not after it.
    At(i64),
    /// Exactly after a transaction of the current history; it must be the last of some upload.
    Txid(Txid),
}

/// Why a database was not restored. There is no file then.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("the store has no database {0:?}")]
    NoDatabase(String),
    #[error("the store has no complete snapshot of {0:?}")]
    NoSnapshot(String),
    #[error(
        "{wanted_ms} is before the first snapshot of {database:?}, which is of {first_ms} (milliseconds since 1970)"
    )]
    BeforeFirst {
        database: String,
        wanted_ms: i64,
        first_ms: i64,
    },
    #[error(
        "transaction {} of {database:?} is not the end of an upload; the nearest that can be restored are {} and {}",
        wanted.0,
        before.map_or("none".to_owned(), |txid| txid.0.to_string()),
        after.map_or("none".to_owned(), |txid| txid.0.to_string())
    )]
    NotKept {
        database: String,
        wanted: Txid,
        before: Option<Txid>,
        after: Option<Txid>,
    },
    #[error("what is stored of {database:?} does not lead to transaction {}", wanted.0)]
    Incomplete {
        database: String,
        wanted: Txid,
        source: PlanError,
    },
    #[error("{place} is damaged, and nothing else leads past it")]
    Damaged { place: String, source: LtxError },
    #[error("{place} is missing, and nothing else leads past it")]
    Missing { place: String, source: Box<StoreError> },
    #[error("{place} is of another history than its folder says")]
    OtherHistory { place: String },
    #[error("{place} does not continue transaction {}", at.0)]
    DoesNotFit { place: String, at: Txid },
    #[error("with {place} the database is not what the primary had")]
    Diverged { place: String },
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("{path} cannot be written")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} exists; restore to a new file")]
    Exists(PathBuf),
}

impl RestoreError {
    /// Whether another way to the same state may do: the object at fault.
    fn avoidable(&self) -> Option<&str> {
        match self {
            RestoreError::Damaged { place, .. }
            | RestoreError::Missing { place, .. }
            | RestoreError::OtherHistory { place }
            | RestoreError::DoesNotFit { place, .. }
            | RestoreError::Diverged { place } => Some(place),
            _ => None,
        }
    }
}

/// Which chain, and up to where.
struct Wanted {
    name: ChainName,
    items: Inventory,
    txid: Txid,
}

impl Store {
    /// Writes the database as it was at `target` to the new file `to` and returns its state. `progress` is told the bytes
    /// read and those to be read, of the store's objects. The file has the lineage of its history: whoever puts it in the
    /// place of a living database gives it a new one.
    pub async fn restore(
        &self,
        database: &str,
        target: Target,
        to: &FilePath,
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Head, RestoreError> {
        if to.exists() {
            return Err(RestoreError::Exists(to.to_owned()));
        }
        let mut wanted = self.find(database, target).await?;
        let chain = self.chain(database, wanted.name);
        let mut avoided: Option<RestoreError> = None;
        loop {
            let steps = match plan(&wanted.items, wanted.txid) {
                Ok(steps) => steps,
                Err(source) => {
                    return Err(avoided.unwrap_or(RestoreError::Incomplete {
                        database: database.to_owned(),
                        wanted: wanted.txid,
                        source,
                    }));
                }
            };
            match self.build(&chain, &wanted, &steps, to, &mut progress).await {
                Err(error) => {
                    let bad = error.avoidable().map(str::to_owned);
                    let at_fault = bad.and_then(|place| {
                        let mut items = wanted.items.iter();
                        items.find(|item| item.key(&chain).to_string() == place).copied()
                    });
                    let Some(at_fault) = at_fault else { return Err(error) };
                    tracing::warn!(%error, "looking for another way past it");
                    wanted.items.remove(&at_fault);
                    avoided = avoided.or(Some(error));
                }
                done => return done,
            }
        }
    }

    /// Resolves a target to a chain and a transaction.
    async fn find(&self, database: &str, target: Target) -> Result<Wanted, RestoreError> {
        let (mut first_ms, mut exists) = (None, false);
        for name in self.chains(database).await?.into_iter().rev() {
            let chain = self.chain(database, name);
            let items = self.inventory(&chain).await?;
            exists |= !items.is_empty();
            let Some(first) = items.of(SNAPSHOTS).next().copied() else {
                continue;
            };
            let txid = match target {
                Target::Latest => super::plan::reach(&items).unwrap_or(first.max),
                Target::Txid(txid) => self.exactly(database, &chain, &items, txid).await?,
                Target::At(time_ms) => {
                    let began_ms = self.header(&first.key(&chain)).await?.timestamp_ms;
                    if began_ms > time_ms {
                        first_ms = Some(began_ms);
                        continue;
                    }
                    self.at_time(&chain, &items, time_ms).await?.max(first.max)
                }
            };
            return Ok(Wanted { name, items, txid });
        }
        Err(match (target, first_ms) {
            (Target::At(wanted_ms), Some(first_ms)) => RestoreError::BeforeFirst {
                database: database.to_owned(),
                wanted_ms,
                first_ms,
            },
            _ if exists => RestoreError::NoSnapshot(database.to_owned()),
            // A folder may be left of one that was removed.
            _ => RestoreError::NoDatabase(database.to_owned()),
        })
    }

    /// `txid`, if it is the end of an upload or snapshot.
    async fn exactly(
        &self,
        database: &str,
        chain: &ChainFolder,
        items: &Inventory,
        txid: Txid,
    ) -> Result<Txid, RestoreError> {
        let mut ends: Vec<Txid> = items.iter().map(|item| item.max).collect();
        if !ends.contains(&txid)
            && let Some(history) = items.above(Kind::History, Txid(txid.0.saturating_sub(1))).next()
        {
            let entries = self.read_index(&history.key(chain), history.bytes).await?;
            ends.extend(entries.iter().map(|entry| entry.max));
        }
        if ends.contains(&txid) {
            return Ok(txid);
        }
        Err(RestoreError::NotKept {
            database: database.to_owned(),
            wanted: txid,
            before: ends.iter().copied().filter(|end| *end < txid).max(),
            after: ends.iter().copied().filter(|end| *end > txid).min(),
        })
    }

    /// The last transaction that ended an upload not after `time_ms`; 0 when there is none.
    async fn at_time(&self, chain: &ChainFolder, items: &Inventory, time_ms: i64) -> Result<Txid, StoreError> {
        let mut newest = Txid(0);
        // The highest levels first: what they say need not be asked of the lower ones.
        for kind in (0..=LEVELS_OF_FILES).rev().map(Kind::Level) {
            // Times rise with transactions.
            let those: Vec<&Item> = items.above(kind, newest).collect();
            let (mut low, mut high) = (0, those.len());
            while low < high {
                let middle = (low + high) / 2;
                let header = self.header(&those[middle].key(chain)).await?;
                if header.timestamp_ms <= time_ms {
                    newest = newest.max(header.max_txid);
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
        }
        // What follows may be kept in a history only.
        if let Some(history) = items.above(Kind::History, newest).next() {
            let entries = self.read_index(&history.key(chain), history.bytes).await?;
            let fitting = entries.iter().filter(|entry| entry.timestamp_ms <= time_ms);
            newest = fitting.map(|entry| entry.max).max().unwrap_or(newest).max(newest);
        }
        Ok(newest)
    }

    async fn build(
        &self,
        chain: &ChainFolder,
        wanted: &Wanted,
        steps: &[Item],
        to: &FilePath,
        progress: &mut (impl FnMut(u64, u64) + Send),
    ) -> Result<Head, RestoreError> {
        let temporary = to.with_extension("restoring");
        let (path, lineage) = (temporary.clone(), wanted.name.lineage());
        let building = blocking(move || Building::start(path, lineage)).await;
        let failed = |source| RestoreError::Io {
            path: to.to_owned(),
            source,
        };
        let built = async {
            let mut building = building?;
            let total = steps.iter().map(|item| item.bytes).sum();
            let mut done = 0;
            for item in steps {
                building = self
                    .step(chain, *item, wanted.txid, building, |bytes| {
                        done += bytes;
                        progress(done, total);
                    })
                    .await?;
            }
            // A history whose index and content differ.
            let last = steps.last().map(|item| item.key(chain).to_string());
            if building.at() != wanted.txid {
                return Err(RestoreError::DoesNotFit {
                    place: last.unwrap_or_default(),
                    at: building.at(),
                });
            }
            let final_path = to.to_owned();
            let head = blocking(move || building.finish(&final_path)).await.map_err(failed)?;
            Ok(head)
        }
        .await;
        if built.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        built
    }

    /// Applies one object while it is read.
    async fn step(
        &self,
        chain: &ChainFolder,
        item: Item,
        target: Txid,
        mut building: Building,
        mut read: impl FnMut(u64) + Send,
    ) -> Result<Building, RestoreError> {
        let key = item.key(chain);
        let place = key.to_string();
        let ranges = match item.kind {
            Kind::History => self.wanted_of_history(&key, &item, building.at(), target).await,
            Kind::Level(_) => Ok(std::iter::once(0..item.bytes).collect()),
        };
        let ranges = ranges.map_err(|error| at_fault(error, &place))?;
        for range in ranges {
            let (pieces, receiver) = mpsc::channel::<Bytes>(1);
            let named = place.clone();
            let applying = tokio::task::spawn_blocking(move || {
                let applied = building.apply(Pieces::of(receiver), &named);
                applied.map(|()| building)
            });
            let mut at = range.start;
            let fed = async {
                while at < range.end {
                    let piece = self.read(&key, at..range.end.min(at + PIECE_BYTES as u64)).await?;
                    at += piece.len() as u64;
                    read(piece.len() as u64);
                    // Refused by one that has found an error; it is told below.
                    if piece.is_empty() || pieces.send(piece).await.is_err() {
                        break;
                    }
                }
                Ok(())
            }
            .await;
            drop(pieces);
            let applied = match applying.await {
                Ok(applied) => applied,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            fed.map_err(|error| at_fault(error, &place))?;
            building = applied?;
        }
        Ok(building)
    }

    /// The byte ranges of the files of a history that lead from `at` to `target`.
    async fn wanted_of_history(
        &self,
        key: &Path,
        item: &Item,
        at: Txid,
        target: Txid,
    ) -> Result<Vec<std::ops::Range<u64>>, StoreError> {
        let entries = self.read_index(key, item.bytes).await?;
        let index_bytes = super::history::index_size(entries.len());
        let ends = entries.iter().skip(1).map(|entry| entry.offset);
        let ends = ends.chain([item.bytes.saturating_sub(index_bytes)]);
        let those = entries.iter().zip(ends);
        let wanted = those.filter(|(entry, _)| entry.max > at && entry.max <= target);
        Ok(wanted.map(|(entry, end)| entry.offset..end).collect())
    }
}

/// What an object that cannot be read means.
fn at_fault(error: StoreError, place: &str) -> RestoreError {
    match error {
        StoreError::Damaged { place, source } => RestoreError::Damaged { place, source },
        error if error.is_missing() => RestoreError::Missing {
            place: place.to_owned(),
            source: Box::new(error),
        },
        error => RestoreError::Store(error),
    }
}

/// The file that becomes the database.
struct Building {
    file: File,
    path: PathBuf,
    lineage: Lineage,
    checksums: PageChecksums,
    head: Option<Head>,
}

impl Building {
    fn start(path: PathBuf, lineage: Lineage) -> Result<Building, RestoreError> {
        // Left by a try that was killed.
        let _ = std::fs::remove_file(&path);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|source| RestoreError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Building {
            file,
            path,
            lineage,
            checksums: PageChecksums::default(),
            head: None,
        })
    }

    fn at(&self) -> Txid {
        self.head.map_or(Txid(0), |head| head.position.txid)
    }

    /// Writes one file's pages. What was written of a file that turns out to be damaged is of no use: the caller starts
    /// anew.
    fn apply(&mut self, file: impl Read, place: &str) -> Result<(), RestoreError> {
        let damaged = |source: LtxError| RestoreError::Damaged {
            place: place.to_owned(),
            source,
        };
        let io = |source| RestoreError::Io {
            path: self.path.clone(),
            source,
        };
        let mut decoder = Decoder::new(file).map_err(damaged)?;
        let header = decoder.header();
        if header.provenance.lineage != self.lineage {
            return Err(RestoreError::OtherHistory {
                place: place.to_owned(),
            });
        }
        let at = self.at();
        let adjacent = header.min_txid == at.next();
        let fits = match &self.head {
            None => header.is_snapshot(),
            Some(head) => {
                header.min_txid <= at.next()
                    && header.max_txid > at
                    && header.provenance.epoch >= head.position.epoch
                    && (!adjacent || header.provenance.before == head.checksum)
            }
        };
        if !fits {
            return Err(RestoreError::DoesNotFit {
                place: place.to_owned(),
                at,
            });
        }
        let page_size = u64::from(header.page_size);
        let mut page = Vec::new();
        while let Some(number) = decoder.next(&mut page).map_err(damaged)? {
            self.checksums.set(number, &page);
            let offset = u64::from(number - 1) * page_size;
            self.file.write_all_at(&page, offset).map_err(io)?;
        }
        self.checksums.truncate(header.page_count);
        let length = u64::from(header.page_count) * page_size;
        self.file.set_len(length).map_err(io)?;
        if self.checksums.total() != header.provenance.after {
            return Err(RestoreError::Diverged {
                place: place.to_owned(),
            });
        }
        self.head = Some(Head::after(&header));
        Ok(())
    }

    /// Gives the file its name, durably.
    fn finish(self, to: &FilePath) -> io::Result<Head> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, to)?;
        let folder = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => FilePath::new("."),
        };
        File::open(folder)?.sync_all()?;
        Ok(self.head.expect("a plan begins with a snapshot"))
    }
}

/// Pieces that come over a channel, as one reader. It ends where they do.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Pieces {
    fn of(receiver: mpsc::Receiver<Bytes>) -> io::BufReader<Pieces> {
        io::BufReader::new(Pieces {
            receiver,
            piece: Bytes::new(),
        })
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.receiver.blocking_recv().unwrap_or_default();
        }
        let length = into.len().min(self.piece.len());
        into[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}
