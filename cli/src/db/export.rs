//! `db export`: a database of one moment as a SQLite file, as SQL, or one table as CSV.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use reqwest::{Method, Response};
use selvedge_replication::offline;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::agent::Agent;
use super::{Answer, Failure, progress, time};

#[derive(Args)]
pub(super) struct Export {
    name: String,
    /// Where to; `-` is standard output, for SQL and CSV.
    file: PathBuf,
    /// What to write; the file's name says it otherwise.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The table or view, for CSV.
    #[arg(long)]
    table: Option<String>,
    /// Write over a file that exists.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Sqlite,
    Sql,
    Csv,
}

pub(super) async fn run(agent: &Agent, export: Export, silent: bool) -> Result<Answer, Failure> {
    let to_output = export.file == Path::new("-");
    let extension = export.file.extension().and_then(|extension| extension.to_str());
    let format = match (export.format, extension) {
        (Some(format), _) => format,
        (None, Some("db" | "sqlite" | "sqlite3")) => Format::Sqlite,
        (None, Some("sql")) => Format::Sql,
        (None, Some("csv")) => Format::Csv,
        (None, _) if export.table.is_some() => Format::Csv,
        (None, _) => {
            return Err(Failure::Usage(
                "in which form? Say --format sqlite, sql or csv".to_owned(),
            ));
        }
    };
    match (format, &export.table) {
        (Format::Csv, None) => return Err(Failure::Usage("CSV is of one table: give --table NAME".to_owned())),
        (Format::Sqlite | Format::Sql, Some(_)) => {
            return Err(Failure::Usage(
                "--table is for CSV; other forms have every table".to_owned(),
            ));
        }
        (Format::Sqlite, _) if to_output => {
            return Err(Failure::Usage(
                "a SQLite file is not for standard output; name a file".to_owned(),
            ));
        }
        _ => {}
    }
    if !to_output && !export.force && export.file.exists() {
        let message = format!("{} exists", export.file.display());
        return Err(Failure::new("exists", message).help("give --force to write over it"));
    }
    let name = match format {
        Format::Sqlite => "sqlite",
        Format::Sql => "sql",
        Format::Csv => "csv",
    };
    let mut query = vec![("format", name)];
    query.extend(export.table.as_deref().map(|table| ("table", table)));
    let path = format!("/v1/databases/{}/content?{}", export.name, encoded(&query));
    let answer = agent.send(agent.request(Method::GET, &path)).await?;
    let position = answer.headers().get("x-selvedge-position");
    let position = position
        .and_then(|position| position.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if to_output {
        let mut output = tokio::io::stdout();
        let bytes = copy(agent, answer, &mut output, &export.file, true).await?;
        output
            .flush()
            .await
            .map_err(|error| Failure::file(&export.file, &error))?;
        tracing::debug!(bytes, position, "exported");
        return Ok(Answer::new(
            "",
            json!({ "database": export.name, "bytes": bytes, "position": position }),
        ));
    }
    // Whole, or not there.
    let mut partial = export.file.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let written = write(agent, answer, &partial, format, silent).await;
    let finished = match written {
        Ok(bytes) => std::fs::rename(&partial, &export.file)
            .map(|()| bytes)
            .map_err(|error| Failure::file(&export.file, &error)),
        Err(failure) => Err(failure),
    };
    let bytes = finished.inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })?;
    let text = format!(
        "{} of {} at {position} are in {}",
        time::bytes(bytes),
        export.name,
        export.file.display()
    );
    let json = json!({ "database": export.name, "file": export.file, "bytes": bytes, "position": position });
    Ok(Answer::new(text, json))
}

async fn write(agent: &Agent, answer: Response, file: &Path, format: Format, silent: bool) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| Failure::file(file, &error);
    let mut output = tokio::fs::File::create(file).await.map_err(failed)?;
    copy(agent, answer, &mut output, file, silent).await?;
    output.sync_all().await.map_err(failed)?;
    drop(output);
    if format == Format::Sqlite {
        offline::strip(file).map_err(|error| Failure::new("content", format!("{}: {error}", file.display())))?;
    }
    std::fs::metadata(file).map(|metadata| metadata.len()).map_err(failed)
}

async fn copy(
    agent: &Agent,
    mut answer: Response,
    output: &mut (impl AsyncWriteExt + Unpin),
    file: &Path,
    silent: bool,
) -> Result<u64, Failure> {
    let bar = progress::bytes("receiving", answer.content_length(), silent);
    let mut bytes = 0;
    while let Some(piece) = answer.chunk().await.map_err(|error| agent.lost(&error))? {
        output
            .write_all(&piece)
            .await
            .map_err(|error| Failure::file(file, &error))?;
        bytes += piece.len() as u64;
        bar.set_position(bytes);
    }
    output.flush().await.map_err(|error| Failure::file(file, &error))?;
    bar.finish_and_clear();
    Ok(bytes)
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| {
        let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
        format!("{name}={value}")
    };
    pairs.iter().map(one).collect::<Vec<_>>().join("&")
}
