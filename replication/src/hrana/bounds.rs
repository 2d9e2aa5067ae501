//! Every number that bounds what Hrana clients can hold of an agent, with its reason.

use std::time::Duration;

/// A pipeline with its parameters: a value of 32 MiB in base64, and some room.
pub(super) const BODY_BYTES: usize = 64 * 1024 * 1024;

/// Requests of one pipeline. A client's batch is one request.
pub(super) const REQUESTS: usize = 1000;

/// Steps of one batch: as many statements as a batch of ours may have, and those around them (foreign keys off, BEGIN,
/// COMMIT, ROLLBACK, foreign keys on).
pub(super) const STEPS: usize = crate::bounds::BATCH_STATEMENTS + 5;

/// Results of one pipeline, counted as held in memory: twice the largest result of one statement.
pub(super) const RESULT_BYTES: usize = 64 * 1024 * 1024;

/// Streams that wait for their client's next request. Almost all hold nothing but a few texts.
pub(super) const STREAMS: usize = 4096;

/// A stream whose client has not come back by then is closed (sqld's limit).
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// SQL texts stored by one stream; the JavaScript client stores 30.
pub(super) const STORED_TEXTS: usize = 256;

/// Their bytes together.
pub(super) const STORED_BYTES: usize = 1024 * 1024;

/// Transactions that read one state at one time, over all databases: each has a thread and a connection.
pub(super) const READ_TRANSACTIONS: usize = 64;

/// How long a transaction waits until the writer is free: a little longer than one that came first may take.
pub(super) const BEGIN_WAIT: Duration = Duration::from_secs(6);

/// How long a read waits for what its client has seen before the primary is asked instead.
pub(super) const BOOKMARK_WAIT: Duration = Duration::from_millis(100);

/// How long an answer waits until what it tells of is visible at this replica; afterwards its bookmark does the rest.
pub(super) const VISIBLE_WAIT: Duration = Duration::from_secs(2);

/// A pipeline that is passed on to the primary: longer than a transaction may take there, waiting included.
pub(super) const FORWARD: Duration = Duration::from_secs(20);

/// Replicas whose readers are kept open. Each has a few threads.
pub(super) const OPEN_REPLICAS: usize = 64;

/// Readers of one replica.
pub(super) const READERS: usize = 4;
