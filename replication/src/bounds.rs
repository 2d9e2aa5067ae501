//! Every number that bounds work in this crate and is not a setting, with its reason.

use std::time::Duration;

/// SQL text of one statement. Data belongs in parameters; a megabyte holds any generated statement we have met.
pub(crate) const SQL_BYTES: i32 = 1024 * 1024;

/// One string, blob or row. Larger things are files. A function that works on a value is not interruptible, so this
/// also bounds how far past its deadline a statement can run.
pub(crate) const VALUE_BYTES: i32 = 32 * 1024 * 1024;

/// Columns of a table, a result or an index: SQLite's planner has parts that are quadratic in it.
pub(crate) const COLUMNS: i32 = 512;

/// Depth of an expression tree; each level is stack in the parser and the code generator.
pub(crate) const EXPRESSION_DEPTH: i32 = 200;

/// Terms of a compound SELECT: each is a recursion of the code generator. A multi-row VALUES is not counted by SQLite.
pub(crate) const COMPOUND_TERMS: i32 = 100;

/// Bytes of a LIKE or GLOB pattern: matching is quadratic in it and not interruptible.
pub(crate) const LIKE_BYTES: i32 = 1000;

/// Triggers firing triggers; each level is a frame of the virtual machine.
pub(crate) const TRIGGER_DEPTH: i32 = 100;

/// The highest parameter number (`?32766` is SQLite's own default).
pub(crate) const PARAMETERS: i32 = 32_766;

/// Memory SQLite may hold in this process, over all databases: a statement that asks for more fails with an error
/// instead of the process with a signal. Page caches are 2 MiB a connection, the rest is sorting and large values.
pub(crate) const HEAP_BYTES: i64 = 1024 * 1024 * 1024;

/// Prepared statements kept a connection: more than an application has distinct statements on its hot paths.
pub(crate) const PREPARED_STATEMENTS: usize = 256;

/// Virtual machine instructions between two looks at the clock: some tens of microseconds, while the look costs 50 ns.
pub(crate) const INSTRUCTIONS_PER_CHECK: i32 = 1000;

/// How long a read may take that runs where it is asked and not on a reader's thread: as long as waking the thread and
/// being woken takes on an idle machine, twice. A handler's own code runs longer until it yields.
pub(crate) const AT_ONCE: Duration = Duration::from_micros(100);

/// A value, and a LIKE or GLOB pattern, in such a read: what one instruction does with them is not interruptible. The
/// product of the two, at a few steps a nanosecond, is below the time above.
pub(crate) const AT_ONCE_VALUE_BYTES: i32 = 8 * 1024;
pub(crate) const AT_ONCE_LIKE_BYTES: i32 = 32;

/// How long SQLite retries when another process holds a lock on the file (a backup, an operator's shell).
pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How long a statement waits for a reader, or for room in the writer's queue, before it is told that the database is
/// busy. Shorter than a reader's patience, longer than a burst.
pub(crate) const QUEUE_WAIT: Duration = Duration::from_secs(2);

/// Statements waiting for a reader at one time; beyond it they are refused at once.
pub(crate) const READS_WAITING: usize = 1024;

/// Writes waiting for the writer. At 64 a commit and a few milliseconds a commit this is well below `QUEUE_WAIT`.
pub(crate) const WRITES_WAITING: usize = 1024;

/// Writes that share one commit, and so one fsync. Throughput still grows beyond it, but so does what one slow
/// statement holds up.
pub(crate) const WRITES_PER_COMMIT: usize = 64;

/// Statements of one batch: a batch holds the writer for all of them.
pub(crate) const BATCH_STATEMENTS: usize = 1000;

/// Size of the write-ahead log from which the writer waits for readers to let go of it. SQLite's own checkpoints copy
/// pages back but restart the log only in a moment without readers, which a busy site never has.
pub(crate) const WAL_BYTES: u64 = 64 * 1024 * 1024;

/// How long that wait may be; every reader's statement is bounded, so a later try succeeds.
pub(crate) const WAL_RESTART_WAIT: Duration = Duration::from_millis(200);

/// How long an interactive transaction may hold the writer (sqld's limit).
pub(crate) const INTERACTIVE_TRANSACTION: Duration = Duration::from_secs(5);

/// Transactions between two rounds of forgetting old operations.
pub(crate) const GROUPS_PER_FORGETTING: u64 = 256;

/// How long a statement for PostgreSQL waits for a connection of the pool: as [`QUEUE_WAIT`].
pub(crate) const POSTGRES_WAIT: Duration = QUEUE_WAIT;

/// Statements waiting for a connection of one pool; beyond it they are refused at once.
pub(crate) const POSTGRES_WAITING: usize = READS_WAITING;

/// How long connecting to PostgreSQL may take, with TLS and authentication, and cleaning a connection. The server is
/// near.
pub(crate) const POSTGRES_CONNECT: Duration = Duration::from_secs(3);

/// How much longer than its limit a statement may take until the server counts as silent.
pub(crate) const POSTGRES_GRACE: Duration = Duration::from_secs(1);

/// Rows one statement for PostgreSQL may return, as for SQLite.
pub(crate) const POSTGRES_ROWS: usize = 100_000;

/// Bytes these rows may take in memory: half of what SQLite's may, since they are there several times on their way.
pub(crate) const POSTGRES_RESULT_BYTES: usize = 16 * 1024 * 1024;

/// How long a proxy or a replica's agent waits for an answer: waiting, connecting and the longest statement, a minute,
/// end before it.
pub(crate) const POSTGRES_REQUEST: Duration = Duration::from_secs(70);
