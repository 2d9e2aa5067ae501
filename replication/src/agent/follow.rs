//! The primary's side of the stream that replicas follow: one for each agent, all databases in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::Shared;
use super::frames::{self, Notice, Request};
use super::primary_site::blocking;
use crate::log::{Known, Log, LogError};
use crate::position::Txid;

/// Time between two signs of life.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Frames waiting for a follower's connection; beyond it the log is not read for it.
const FRAMES_WAITING: usize = 32;
/// Bytes read for one database before it is another's turn.
const BYTES_PER_TURN: usize = 1024 * 1024;
/// A request line is a name and a state.
const LINE_BYTES: usize = 64 * 1024;

/// Serves one follower: `requests` is the body of its request, the result that of the response.
pub(crate) fn serve(shared: &Arc<Shared>, log: Arc<dyn Log>, requests: Body) -> Body {
    let ended = Arc::clone(shared).ended();
    let (frames, receiver) = mpsc::channel::<Bytes>(FRAMES_WAITING);
    tokio::spawn(async move {
        let mut follower = Follower {
            log,
            frames,
            positions: BTreeMap::new(),
            agent: String::new(),
        };
        tokio::select! {
            // The follower has gone: nothing to tell anybody.
            _ = follower.run(requests) => {}
            () = ended => {}
        }
        tracing::info!(agent = follower.agent, "a replica has left");
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver| {
        receiver
            .recv()
            .await
            .map(|frame| (Ok::<_, std::convert::Infallible>(frame), receiver))
    });
    Body::from_stream(stream)
}

struct Follower {
    log: Arc<dyn Log>,
    frames: mpsc::Sender<Bytes>,
    /// Up to where each database was sent.
    positions: BTreeMap<String, Txid>,
    agent: String,
}

/// The connection has ended.
struct Gone;

impl Follower {
    async fn run(&mut self, requests: Body) -> Result<(), Gone> {
        let mut requests = requests.into_data_stream();
        let mut line = Vec::new();
        let mut appended = self.log.appended();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                chunk = requests.next() => {
                    let chunk = chunk.ok_or(Gone)?.map_err(|_| Gone)?;
                    line.extend_from_slice(&chunk);
                    while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                        let request = serde_json::from_slice(&line[..end]);
                        line.drain(..=end);
                        self.take(request.map_err(|_| Gone)?).await?;
                    }
                    if line.len() > LINE_BYTES {
                        return Err(Gone);
                    }
                }
                changed = appended.changed() => changed.map_err(|_| Gone)?,
                _ = heartbeat.tick() => {
                    self.send(frames::notice(&Notice::Heads { heads: self.log.heads() })).await?;
                }
            }
            self.send_new().await?;
        }
    }

    async fn take(&mut self, request: Request) -> Result<(), Gone> {
        match request {
            Request::Hello { agent } => {
                tracing::info!(agent, "a replica follows");
                self.agent = agent;
            }
            Request::Follow { database, state } => match self.log.find(&database, &state) {
                Known::Here => {
                    self.positions.insert(database, state.position.txid);
                }
                known => {
                    self.positions.remove(&database);
                    let diverged = known == Known::Never;
                    tracing::info!(agent = self.agent, database, state = %state.position, diverged, "a replica needs a snapshot");
                    self.send(frames::notice(&Notice::Resync { database, diverged }))
                        .await?;
                }
            },
            Request::Applied { .. } => {}
        }
        Ok(())
    }

    /// Sends what the log has gained, a bounded piece of each database in turn until all are level.
    async fn send_new(&mut self) -> Result<(), Gone> {
        loop {
            let behind = |(database, txid): (&String, &Txid)| {
                let head = self.log.head(database)?;
                (head.position.txid > *txid).then(|| (database.clone(), *txid))
            };
            let behind: Vec<_> = self.positions.iter().filter_map(behind).collect();
            let mut sent = false;
            for (database, txid) in behind {
                let (log, name) = (Arc::clone(&self.log), database.clone());
                match blocking(move || log.read_after(&name, txid, BYTES_PER_TURN)).await {
                    Ok(files) => {
                        for file in files {
                            let Some(last) = last_txid(&file) else { return Err(Gone) };
                            self.send(frames::file(&database, &file)).await?;
                            self.positions.insert(database.clone(), last);
                            sent = true;
                        }
                    }
                    Err(LogError::Gone { .. }) => {
                        self.positions.remove(&database);
                        self.send(frames::notice(&Notice::Resync {
                            database,
                            diverged: false,
                        }))
                        .await?;
                    }
                    Err(error) => {
                        tracing::error!(%error, database, "the log cannot be read for a replica");
                        return Err(Gone);
                    }
                }
            }
            if !sent {
                return Ok(());
            }
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

fn last_txid(file: &[u8]) -> Option<Txid> {
    let header = crate::ltx::Header::parse(file.first_chunk()?).ok()?;
    Some(header.max_txid)
}
