//! The primary's side of the stream that replicas follow: one for each agent, all databases in it.
//!
//! What is sent decides [`Follower`]; here it is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::Shared;
use super::follower::{Action, Event, Follower, Found};
use super::frames::{self, Notice, Request};
use super::primary_site::blocking;
use crate::log::{Log, LogError};
use crate::position::{Epoch, Txid};

/// Time between two signs of life.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Frames waiting for a follower's connection; beyond it the log is not read for it.
const FRAMES_WAITING: usize = 32;
/// Bytes read for one database before it is another's turn.
const BYTES_PER_TURN: usize = 1024 * 1024;
/// A request line is a name and a state.
const LINE_BYTES: usize = 64 * 1024;

/// Serves one follower: `requests` is the body of its request, the result that of the response.
pub(crate) fn serve(shared: &Arc<Shared>, log: Arc<dyn Log>, epoch: Epoch, requests: Body) -> Body {
    let shared = Arc::clone(shared);
    let ended = Arc::clone(&shared).ended();
    let (frames, receiver) = mpsc::channel::<Bytes>(FRAMES_WAITING);
    tokio::spawn(async move {
        let number = shared.replicas.arrive();
        let mut connection = Connection {
            shared: Arc::clone(&shared),
            number,
            follower: Follower::new(epoch),
            epoch,
            log,
            frames,
            reads: VecDeque::new(),
        };
        let reason = tokio::select! {
            gone = connection.run(requests) => gone.0,
            () = ended => "this agent stops",
        };
        shared.replicas.leave(number);
        tracing::info!(agent = connection.follower.agent(), reason, "a replica has left");
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver| {
        receiver
            .recv()
            .await
            .map(|frame| (Ok::<_, std::convert::Infallible>(frame), receiver))
    });
    Body::from_stream(stream)
}

struct Connection {
    shared: Arc<Shared>,
    /// Of the connection, among those of the primary.
    number: u64,
    follower: Follower,
    epoch: Epoch,
    log: Arc<dyn Log>,
    frames: mpsc::Sender<Bytes>,
    /// Databases whose turn comes, each with the place to read from.
    reads: VecDeque<(String, u64, Txid)>,
}

/// Why the connection has ended.
struct Gone(&'static str);

impl Connection {
    async fn run(&mut self, requests: Body) -> Gone {
        let Err(gone) = self.talk(requests).await;
        gone
    }

    async fn talk(&mut self, requests: Body) -> Result<std::convert::Infallible, Gone> {
        let mut requests = requests.into_data_stream();
        let mut line = Vec::new();
        let mut appended = self.log.appended();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        // The first comes at once: before anything else the follower learns who leads.
        heartbeat.tick().await;
        self.send_heads().await?;
        loop {
            // By chance, whichever is ready: a busy log and a long backlog starve neither each other nor the requests.
            tokio::select! {
                _ = heartbeat.tick() => self.send_heads().await?,
                chunk = requests.next() => {
                    let gone = Gone("its connection has ended");
                    line.extend_from_slice(&chunk.ok_or(gone)?.map_err(|_| Gone("its connection broke"))?);
                    while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                        let request = serde_json::from_slice(&line[..end]);
                        line.drain(..=end);
                        self.on(Event::Said(request.map_err(|_| Gone("its request is not valid"))?)).await?;
                    }
                    if line.len() > LINE_BYTES {
                        return Err(Gone("its request is too long"));
                    }
                }
                changed = appended.changed() => {
                    changed.map_err(|_| Gone("the log has been closed"))?;
                    self.on(Event::LogChanged).await?;
                }
                () = std::future::ready(()), if !self.reads.is_empty() => self.read_next().await?,
            }
        }
    }

    async fn on(&mut self, event: Event) -> Result<(), Gone> {
        match &event {
            Event::Said(Request::Hello { agent }) => self.shared.replicas.named(self.number, agent),
            Event::Said(Request::Applied { heads }) => self.shared.replicas.applied(self.number, heads.clone()),
            _ => {}
        }
        for action in self.follower.on(event, &*self.log) {
            match action {
                Action::Notice(notice) => {
                    if let Notice::Resync { database, diverged, .. } = &notice {
                        let agent = self.follower.agent();
                        tracing::info!(agent, database, diverged, "a replica needs a snapshot");
                    }
                    self.send(frames::notice(&notice)).await?;
                }
                Action::File { database, ask, file } => self.send(frames::file(&database, ask, &file)).await?,
                Action::Read { database, ask, after } => self.reads.push_back((database, ask, after)),
                Action::End(reason) => return Err(Gone(reason)),
            }
        }
        Ok(())
    }

    async fn read_next(&mut self) -> Result<(), Gone> {
        let Some((database, ask, after)) = self.reads.pop_front() else {
            return Ok(());
        };
        let (log, name) = (Arc::clone(&self.log), database.clone());
        let found = match blocking(move || log.read_after(&name, after, BYTES_PER_TURN)).await {
            Ok(files) => Found::Files(files),
            Err(LogError::Gone { .. }) => Found::Gone,
            Err(error) => {
                tracing::error!(%error, database, "the log cannot be read for a replica");
                return Err(Gone("the log cannot be read"));
            }
        };
        self.on(Event::Read { database, ask, found }).await
    }

    async fn send_heads(&self) -> Result<(), Gone> {
        let gone = self.shared.gone.lock().clone();
        let mut heads = self.log.heads();
        heads.retain(|name, _| !gone.contains(name));
        let epoch = self.epoch;
        self.send(frames::notice(&Notice::Heads { epoch, heads, gone })).await
    }

    async fn send(&self, frame: Bytes) -> Result<(), Gone> {
        self.frames
            .send(frame)
            .await
            .map_err(|_| Gone("its connection has ended"))
    }
}
