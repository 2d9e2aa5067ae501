//! The capabilities a guest can be given; one file each. What is not bound does not exist for the guest.

mod fermyon_sqlite;
mod spin_sqlite;
mod sql;

mod fermyon_postgres;
mod postgres;
mod spin_postgres_3;
mod spin_postgres_4;

use std::{collections::BTreeMap, sync::Arc};

use selvedge_replication::Database;
use selvedge_replication::postgres::Postgres;
use wasmtime::component::Linker;

use crate::instance::GuestState;

/// What a handler is given, by the names it knows it under.
#[derive(Clone, Default)]
pub struct Bindings {
    pub databases: BTreeMap<String, Arc<Database>>,
    pub postgres: BTreeMap<String, Arc<Postgres>>,
}

/// What one handler may reach.
#[derive(Clone)]
pub(crate) struct Capabilities(Arc<Bindings>);

impl Capabilities {
    pub(crate) fn new(bindings: Bindings) -> Capabilities {
        Capabilities(Arc::new(bindings))
    }

    /// The PostgreSQL bound as `name`.
    pub(crate) fn postgres(&self, name: &str) -> Option<Arc<Postgres>> {
        self.0.postgres.get(name).cloned()
    }

    /// The database bound as `name`. Spin calls an application's only database `default`.
    pub(crate) fn database(&self, name: &str) -> Option<Arc<Database>> {
        if let Some(database) = self.0.databases.get(name) {
            return Some(Arc::clone(database));
        }
        let mut all = self.0.databases.values();
        match (name, all.next(), all.next()) {
            ("default", Some(only), None) => Some(Arc::clone(only)),
            _ => None,
        }
    }
}

/// Links every binding; each checks at run time what the guest was given.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    fermyon_sqlite::add_to_linker(linker)?;
    spin_sqlite::add_to_linker(linker)?;
    fermyon_postgres::add_to_linker(linker)?;
    spin_postgres_3::add_to_linker(linker)?;
    spin_postgres_4::add_to_linker(linker)
}
