//! How a database is opened.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// The name it has in the configuration; logs and thread names use it.
    pub name: String,
    /// Created when missing; its directory must exist.
    pub path: PathBuf,
    /// A directory of `NNNN_name.sql` files, applied in order at open.
    pub migrations: Option<PathBuf>,
    /// Whether the file is a primary's or a replica's: then every read says which state it read.
    pub replicated: bool,
    /// How long one statement, or one batch as a whole, may run. Waiting for its turn is not counted.
    pub statement_timeout: Duration,
    /// A replica further behind is not read; the primary is asked instead. Without it any replica will do.
    pub max_staleness: Option<Duration>,
    /// Reader connections, each with a thread; at least one.
    pub readers: usize,
    /// Rows one statement may return.
    pub max_rows: usize,
    /// Bytes one statement may return, counted as held in memory.
    pub max_result_bytes: usize,
}

impl DatabaseSettings {
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> DatabaseSettings {
        DatabaseSettings {
            name: name.into(),
            path: path.into(),
            migrations: None,
            replicated: false,
            statement_timeout: Duration::from_secs(5),
            max_staleness: None,
            readers: 4,
            max_rows: 100_000,
            max_result_bytes: 32 * 1024 * 1024,
        }
    }
}
