//! The object store: what every database was, second by second, in a folder or in S3.
//!
//! `docs/formats/store.md` has the layout. In the order of the files: `upload` sends what the log takes on, `keep` merges,
//! takes snapshots and removes what is no longer needed (what that is, `levels` says), `restore` makes a file of it again
//! (from what, `plan` says), `recover` does that for a primary that has lost its disk.
//!
//! Invariants:
//! * Nothing here stops or slows a write. A store that cannot be reached is visible as the age of its newest upload.
//! * What is in the store was durable in the log before. Every object is written whole and under its own name, once.
//! * Each chain is one history: files of two lineages, or of two pasts of one lineage, never lie in the same folder.
//! * A restored file has the checksum that the primary had at that transaction, or there is no file.
//! * `litestream restore` of a chain's folder gives the same file.

mod compact;
mod epoch;
mod history;
mod keep;
mod layout;
mod levels;
mod objects;
mod plan;
pub(crate) mod recover;
mod restore;
mod settings;
mod spool;
mod status;
mod upload;

pub use compact::{CompactError, merge};
pub use objects::{Store, StoreError};
pub use plan::PlanError;
pub use recover::RecoverError;
pub use restore::{RestoreError, Target};
pub use settings::StoreSettings;
pub use status::StoreStatus;
pub(crate) use upload::{Source, Uploader};
