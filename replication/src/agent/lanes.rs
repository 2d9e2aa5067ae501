//! One forwarder for each database that is written to: does what [`Lane`] decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::lane::{Action, Event, Failure, Lane, Number, Verdict};
use super::link::{self, Asked, Link};
use super::replica_site::{Executed, Outcome};
use super::replica_state::Moment;
use super::{Refusal, Shared};
use crate::publish::now_ms;
use crate::queue::{Operation, Queue, Queued};

/// A request to the primary that takes longer is sent again.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// Operations on their way into a lane. Beyond it they wait; they are on disk already.
const OPERATIONS_WAITING: usize = 1024;
/// Requests that may wait for the outcome of one operation; more are told that it is not known yet.
const REPLIES: usize = 16;
/// A lane with nothing to do for this long is ended.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) type Reply = oneshot::Sender<Result<Executed, Refusal>>;

/// An operation on its way into its lane, and who waits for it.
pub(crate) struct Entering {
    pub(crate) queued: Queued,
    pub(crate) reply: Option<Reply>,
}

pub(crate) struct Lanes {
    shared: Arc<Shared>,
    link: Link,
    queue: Queue,
    senders: Mutex<HashMap<String, mpsc::Sender<Entering>>>,
}

impl Lanes {
    pub(crate) fn new(shared: Arc<Shared>, link: Link, queue: Queue) -> Arc<Lanes> {
        Arc::new(Lanes {
            shared,
            link,
            queue,
            senders: Mutex::default(),
        })
    }

    /// Starts lanes with what the queue held when it was opened, oldest first.
    pub(crate) fn hold(self: &Arc<Self>, held: Vec<Queued>) {
        let mut lanes: HashMap<String, Vec<Queued>> = HashMap::new();
        for queued in held {
            lanes.entry(queued.database.clone()).or_default().push(queued);
        }
        for (database, held) in lanes {
            let sender = self.start(&database, held);
            self.senders.lock().insert(database, sender);
        }
    }

    pub(crate) async fn put(self: &Arc<Self>, entering: Entering) {
        let database = entering.queued.database.clone();
        let sender = {
            let mut senders = self.senders.lock();
            let sender = senders.entry(database);
            sender
                .or_insert_with_key(|database| self.start(database, vec![]))
                .clone()
        };
        // A lane ends only with the process, or when nobody has a sender.
        let _ = sender.send(entering).await;
    }

    fn start(self: &Arc<Self>, database: &str, held: Vec<Queued>) -> mpsc::Sender<Entering> {
        let (sender, receiver) = mpsc::channel(OPERATIONS_WAITING);
        let ended = Arc::clone(&self.shared).ended();
        let task = LaneTask {
            lanes: Arc::clone(self),
            database: database.to_owned(),
            lane: Lane::new(),
            operations: HashMap::new(),
            outcomes: HashMap::new(),
            replies: HashMap::new(),
            request: JoinSet::new(),
            started: Instant::now(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = task.run(held, receiver) => {}
                () = ended => {}
            }
        });
        sender
    }
}

struct LaneTask {
    lanes: Arc<Lanes>,
    database: String,
    lane: Lane,
    operations: HashMap<Number, Arc<Operation>>,
    /// Of operations whose answers wait.
    outcomes: HashMap<Number, Result<Executed, Refusal>>,
    replies: HashMap<Number, Vec<Reply>>,
    /// The request that is under way.
    request: JoinSet<Sent>,
    started: Instant,
}

/// A request and what came of it.
struct Sent {
    numbers: Vec<Number>,
    result: Result<Vec<Outcome>, Asked>,
}

impl LaneTask {
    async fn run(mut self, held: Vec<Queued>, mut entering: mpsc::Receiver<Entering>) {
        let mut reachable = self.lanes.link.reachability();
        let mut board = self.lanes.shared.board.changes();
        // Known to the others as long as it has something to do.
        let (mut listed, mut open) = (true, true);
        for queued in held {
            let event = self.enter(Entering { queued, reply: None });
            self.on(event).await;
        }
        while open || !self.lane.is_empty() {
            let due = self.lane.due().map(|due| self.started + Duration::from_millis(due));
            let due = due.unwrap_or_else(|| Instant::now() + IDLE);
            let event = tokio::select! {
                entering = entering.recv(), if open => match entering {
                    Some(entering) => self.enter(entering),
                    None => {
                        open = false;
                        Event::Tick
                    }
                },
                Some(sent) = self.request.join_next() => match sent {
                    Ok(sent) => self.sent(sent),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                changed = reachable.changed() => match changed {
                    Ok(()) if *reachable.borrow_and_update() => Event::Reachable,
                    _ => Event::Tick,
                },
                Ok(()) = board.changed(), if self.lane.waits_for_visibility() => self.here(),
                () = tokio::time::sleep_until(due.into()) => {
                    if self.lane.is_empty() && listed {
                        // What is on its way here still comes; what comes later starts a new lane.
                        self.lanes.senders.lock().remove(&self.database);
                        listed = false;
                    }
                    Event::Tick
                }
            };
            self.on(event).await;
        }
    }

    async fn on(&mut self, event: Event) {
        let now = self.started.elapsed().as_millis() as Moment;
        self.lane.set_wall_clock(now_ms());
        let mut actions = self.lane.on(event, now);
        if self.lane.waits_for_visibility() {
            // It may have become visible before it was known to be done.
            let here = self.here();
            actions.extend(self.lane.on(here, now));
        }
        for action in actions {
            match action {
                Action::Send(numbers) => self.send(numbers),
                Action::Forget(number) => {
                    self.operations.remove(&number);
                    self.lanes.queue.remove(number).await;
                }
                Action::Answer(number) => self.answer(number),
                Action::Expire(number) => self.expire(number).await,
            }
        }
    }

    fn enter(&mut self, entering: Entering) -> Event {
        let Entering { queued, reply } = entering;
        let (number, at_ms, bytes) = (queued.number, queued.at_ms, queued.operation.size_bytes());
        self.operations.insert(number, Arc::new(queued.operation));
        if let Some(reply) = reply {
            let replies = self.replies.entry(number).or_default();
            replies.retain(|reply| !reply.is_closed());
            // Dropped, it says that the outcome is not known yet.
            if replies.len() < REPLIES {
                replies.push(reply);
            }
        }
        Event::Queued { number, bytes, at_ms }
    }

    fn here(&self) -> Event {
        let status = self.lanes.shared.board.get(&self.database);
        Event::Here(status.map(|status| status.head.position).unwrap_or_default())
    }

    fn send(&mut self, numbers: Vec<Number>) {
        let path = format!("/v1/databases/{}/operations", self.database);
        let request = self.lanes.link.post(&path).timeout(FORWARD_TIMEOUT);
        let operations = numbers.iter().filter_map(|number| self.operations.get(number));
        let operations: Vec<Arc<Operation>> = operations.cloned().collect();
        self.request.spawn(async move {
            let operations: Vec<&Operation> = operations.iter().map(|operation| &**operation).collect();
            let result = link::ask(request, &operations).await;
            Sent { numbers, result }
        });
    }

    fn sent(&mut self, sent: Sent) -> Event {
        let Sent { numbers, result } = sent;
        match result {
            Ok(outcomes) => {
                let outcomes = numbers.into_iter().zip(outcomes);
                let verdicts = outcomes.map(|(number, outcome)| self.judge(number, outcome));
                Event::Answered(verdicts.collect())
            }
            Err(Asked::Refused(refusal)) if matches!(refusal.code(), "malformed" | "no_database") => {
                tracing::warn!(database = self.database, %refusal, "writes are refused");
                for number in numbers {
                    self.outcomes.insert(number, Err(refusal.clone()));
                }
                Event::Unanswered(match refusal.code() {
                    "malformed" => Failure::NotTaken,
                    _ => Failure::NoDatabase,
                })
            }
            // A wrong token, an agent that is no primary (any more): nothing that was accepted is lost for that.
            Err(Asked::Refused(refusal)) => {
                tracing::error!(database = self.database, %refusal, "the primary refuses this agent; writes stay in the queue");
                Event::Unanswered(Failure::Passing)
            }
            Err(asked) => {
                tracing::debug!(?asked, database = self.database, "writes could not be forwarded yet");
                Event::Unanswered(Failure::Passing)
            }
        }
    }

    fn judge(&mut self, number: Number, outcome: Outcome) -> Verdict {
        match outcome {
            Outcome::Executed(executed) => {
                let position = executed.position;
                self.outcomes.insert(number, Ok(executed));
                Verdict::Done(position)
            }
            Outcome::Problem(problem) if problem.is_final() => {
                self.outcomes.insert(number, Err(Refusal::from(problem)));
                Verdict::Refused
            }
            Outcome::Problem(problem) => {
                tracing::debug!(
                    database = self.database,
                    code = problem.code,
                    "a write could not be done yet"
                );
                Verdict::NotYet
            }
        }
    }

    async fn expire(&mut self, number: Number) {
        if let Some(operation) = self.operations.remove(&number) {
            let id = operation.id.clone();
            tracing::error!(
                database = self.database,
                id,
                "a write waited too long for the primary and is given up"
            );
            self.lanes.shared.metrics.expired(&self.database);
            self.outcomes.insert(number, Err(Refusal::Expired(id)));
        }
        self.lanes.queue.remove(number).await;
        self.answer(number);
    }

    fn answer(&mut self, number: Number) {
        let (outcome, replies) = (self.outcomes.remove(&number), self.replies.remove(&number));
        if let Some(outcome) = outcome {
            for reply in replies.into_iter().flatten() {
                // Refused when whoever asked has gone.
                let _ = reply.send(outcome.clone());
            }
        }
    }
}
