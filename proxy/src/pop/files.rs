//! The files of deployments on this machine: `deployments/ID/…`, each complete or not there.
//!
//! A file is fetched once, checked against its digest while it arrives, and linked into every deployment that has it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::io::AsyncWriteExt;

use super::link::{Link, LinkError};
use super::wanted::File;

#[derive(Debug, Error)]
pub enum FilesError {
    #[error("cannot fetch {path}")]
    Fetch { path: String, source: LinkError },
    #[error("{path}: control has sent {received} bytes where {expected} were announced, or other ones")]
    Content { path: String, expected: u64, received: u64 },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

impl FilesError {
    /// Whether it may be otherwise in a moment.
    pub(super) fn is_passing(&self) -> bool {
        !matches!(self, FilesError::Fetch { source, .. } if source.is_final())
    }
}

pub(super) struct Files {
    /// Files by digest.
    blobs: PathBuf,
    /// Folders by deployment.
    deployments: PathBuf,
}

impl Files {
    pub(super) fn open(data_dir: &Path) -> Result<Files, FilesError> {
        let files = Files {
            blobs: data_dir.join("blobs"),
            deployments: data_dir.join("deployments"),
        };
        for folder in [&files.blobs, &files.deployments] {
            fs::create_dir_all(folder).map_err(|source| write_error(folder, source))?;
        }
        Ok(files)
    }

    /// The folder of a deployment with all its files. Asks control for what is not here, or is damaged.
    pub(super) async fn folder(&self, link: &Link, id: &str, files: &[File]) -> Result<PathBuf, FilesError> {
        for file in files {
            self.fetch(link, file).await?;
        }
        let (folder, blobs, files) = (self.deployments.join(id), self.blobs.clone(), files.to_vec());
        let made = tokio::task::spawn_blocking(move || lay_out(&folder, &blobs, &files).map(|()| folder));
        made.await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    async fn fetch(&self, link: &Link, file: &File) -> Result<(), FilesError> {
        let kept = self.blobs.join(&file.digest);
        let (path, digest) = (kept.clone(), file.digest.clone());
        let sound = tokio::task::spawn_blocking(move || digest_of(&path).is_ok_and(|found| found == digest));
        if sound.await.unwrap_or(false) {
            return Ok(());
        }
        let fetch_error = |source| FilesError::Fetch {
            path: file.path.clone(),
            source,
        };
        let mut body = link.blob(&file.digest).await.map_err(fetch_error)?;
        // Two of the same name are not fetched at once: one deployment is prepared at a time.
        let partial = kept.with_extension("partial");
        let failed = |source| write_error(&partial, source);
        let mut written = tokio::fs::File::create(&partial).await.map_err(failed)?;
        let (mut hash, mut received) = (Sha256::new(), 0u64);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| fetch_error(error.into()))?;
            received += chunk.len() as u64;
            if received > file.bytes {
                break;
            }
            hash.update(&chunk);
            written.write_all(&chunk).await.map_err(failed)?;
        }
        if received != file.bytes || hex(&hash.finalize()) != file.digest {
            return Err(FilesError::Content {
                path: file.path.clone(),
                expected: file.bytes,
                received,
            });
        }
        written.sync_all().await.map_err(failed)?;
        drop(written);
        fs::rename(&partial, &kept).map_err(|source| write_error(&kept, source))
    }

    /// Removes every other deployment, and what only they had.
    pub(super) fn keep(&self, ids: &BTreeSet<String>) {
        for entry in entries(&self.deployments) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !ids.contains(&name) && fs::remove_dir_all(entry.path()).is_ok() {
                tracing::debug!(deployment = name, "removed the files of a deployment");
            }
        }
        for entry in entries(&self.blobs) {
            use std::os::unix::fs::MetadataExt;
            // Every deployment that has it is another name of it.
            if entry.metadata().is_ok_and(|metadata| metadata.nlink() == 1) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

/// Makes the folder anew beside its place, and puts it there when it is complete.
fn lay_out(folder: &Path, blobs: &Path, files: &[File]) -> Result<(), FilesError> {
    let making = folder.with_extension("partial");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| write_error(&path, source)
    };
    for old in [&making, folder] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write_error(old, error)),
            _ => {}
        }
    }
    fs::create_dir_all(&making).map_err(failed(&making))?;
    for file in files {
        let place = making.join(&file.path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::hard_link(blobs.join(&file.digest), &place).map_err(failed(&place))?;
    }
    fs::rename(&making, folder).map_err(failed(folder))
}

fn write_error(path: &Path, source: io::Error) -> FilesError {
    FilesError::Write {
        path: path.to_owned(),
        source,
    }
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
