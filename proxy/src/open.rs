//! How a configuration comes to serve: read, parsed, built completely, and only then put in place.
//!
//! The same steps run at the start, at a reload and for `selvedge check`; what differs is what becomes of the result.

use std::{fs, path::Path, sync::Arc};

use selvedge_replication::chain;
use selvedge_runtime::{Runtime, RuntimeSettings};
use selvedge_schema::{Colour, Config, Diagnostics, Document};

use crate::{
    access_log::AccessLogger,
    edge::{Edge, EdgeParts, OpenError},
    generation::{Generation, Purpose},
    metrics::Metrics,
    pop,
    response_cache::ResponseCache,
    tls::{self, CertificateStores, TlsError},
};

/// Reads and builds the configuration at `path` for a process that serves nothing yet.
pub(crate) fn open(path: &Path) -> Result<Arc<Edge>, OpenError> {
    tls::install_crypto_provider();
    let document = read(path)?;
    warn(&document);
    let config = &document.config;
    if config.listeners.is_empty() {
        let problem = document.error(
            "",
            "there is nothing to listen on",
            Some("this file describes an agent only: run `selvedge agent`".to_owned()),
        );
        return Err(OpenError::Invalid(
            document.diagnostics(vec![problem]).render(Colour::Plain),
        ));
    }
    create_folder(&config.data_dir)?;
    let certificates = CertificateStores::open(&config.listeners, &config.data_dir)
        .map_err(|problem| certificate_problem(&document, problem, Colour::Plain))?;
    let access_log = AccessLogger::open(&config.access_log).map_err(OpenError::AccessLog)?;
    let cache = ResponseCache::new(&config.cache);
    let concurrency = config.handlers.values().map(|handler| handler.limits.concurrency);
    let places = concurrency.fold(0, usize::saturating_add);
    let settings = RuntimeSettings::new(config.data_dir.join("artifacts")).with_places(places);
    let runtime = Runtime::start(settings).map_err(OpenError::Runtime)?;
    let housekeeping = housekeeping_threads()?;
    let generation = Generation::build(document, &runtime, None, Purpose::Serve, housekeeping.handle())?;
    generation.watch(housekeeping.handle());
    let watch = certificates.watch(housekeeping.handle());
    let edge = Edge::new(EdgeParts {
        generation,
        runtime,
        cache,
        metrics: Metrics::new(),
        access_log,
        certificates,
        certificate_watch: watch,
        housekeeping,
    });
    pop::start(&edge).map_err(OpenError::Pop)?;
    Ok(edge)
}

/// Threads for what goes on between requests.
fn housekeeping_threads() -> Result<tokio::runtime::Runtime, OpenError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("housekeeping")
        .enable_all()
        .build()
        .map_err(OpenError::Threads)
}

/// The configuration at `path`, parsed and not built.
pub fn read_configuration(path: &Path) -> Result<Document, OpenError> {
    let document = read(path)?;
    warn(&document);
    Ok(document)
}

/// Builds the configuration at `path` and swaps it in; on any error the one that serves stays, untouched.
pub(crate) fn reload(edge: &Edge, path: &Path) -> Result<u64, OpenError> {
    let document = read(path)?;
    warn(&document);
    let serving = edge.generation();
    needs_restart(&serving.document.config, &document.config)?;
    let staged = edge
        .certificates
        .stage(&document.config.listeners)
        .map_err(|problem| certificate_problem(&document, problem, Colour::Plain))?;
    let next = Generation::build(
        document,
        &edge.runtime,
        Some(&serving),
        Purpose::Serve,
        edge.housekeeping(),
    )?;
    for certificates in staged {
        certificates.commit();
    }
    edge.access_log.reopen();
    next.watch(edge.housekeeping());
    Ok(edge.swap(next))
}

/// Builds everything the configuration at `path` describes, in a folder of its own, and serves nothing. Returns the
/// warnings, rendered.
pub fn check(path: &Path, colour: Colour) -> Result<String, OpenError> {
    tls::install_crypto_provider();
    let document = read_as(path, colour)?;
    let config = &document.config;
    let scratch = tempfile::tempdir().map_err(|source| OpenError::Folder {
        path: std::env::temp_dir(),
        source,
    })?;
    CertificateStores::open(&config.listeners, scratch.path())
        .map_err(|problem| certificate_problem(&document, problem, colour))?;
    let settings = RuntimeSettings::new(scratch.path().join("artifacts"));
    let runtime = Runtime::start(settings).map_err(OpenError::Runtime)?;
    let warnings = document.diagnostics(document.warnings.clone()).render(colour);
    let housekeeping = housekeeping_threads()?;
    let built = Generation::build(
        document,
        &runtime,
        None,
        Purpose::Check {
            scratch: scratch.path(),
        },
        housekeeping.handle(),
    );
    match built {
        Ok(_) => Ok(warnings),
        Err(problems) => Err(OpenError::Invalid(problems.render(colour))),
    }
}

fn read(path: &Path) -> Result<Document, OpenError> {
    read_as(path, Colour::Plain)
}

fn read_as(path: &Path, colour: Colour) -> Result<Document, OpenError> {
    let unreadable = |source| OpenError::Read {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(unreadable)?;
    let parsed = selvedge_schema::parse(
        &path.display().to_string(),
        &text,
        &folder,
        &substitute,
        &selvedge_filters::schemas(),
    );
    parsed.map_err(|problems| OpenError::Invalid(problems.render(colour)))
}

/// `${NAME}` from the environment, `${file:PATH}` from a file.
fn substitute(name: &str) -> Option<String> {
    match name.strip_prefix("file:") {
        Some(path) => fs::read_to_string(path).ok(),
        None => std::env::var(name).ok(),
    }
}

fn warn(document: &Document) {
    for warning in &document.warnings {
        tracing::warn!(line = warning.line, "{}", warning.message);
    }
}

/// Points at the listener whose certificates cannot be served.
fn certificate_problem(document: &Document, (listener, error): (usize, TlsError), colour: Colour) -> OpenError {
    let pointer = format!("/listeners/{listener}/tls");
    let problem = document.error(&pointer, chain(&error), None);
    OpenError::Invalid(document.diagnostics(vec![problem]).render(colour))
}

fn create_folder(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).map_err(|source| OpenError::Folder {
        path: path.to_owned(),
        source,
    })
}

/// What sockets, threads and memory were made from cannot change under a process that uses them.
fn needs_restart(serving: &Config, next: &Config) -> Result<(), OpenError> {
    let sockets = |config: &Config| -> Vec<_> {
        config
            .listeners
            .iter()
            .map(|listener| (listener.address, listener.tls.is_some()))
            .collect()
    };
    let fixed = [
        ("listeners", sockets(serving) == sockets(next)),
        ("admin", serving.admin == next.admin),
        ("control", serving.control == next.control),
        ("data_dir", serving.data_dir == next.data_dir),
        ("cache", serving.cache == next.cache),
        ("access_log", serving.access_log == next.access_log),
        ("limits", door(serving) == door(next)),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        Some((key, _)) => Err(OpenError::NeedsRestart(key)),
        None => Ok(()),
    }
}

/// The limits that connections are made under.
fn door(config: &Config) -> (usize, usize, u32, std::time::Duration, std::time::Duration) {
    let limits = &config.limits;
    (
        limits.connections,
        limits.connections_per_address,
        limits.requests_per_connection,
        limits.header_timeout,
        limits.keepalive,
    )
}

impl From<Diagnostics> for OpenError {
    fn from(problems: Diagnostics) -> OpenError {
        OpenError::Invalid(problems.render(Colour::Plain))
    }
}
