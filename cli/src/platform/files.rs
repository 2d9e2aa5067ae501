//! The files of a deployment: everything the manifest names, by its path inside the project.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use selvedge_schema::{Diagnostics, Document, Target};
use sha2::{Digest, Sha256};

use super::project::{Found, invalid};
use crate::outcome::Failure;

/// What control takes in one deployment.
const FILES: usize = 20_000;
/// Bytes of a path that control takes.
const PATH_BYTES: usize = 512;
/// A component with an embedded engine is some tens of megabytes; control's own limit is 256 MiB unless it says otherwise.
const FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// What `selvedge dev` keeps in a project: a developer's secrets, databases and caches, which are never deployed.
pub(super) const STATE: &str = ".selvedge";

/// A file to be deployed.
#[derive(Debug, Clone)]
pub(super) struct Deployed {
    /// Inside the project, with `/`.
    pub(super) path: String,
    pub(super) file: PathBuf,
    pub(super) bytes: u64,
    /// SHA-256, in hex.
    pub(super) digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// All of them, in the order of their paths. What is wrong is said at its place in the project.
pub(super) fn collect(found: &Found) -> Result<Vec<Deployed>, Failure> {
    let document = &found.project.document;
    let mut collector = Collector {
        folder: &found.folder,
        files: BTreeMap::new(),
        problems: Diagnostics::for_document(document),
    };
    for (pointer, path, kind) in named(document) {
        collector.add(&pointer, path, kind);
    }
    if collector.problems.has_errors() {
        return Err(invalid(&collector.problems));
    }
    if collector.files.len() > FILES {
        let failure = Failure::new(
            "too_large",
            format!(
                "the project has {} files, and a deployment at most {FILES}",
                collector.files.len()
            ),
        );
        return Err(failure.help("serve fewer, or keep large collections elsewhere"));
    }
    let deployed = collector.files.into_iter().map(|(path, file)| digested(path, file));
    deployed.collect()
}

/// Everything that is read from a file: where it is named, its path and what it is.
pub(super) fn named(document: &Document) -> Vec<(String, &Path, Kind)> {
    let config = &document.config;
    let mut named = Vec::new();
    for (name, handler) in &config.handlers {
        named.push((
            format!("/handlers/{name}/component"),
            handler.component.as_path(),
            Kind::File,
        ));
    }
    for route in &config.routes {
        if let Target::Static(folder) = &route.target {
            named.push((
                format!("{}/static/root", route.pointer),
                folder.root.as_path(),
                Kind::Folder,
            ));
        }
        if let Some(page) = &route.error_page {
            named.push((format!("{}/error_page", route.pointer), page.as_path(), Kind::File));
        }
    }
    for (name, database) in &config.databases {
        if let Some(migrations) = &database.migrations {
            named.push((
                format!("/databases/{name}/migrations"),
                migrations.as_path(),
                Kind::Folder,
            ));
        }
        if let Some(seed) = &database.seed {
            named.push((format!("/databases/{name}/seed"), seed.as_path(), Kind::File));
        }
    }
    for (name, upstream) in &config.upstreams {
        if let Some(ca) = upstream.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            named.push((format!("/upstreams/{name}/tls/ca"), ca.as_path(), Kind::File));
        }
    }
    named
}

struct Collector<'a> {
    folder: &'a Path,
    files: BTreeMap<String, PathBuf>,
    problems: Diagnostics,
}

impl Collector<'_> {
    fn add(&mut self, pointer: &str, path: &Path, kind: Kind) {
        if let Err((message, help)) = self.try_add(path, kind) {
            self.problems.error(pointer, message, help);
        }
    }

    fn try_add(&mut self, path: &Path, kind: Kind) -> Result<(), (String, Option<String>)> {
        let shown = path.strip_prefix(self.folder).unwrap_or(path).display().to_string();
        if self.inside(path).is_none() {
            let message = format!("{shown} is outside the project");
            return Err((
                message,
                Some("copy it into the project's folder and name it from there".to_owned()),
            ));
        }
        let real = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let help = "is it built? `build.command` runs before, unless with --skip-build".to_owned();
                (format!("there is no file {shown}"), Some(help))
            }
            _ => (format!("{shown}: {error}"), None),
        })?;
        self.stays(&real, &shown)?;
        let is_folder = real.is_dir();
        match kind {
            Kind::File if is_folder => Err((format!("{shown} is a folder, and a file is needed"), None)),
            Kind::File => self.take(path, real),
            Kind::Folder if !is_folder => Err((format!("{shown} is a file, and a folder is needed"), None)),
            Kind::Folder => {
                let before = self.files.len();
                self.walk(path)?;
                let has_any = self.files.len() > before || self.files.values().any(|file| file.starts_with(&real));
                match has_any {
                    true => Ok(()),
                    false => Err((format!("{shown} has no file in it"), None)),
                }
            }
        }
    }

    fn walk(&mut self, folder: &Path) -> Result<(), (String, Option<String>)> {
        let failed = |error: std::io::Error| (format!("{}: {error}", folder.display()), None);
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path == self.folder.join(STATE) {
                continue;
            }
            let shown = path.strip_prefix(self.folder).unwrap_or(&path).display().to_string();
            let real = path
                .canonicalize()
                .map_err(|error| (format!("{shown}: {error}"), None))?;
            self.stays(&real, &shown)?;
            let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
            match real.is_dir() {
                true if is_link => {
                    let message = format!("{shown} is a symbolic link to a folder");
                    return Err((
                        message,
                        Some("name that folder itself: a link could lead in circles".to_owned()),
                    ));
                }
                true => self.walk(&path)?,
                false => self.take(&path, real)?,
            }
            if self.files.len() > FILES {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A link may point to another place in the project only.
    fn stays(&self, real: &Path, shown: &str) -> Result<(), (String, Option<String>)> {
        match real.starts_with(self.folder) {
            true => Ok(()),
            false => {
                let message = format!(
                    "{shown} is a symbolic link that leaves the project, to {}",
                    real.display()
                );
                Err((message, Some("copy what it points to into the project".to_owned())))
            }
        }
    }

    fn take(&mut self, path: &Path, real: PathBuf) -> Result<(), (String, Option<String>)> {
        let Some(name) = self.inside(path) else {
            return Err((format!("{} has a name that is no text", path.display()), None));
        };
        if name.len() > PATH_BYTES || name.chars().any(|c| c == '\\' || c.is_control()) {
            let help = format!("a path has at most {PATH_BYTES} bytes, no backslash and no control character");
            return Err((format!("{name:?} cannot be deployed"), Some(help)));
        }
        self.files.insert(name, real);
        Ok(())
    }

    /// The path inside the project, with `/`.
    fn inside(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix(self.folder).ok()?;
        let parts = inside.components().map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        });
        Some(parts.collect::<Option<Vec<_>>>()?.join("/"))
    }
}

fn digested(path: String, file: PathBuf) -> Result<Deployed, Failure> {
    let failed = |error: std::io::Error| Failure::file(&file, &error);
    let mut reader = File::open(&file).map_err(failed)?;
    let mut sum = Sha256::new();
    let mut bytes = 0;
    let mut piece = vec![0; 256 * 1024];
    loop {
        let length = reader.read(&mut piece).map_err(failed)?;
        if length == 0 {
            break;
        }
        bytes += length as u64;
        sum.update(&piece[..length]);
    }
    if bytes > FILE_BYTES {
        let failure = Failure::new("too_large", format!("{path} is larger than {FILE_BYTES} bytes"));
        return Err(failure.help("large files belong into object storage, not into a deployment"));
    }
    let digest = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Deployed {
        path,
        file,
        bytes,
        digest,
    })
}
