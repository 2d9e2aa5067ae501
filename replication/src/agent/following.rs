//! The replica's side: the stream from the primary, and one task for each database that applies what comes.
//!
//! A database's task is in one of three states: it copies a snapshot into a new file, it applies files as they come, or
//! its copy is quarantined until a new one is there. Where it stands it tells the primary after every interruption; the
//! primary decides whether that can be continued. What does not fit is dropped and asked for again: nothing is assumed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::frames::{Frame, FrameReader, Notice, Request};
use super::link::{BodyReader, Link, judged};
use super::primary_site::{blocking, chain};
use super::{Refusal, Shared, State, follow};
use crate::folder::Folder;
use crate::log::Head;
use crate::publish::now_ms;
use crate::replica::{Replica, ReplicaError, install_snapshot};

/// Without a sign of life for this long the primary counts as unreachable.
const SILENCE: Duration = follow::HEARTBEAT.saturating_mul(3);
/// Pause before the stream is opened again, doubled up to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Pause after a replica could not be written or copied (a full disk).
const RETRY: Duration = Duration::from_secs(1);
/// Files waiting for a database's task. Beyond it they are dropped and asked for again.
const FILES_WAITING: usize = 256;
/// Bytes applied in one transaction.
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;

/// What a database's task is told.
enum News {
    File(Bytes),
    Resync { diverged: bool },
}

/// Follows the primary until the tasks are ended.
pub(crate) async fn run(shared: Arc<Shared>, link: Link) {
    let mut following = Following {
        outgoing: watch::Sender::new(None),
        inboxes: HashMap::new(),
        tasks: JoinSet::new(),
        shared,
        link,
    };
    let root = following.shared.settings.databases_dir();
    let known = blocking(move || Folder::names(&root)).await.unwrap_or_default();
    let configured = following
        .shared
        .settings
        .databases
        .iter()
        .map(|database| database.name.clone())
        .collect::<Vec<_>>();
    for name in known.into_iter().chain(configured) {
        following.know(&name);
    }
    let mut pause = RECONNECT.0;
    loop {
        let began = tokio::time::Instant::now();
        if let Err(error) = following.follow().await {
            tracing::debug!(error, "the stream from the primary has ended");
        }
        following.outgoing.send_replace(None);
        if following.link.is_reachable() {
            tracing::warn!("the primary is not heard any more; reads go on");
            following.link.set_reachable(false);
            following.for_each_status(|status| status.primary_reachable = false);
        }
        pause = if began.elapsed() > SILENCE {
            RECONNECT.0
        } else {
            (pause * 2).min(RECONNECT.1)
        };
        tokio::time::sleep(pause.mul_f32(0.5 + fastrand::f32() / 2.0)).await;
    }
}

struct Following {
    shared: Arc<Shared>,
    link: Link,
    /// The way to the primary while the stream stands.
    outgoing: watch::Sender<Option<mpsc::Sender<Request>>>,
    inboxes: HashMap<String, Inbox>,
    tasks: JoinSet<()>,
}

struct Inbox {
    news: mpsc::Sender<News>,
    /// Something was dropped: the database must be followed anew.
    lost: watch::Sender<bool>,
}

impl Following {
    /// One connection, from its beginning to its end.
    async fn follow(&mut self) -> Result<(), String> {
        let (outgoing, requests) = mpsc::channel::<Request>(1024);
        let hello = Request::Hello {
            agent: self.shared.settings.name.clone(),
        };
        outgoing.try_send(hello).map_err(|error| error.to_string())?;
        let lines = futures::stream::unfold(requests, async |mut requests| {
            let request = requests.recv().await?;
            let mut line = serde_json::to_vec(&request).expect("requests are JSON");
            line.push(b'\n');
            Some((Ok::<_, std::convert::Infallible>(line), requests))
        });
        let request = self.link.post("/v1/follow").body(reqwest::Body::wrap_stream(lines));
        let response = tokio::time::timeout(SILENCE, request.send())
            .await
            .map_err(|_| "no answer".to_owned())?;
        let response = judged(response.map_err(|error| chain(&error))?)
            .await
            .map_err(|asked| {
                tracing::error!(?asked, "the primary refuses to be followed");
                "refused".to_owned()
            })?;
        tracing::info!("following the primary");
        self.outgoing.send_replace(Some(outgoing));
        let mut body = response.bytes_stream();
        let mut reader = FrameReader::default();
        loop {
            let chunk = tokio::time::timeout(SILENCE, body.next())
                .await
                .map_err(|_| "silence".to_owned())?;
            let chunk = chunk
                .ok_or("the primary ended the stream")?
                .map_err(|error| chain(&error))?;
            reader.push(&chunk);
            while let Some(frame) = reader.next()? {
                self.take(frame);
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::File { database, file } => self.pass_on(&database, News::File(file)),
            Frame::Notice(Notice::Resync { database, diverged }) => self.pass_on(&database, News::Resync { diverged }),
            Frame::Notice(Notice::Heads { heads }) => {
                for name in heads.keys() {
                    self.know(name);
                }
                self.link.set_reachable(true);
                self.note_heads(&heads);
            }
        }
    }

    fn note_heads(&self, heads: &BTreeMap<String, Head>) {
        let now = now_ms();
        for (name, head) in heads {
            self.shared.board.update(name, |status| {
                status.primary_reachable = true;
                status.primary = *head;
                let level = status.head.position.txid >= head.position.txid && status.head.lineage == head.lineage;
                status.behind_since_ms = if level {
                    None
                } else {
                    status.behind_since_ms.or(Some(now))
                };
            });
        }
    }

    fn for_each_status(&self, change: impl Fn(&mut super::DatabaseStatus)) {
        for name in self.inboxes.keys() {
            self.shared.board.update(name, &change);
        }
    }

    /// Starts the task of a database that is new here.
    fn know(&mut self, name: &str) {
        if self.inboxes.contains_key(name) || !Folder::is_valid_name(name) {
            return;
        }
        let (news, receiver) = mpsc::channel(FILES_WAITING);
        let lost = watch::Sender::new(false);
        let task = DatabaseTask {
            name: name.to_owned(),
            folder: Folder::of(&self.shared.settings.databases_dir(), name),
            shared: Arc::clone(&self.shared),
            link: self.link.clone(),
            outgoing: self.outgoing.subscribe(),
            news: receiver,
            lost: lost.clone(),
        };
        self.tasks.spawn(task.run());
        self.inboxes.insert(name.to_owned(), Inbox { news, lost });
    }

    fn pass_on(&mut self, database: &str, news: News) {
        self.know(database);
        if let Some(inbox) = self.inboxes.get(database)
            && inbox.news.try_send(news).is_err()
        {
            inbox.lost.send_replace(true);
        }
    }
}

struct DatabaseTask {
    name: String,
    folder: Folder,
    shared: Arc<Shared>,
    link: Link,
    outgoing: watch::Receiver<Option<mpsc::Sender<Request>>>,
    news: mpsc::Receiver<News>,
    lost: watch::Sender<bool>,
}

/// Why a replica is left for a new copy.
enum Leave {
    /// It is whole, only too old.
    TooOld,
    /// It must not be read any more.
    Quarantined(String),
}

impl DatabaseTask {
    async fn run(mut self) {
        let mut opened = self.open_current().await;
        loop {
            let replica = match opened.take() {
                Some(replica) => replica,
                None => self.copy().await,
            };
            let leave = self.apply_what_comes(replica).await;
            let quarantined = matches!(leave, Leave::Quarantined(_));
            match leave {
                Leave::TooOld => tracing::info!(database = self.name, "too old to be continued; a snapshot is copied"),
                Leave::Quarantined(reason) => {
                    tracing::error!(
                        database = self.name,
                        reason,
                        "the replica is quarantined and copied anew"
                    );
                }
            }
            self.shared.board.update(&self.name, |status| {
                status.rebuilds += 1;
                status.state = if quarantined {
                    State::Quarantined
                } else {
                    State::Copying
                };
                if quarantined {
                    status.path = None;
                }
            });
        }
    }

    async fn open_current(&self) -> Option<Replica> {
        let folder = self.folder.clone();
        let opened = blocking(move || folder.current().map(|path| Replica::open(&path))).await?;
        match opened {
            Ok(replica) => Some(replica),
            Err(error) => {
                tracing::error!(
                    database = self.name,
                    error = chain(&error),
                    "the replica cannot be opened and is copied anew"
                );
                None
            }
        }
    }

    /// Copies a snapshot into a new file, until it succeeds.
    async fn copy(&self) -> Replica {
        loop {
            match self.try_copy().await {
                Ok(replica) => return replica,
                Err(error) => {
                    tracing::debug!(database = self.name, error, "the snapshot could not be copied");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_copy(&self) -> Result<Replica, String> {
        let path = format!("/v1/databases/{}/snapshot", self.name);
        let response = self.link.get(&path).send().await.map_err(|error| chain(&error))?;
        let response = judged(response)
            .await
            .map_err(|asked| Refusal::from(asked).to_string())?;
        let snapshot = BodyReader::of(response);
        let (folder, name) = (self.folder.clone(), self.name.clone());
        blocking(move || {
            let next = folder.next().map_err(|error| chain(&error))?;
            let head = install_snapshot(snapshot, &next).map_err(|error| chain(&error))?;
            let replica = Replica::open(&next).map_err(|error| chain(&error))?;
            folder.switch_to(&next).map_err(|error| chain(&error))?;
            tracing::info!(database = name, position = %head.position, "a snapshot was copied");
            Ok(replica)
        })
        .await
    }

    async fn apply_what_comes(&mut self, mut replica: Replica) -> Leave {
        self.show(&replica, None);
        self.outgoing.mark_changed();
        let mut scrub = tokio::time::interval(self.shared.settings.scrub_interval);
        scrub.reset();
        // What is queued belongs to the state before.
        while self.news.try_recv().is_ok() {}
        loop {
            tokio::select! {
                changed = self.outgoing.changed() => match changed {
                    Ok(()) => self.ask(replica.head()).await,
                    Err(_) => std::future::pending().await,
                },
                news = self.news.recv() => match news {
                    None => std::future::pending().await,
                    Some(News::Resync { diverged: true }) => return Leave::Quarantined("it has another history than the primary".to_owned()),
                    Some(News::Resync { diverged: false }) => return Leave::TooOld,
                    Some(News::File(first)) => {
                        let files = self.more_files(first);
                        let newest = files.last().cloned();
                        let (returned, applied) = blocking(move || {
                            let applied = replica.apply(files.iter().map(|file| &file[..]));
                            (replica, applied)
                        }).await;
                        replica = returned;
                        match applied {
                            Ok(_) => self.show(&replica, newest),
                            Err(error) if error.needs_rebuild() => return Leave::Quarantined(chain(&error)),
                            Err(ReplicaError::Gap { .. }) => self.ask(replica.head()).await,
                            Err(error) => {
                                tracing::error!(database = self.name, error = chain(&error), "the replica cannot be written; trying again");
                                tokio::time::sleep(RETRY).await;
                                self.ask(replica.head()).await;
                            }
                        }
                        if self.lost.send_replace(false) {
                            self.ask(replica.head()).await;
                        }
                    }
                },
                _ = scrub.tick() => {
                    let (returned, scrubbed) = blocking(move || {
                        let scrubbed = replica.scrub();
                        (replica, scrubbed)
                    }).await;
                    replica = returned;
                    self.shared.board.update(&self.name, |status| status.scrubs += 1);
                    match scrubbed {
                        Err(error) if error.needs_rebuild() => return Leave::Quarantined(chain(&error)),
                        Err(error) => tracing::warn!(database = self.name, error = chain(&error), "the replica could not be read through"),
                        Ok(()) => {}
                    }
                }
            }
        }
    }

    /// The first file and those that wait behind it, as far as they are applied at once.
    fn more_files(&mut self, first: Bytes) -> Vec<Bytes> {
        let mut size = first.len();
        let mut files = vec![first];
        while size < BYTES_AT_ONCE {
            match self.news.try_recv() {
                Ok(News::File(file)) => {
                    size += file.len();
                    files.push(file);
                }
                // Asked for anew after these: the primary then says it again.
                Ok(News::Resync { .. }) => {
                    self.lost.send_replace(true);
                    break;
                }
                Err(_) => break,
            }
        }
        files
    }

    /// Tells the primary where the replica stands.
    async fn ask(&self, state: Head) {
        let outgoing = self.outgoing.borrow().clone();
        if let Some(outgoing) = outgoing {
            // Closed when the stream has ended; it is told again on the next.
            let _ = outgoing
                .send(Request::Follow {
                    database: self.name.clone(),
                    state,
                })
                .await;
        }
    }

    fn show(&self, replica: &Replica, newest: Option<Bytes>) {
        let head = replica.head();
        let written = newest
            .and_then(|file| crate::ltx::Header::parse(file.first_chunk()?).ok())
            .map(|header| header.timestamp_ms);
        self.shared.board.update(&self.name, |status| {
            status.state = State::Following;
            status.path = Some(replica.path().to_owned());
            status.head = head;
            if let Some(written) = written {
                status.last_apply_lag_ms = now_ms() - written;
            }
            if head.position.txid >= status.primary.position.txid {
                status.primary = head;
                status.behind_since_ms = None;
            }
        });
    }
}
