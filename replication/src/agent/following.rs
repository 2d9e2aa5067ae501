//! The replica's side: the stream from the primary, and what it says passed on to each database's task.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::frames::{Frame, FrameReader, Notice, Request};
use super::link::{Link, judged};
use super::primary_site::blocking;
use super::replica_state::{Answer, Event};
use super::replica_task::{Inbox, ReplicaTask};
use super::{Shared, follow};
use crate::error::chain;
use crate::folder::Folder;
use crate::log::Head;
use crate::position::Epoch;
use crate::publish::now_ms;

/// Without a sign of life for this long the primary counts as unreachable.
const SILENCE: Duration = follow::HEARTBEAT.saturating_mul(3);
/// Pause before the stream is opened again, doubled up to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// States in one line to the primary, which bounds a line's length.
const HEADS_PER_REPORT: usize = 100;

/// Follows the primary until the tasks are ended.
pub(crate) async fn run(shared: Arc<Shared>, link: Link) {
    let mut following = Following {
        outgoing: watch::Sender::new(None),
        inboxes: HashMap::new(),
        tasks: JoinSet::new(),
        reported: HashMap::new(),
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
    /// The task of each database, and the way to it.
    inboxes: HashMap<String, (AbortHandle, Inbox)>,
    tasks: JoinSet<()>,
    /// What the primary was told of each database.
    reported: HashMap<String, Head>,
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
        self.reported.clear();
        let mut outgoing = Some(outgoing);
        let mut leads = Epoch(0);
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
                if let Frame::Notice(Notice::Heads { epoch, .. }) = &frame {
                    leads = *epoch;
                }
                // A snapshot may have come from a later primary meanwhile.
                if !self.link.see_epoch(leads) {
                    tracing::error!(
                        epoch = leads.0,
                        seen = self.link.epoch().0,
                        "the primary leads under an older epoch than one followed before, and is not followed: it was \
                         restored from a backup under a wrong clock, or another has taken its place"
                    );
                    return Err("deposed".to_owned());
                }
                self.take(frame);
                // The first frame says who leads: only then it is asked for anything.
                if let Some(outgoing) = outgoing.take() {
                    self.outgoing.send_replace(Some(outgoing));
                }
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        let mut said = |database: &str, ask, answer| self.pass_on(database, Event::Said { ask, answer });
        match frame {
            Frame::File { database, ask, file } => said(&database, ask, Answer::File(file)),
            Frame::Notice(Notice::Resync {
                database,
                ask,
                diverged,
            }) => said(&database, ask, Answer::Resync { diverged }),
            Frame::Notice(Notice::Unknown { database, ask }) => {
                tracing::warn!(
                    database,
                    "the primary has no such database; what is here is read as it is"
                );
                said(&database, ask, Answer::Unknown);
            }
            Frame::Notice(Notice::Heads { heads, gone, .. }) => {
                for name in gone {
                    self.forget(&name);
                }
                let heads: BTreeMap<_, _> = heads.into_iter().filter(|(name, _)| self.follows(name)).collect();
                for name in heads.keys() {
                    self.know(name);
                    self.pass_on(name, Event::Named);
                }
                self.link.set_reachable(true);
                self.note_heads(&heads);
                self.report();
            }
        }
    }

    /// Drops a database that the primary has deleted.
    fn forget(&mut self, name: &str) {
        if !Folder::is_valid_name(name) {
            return;
        }
        let known = self.inboxes.remove(name);
        // What a copy on its way has written is removed when the primary says it the next time.
        let folder = Folder::of(&self.shared.settings.databases_dir(), name);
        if let Some((task, _)) = &known {
            task.abort();
        } else if folder.current().is_none() {
            return;
        }
        tracing::info!(database = name, "deleted at the primary, and now here");
        self.reported.remove(name);
        self.shared.board.delete(name);
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = folder.remove() {
                tracing::warn!(%error, database = name, "the files of a deleted database could not be removed; trying again");
            }
        });
    }

    /// Tells the primary what was applied since it was last told.
    fn report(&mut self) {
        let Some(outgoing) = self.outgoing.borrow().clone() else {
            return;
        };
        let statuses = self.shared.board.all();
        let news: Vec<_> = statuses
            .into_iter()
            .filter(|status| status.path.is_some() && self.reported.get(&status.database) != Some(&status.head))
            .map(|status| (status.database, status.head))
            .collect();
        for heads in news.chunks(HEADS_PER_REPORT) {
            let heads: BTreeMap<_, _> = heads.iter().cloned().collect();
            // A full channel is told with the next sign of life.
            if outgoing.try_send(Request::Applied { heads: heads.clone() }).is_ok() {
                self.reported.extend(heads);
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

    /// Of the platform's databases a replica has only those it needs.
    fn follows(&self, name: &str) -> bool {
        !Folder::is_platform_name(name)
            || self
                .shared
                .settings
                .platform_databases
                .iter()
                .any(|wanted| wanted == name)
    }

    /// Starts the task of a database that is new here.
    fn know(&mut self, name: &str) {
        if self.inboxes.contains_key(name) || !Folder::is_valid_name(name) {
            return;
        }
        let (task, inbox) = ReplicaTask::new(name, &self.shared, &self.link, self.outgoing.subscribe());
        let task = self.tasks.spawn(task.run());
        self.inboxes.insert(name.to_owned(), (task, inbox));
    }

    fn pass_on(&mut self, database: &str, event: Event) {
        self.know(database);
        if let Some((_, inbox)) = self.inboxes.get(database) {
            inbox.put(event);
        }
    }
}
