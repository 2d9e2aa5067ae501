//! Objects that several are read at once, or whose length is unknown, on their way over the local disk.

use std::io::{Seek, Write};
use std::path::Path as FilePath;

use tempfile::SpooledTempFile;

use super::layout::{ChainFolder, Item};
use super::objects::{PIECE_BYTES, Store, StoreError};

/// What fits stays in memory: most files of level 0 are a few pages.
const IN_MEMORY_BYTES: usize = 256 * 1024;

/// A temporary file, of which small ones have no file.
pub(super) fn temporary(folder: &FilePath) -> SpooledTempFile {
    tempfile::spooled_tempfile_in(IN_MEMORY_BYTES, folder)
}

impl Store {
    /// A whole object as a temporary file, read from its beginning.
    pub(super) async fn fetch(
        &self,
        chain: &ChainFolder,
        item: &Item,
        folder: &FilePath,
    ) -> Result<SpooledTempFile, StoreError> {
        let key = item.key(chain);
        let mut file = temporary(folder);
        let mut at = 0;
        while at < item.bytes {
            let piece = self.read(&key, at..item.bytes.min(at + PIECE_BYTES as u64)).await?;
            file.write_all(&piece).map_err(StoreError::Local)?;
            at += piece.len() as u64;
        }
        file.rewind().map_err(StoreError::Local)?;
        Ok(file)
    }
}
