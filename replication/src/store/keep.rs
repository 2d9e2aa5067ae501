//! The store kept in order: snapshots taken, levels merged, histories written, and what nobody needs removed.
//!
//! Beside the uploads, so that a snapshot of gigabytes holds none of them up. What is missing or damaged in the store makes
//! the chain be listed and judged again.

use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::compact::merge;
use super::layout::{Item, Kind, SNAPSHOTS};
use super::levels::{self, Level};
use super::objects::StoreError;
use super::spool;
use super::upload::{Chain, Shared, Stored, Wait};
use crate::agent::primary_site::blocking;
use crate::error::chain as explain;
use crate::folder::Folder;
use crate::ltx::{Header, LtxError};
use crate::publish::now_ms;
use crate::snapshot::{self, SnapshotError};

/// Time between two looks at what is due.
const LOOK: Duration = Duration::from_secs(1);
/// Pieces of a snapshot on their way.
const PIECES_WAITING: usize = 4;
const PIECE_BYTES: usize = 1024 * 1024;

impl Shared {
    pub(super) async fn keep_in_order(self: Arc<Self>, stored: Arc<Stored>) {
        let look = LOOK.min(self.store.settings.sync_interval);
        let mut wait = Wait::default();
        let mut removed_ms = 0;
        let mut asked = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                () = stored.asked.notified() => asked = true,
            }
            let Some(chain) = stored.chain.lock().clone() else {
                continue;
            };
            let now = now_ms();
            let remove = now - removed_ms >= self.levels.remove.as_millis() as i64;
            match self.put_in_order(&stored, &chain, asked, remove).await {
                Ok(()) => {
                    stored.health.lock().keep_error = None;
                    asked = false;
                    wait = Wait::default();
                    if remove {
                        removed_ms = now;
                    }
                }
                Err(error) => {
                    if error.is_missing() || matches!(error, StoreError::Damaged { .. }) {
                        *stored.chain.lock() = None;
                    }
                    let error = explain(&error);
                    if stored.health.lock().keep_error.replace(error.clone()).is_none() {
                        tracing::warn!(database = stored.database, error, "the store could not be put in order");
                    }
                    tokio::time::sleep(wait.next()).await;
                }
            }
        }
    }

    async fn put_in_order(&self, stored: &Stored, chain: &Chain, asked: bool, remove: bool) -> Result<(), StoreError> {
        if asked || self.snapshot_is_due(chain) {
            let _permit = self.work.acquire().await;
            self.snapshot(stored, chain).await?;
        }
        for level in &self.levels.merged {
            while let Some(batch) = self.look(stored, chain, |now| levels::due(&now.items, level, now_ms())) {
                let _permit = self.work.acquire().await;
                self.compact(stored, chain, level, &batch).await?;
            }
        }
        while let Some(batch) = self.look(stored, chain, |now| levels::due_history(&now.items)) {
            let _permit = self.work.acquire().await;
            self.write_history_of(stored, chain, &batch).await?;
        }
        if remove {
            let retention = self.store.settings.retention;
            let _permit = self.work.acquire().await;
            self.remove_old_chains(stored, chain).await?;
            let gone = self.look(stored, chain, |now| {
                levels::removable(&now.items, &self.levels, retention, now_ms())
            });
            for item in gone.unwrap_or_default() {
                // First from the books: what is not there must not be counted on.
                self.change(stored, chain.name, |now| now.items.remove(&item));
                self.store.delete(&item.key(&chain.folder)).await?;
            }
        }
        Ok(())
    }

    /// Asks the chain as it is now; `None` when there is nothing to do, or it is no longer the one.
    fn look(&self, stored: &Stored, chain: &Chain, ask: impl FnOnce(&Chain) -> Vec<Item>) -> Option<Vec<Item>> {
        let now = stored.chain.lock();
        let items = now.as_ref().filter(|now| now.name == chain.name).map(ask)?;
        (!items.is_empty()).then_some(items)
    }

    fn snapshot_is_due(&self, chain: &Chain) -> bool {
        let interval = self.store.settings.snapshot_interval.as_millis() as i64;
        chain.needs_snapshot.is_some()
            || chain.items.of(SNAPSHOTS).next_back().is_none_or(|newest| {
                newest.max < chain.uploaded.position.txid && now_ms() - newest.stored_ms >= interval
            })
    }

    async fn snapshot(&self, stored: &Stored, chain: &Chain) -> Result<(), StoreError> {
        let Some(path) = Folder::of(&self.source.databases_dir, &stored.database).current() else {
            return Ok(());
        };
        self.note_epoch().await?;
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let (log, database) = (Arc::clone(&self.source.log), stored.database.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let writer = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
            snapshot::write(&path, &database, &*log, writer)
        });
        let sent = async {
            let Some(first) = receiver.recv().await else {
                return Ok(None);
            };
            let header = first.first_chunk().map(Header::parse).transpose();
            let Ok(Some(header)) = header else { return Ok(None) };
            if header.provenance.lineage != chain.name.lineage() {
                return Ok(None);
            }
            let mut item = Item {
                kind: SNAPSHOTS,
                min: header.min_txid,
                max: header.max_txid,
                bytes: first.len() as u64,
                stored_ms: 0,
            };
            let mut upload = self.store.begin(&item.key(&chain.folder));
            upload.write(&first).await?;
            while let Some(piece) = receiver.recv().await {
                item.bytes += piece.len() as u64;
                upload.write(&piece).await?;
            }
            Ok::<_, StoreError>(Some((item, upload)))
        }
        .await;
        // The writer stops when nobody takes its pieces.
        drop(receiver);
        let written = match writing.await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let Some((mut item, upload)) = sent? else {
            return match written {
                // Of a history that has just ended: the next look is at the new one.
                Ok(_) | Err(SnapshotError::Write(_)) => Ok(()),
                Err(error) => Err(error.into()),
            };
        };
        written?;
        upload.finish().await?;
        item.stored_ms = now_ms();
        self.change(stored, chain.name, |now| {
            now.items.insert(item);
            now.needs_snapshot = now.needs_snapshot.filter(|needed| *needed > item.max);
        });
        tracing::info!(
            database = stored.database,
            txid = item.max.0,
            bytes = item.bytes,
            "a snapshot is in the store"
        );
        Ok(())
    }

    async fn compact(&self, stored: &Stored, chain: &Chain, level: &Level, batch: &[Item]) -> Result<(), StoreError> {
        let folder = &self.source.temporary_dir;
        std::fs::create_dir_all(folder).map_err(StoreError::Local)?;
        let mut inputs = Vec::with_capacity(batch.len());
        for item in batch {
            inputs.push(self.store.fetch(&chain.folder, item, folder).await?);
        }
        let output = spool::temporary(folder);
        let merged = blocking(move || {
            let inputs = inputs.into_iter().map(std::io::BufReader::new).collect();
            let (header, output) = merge(inputs, std::io::BufWriter::new(output))?;
            let mut output = output
                .into_inner()
                .map_err(|error| StoreError::Local(error.into_error()))?;
            let bytes = output.stream_position().map_err(StoreError::Local)?;
            output.seek(SeekFrom::Start(0)).map_err(StoreError::Local)?;
            Ok::<_, StoreError>((header, output, bytes))
        });
        let (header, output, bytes) = merged.await.map_err(|error| damaged(error, chain, batch))?;
        let item = Item {
            kind: Kind::Level(level.number),
            min: header.min_txid,
            max: header.max_txid,
            bytes,
            stored_ms: now_ms(),
        };
        self.store.put_from(&item.key(&chain.folder), output, bytes).await?;
        self.change(stored, chain.name, |now| now.items.insert(item));
        Ok(())
    }

    async fn write_history_of(&self, stored: &Stored, chain: &Chain, batch: &[Item]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Ok(());
        };
        let mut item = Item {
            kind: Kind::History,
            min: first.min,
            max: last.max,
            bytes: 0,
            stored_ms: now_ms(),
        };
        let key = item.key(&chain.folder);
        item.bytes = self.store.write_history(&chain.folder, batch, &key).await?;
        self.change(stored, chain.name, |now| now.items.insert(item));
        Ok(())
    }

    /// A chain that had ended before the retention began, because the next had its first snapshot by then.
    async fn remove_old_chains(&self, stored: &Stored, chain: &Chain) -> Result<(), StoreError> {
        let cut = now_ms() - self.store.settings.retention.as_millis() as i64;
        let chains = self.store.chains(&stored.database).await?;
        for pair in chains.windows(2) {
            let next = self
                .store
                .inventory(&self.store.chain(&stored.database, pair[1]))
                .await?;
            let began_ms = next.of(SNAPSHOTS).next().map(|snapshot| snapshot.stored_ms);
            if began_ms.is_none_or(|began_ms| began_ms > cut) || pair[0] >= chain.name {
                return Ok(());
            }
            tracing::info!(database = stored.database, chain = %pair[0], "a history that ended before the retention is removed");
            self.store.remove_chain(&stored.database, pair[0]).await?;
        }
        Ok(())
    }
}

/// Names the object that could not be merged.
fn damaged(error: StoreError, chain: &Chain, batch: &[Item]) -> StoreError {
    use super::CompactError;
    match error {
        StoreError::Merge(CompactError::Input { index, source }) => StoreError::Damaged {
            place: batch
                .get(index)
                .map_or_else(String::new, |item| item.key(&chain.folder).to_string()),
            source,
        },
        StoreError::Merge(CompactError::Gap { index } | CompactError::OtherHistory { index }) => StoreError::Damaged {
            place: batch
                .get(index)
                .map_or_else(String::new, |item| item.key(&chain.folder).to_string()),
            source: LtxError::Field {
                what: "what the file continues",
            },
        },
        other => other,
    }
}

/// A blocking writer whose other end is an upload.
struct Pieces(mpsc::Sender<Bytes>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0
            .blocking_send(piece)
            .map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
