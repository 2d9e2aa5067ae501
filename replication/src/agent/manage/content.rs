//! A database's whole content: taken in as a SQLite file, given out as one, as SQL or as CSV.
//!
//! What comes in becomes the content as a whole or leaves nothing behind; until then, and if it is refused, what was there
//! goes on. What goes out is of one moment; an answer that breaks off was not sent whole.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::super::Refusal;
use super::super::api::{Api, PIECE_BYTES, PIECES_WAITING};
use super::super::draft::{Draft, DraftError};
use super::super::link::BodyReader;
use super::super::primary_site::blocking;
use crate::dump::{Dump, DumpError};
use crate::log::Log;
use crate::snapshot;

/// How long what is not wanted any more is read.
const HEARING_OUT: Duration = Duration::from_secs(60);

pub(super) async fn import(
    State(api): State<Api>,
    Path(database): Path<String>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let site = api.primary()?;
    let (draft, drafting) = site.draft(&database).await?;
    let mut body = BodyReader::of_stream(request.into_body().into_data_stream());
    let received = blocking(move || {
        let bytes = receive(&draft, &mut body).inspect_err(|_| hear_out(&mut body))?;
        draft.check().map_err(|error| match error {
            DraftError::NotADatabase | DraftError::Damaged(_) | DraftError::Reserved(_) => {
                Refusal::Content(error.to_string())
            }
            other => Refusal::of(&other),
        })?;
        Ok::<_, Refusal>((draft, bytes))
    });
    let (draft, bytes) = received.await?;
    let head = site.replace((draft, drafting)).await?;
    Ok(Json(json!({ "database": database, "bytes": bytes, "head": head })))
}

/// Writes the body to the draft, durably.
fn receive(draft: &Draft, body: &mut BodyReader) -> Result<u64, Refusal> {
    let failed = |error| Refusal::of(&draft.io()(error));
    let mut file = File::create_new(draft.path()).map_err(failed)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let length = body
            .read(&mut piece)
            .map_err(|error| Refusal::Malformed(format!("what was sent broke off after {bytes} bytes: {error}")))?;
        if length == 0 {
            break;
        }
        file.write_all(&piece[..length]).map_err(failed)?;
        bytes += length as u64;
    }
    file.sync_all().map_err(failed)?;
    Ok(bytes)
}

/// Whoever still sends hears no answer.
fn hear_out(body: &mut BodyReader) {
    let mut piece = vec![0; PIECE_BYTES];
    let ends = Instant::now() + HEARING_OUT;
    while Instant::now() < ends && body.read(&mut piece).is_ok_and(|length| length > 0) {}
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Sqlite,
    Sql,
    Csv,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    #[serde(default)]
    format: Format,
    /// The table, for CSV.
    table: Option<String>,
}

pub(super) async fn export(
    State(api): State<Api>,
    Path(database): Path<String>,
    Query(export): Query<Export>,
) -> Result<Response, Refusal> {
    let site = api.primary()?;
    // Open, it agrees with its log; held, it stays open.
    let open = site.database(&database).await?;
    let path = site
        .path(&database)
        .ok_or_else(|| Refusal::NoDatabase(database.clone()))?;
    let format = export.format;
    if let (Format::Csv, None) = (format, &export.table) {
        return Err(Refusal::Malformed("CSV is of one table; name it".to_owned()));
    }
    let log = site.log();
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
    let (begin, begun) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let _open = open;
        let opened = Dump::open(&path).and_then(|dump| match (&export.format, &export.table) {
            (Format::Csv, Some(table)) => dump.check_table(table).map(|()| dump),
            _ => Ok(dump),
        });
        let opened = opened.map_err(|error| refused(&error));
        let dump = match opened.and_then(|dump| confirmed(dump, &*log, &database)) {
            Ok(dump) => dump,
            Err(refusal) => return drop(begin.send(Err(refusal))),
        };
        if begin.send(Ok((dump.position(), dump.file_bytes()))).is_err() {
            return;
        }
        let writer = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces.clone()));
        let written = match (export.format, &export.table) {
            (Format::Sqlite, _) => dump.write_file(writer),
            (Format::Sql, _) => dump.write_sql(writer),
            (Format::Csv, table) => dump.write_csv(table.as_deref().unwrap_or_default(), writer),
        };
        if let Err(error) = written {
            tracing::warn!(database, %error, "an export could not be sent whole");
            // Breaks the body off. Refused when the reader has gone.
            let _ = pieces.blocking_send(Err(std::io::Error::other(error)));
        }
    });
    let gone = || Refusal::Internal("the export ended before it began".to_owned());
    let (position, bytes) = begun.await.map_err(|_| gone())??;
    let stream = futures::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    let position = HeaderValue::try_from(position.to_string()).expect("a position is ASCII");
    headers.insert("x-selvedge-position", position);
    let media_type = match format {
        Format::Sqlite => "application/vnd.sqlite3",
        Format::Sql => "application/sql",
        Format::Csv => "text/csv; charset=utf-8; header=present",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Format::Sqlite = format {
        headers.insert(header::CONTENT_LENGTH, bytes.into());
    }
    Ok(response)
}

/// What was read may have been committed a moment ago: nobody is told of it before the log has it. Blocks.
pub(super) fn confirmed(dump: Dump, log: &dyn Log, database: &str) -> Result<Dump, Refusal> {
    match snapshot::wait_for_state(log, database, dump.position().txid) {
        Some(_) => Ok(dump),
        None => Err(Refusal::Internal(format!(
            "the log does not know {}, the state of the file; try again",
            dump.position()
        ))),
    }
}

fn refused(error: &DumpError) -> Refusal {
    match error {
        DumpError::NoTable(_) => Refusal::Content(error.to_string()),
        other => Refusal::of(other),
    }
}

/// A blocking writer whose other end is a body.
struct Pieces(mpsc::Sender<Result<Bytes, std::io::Error>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        let sent = self.0.blocking_send(piece);
        sent.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
