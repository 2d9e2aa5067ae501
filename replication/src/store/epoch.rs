//! The highest epoch that any object of the store may have, as an object of its own.
//!
//! A primary raises it before it uploads anything, and a primary that starts takes a higher one: also when it has lost
//! its disk, and with it the file in which it counts.

use super::objects::{Store, StoreError};
use crate::position::Epoch;

impl Store {
    /// The highest epoch noted; 0 in a new store.
    pub(crate) async fn epoch(&self) -> Result<Epoch, StoreError> {
        let noted = self.read_small(&self.epoch_key()).await?;
        let Some(text) = noted else { return Ok(Epoch(0)) };
        let number = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        number.map(Epoch).ok_or_else(|| StoreError::NotAnEpoch {
            place: self.epoch_key().to_string(),
        })
    }

    /// Notes that objects of `epoch` may follow.
    pub(crate) async fn note_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        if self.epoch().await? < epoch {
            self.put(&self.epoch_key(), epoch.0.to_string().as_bytes()).await?;
        }
        Ok(())
    }
}
