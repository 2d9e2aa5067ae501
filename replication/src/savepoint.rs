//! Named points inside an open transaction, to which it can be undone.

/// What can be done with one. The name is the application's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Savepoint {
    Set(String),
    Release(String),
    RollBackTo(String),
}

impl Savepoint {
    pub(crate) fn sql(&self) -> String {
        let (verb, name) = match self {
            Savepoint::Set(name) => ("SAVEPOINT", name),
            Savepoint::Release(name) => ("RELEASE", name),
            Savepoint::RollBackTo(name) => ("ROLLBACK TO", name),
        };
        format!("{verb} \"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_a_name() {
        let sneaky = Savepoint::Set("a\"; DROP TABLE t; --".to_owned());
        assert_eq!(sneaky.sql(), "SAVEPOINT \"a\"\"; DROP TABLE t; --\"");
        assert_eq!(Savepoint::RollBackTo("sp0".to_owned()).sql(), "ROLLBACK TO \"sp0\"");
    }
}
