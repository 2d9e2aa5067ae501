//! One database of a replica: does what [`ReplicaState`] decides, one thing at a time, and shows where it stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::frames::Request;
use super::link::{BodyReader, Link, epoch_of, judged};
use super::replica_state::{Action, Event, Failure, Leave, Moment, ReplicaState};
use super::{Refusal, Shared, State};
use crate::error::chain;
use crate::folder::Folder;
use crate::log::Head;
use crate::ltx::Header;
use crate::publish::now_ms;
use crate::replica::{Replica, ReplicaError, install_snapshot};

/// What the stream has for a database that its task has not taken yet. The task always takes, so this is a moment's; what
/// does not fit is dropped and asked for again.
const NEWS_WAITING: usize = 64;

/// The stream's way to a database's task.
pub(crate) struct Inbox {
    news: mpsc::Sender<Event>,
    dropped: Arc<Notify>,
}

impl Inbox {
    pub(crate) fn put(&self, event: Event) {
        if self.news.try_send(event).is_err() {
            // Kept until the task looks, also if it has just emptied the inbox.
            self.dropped.notify_one();
        }
    }
}

pub(crate) type Outgoing = watch::Receiver<Option<mpsc::Sender<Request>>>;

pub(crate) struct ReplicaTask {
    name: String,
    folder: Folder,
    shared: Arc<Shared>,
    link: Link,
    outgoing: Outgoing,
    news: mpsc::Receiver<Event>,
    dropped: Arc<Notify>,
    state: ReplicaState,
    started: Instant,
    /// The open replica, unless something is being done to it.
    replica: Option<Replica>,
    work: JoinSet<Done>,
}

/// What was done to the file.
enum Done {
    Opened(Option<Replica>),
    Copied(Result<Replica, String>),
    Applied {
        replica: Replica,
        outcome: Result<Head, ReplicaError>,
        newest: Option<Bytes>,
    },
    Scrubbed(Replica, Result<(), ReplicaError>),
}

impl ReplicaTask {
    pub(crate) fn new(name: &str, shared: &Arc<Shared>, link: &Link, outgoing: Outgoing) -> (ReplicaTask, Inbox) {
        let (news, receiver) = mpsc::channel(NEWS_WAITING);
        let dropped = Arc::new(Notify::new());
        let task = ReplicaTask {
            name: name.to_owned(),
            folder: Folder::of(&shared.settings.databases_dir(), name),
            shared: Arc::clone(shared),
            link: link.clone(),
            outgoing,
            news: receiver,
            dropped: Arc::clone(&dropped),
            state: ReplicaState::new(shared.settings.scrub_interval.as_millis() as u64),
            started: Instant::now(),
            replica: None,
            work: JoinSet::new(),
        };
        (task, Inbox { news, dropped })
    }

    pub(crate) async fn run(mut self) {
        self.open();
        // A stream that stands already is told as well.
        self.outgoing.mark_changed();
        loop {
            let due = self.state.due().map(|due| self.started + Duration::from_millis(due));
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let event = tokio::select! {
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_cancelled) => return,
                },
                changed = self.outgoing.changed() => match (changed, self.outgoing.borrow_and_update().is_some()) {
                    (Ok(()), true) => Event::Connected,
                    (Ok(()), false) => Event::Disconnected,
                    (Err(_ended), _) => return,
                },
                news = self.news.recv() => match news {
                    Some(event) => event,
                    None => return,
                },
                () = self.dropped.notified() => Event::Dropped,
                () = tokio::time::sleep_until(due.into()) => Event::Tick,
            };
            for action in self.state.on(event, self.now()) {
                self.perform(action).await;
            }
        }
    }

    fn now(&self) -> Moment {
        self.started.elapsed().as_millis() as Moment
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Ask { ask, state } => self.ask(ask, state).await,
            Action::Apply(files) => self.apply(files),
            Action::Scrub => self.scrub(),
            Action::Leave(leave) => self.leave(leave),
            Action::Copy => self.copy(),
        }
    }

    /// Tells the primary where the replica stands.
    async fn ask(&mut self, ask: u64, state: Head) {
        let outgoing = self.outgoing.borrow().clone();
        if let Some(outgoing) = outgoing {
            let database = self.name.clone();
            // Closed when the stream has ended; it is told again on the next.
            let _ = outgoing.send(Request::Follow { database, ask, state }).await;
        }
    }

    fn open(&mut self) {
        let (folder, name, shared) = (self.folder.clone(), self.name.clone(), Arc::clone(&self.shared));
        self.work.spawn_blocking(move || {
            let opened = folder.current().map(|path| Replica::open(&path)).transpose();
            Done::Opened(opened.unwrap_or_else(|error| {
                let error = chain(&error);
                tracing::error!(
                    database = name,
                    error,
                    "the replica cannot be opened and is copied anew"
                );
                shared.board.update(&name, |status| status.rebuilds += 1);
                None
            }))
        });
    }

    fn apply(&mut self, files: Vec<Bytes>) {
        let mut replica = self.replica.take().expect("one thing is done at a time");
        self.work.spawn_blocking(move || {
            let outcome = replica.apply(files.iter().map(|file| &file[..]));
            Done::Applied {
                replica,
                outcome,
                newest: files.last().cloned(),
            }
        });
    }

    fn scrub(&mut self) {
        let replica = self.replica.take().expect("one thing is done at a time");
        self.work.spawn_blocking(move || {
            let outcome = replica.scrub();
            Done::Scrubbed(replica, outcome)
        });
    }

    fn copy(&mut self) {
        let (link, folder, name) = (self.link.clone(), self.folder.clone(), self.name.clone());
        self.work
            .spawn(async move { Done::Copied(copy(link, folder, name).await) });
    }

    fn leave(&mut self, leave: Leave) {
        self.replica = None;
        let quarantined = match leave {
            Leave::TooOld => {
                tracing::info!(database = self.name, "too old to be continued; a snapshot is copied");
                false
            }
            Leave::Quarantined(reason) => {
                tracing::error!(
                    database = self.name,
                    reason,
                    "the replica is quarantined and copied anew"
                );
                true
            }
        };
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

    fn done(&mut self, done: Done) -> Event {
        match done {
            Done::Opened(opened) => Event::Opened(opened.map(|replica| self.take_new(replica))),
            Done::Copied(Ok(replica)) => Event::Copied(Ok(self.take_new(replica))),
            Done::Copied(Err(error)) => {
                tracing::debug!(database = self.name, error, "the snapshot could not be copied");
                Event::Copied(Err(Failure::Passing))
            }
            Done::Applied {
                replica,
                outcome,
                newest,
            } => {
                if outcome.is_ok() {
                    self.show(&replica, newest);
                }
                self.replica = Some(replica);
                Event::Applied(outcome.map_err(|error| self.failure(error)))
            }
            Done::Scrubbed(replica, outcome) => {
                self.replica = Some(replica);
                self.shared.board.update(&self.name, |status| status.scrubs += 1);
                Event::Scrubbed(outcome.map_err(|error| self.failure(error)))
            }
        }
    }

    fn take_new(&mut self, replica: Replica) -> Head {
        let head = replica.head();
        self.link.see_epoch(head.position.epoch);
        self.show(&replica, None);
        self.replica = Some(replica);
        head
    }

    fn failure(&self, error: ReplicaError) -> Failure {
        let text = chain(&error);
        if error.needs_rebuild() {
            return Failure::Broken(text);
        }
        tracing::error!(
            database = self.name,
            error = text,
            "the replica could not be read or written; it is tried again"
        );
        match error {
            ReplicaError::File(_) | ReplicaError::Gap { .. } => Failure::Misfit,
            _ => Failure::Passing,
        }
    }

    fn show(&self, replica: &Replica, newest: Option<Bytes>) {
        let head = replica.head();
        let written = newest
            .and_then(|file| Header::of(&file))
            .map(|header| header.timestamp_ms);
        if let Some(written) = written {
            self.shared.metrics.applied(&self.name, now_ms() - written);
        }
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

/// Copies a snapshot into a new file, which becomes the current one when it is whole.
async fn copy(link: Link, folder: Folder, name: String) -> Result<Replica, String> {
    let path = format!("/v1/databases/{name}/snapshot");
    let response = link.get(&path).send().await.map_err(|error| chain(&error))?;
    let response = judged(response)
        .await
        .map_err(|asked| Refusal::from(asked).to_string())?;
    let epoch = epoch_of(&response);
    let snapshot = BodyReader::of(response);
    super::primary_site::blocking(move || {
        let next = folder.next().map_err(|error| chain(&error))?;
        let head = install_snapshot(snapshot, &next).map_err(|error| chain(&error))?;
        let replica = Replica::open(&next).map_err(|error| chain(&error))?;
        // It takes its time, and another may have taken the primary's place meanwhile.
        if !link.see_epoch(epoch) {
            return Err("the primary was deposed while it was copied from".to_owned());
        }
        folder.switch_to(&next).map_err(|error| chain(&error))?;
        tracing::info!(database = name, position = %head.position, "a snapshot was copied");
        Ok(replica)
    })
    .await
}
