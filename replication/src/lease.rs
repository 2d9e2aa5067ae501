//! Who may write: the holder of the lease, under an epoch that nobody has had before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::position::Epoch;

pub trait Lease: Send + Sync + 'static {
    /// Takes the lease and returns its epoch, higher than any before. Blocks.
    fn acquire(&self) -> Result<Epoch, LeaseError>;
}

#[derive(Debug, Error)]
pub enum LeaseError {
    #[error("the epoch in {path} cannot be read or written")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} does not hold a number; if no replica is ahead of this machine, remove it")]
    NotAnEpoch { path: PathBuf },
}

/// This machine is the primary because its configuration says so. The epoch is counted in a file.
pub struct StaticLease {
    path: PathBuf,
}

impl StaticLease {
    pub fn at(path: &Path) -> StaticLease {
        StaticLease { path: path.to_owned() }
    }
}

impl Lease for StaticLease {
    fn acquire(&self) -> Result<Epoch, LeaseError> {
        let path = &self.path;
        let io = |source| LeaseError::Io {
            path: path.clone(),
            source,
        };
        let last = match fs::read_to_string(path) {
            Ok(text) => text
                .trim()
                .parse::<u32>()
                .map_err(|_| LeaseError::NotAnEpoch { path: path.clone() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io(error)),
        };
        let epoch = last + 1;
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary).map_err(io)?;
        write!(file, "{epoch}").and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&temporary, path).map_err(io)?;
        if let Some(parent) = path.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
        }
        Ok(Epoch(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_epoch_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("epoch");
        for wanted in 1..4 {
            assert_eq!(StaticLease::at(&path).acquire().unwrap(), Epoch(wanted));
        }
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            StaticLease::at(&path).acquire(),
            Err(LeaseError::NotAnEpoch { .. })
        ));
    }
}
