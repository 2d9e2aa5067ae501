//! A replica's writes: queued on this machine's disk, forwarded in order, answered when they are visible here.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::lanes::{Entering, Lanes, Reply};
use super::link::{self, Link};
use super::refusal::Problem;
use super::{AgentError, Refusal, Shared, following};
use crate::position::Position;
use crate::queue::{Operation, Queue};
use crate::{Committed, Rows, SqlError, Statement};

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

impl ReplicaSite {
    pub(crate) fn open(shared: Arc<Shared>, tasks: &mut JoinSet<()>) -> Result<ReplicaSite, AgentError> {
        let super::Role::Replica { primary } = &shared.settings.role else {
            unreachable!("opened by role");
        };
        let link = Link::new(primary, &shared.settings)?;
        let path = shared.settings.data_dir.join("queue.db");
        let (queue, held, _thread) = Queue::open(&path, shared.settings.queue)?;
        let lanes = Lanes::new(Arc::clone(&shared), link.clone(), queue.clone());
        if !held.is_empty() {
            tracing::info!(operations = held.len(), "writes from before are sent to the primary");
        }
        lanes.hold(held);
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
        let (reply, outcome) = oneshot::channel();
        self.put(database, operation, Some(reply)).await?;
        match tokio::time::timeout(self.shared.settings.write_timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Refusal::OutcomeUnknown(id)),
        }
    }

    /// Queues an operation and returns: it is durable here, and will be done when the primary can be reached.
    pub(crate) async fn enqueue(&self, database: &str, operation: Operation) -> Result<(), Refusal> {
        self.put(database, operation, None).await
    }

    /// In a task of its own: whoever asked may go at any moment, but what is in the queue must come into its lane.
    async fn put(&self, database: &str, operation: Operation, reply: Option<Reply>) -> Result<(), Refusal> {
        let (queue, lanes, database) = (self.queue.clone(), Arc::clone(&self.lanes), database.to_owned());
        let put = tokio::spawn(async move {
            let queued = queue.put(&database, operation).await?;
            lanes.put(Entering { queued, reply }).await;
            Ok(())
        });
        put.await.map_err(|error| Refusal::Internal(error.to_string()))?
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
