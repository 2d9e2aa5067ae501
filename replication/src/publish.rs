//! The primary's half of replication: every commit becomes a transaction file in the log before it is acknowledged.
//!
//! The number of a commit is written in its own transaction, so a copy of the file always knows where it stands. After
//! COMMIT the pages are read from the write-ahead log, encoded, and appended to the [`Log`]; only then is anybody told.
//! The log's fsync is what makes the commit durable; the database file may lag behind it and is brought forward from the
//! log at open. What was committed but not logged when the process ended was never acknowledged; it is logged at open.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use tokio::sync::watch;

use crate::checksum::PageChecksums;
use crate::connection::Connection;
use crate::error::{OpenError, PublishError, SqlError};
use crate::log::{Head, Known, Log, LogError};
use crate::ltx::{self, Header, Provenance};
use crate::pages;
use crate::position::{Epoch, Lineage, Position, Txid};
use crate::sums;
use crate::wal::{Changes, WalReader};

/// Bytes read from the log at once when the database is brought forward.
const CATCH_UP_BYTES: usize = 16 * 1024 * 1024;

/// What a primary needs besides the database.
#[derive(Clone)]
pub struct Publication {
    pub log: Arc<dyn Log>,
    /// Of this leadership; higher than any before.
    pub epoch: Epoch,
}

pub(crate) struct Publisher {
    publication: Publication,
    database: String,
    path: PathBuf,
    wal: WalReader,
    checksums: PageChecksums,
    /// The newest state in the log.
    head: Head,
    /// Read from the write-ahead log, not yet a file.
    changes: Option<Changes>,
    /// A file the log has not taken yet.
    pending: Option<(Bytes, Head)>,
    durable: watch::Sender<Head>,
}

impl Publisher {
    /// Brings database and log into agreement. `connection` is the database's writer, before anybody else uses it.
    pub(crate) fn open(
        publication: Publication,
        database: &str,
        path: &std::path::Path,
        connection: &Connection,
    ) -> Result<Publisher, PublishError> {
        connection.ours(|raw| {
            // Frames stay until the log has them, also when the connection is closed.
            raw.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            raw.pragma_update(None, "wal_autocheckpoint", 0)?;
            raw.pragma_update(None, "synchronous", "normal")
        })?;
        pages::create_tables(connection, publication.epoch)?;
        let mut publisher = Publisher {
            head: pages::head(connection, &PageChecksums::default())?,
            publication,
            database: database.to_owned(),
            path: path.to_owned(),
            wal: WalReader::of(path),
            checksums: PageChecksums::default(),
            changes: None,
            pending: None,
            durable: watch::Sender::new(Head::NONE),
        };
        publisher.agree(connection)?;
        publisher.durable.send_replace(publisher.head);
        Ok(publisher)
    }

    /// The newest state that is in the log.
    pub(crate) fn durable(&self) -> watch::Receiver<Head> {
        self.durable.subscribe()
    }

    /// The position the next commit will have.
    pub(crate) fn next(&self) -> Position {
        Position {
            epoch: self.publication.epoch,
            txid: self.head.position.txid.next(),
        }
    }

    /// Writes the number of the commit into its transaction.
    pub(crate) fn number(&self, connection: &Connection) -> rusqlite::Result<()> {
        pages::set_position(connection, self.next())
    }

    /// Logs what an earlier commit could not: before that is done nothing new may begin.
    pub(crate) fn ready(&mut self) -> Result<(), LogError> {
        self.flush()
    }

    /// Logs what was committed since the last call.
    pub(crate) fn publish(&mut self) -> Result<(), PublishError> {
        self.collect()?;
        self.encode(self.next());
        Ok(self.flush()?)
    }

    /// Logs what this crate itself has changed outside of the writer's transactions (tables of ours, migrations).
    pub(crate) fn publish_ours(&mut self, connection: &Connection) -> Result<(), PublishError> {
        self.collect()?;
        if self.changes.is_none() {
            return Ok(());
        }
        self.number(connection)?;
        self.publish()
    }

    /// Everything in the log is in the database file, durably.
    pub(crate) fn checkpointed(&self) {
        if self.pending.is_some() {
            return;
        }
        self.publication.log.release(&self.database, self.head.position.txid);
        if let Err(error) = sums::save(&self.path, &self.head, &self.checksums) {
            tracing::debug!(%error, database = self.database, "checksums could not be kept; the next open reads the file");
        }
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    fn agree(&mut self, connection: &Connection) -> Result<(), PublishError> {
        let log = Arc::clone(&self.publication.log);
        let logged = log.head(&self.database);
        let kept = logged.and_then(|head| sums::load(&self.path, &head));
        self.checksums = match kept {
            Some(kept) => kept,
            None => self.read_file(connection)?,
        };
        self.collect()?;
        let here = pages::head(connection, &self.checksums)?;
        let Some(logged) = logged else {
            return self.begin(here);
        };
        self.head = logged;
        if here.lineage != logged.lineage {
            return match here.position > logged.position {
                true => self.begin(here),
                false => self.begin_after_all_before(connection),
            };
        }
        if here.position.txid < logged.position.txid {
            return self.catch_up(connection, &here, &logged);
        }
        if here.position == logged.position && here.checksum == logged.checksum {
            self.changes = None;
            return Ok(());
        }
        let unlogged = here.position.txid.0 - logged.position.txid.0;
        match (unlogged, &self.changes) {
            // Changes of ours without a number, as the process ended before they had one.
            (0, Some(_)) => {
                self.number(connection)?;
                self.publish()
            }
            (1, Some(_)) => {
                self.encode(here.position);
                Ok(self.flush()?)
            }
            (0, None) => {
                tracing::warn!(
                    database = self.database,
                    "the file was changed by another program; replicas will copy it anew"
                );
                self.begin_after_all_before(connection)
            }
            _ => {
                tracing::warn!(database = self.database, log = %logged.position, file = %here.position, "the log lacks transactions that the file has; it begins anew");
                self.begin(here)
            }
        }
    }

    /// The checksums of all pages, read. Those in the file itself must be as they were written.
    fn read_file(&mut self, connection: &Connection) -> Result<PageChecksums, PublishError> {
        let kept = sums::of_file(&self.path);
        let found = pages::checksums(connection)?;
        self.collect()?;
        // SQLite's own checksums vouch for what is in the write-ahead log.
        let is_newer = |page: &u32| self.changes.as_ref().is_some_and(|new| new.pages.contains_key(page));
        let damaged = kept.and_then(|kept| {
            let mut pages = 1..=kept.page_count().min(found.page_count());
            pages.find(|page| !is_newer(page) && kept.of(*page) != found.of(*page))
        });
        match damaged {
            Some(page) => Err(PublishError::DamagedPage { page }),
            None => Ok(found),
        }
    }

    /// Other content than the log's. Its positions go on from those of the log, so that what a client has seen, and what a
    /// replica has, is behind it.
    fn begin_after_all_before(&mut self, connection: &Connection) -> Result<(), PublishError> {
        pages::set_lineage(connection, Lineage::random(), self.next())?;
        self.checksums = pages::checksums(connection)?;
        self.collect()?;
        self.begin(pages::head(connection, &self.checksums)?)
    }

    /// The log has only what follows this state, so the file must not lose it: the file is not synced with every commit.
    fn begin(&mut self, head: Head) -> Result<(), PublishError> {
        self.wal.sync().map_err(PublishError::Wal)?;
        self.changes = None;
        self.publication.log.begin(&self.database, head)?;
        self.head = head;
        Ok(())
    }

    /// The file lost commits that the log has, as it is not fsynced with every one of them.
    fn catch_up(&mut self, connection: &Connection, here: &Head, logged: &Head) -> Result<(), PublishError> {
        let log = Arc::clone(&self.publication.log);
        if log.find(&self.database, here) != Known::Here {
            return Err(PublishError::Diverged {
                file: here.position.to_string(),
                log: logged.position.to_string(),
            });
        }
        let applying = pages::attach(&self.path)?;
        let mut pages_before = self.checksums.page_count();
        let mut txid = here.position.txid;
        while txid < logged.position.txid {
            let files = log.read_after(&self.database, txid, CATCH_UP_BYTES)?;
            let files = files
                .iter()
                .map(|file| ltx::TransactionFile::parse(file))
                .collect::<Result<Vec<_>, _>>();
            let files = files.map_err(LogError::File)?;
            txid = files.last().map_or(logged.position.txid, |file| file.header.max_txid);
            pages::apply(&applying, pages_before, &files)?;
            pages_before = files.last().map_or(pages_before, |file| file.header.page_count);
        }
        self.checksums = pages::checksums(connection)?;
        self.collect()?;
        self.changes = None;
        let now = pages::head(connection, &self.checksums)?;
        if now.checksum != logged.checksum {
            return Err(PublishError::Diverged {
                file: now.position.to_string(),
                log: logged.position.to_string(),
            });
        }
        tracing::info!(database = self.database, from = %here.position, to = %logged.position, "brought forward from the log");
        Ok(())
    }

    fn collect(&mut self) -> Result<(), PublishError> {
        if let Some(new) = self.wal.read_new().map_err(PublishError::Wal)? {
            self.changes = Some(match self.changes.take() {
                Some(earlier) => earlier.then(new),
                None => new,
            });
        }
        Ok(())
    }

    /// Makes the changes a file that leads to `position`.
    fn encode(&mut self, position: Position) {
        let Some(changes) = self.changes.take() else { return };
        let before = self.head.checksum;
        for (number, page) in &changes.pages {
            self.checksums.set(*number, page);
        }
        self.checksums.truncate(changes.page_count);
        let header = Header {
            page_size: changes.page_size,
            page_count: changes.page_count,
            min_txid: position.txid,
            max_txid: position.txid,
            timestamp_ms: now_ms(),
            provenance: Provenance {
                epoch: position.epoch,
                lineage: self.head.lineage,
                before,
                after: self.checksums.total(),
            },
        };
        let pages = changes.pages.iter().map(|(number, page)| (*number, &page[..]));
        self.pending = Some((ltx::encode(header, pages).into(), Head::after(&header)));
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let Some((file, after)) = &self.pending else {
            return Ok(());
        };
        self.publication.log.append(&self.database, file.clone())?;
        self.head = *after;
        self.pending = None;
        self.durable.send_replace(self.head);
        Ok(())
    }
}

/// Why the log refuses, in the words of whoever wanted to write.
pub(crate) fn refused(error: &LogError) -> SqlError {
    match error {
        LogError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => SqlError::Full,
        other => SqlError::Log {
            message: other.to_string(),
        },
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

impl From<PublishError> for SqlError {
    fn from(error: PublishError) -> SqlError {
        match error {
            PublishError::Log(error) => refused(&error),
            other => SqlError::Log {
                message: other.to_string(),
            },
        }
    }
}

impl PublishError {
    pub(crate) fn at_open(self, path: &std::path::Path) -> OpenError {
        OpenError::Publish {
            path: path.to_owned(),
            source: self,
        }
    }
}

/// The first position of a new database.
pub(crate) const FIRST: Txid = Txid(1);
