//! What commands that serve have in common.

use std::path::Path;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::explain;

/// Two for requests; more would only wait for the disk or for the agent.
const THREADS: usize = 2;

/// Runs `serving` to its end.
pub(crate) fn block_on(serving: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build();
    runtime.map_err(|error| explain(&error))?.block_on(serving)
}

/// Returns a future that is there when SIGTERM or Ctrl-C comes, from now on.
pub(crate) fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Writes where it serves to the file of `--ready-file`: whole, or not at all.
pub(crate) fn write_ready(path: &Path, ready: &Value) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, ready.to_string())?;
    std::fs::rename(&temporary, path)
}
