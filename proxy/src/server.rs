//! `selvedge run`: sockets, signals, reload and an orderly end.
//!
//! The sockets are bound here and handed to pingora, so that a port in use is a clear error before anything starts and
//! port 0 is known. Shutdown is ours too: pingora's server sleeps its whole grace period and cuts connections that have
//! not asked yet; this one becomes unready first, lets load balancers notice, accepts what has arrived, closes the
//! listeners, and leaves as soon as the last connection is done.
//!
//! SIGHUP and `POST /reload` rebuild everything from the file; only a configuration that builds completely replaces the
//! one that serves. SIGTERM and SIGINT drain; a second one leaves at once.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use pingora_core::{
    server::{Fds, configuration::ServerConf},
    services::Service as _,
};
use selvedge_replication::chain;
use selvedge_schema::{Document, Listener};
use serde_json::json;
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    admin::{self, Operator},
    backlog::Backlog,
    edge::{Edge, OpenError},
};

/// How often a drain looks whether the last connection is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long connections without a request are waited for: a TLS handshake and a request, or the farewell of HTTP/2, are
/// three round trips of 300 ms.
const LAST_CONNECTIONS: Duration = Duration::from_secs(1);
/// How long tasks that hold no request (closing connections, writing logs) get after the drain.
const LAST_TASKS: Duration = Duration::from_millis(500);

/// What `selvedge run` was asked to do.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub config: PathBuf,
    /// Written atomically once every listener accepts: `{"listeners": [{"address", "tls"}], "admin": address}`.
    pub ready_file: Option<PathBuf>,
    /// Reload when the configuration file changes.
    pub watch: bool,
}

#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot listen on {address}; is the port in use, or below 1024 without the right to bind it?")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot write the ready file {path}")]
    ReadyFile { path: PathBuf, source: io::Error },
    #[error("cannot start the server's threads")]
    Threads(#[source] io::Error),
}

/// Why the process is still running or about to leave.
enum Event {
    Reload(Option<tokio::sync::oneshot::Sender<Result<u64, String>>>),
    Drain,
}

/// Serves `options.config` until a signal ends it. Blocks; returns after the drain.
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    let edge = Edge::open(&options.config)?;
    let document = edge.generation().document.clone();
    let bound = document
        .config
        .listeners
        .iter()
        .map(bind)
        .collect::<Result<Vec<_>, _>>()?;
    let admin = document
        .config
        .admin
        .as_ref()
        .map(|admin| listen(admin.address))
        .transpose()?;

    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("proxy")
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let (events, inbox) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);

    let ready = json!({
        "listeners": bound.iter().map(|b| json!({ "address": b.address, "tls": b.listener.tls.is_some() })).collect::<Vec<_>>(),
        "admin": admin.as_ref().and_then(|listener| listener.local_addr().ok()),
    });
    let backlog = bound.iter().map(Bound::again).collect::<Result<_, _>>()?;
    start_proxy(&edge, runtime.handle(), bound, stopped);
    if let Some(listener) = admin {
        start_admin(&edge, &document, listener, events.clone());
    }
    if options.watch {
        watch_file(&edge, &options.config, events.clone());
    }
    // Before anybody is told that this process can be signalled.
    let signals = {
        let _runtime = runtime.enter();
        Signals::listen()
    };
    if let Some(path) = &options.ready_file {
        write_atomically(path, &format!("{ready}\n")).map_err(|source| RunError::ReadyFile {
            path: path.clone(),
            source,
        })?;
    }
    tracing::info!(%ready, "serving");

    runtime.block_on(serve_until_drained(
        &edge,
        &options.config,
        signals,
        inbox,
        stop,
        Backlog::new(backlog),
    ));
    runtime.shutdown_timeout(LAST_TASKS);
    edge.close();
    Ok(())
}

struct Bound {
    listener: Listener,
    address: SocketAddr,
    socket: TcpListener,
}

impl Bound {
    /// The same socket once more.
    fn again(&self) -> Result<TcpListener, RunError> {
        self.socket.try_clone().map_err(|source| RunError::Bind {
            address: self.address,
            source,
        })
    }
}

fn bind(listener: &Listener) -> Result<Bound, RunError> {
    let socket = listen(listener.address)?;
    let address = socket.local_addr().map_err(|source| RunError::Bind {
        address: listener.address,
        source,
    })?;
    Ok(Bound {
        listener: listener.clone(),
        address,
        socket,
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = || {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    listen().map_err(|source| RunError::Bind { address, source })
}

/// Hands the bound sockets to pingora and starts accepting.
fn start_proxy(
    edge: &Arc<Edge>,
    runtime: &tokio::runtime::Handle,
    bound: Vec<Bound>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut service = edge.service(&Arc::new(ServerConf::default()));
    let mut fds = Fds::new();
    for (position, Bound { address, socket, .. }) in bound.into_iter().enumerate() {
        let name = address.to_string();
        match edge.tls_settings(position) {
            None => service.add_tcp(&name),
            Some(settings) => service.add_tls_with_settings(&name, None, settings),
        }
        fds.add(name, socket.into_raw_fd());
    }
    let fds = Some(Arc::new(Mutex::new(fds)));
    let listeners = stopped.clone();
    runtime.spawn(async move {
        tokio::select! {
            biased;
            // The listeners see it too. What the service would do next is cut every connection that has not asked yet.
            _ = stopped.changed() => {}
            () = service.start_service(fds, listeners, 1) => {}
        }
    });
}

struct Inbox {
    events: mpsc::Sender<Event>,
}

impl Operator for Inbox {
    fn reload(&self) -> Result<u64, String> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.events
            .blocking_send(Event::Reload(Some(answer)))
            .map_err(|_| "shutting down".to_owned())?;
        answered.blocking_recv().map_err(|_| "shutting down".to_owned())?
    }

    fn drain(&self) {
        let _ = self.events.try_send(Event::Drain);
    }
}

fn start_admin(edge: &Arc<Edge>, document: &Document, listener: TcpListener, events: mpsc::Sender<Event>) {
    let token = document.config.admin.as_ref().and_then(|admin| admin.token.clone());
    let router = admin::router(Arc::clone(edge), Arc::new(Inbox { events }), token);
    edge.housekeeping().spawn(async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "admin listener ended");
                }
            }
            Err(error) => tracing::error!(%error, "admin listener could not start"),
        }
    });
}

/// Reloads when the file changes; a burst of changes (editors write several times) is one reload.
fn watch_file(edge: &Arc<Edge>, config: &Path, events: mpsc::Sender<Event>) {
    const SETTLE: Duration = Duration::from_millis(200);
    let config = config.to_owned();
    edge.housekeeping().spawn(async move {
        let mut seen = modified(&config);
        loop {
            tokio::time::sleep(SETTLE).await;
            let now = modified(&config);
            if now != seen && now.is_some() {
                seen = now;
                if events.send(Event::Reload(None)).await.is_err() {
                    return;
                }
            }
        }
    });
}

fn modified(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn serve_until_drained(
    edge: &Arc<Edge>,
    config: &Path,
    mut signals: Signals,
    mut inbox: mpsc::Receiver<Event>,
    stop: watch::Sender<bool>,
    backlog: Backlog,
) {
    loop {
        let event = tokio::select! {
            _ = received(&mut signals.hangup) => Event::Reload(None),
            _ = received(&mut signals.terminate) => Event::Drain,
            _ = received(&mut signals.interrupt) => Event::Drain,
            Some(event) = inbox.recv() => event,
        };
        match event {
            Event::Reload(answer) => {
                let outcome = reload(edge, config).await;
                if let Some(answer) = answer {
                    let _ = answer.send(outcome);
                }
            }
            Event::Drain => break,
        }
    }
    tokio::select! {
        () = drain(edge, stop, backlog) => {}
        _ = received(&mut signals.terminate) => tracing::warn!("second signal: leaving at once"),
        _ = received(&mut signals.interrupt) => tracing::warn!("second signal: leaving at once"),
    }
}

async fn reload(edge: &Arc<Edge>, config: &Path) -> Result<u64, String> {
    let (edge, config) = (Arc::clone(edge), config.to_owned());
    // Building compiles components and opens databases: not on a proxy thread.
    let built = tokio::task::spawn_blocking(move || edge.reload(&config)).await;
    match built {
        Ok(Ok(generation)) => {
            tracing::info!(generation, "configuration reloaded");
            Ok(generation)
        }
        Ok(Err(error)) => {
            let why = chain(&error);
            tracing::error!(why, "configuration not reloaded; the previous one keeps serving");
            Err(why)
        }
        Err(panic) => {
            tracing::error!(%panic, "configuration not reloaded; the previous one keeps serving");
            Err(panic.to_string())
        }
    }
}

/// Unready first, then no new connections, then wait for those that are open.
async fn drain(edge: &Arc<Edge>, stop: watch::Sender<bool>, backlog: Backlog) {
    let settings = edge.generation().document.config.shutdown.clone();
    edge.start_draining();
    tracing::info!(delay = ?settings.delay, grace = ?settings.grace, "draining");
    tokio::time::sleep(settings.delay).await;
    let deadline = Instant::now() + settings.grace;
    backlog.empty(deadline).await;
    let _ = stop.send(true);
    drop(backlog);
    last_connections(edge, deadline).await;
    match edge.requests_in_flight() {
        0 => tracing::info!("drained"),
        left => tracing::warn!(left, "grace period over; requests under way are cut off"),
    }
}

/// Every answer ends its HTTP/1 connection now, and HTTP/2 clients were told to go; a connection that brings no request
/// is not waited for as one that did.
async fn last_connections(edge: &Edge, deadline: Instant) {
    let mut last_request = Instant::now();
    while edge.connections.open() > 0 && Instant::now() < deadline {
        if edge.requests_in_flight() > 0 {
            last_request = Instant::now();
        } else if last_request.elapsed() > LAST_CONNECTIONS {
            return;
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// A signal that cannot be listened for is left to its default.
struct Signals {
    hangup: Option<Signal>,
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Signals {
    /// Inside a tokio runtime.
    fn listen() -> Signals {
        Signals {
            hangup: listen_for(SignalKind::hangup()),
            terminate: listen_for(SignalKind::terminate()),
            interrupt: listen_for(SignalKind::interrupt()),
        }
    }
}

fn listen_for(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| tracing::warn!(%error, ?kind, "this signal will not be handled"))
        .ok()
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, path)
}
