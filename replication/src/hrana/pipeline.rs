//! The requests of one stream, run in their order.
//!
//! A request that fails is a result like others. At a replica, a request that needs the primary's transaction takes all
//! that follow it along: see `forward`.

use std::time::Instant;

use super::Hrana;
use super::batch::{self, Ran, Whole};
use super::bounds;
use super::encoding::{self, Encoding};
use super::failure::Failure;
use super::forward;
use super::proto::{self, StreamResponse, StreamResult};
use super::request::{Request, Script, Step};
use super::stream::{Stream, Transaction};
use super::text::{self, Begin, Control};
use crate::agent::{ClientRole, Refusal, Site};
use crate::execute::Read;
use crate::{Rows, Statement, Value};

pub(super) struct Pipeline<'a> {
    pub(super) hrana: &'a Hrana,
    pub(super) stream: Stream,
    pub(super) encoding: Encoding,
    /// Bytes of results that still fit into the answer.
    left_bytes: usize,
    /// The client has closed the stream.
    pub(super) closed: bool,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(hrana: &'a Hrana, stream: Stream, encoding: Encoding) -> Pipeline<'a> {
        Pipeline {
            hrana,
            stream,
            encoding,
            left_bytes: bounds::RESULT_BYTES,
            closed: false,
        }
    }

    /// One result for each request. A refusal ends the stream.
    pub(super) async fn run(&mut self, requests: Vec<Request>) -> Result<Vec<StreamResult>, Refusal> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        while let Some(request) = requests.next() {
            if let Site::Replica(site) = &*self.hrana.site
                && self.belongs_to_primary(&request).await
            {
                let rest = std::iter::once(request).chain(requests).collect();
                results.extend(forward::forward(self, site, rest).await?);
                break;
            }
            results.push(match self.one(request).await {
                Ok(response) => response.into_result(),
                Err(failure) => StreamResult::Error(failure.to_proto()),
            });
        }
        Ok(results)
    }

    /// Whether the request is part of a transaction that may write, which only the primary can keep open; or wants to
    /// read a state that is not here.
    async fn belongs_to_primary(&self, request: &Request) -> bool {
        if self.stream.role == ClientRole::Read {
            return false;
        }
        match &self.stream.transaction {
            Transaction::AtPrimary { .. } => return true,
            Transaction::Reading(_) | Transaction::Writing(_) | Transaction::Ended => return false,
            Transaction::None => {}
        }
        let texts: Vec<&str> = match request {
            Request::Execute(step) => vec![&step.statement.sql],
            // One operation, which goes through the write queue.
            Request::Batch(steps)
                if self.stream.foreign_keys
                    && batch::whole(steps).is_some_and(|whole| whole.begin != Begin::ReadOnly) =>
            {
                vec![]
            }
            Request::Batch(steps) => steps.iter().map(|step| step.statement.sql.as_str()).collect(),
            Request::Sequence(Script(script)) => text::split(script),
            Request::Describe(_) | Request::Close | Request::Done(_) | Request::GetAutocommit => return false,
        };
        let mut reads = false;
        for text in texts {
            match text::control(text) {
                Some(Control::Begin(Begin::Deferred | Begin::Write)) => return true,
                Some(Control::Begin(Begin::ReadOnly)) => reads = true,
                _ if !self.stream.foreign_keys || text::foreign_keys(text) == Some(false) => return true,
                _ => {}
            }
        }
        reads && !self.hrana.is_current(&self.stream).await
    }

    pub(super) async fn one(&mut self, request: Request) -> Result<StreamResponse, Failure> {
        self.stream.look_at_transaction();
        Ok(match request {
            Request::Close => {
                self.closed = true;
                self.stream.transaction = Transaction::None;
                StreamResponse::Close(proto::Nothing {})
            }
            Request::Execute(step) => StreamResponse::Execute(proto::ExecuteResp {
                result: self.step(step).await?,
            }),
            Request::Batch(steps) => StreamResponse::Batch(proto::BatchResp {
                result: self.batch(steps).await,
            }),
            Request::Sequence(Script(script)) => {
                for sql in text::split(&script) {
                    self.statement(Statement::new(sql, vec![])).await?;
                }
                StreamResponse::Sequence(proto::Nothing {})
            }
            Request::Describe(Script(sql)) => StreamResponse::Describe(proto::DescribeResp {
                result: self.describe(sql).await?,
            }),
            Request::Done(response) => response,
            Request::GetAutocommit => StreamResponse::GetAutocommit(proto::GetAutocommitResp {
                is_autocommit: self.stream.is_autocommit(),
            }),
        })
    }

    pub(super) async fn batch(&mut self, steps: Vec<Step>) -> proto::BatchResult {
        let by_itself = matches!(self.stream.transaction, Transaction::None) && self.stream.foreign_keys;
        let ran = match batch::whole(&steps) {
            Some(whole) if by_itself && self.stream.role == ClientRole::Write && whole.begin != Begin::ReadOnly => {
                self.whole(steps, whole).await
            }
            _ => self.steps(steps).await,
        };
        ran.into_proto(encoding::to_index(self.stream.seen))
    }

    async fn steps(&mut self, steps: Vec<Step>) -> Ran {
        let mut ran = Ran::default();
        for step in steps {
            self.stream.look_at_transaction();
            let autocommit = self.stream.is_autocommit();
            match &step.condition {
                Some(condition) if !ran.holds(condition, autocommit) => ran.skip(),
                _ => ran.push(self.step(step).await),
            }
        }
        ran
    }

    /// A batch that is one transaction, as one operation.
    async fn whole(&mut self, steps: Vec<Step>, whole: Whole) -> Ran {
        let steps: Vec<Step> = steps
            .into_iter()
            .skip(whole.statements.start)
            .take(whole.statements.len())
            .collect();
        let only_reads = steps.iter().all(|step| text::may_only_read(&step.statement.sql));
        if whole.begin == Begin::Deferred
            && only_reads
            && let Some(ran) = self.read_whole(&steps).await
        {
            return ran;
        }
        let began = Instant::now();
        let want_rows: Vec<bool> = steps.iter().map(|step| step.want_rows).collect();
        let statements = steps.into_iter().map(|step| step.statement).collect();
        let mut ran = Ran::default();
        match self.hrana.write(&mut self.stream, statements).await {
            Ok(rows) => {
                ran.push(Ok(proto::StmtResult::default()));
                for (rows, want_rows) in rows.into_iter().zip(want_rows) {
                    ran.push(self.result(rows, want_rows, began));
                }
                ran.push(Ok(proto::StmtResult::default()));
                ran.skip();
            }
            Err(failure) => self.undone(&mut ran, want_rows.len(), failure),
        }
        ran
    }

    /// What the steps of a transaction say of which nothing was done. Of the statements before the one that failed,
    /// nothing is left to tell.
    fn undone(&self, ran: &mut Ran, statements: usize, failure: Failure) {
        let nothing = || Ok(proto::StmtResult::default());
        let failed = match failure.statement() {
            Some(index) => 1 + index.min(statements - 1),
            // A constraint that is checked at the end.
            None if failure.to_proto().code == "SQLITE_CONSTRAINT" => 1 + statements,
            None => 0,
        };
        for _ in 0..failed {
            ran.push(nothing());
        }
        ran.push(Err(failure));
        for _ in failed..1 + statements {
            ran.skip();
        }
        ran.push(nothing());
    }

    /// A transaction that only reads, in one state, here; `None` when it may write or cannot be read here.
    async fn read_whole(&mut self, steps: &[Step]) -> Option<Ran> {
        let transaction = self.hrana.begin_reading(&mut self.stream).await.ok()?;
        let began = Instant::now();
        let mut ran = Ran::default();
        ran.push(Ok(proto::StmtResult::default()));
        for (index, step) in steps.iter().enumerate() {
            match transaction.read(step.statement.clone()).await {
                Ok(Read::Rows(rows)) => ran.push(self.result(rows, step.want_rows, began)),
                Ok(Read::NeedsWriter) => return None,
                Err(error) => {
                    ran.push(Err(error.into()));
                    for _ in index + 1..steps.len() + 1 {
                        ran.skip();
                    }
                    ran.push(Ok(proto::StmtResult::default()));
                    return Some(ran);
                }
            }
        }
        ran.push(Ok(proto::StmtResult::default()));
        ran.skip();
        Some(ran)
    }

    async fn step(&mut self, step: Step) -> Result<proto::StmtResult, Failure> {
        match text::split(&step.statement.sql).len() {
            1 => {}
            count => return Err(Failure::Statements(count)),
        }
        let began = Instant::now();
        let rows = self.statement(step.statement).await?;
        self.result(rows, step.want_rows, began)
    }

    /// Runs one statement wherever the stream is.
    async fn statement(&mut self, statement: Statement) -> Result<Rows, Failure> {
        self.stream.look_at_transaction();
        if let Some(control) = text::control(&statement.sql) {
            self.control(control).await?;
            return Ok(Rows::default());
        }
        if let Some(on) = text::foreign_keys(&statement.sql) {
            // Within a transaction it does nothing, as in SQLite.
            if self.stream.is_autocommit() {
                self.stream.foreign_keys = on;
            }
            return Ok(Rows::default());
        }
        match &self.stream.transaction {
            // Who only reads meets no foreign key.
            Transaction::None if self.stream.foreign_keys || self.stream.role == ClientRole::Read => {
                self.autocommit(statement).await
            }
            Transaction::None => {
                let transaction = self.hrana.begin(&self.stream).await?;
                let rows = transaction.run(statement).await?;
                let committed = transaction.commit().await?;
                self.stream.see(committed.position.unwrap_or_default());
                Ok(rows)
            }
            Transaction::Writing(transaction) => Ok(transaction.run(statement).await?),
            Transaction::Reading(transaction) => match transaction.read(statement).await? {
                Read::Rows(rows) => Ok(rows),
                Read::NeedsWriter if self.stream.role == ClientRole::Read => Err(Failure::ReadOnlyToken),
                Read::NeedsWriter => Err(Failure::ReadOnlyTransaction),
            },
            Transaction::AtPrimary { .. } => Err(Failure::Refused(Refusal::NotPrimary)),
            Transaction::Ended => Err(Failure::TransactionEnded),
        }
    }

    /// A statement by itself. What begins like a read is tried as one, which keeps it from the writer.
    async fn autocommit(&mut self, statement: Statement) -> Result<Rows, Failure> {
        let reads = text::may_only_read(&statement.sql);
        if reads || self.stream.role == ClientRole::Read {
            if let Some(rows) = self.hrana.read(&mut self.stream, statement.clone()).await? {
                return Ok(rows);
            }
            self.stream.may_write()?;
        }
        let mut rows = self.hrana.write(&mut self.stream, vec![statement]).await?;
        Ok(rows.pop().unwrap_or_default())
    }

    async fn control(&mut self, control: Control) -> Result<(), Failure> {
        match control {
            Control::Begin(begin) => self.begin(begin).await,
            Control::Commit => match std::mem::replace(&mut self.stream.transaction, Transaction::None) {
                Transaction::Writing(transaction) => {
                    // Until the client has seen that it failed, nothing runs outside of the transaction it believes in.
                    self.stream.transaction = Transaction::Ended;
                    let committed = transaction.commit().await?;
                    self.stream.transaction = Transaction::None;
                    self.stream.see(committed.position.unwrap_or_default());
                    Ok(())
                }
                Transaction::Reading(_) => Ok(()),
                Transaction::Ended => Err(Failure::TransactionEnded),
                Transaction::None | Transaction::AtPrimary { .. } => {
                    Err(Failure::Transaction("cannot commit - no transaction is active"))
                }
            },
            Control::Rollback => match std::mem::replace(&mut self.stream.transaction, Transaction::None) {
                Transaction::Writing(_) | Transaction::Reading(_) | Transaction::Ended => Ok(()),
                Transaction::None | Transaction::AtPrimary { .. } => {
                    Err(Failure::Transaction("cannot rollback - no transaction is active"))
                }
            },
            Control::Savepoint(savepoint) => match &self.stream.transaction {
                Transaction::Writing(transaction) => Ok(transaction.savepoint(savepoint).await?),
                // There is nothing to undo.
                Transaction::Reading(_) => Ok(()),
                Transaction::Ended => Err(Failure::TransactionEnded),
                Transaction::None | Transaction::AtPrimary { .. } => {
                    Err(Failure::Transaction("a savepoint needs a transaction: BEGIN first"))
                }
            },
        }
    }

    async fn begin(&mut self, begin: Begin) -> Result<(), Failure> {
        match self.stream.transaction {
            Transaction::None => {}
            Transaction::Ended => return Err(Failure::TransactionEnded),
            _ => return Err(Failure::Transaction("cannot start a transaction within a transaction")),
        }
        let reads = begin == Begin::ReadOnly || begin == Begin::Deferred && self.stream.role == ClientRole::Read;
        self.stream.transaction = match reads {
            true => Transaction::Reading(self.hrana.begin_reading(&mut self.stream).await?),
            false => Transaction::Writing(self.hrana.begin(&self.stream).await?),
        };
        Ok(())
    }

    async fn describe(&mut self, sql: String) -> Result<proto::DescribeResult, Failure> {
        match text::split(&sql).len() {
            1 => {}
            count => return Err(Failure::Statements(count)),
        }
        let description = match &self.stream.transaction {
            Transaction::Writing(transaction) => transaction.describe(sql).await?,
            Transaction::Reading(transaction) => transaction.describe(sql).await?,
            Transaction::None | Transaction::AtPrimary { .. } | Transaction::Ended => {
                self.hrana.begin_reading(&mut self.stream).await?.describe(sql).await?
            }
        };
        Ok(encoding::description(description))
    }

    fn result(&mut self, rows: Rows, want_rows: bool, began: Instant) -> Result<proto::StmtResult, Failure> {
        if want_rows {
            let size = size_bytes(&rows);
            self.left_bytes = self.left_bytes.checked_sub(size).ok_or(Failure::TooLarge)?;
        }
        let mut result = self.encoding.result(rows, want_rows)?;
        result.replication_index = encoding::to_index(self.stream.seen);
        result.query_duration_ms = began.elapsed().as_secs_f64() * 1000.0;
        Ok(result)
    }
}

fn size_bytes(rows: &Rows) -> usize {
    let values = rows.rows.iter().flatten();
    values
        .map(|value| {
            size_of::<Value>()
                + match value {
                    Value::Null | Value::Integer(_) | Value::Real(_) => 0,
                    Value::Text(text) => text.len(),
                    Value::Blob(bytes) => bytes.len(),
                }
        })
        .sum()
}
