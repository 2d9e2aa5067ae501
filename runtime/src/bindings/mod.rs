//! The capabilities a guest can be given; one file each. What is not bound does not exist for the guest.

mod fermyon_sqlite;
mod spin_sqlite;
mod sql;

use std::{collections::BTreeMap, sync::Arc};

use selvedge_replication::Database;
use wasmtime::component::Linker;

use crate::instance::GuestState;

/// What one handler may reach.
#[derive(Clone)]
pub(crate) struct Capabilities {
    databases: Arc<BTreeMap<String, Arc<Database>>>,
}

impl Capabilities {
    pub(crate) fn new(databases: BTreeMap<String, Arc<Database>>) -> Capabilities {
        Capabilities {
            databases: Arc::new(databases),
        }
    }

    /// The database bound as `name`. Spin calls an application's only database `default`.
    pub(crate) fn database(&self, name: &str) -> Option<Arc<Database>> {
        if let Some(database) = self.databases.get(name) {
            return Some(Arc::clone(database));
        }
        let mut all = self.databases.values();
        match (name, all.next(), all.next()) {
            ("default", Some(only), None) => Some(Arc::clone(only)),
            _ => None,
        }
    }
}

/// Links every binding; each checks at run time what the guest was given.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    fermyon_sqlite::add_to_linker(linker)?;
    spin_sqlite::add_to_linker(linker)
}
