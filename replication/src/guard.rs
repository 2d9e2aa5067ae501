//! What application SQL may do, decided by SQLite's authorizer while a statement is prepared.
//!
//! Everything is judged after parsing, with names resolved, also inside views, triggers and virtual tables: no text is
//! matched. What SQLite itself protects in defensive mode (the schema table, shadow tables of FTS5) is left to it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Whose SQL a connection prepares now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    /// This crate's: everything is allowed.
    Us,
    /// The operator's migration files.
    Migration,
    /// An application's.
    Application,
}

/// What was refused to an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE.
    Transaction,
    /// ATTACH, DETACH, VACUUM INTO.
    OtherDatabase,
    Pragma(String),
    /// A table of SQLite's or ours.
    InternalTable(String),
    Function(String),
    /// A virtual table module.
    Module(String),
    /// CREATE TEMP …
    Temporary(String),
    /// Something a newer SQLite has and we have not thought about.
    Unknown,
}

/// The authorizer of one connection.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Mutex<Judgement>>);

struct Judgement {
    author: Author,
    /// The statement being prepared changes the schema, so SQLite keeps its own tables in step with it.
    schema_change: bool,
    refusal: Option<Refusal>,
}

/// Read, whatever their argument: it names a table or an index. `quick_check` of a table is what ALTER TABLE … ADD COLUMN
/// runs itself, for a STRICT table and for constraints.
const PRAGMAS_ABOUT_SCHEMA: &[&str] = &[
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Read when they have no argument, write when they have one. FTS and R*Tree use `data_version` and `page_size`.
const PRAGMAS_TO_READ: &[&str] = &[
    "application_id",
    "collation_list",
    "compile_options",
    "data_version",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "integrity_check",
    "page_count",
    "page_size",
    "schema_version",
    "user_version",
];

/// A migration may set these: they are part of the transaction or end with it.
const PRAGMAS_IN_MIGRATIONS: &[&str] = &["application_id", "defer_foreign_keys", "user_version"];

/// Reach outside of the database, or hand out pointers. Most are absent from our build; a denial costs nothing.
const FUNCTIONS_REFUSED: &[&str] = &[
    "edit",
    "fts3_tokenizer",
    "load_extension",
    "readfile",
    "sqlite_log",
    "sqlite_offset",
    "writefile",
];

/// Virtual tables over the application's own data. Others show pages, files or the process.
const MODULES: &[&str] = &["fts3", "fts4", "fts5", "fts5vocab", "geopoly", "rtree", "rtree_i32"];

/// Show the file's pages, of every table.
const PAGE_TABLES: &[&str] = &["sqlite_dbpage", "sqlite_dbdata", "sqlite_dbptr", "dbstat"];

/// Tables of the platform; hidden from applications and migrations alike.
const OUR_TABLES: &str = "_selvedge";

impl Guard {
    pub(crate) fn new() -> Guard {
        Guard(Arc::new(Mutex::new(Judgement {
            author: Author::Us,
            schema_change: false,
            refusal: None,
        })))
    }

    /// Statements prepared from now on are by `author`.
    pub(crate) fn expect(&self, author: Author) {
        *self.0.lock() = Judgement {
            author,
            schema_change: false,
            refusal: None,
        };
    }

    /// Why the statement that just failed was refused, if it was.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.0.lock().refusal.take()
    }

    /// SQLite's question, several times a statement.
    pub(crate) fn authorize(&self, context: &AuthContext<'_>) -> Authorization {
        let mut judgement = self.0.lock();
        if judgement.author == Author::Us {
            return Authorization::Allow;
        }
        judgement.schema_change |= changes_schema(&context.action);
        let judged = match context.database_name {
            Some(name) if name.eq_ignore_ascii_case("temp") && changes(&context.action) => {
                Err(Refusal::Temporary("a table".to_owned()))
            }
            _ => judge(&context.action, judgement.author, judgement.schema_change),
        };
        match judged {
            Ok(()) => Authorization::Allow,
            Err(refusal) => {
                judgement.refusal = Some(refusal);
                Authorization::Deny
            }
        }
    }
}

fn judge(action: &AuthAction<'_>, author: Author, schema_change: bool) -> Result<(), Refusal> {
    use AuthAction as A;
    match *action {
        A::Select | A::Recursive | A::Reindex { .. } | A::Analyze { .. } => Ok(()),
        A::Read { table_name, .. } => readable(table_name),
        A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
            if schema_change || is_schema_table(table_name) {
                readable(table_name)
            } else {
                ours_to_change(table_name)
            }
        }
        // Names that begin with `sqlite_` are SQLite's to create, and it does on the first AUTOINCREMENT or ANALYZE.
        A::CreateTable { table_name } => readable(table_name),
        A::DropTable { table_name: name }
        | A::AlterTable { table_name: name, .. }
        | A::CreateView { view_name: name }
        | A::DropView { view_name: name } => ours_to_change(name),
        // An index that SQLite makes for a UNIQUE constraint is named `sqlite_autoindex_…`: the table decides.
        A::CreateIndex { index_name, table_name } | A::DropIndex { index_name, table_name } => {
            readable(index_name).and_then(|()| ours_to_change(table_name))
        }
        A::CreateTrigger {
            trigger_name,
            table_name,
        }
        | A::DropTrigger {
            trigger_name,
            table_name,
        } => ours_to_change(trigger_name).and_then(|()| ours_to_change(table_name)),
        A::CreateVtable {
            table_name,
            module_name,
        }
        | A::DropVtable {
            table_name,
            module_name,
        } => {
            ours_to_change(table_name)?;
            if listed(MODULES, module_name) {
                Ok(())
            } else {
                Err(Refusal::Module(module_name.to_owned()))
            }
        }
        A::Function { function_name } if listed(FUNCTIONS_REFUSED, function_name) => {
            Err(Refusal::Function(function_name.to_owned()))
        }
        A::Function { .. } => Ok(()),
        A::Pragma {
            pragma_name,
            pragma_value,
        } => {
            let allowed = listed(PRAGMAS_ABOUT_SCHEMA, pragma_name)
                || pragma_value.is_none() && listed(PRAGMAS_TO_READ, pragma_name)
                || author == Author::Migration && listed(PRAGMAS_IN_MIGRATIONS, pragma_name);
            if allowed {
                Ok(())
            } else {
                Err(Refusal::Pragma(pragma_name.to_owned()))
            }
        }
        A::Transaction { .. } | A::Savepoint { .. } => Err(Refusal::Transaction),
        A::Attach { .. } | A::Detach { .. } => Err(Refusal::OtherDatabase),
        A::CreateTempTable { table_name: name }
        | A::CreateTempIndex { index_name: name, .. }
        | A::CreateTempTrigger { trigger_name: name, .. }
        | A::CreateTempView { view_name: name }
        | A::DropTempTable { table_name: name }
        | A::DropTempIndex { index_name: name, .. }
        | A::DropTempTrigger { trigger_name: name, .. }
        | A::DropTempView { view_name: name } => Err(Refusal::Temporary(name.to_owned())),
        A::Unknown { .. } | _ => Err(Refusal::Unknown),
    }
}

/// Whether the action makes or changes something in the schema it names: `CREATE TABLE temp.t` is a CREATE TABLE like
/// others, in another schema. ALTER looks for references in every schema table.
fn changes(action: &AuthAction<'_>) -> bool {
    use AuthAction as A;
    match *action {
        A::Select | A::Recursive | A::Read { .. } | A::Function { .. } | A::Pragma { .. } => false,
        A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
            !is_schema_table(table_name)
        }
        _ => true,
    }
}

/// ALTER and DROP rewrite `sqlite_sequence` and `sqlite_stat1` through statements of SQLite's own; ANALYZE fills the
/// latter. They are announced before those statements are judged.
fn changes_schema(action: &AuthAction<'_>) -> bool {
    use AuthAction as A;
    matches!(
        action,
        A::AlterTable { .. }
            | A::Analyze { .. }
            | A::CreateTable { .. }
            | A::DropIndex { .. }
            | A::DropTable { .. }
            | A::DropVtable { .. }
    )
}

fn readable(table: &str) -> Result<(), Refusal> {
    if has_prefix(table, OUR_TABLES) || listed(PAGE_TABLES, table) {
        return Err(Refusal::InternalTable(table.to_owned()));
    }
    Ok(())
}

fn ours_to_change(table: &str) -> Result<(), Refusal> {
    if has_prefix(table, "sqlite_") {
        Err(Refusal::InternalTable(table.to_owned()))
    } else {
        readable(table)
    }
}

/// Every CREATE writes it, through SQLite; by hand SQLite refuses it (no `writable_schema`, defensive mode).
fn is_schema_table(table: &str) -> bool {
    listed(
        &[
            "sqlite_master",
            "sqlite_schema",
            "sqlite_temp_master",
            "sqlite_temp_schema",
        ],
        table,
    )
}

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| entry.eq_ignore_ascii_case(name))
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Transaction => {
                f.write_str("transactions are not opened by statements; send the statements as one batch")
            }
            Refusal::OtherDatabase => f.write_str("a statement reaches its own database only (ATTACH, DETACH, VACUUM)"),
            Refusal::Pragma(name) => write!(f, "PRAGMA {name} is not available, or not with a value"),
            Refusal::InternalTable(name) => write!(f, "{name} is internal"),
            Refusal::Function(name) => write!(f, "the function {name} is not available"),
            Refusal::Module(name) => write!(f, "virtual tables with {name} are not available"),
            Refusal::Temporary(name) => {
                write!(
                    f,
                    "{name} would be temporary, and connections are shared; make an ordinary one"
                )
            }
            Refusal::Unknown => f.write_str("the statement does something that is not known to be safe"),
        }
    }
}
