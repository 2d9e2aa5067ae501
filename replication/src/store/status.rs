//! What the store has of one database, for operators and for metrics.

use serde::{Deserialize, Serialize};

use crate::position::Txid;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub database: String,
    /// The folder of the current history below the store's URL: what `litestream restore` is given.
    pub folder: Option<String>,
    /// The newest transaction in the store.
    pub uploaded_txid: Txid,
    /// When the newest upload ended, in milliseconds since 1970.
    pub uploaded_ms: Option<i64>,
    /// For how long there has been something that the store lacks; 0 when it has everything.
    pub lag_seconds: f64,
    pub snapshot_txid: Option<Txid>,
    /// When the newest snapshot was stored, in milliseconds since 1970.
    pub snapshot_ms: Option<i64>,
    pub snapshot_age_seconds: Option<f64>,
    /// Objects of the current history, and their size.
    pub objects: u64,
    pub bytes: u64,
    /// Why the store does not take uploads, or cannot be kept in order; gone when that works again.
    pub last_error: Option<String>,
}

/// Seconds from one time to a later one, both in milliseconds.
pub(super) fn seconds_since(then_ms: i64, now_ms: i64) -> f64 {
    (now_ms - then_ms).max(0) as f64 / 1000.0
}
