//! A primary reads all of its databases, one after another, and compares each with its log: what a disk has changed is found
//! before it is copied.

use std::sync::Arc;

use super::primary_site::{PrimarySite, blocking};
use crate::error::chain;
use crate::{damage, snapshot};

/// Never ends.
pub(crate) async fn run(site: &Arc<PrimarySite>) {
    loop {
        tokio::time::sleep(site.scrub_interval()).await;
        for name in site.names() {
            scrub(site, &name).await;
        }
    }
}

async fn scrub(site: &Arc<PrimarySite>, name: &str) {
    let Some(path) = site.path(name).filter(|path| damage::noted(path).is_none()) else {
        return;
    };
    let (log, database, file) = (site.log(), name.to_owned(), path.clone());
    match blocking(move || snapshot::check(&file, &database, &*log)).await {
        Ok(()) => site.scrubbed(name),
        Err(error) if error.is_damage() => site.close_damaged(name, &path, &error).await,
        // It was replaced or deleted meanwhile, or its newest commit is not in the log yet.
        Err(error) => tracing::debug!(
            database = name,
            error = chain(&error),
            "it could not be compared with its log"
        ),
    }
}
