//! Faults planted on purpose: each takes away one thing that keeps data safe, so that the torture harness
//! (`replication/tests/torture`) can show that it would notice.
//!
//! `SELVEDGE_PLANT` names one, in builds with debug assertions only. In a release build the answer is the constant
//! `false`, and the branches are gone.

use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// The log says that it has synced, and has not.
    NoFsync,
    /// A write is acknowledged before the log has it.
    NoOutputGate,
    /// Operation ids are not looked at.
    NoDedupe,
    /// The write queue does not sync.
    NoQueueFsync,
    /// A replica believes the pages it has and gets.
    NoChecksum,
    /// A replica writes page 1 first, and lets it be seen before the pages that belong to it.
    PageOneFirst,
}

const PLANTS: [(&str, Plant); 6] = [
    ("no_fsync", Plant::NoFsync),
    ("no_output_gate", Plant::NoOutputGate),
    ("no_dedupe", Plant::NoDedupe),
    ("no_queue_fsync", Plant::NoQueueFsync),
    ("no_checksum", Plant::NoChecksum),
    ("page_one_first", Plant::PageOneFirst),
];

static PLANTED: LazyLock<Option<Plant>> = LazyLock::new(|| {
    let wanted = std::env::var("SELVEDGE_PLANT").ok()?;
    let planted = PLANTS.iter().find(|(name, _)| *name == wanted).map(|(_, plant)| *plant);
    tracing::error!(wanted, ?planted, "a fault is planted; this process loses data");
    planted
});

pub(crate) fn is_planted(plant: Plant) -> bool {
    cfg!(debug_assertions) && *PLANTED == Some(plant)
}
