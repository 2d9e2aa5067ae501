//! A replica's writes: queued on this machine's disk, forwarded in order, answered when they are visible here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::link::{self, Asked, Link};
use super::refusal::Problem;
use super::{AgentError, Refusal, Shared, following};
use crate::position::Position;
use crate::queue::{Operation, Queue, Queued};
use crate::{Committed, Rows, SqlError, Statement};

/// Operations sent to the primary in one request: as many as share a commit there.
const OPERATIONS_PER_REQUEST: usize = 64;
/// Pause before a request that did not succeed is sent again, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long an answer waits until its transaction is visible here; afterwards the bookmark in it does the rest.
const VISIBLE: Duration = Duration::from_secs(2);
/// A request to the primary that takes longer is sent again.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);

/// The outcome of an operation between processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Executed {
    pub(crate) rows: Vec<Rows>,
    pub(crate) position: Position,
}

/// One operation's outcome in a list.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    Executed(Executed),
    Problem(Problem),
}

pub(crate) struct ReplicaSite {
    shared: Arc<Shared>,
    link: Link,
    queue: Queue,
    lanes: Arc<Lanes>,
}

/// One forwarder for each database, made when it is first written to.
struct Lanes {
    shared: Arc<Shared>,
    link: Link,
    queue: Queue,
    senders: Mutex<HashMap<String, mpsc::UnboundedSender<Waiting>>>,
}

/// An operation in its lane, and who waits for it.
struct Waiting {
    queued: Queued,
    reply: Option<oneshot::Sender<Result<Executed, Refusal>>>,
}

impl ReplicaSite {
    pub(crate) fn open(shared: Arc<Shared>, tasks: &mut JoinSet<()>) -> Result<ReplicaSite, AgentError> {
        let super::Role::Replica { primary } = &shared.settings.role else {
            unreachable!("opened by role");
        };
        let link = Link::new(primary, shared.settings.token.clone())?;
        let path = shared.settings.data_dir.join("queue.db");
        let (queue, held, _thread) = Queue::open(&path, shared.settings.queue)?;
        let lanes = Arc::new(Lanes {
            shared: Arc::clone(&shared),
            link: link.clone(),
            queue: queue.clone(),
            senders: Mutex::default(),
        });
        if !held.is_empty() {
            tracing::info!(operations = held.len(), "writes from before are sent to the primary");
        }
        for queued in held {
            lanes.put(Waiting { queued, reply: None });
        }
        let following = following::run(Arc::clone(&shared), link.clone());
        let ended = Arc::clone(&shared).ended();
        tasks.spawn(async move {
            tokio::select! {
                () = following => {}
                () = ended => {}
            }
        });
        Ok(ReplicaSite {
            shared,
            link,
            queue,
            lanes,
        })
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Queues an operation, and returns its outcome when that is known and visible here.
    pub(crate) async fn execute(&self, database: &str, operation: Operation) -> Result<Executed, Refusal> {
        if !self.link.is_reachable() {
            return Err(Refusal::PrimaryUnreachable);
        }
        let id = operation.id.clone();
        let queued = self.queue.put(database, operation).await?;
        let (reply, outcome) = oneshot::channel();
        self.lanes.put(Waiting {
            queued,
            reply: Some(reply),
        });
        match tokio::time::timeout(self.shared.settings.write_timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Refusal::OutcomeUnknown(id)),
        }
    }

    /// Queues an operation and returns: it is durable here, and will be done when the primary can be reached.
    pub(crate) async fn enqueue(&self, database: &str, operation: Operation) -> Result<(), Refusal> {
        let queued = self.queue.put(database, operation).await?;
        self.lanes.put(Waiting { queued, reply: None });
        Ok(())
    }

    /// Reads what the primary has now.
    pub(crate) async fn read_strong(&self, database: &str, statement: &Statement) -> Result<Executed, Refusal> {
        if !self.link.is_reachable() {
            return Err(Refusal::PrimaryUnreachable);
        }
        let request = self.link.post(&format!("/v1/databases/{database}/read"));
        Ok(link::ask(request.timeout(self.shared.settings.write_timeout), statement).await?)
    }
}

impl Lanes {
    fn put(self: &Arc<Self>, waiting: Waiting) {
        let database = waiting.queued.database.clone();
        let mut senders = self.senders.lock();
        let sender = senders.entry(database.clone()).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let ended = Arc::clone(&self.shared).ended();
            let forward = Arc::clone(self).forward(database, receiver);
            tokio::spawn(async move {
                tokio::select! {
                    () = forward => {}
                    () = ended => {}
                }
            });
            sender
        });
        // Its task ends only with the process.
        let _ = sender.send(waiting);
    }

    /// Sends a database's operations in their order, until each has an outcome.
    async fn forward(self: Arc<Self>, database: String, mut lane: mpsc::UnboundedReceiver<Waiting>) {
        let mut batch = Vec::new();
        while lane.recv_many(&mut batch, OPERATIONS_PER_REQUEST).await > 0 {
            let mut pause = RETRY.0;
            while !batch.is_empty() {
                match self.send(&database, &batch).await {
                    Ok(outcomes) => batch = self.settle(&database, batch, outcomes).await,
                    // Of the whole request: no such database, a wrong token.
                    Err(Asked::Refused(refusal)) => {
                        for waiting in batch.drain(..) {
                            self.end(waiting, Err(refusal.clone())).await;
                        }
                    }
                    Err(asked) => tracing::debug!(?asked, database, "writes could not be forwarded yet"),
                }
                if !batch.is_empty() {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                    self.wait_until_reachable().await;
                }
            }
        }
    }

    async fn wait_until_reachable(&self) {
        let mut reachable = self.link.reachability();
        // The sender lives as long as the link.
        let _ = tokio::time::timeout(RETRY.1, reachable.wait_for(|reachable| *reachable)).await;
    }

    async fn send(&self, database: &str, batch: &[Waiting]) -> Result<Vec<Outcome>, Asked> {
        let request = self
            .link
            .post(&format!("/v1/databases/{database}/operations"))
            .timeout(FORWARD_TIMEOUT);
        let operations: Vec<&Operation> = batch.iter().map(|waiting| &waiting.queued.operation).collect();
        link::ask(request, &operations).await
    }

    /// Answers what has an outcome; what has none yet stays, in order.
    async fn settle(&self, database: &str, batch: Vec<Waiting>, outcomes: Vec<Outcome>) -> Vec<Waiting> {
        let mut left = Vec::new();
        let highest = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Executed(executed) => Some(executed.position),
            Outcome::Problem(_) => None,
        });
        if let Some(position) = highest.max() {
            let visible = self
                .shared
                .board
                .wait_for(database, |status| status.head.position >= position);
            if tokio::time::timeout(VISIBLE, visible).await.is_err() {
                tracing::debug!(database, %position, "an acknowledged write is not visible here yet");
            }
        }
        for (waiting, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Executed(executed) => self.end(waiting, Ok(executed)).await,
                Outcome::Problem(problem) => {
                    let refusal = Refusal::from(problem);
                    if refusal.is_passing() {
                        left.push(waiting);
                    } else {
                        self.end(waiting, Err(refusal)).await;
                    }
                }
            }
        }
        left
    }

    async fn end(&self, waiting: Waiting, outcome: Result<Executed, Refusal>) {
        self.queue.remove(waiting.queued.number).await;
        if let Some(reply) = waiting.reply {
            // Refused when whoever asked has gone.
            let _ = reply.send(outcome);
        }
    }
}

impl Outcome {
    pub(crate) fn of(result: Result<Committed, SqlError>) -> Outcome {
        match result {
            Ok(committed) => Outcome::Executed(Executed::of(committed)),
            Err(error) => Outcome::Problem(Problem {
                code: error.code().to_owned(),
                message: error.to_string(),
            }),
        }
    }
}

impl Executed {
    pub(crate) fn of(committed: Committed) -> Executed {
        Executed {
            rows: committed.rows,
            position: committed.position.unwrap_or_default(),
        }
    }
}
