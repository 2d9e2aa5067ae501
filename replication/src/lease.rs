//! Who may write: the holder of the lease, under an epoch that nobody has had before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::position::Epoch;
use crate::publish::now_ms;

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

/// This machine is the primary because its configuration says so.
///
/// The epoch is kept in a file and rises with every start. It is the time in seconds since 1970 (until 2106), if that is
/// higher than the last: a primary restored from a backup does not know how often it was started since, and must not lead
/// under an epoch that its replicas have seen.
pub struct StaticLease {
    path: PathBuf,
    above: Epoch,
}

impl StaticLease {
    pub fn at(path: &Path) -> StaticLease {
        StaticLease {
            path: path.to_owned(),
            above: Epoch(0),
        }
    }

    /// Counts on from `epoch` if the file is behind it: somebody else has seen it.
    #[must_use]
    pub fn above(self, epoch: Epoch) -> StaticLease {
        StaticLease { above: epoch, ..self }
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
        let next = last.max(self.above.0).saturating_add(1);
        let epoch = u32::try_from(now_ms() / 1000).unwrap_or_default().max(next);
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
        let mut last = Epoch(0);
        for _ in 0..3 {
            let epoch = StaticLease::at(&path).acquire().unwrap();
            assert!(epoch > last, "{epoch:?} after {last:?}");
            last = epoch;
        }
        let above = Epoch(last.0 + 100_000);
        assert_eq!(
            StaticLease::at(&path).above(above).acquire().unwrap(),
            Epoch(above.0 + 1)
        );
        assert_eq!(
            StaticLease::at(&path).above(above).acquire().unwrap(),
            Epoch(above.0 + 2)
        );
        // A clock that went back, and a backup of long ago.
        fs::write(&path, (u32::MAX - 1).to_string()).unwrap();
        assert_eq!(StaticLease::at(&path).acquire().unwrap(), Epoch(u32::MAX));
        fs::write(&path, "1").unwrap();
        assert!(StaticLease::at(&path).acquire().unwrap() > Epoch(1_700_000_000));
        fs::write(&path, "x").unwrap();
        assert!(matches!(
            StaticLease::at(&path).acquire(),
            Err(LeaseError::NotAnEpoch { .. })
        ));
    }
}
