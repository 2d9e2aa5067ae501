//! What commands answer, for people and for programs, and how they end.

use std::process::ExitCode;

use serde_json::{Value, json};

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was called wrongly.
    Usage(String),
    Failed {
        code: String,
        message: String,
        help: Option<String>,
    },
}

impl Failure {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Failure {
        Failure::Failed {
            code: code.to_owned(),
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn help(self, text: impl Into<String>) -> Failure {
        match self {
            Failure::Failed { code, message, .. } => Failure::Failed {
                code,
                message,
                help: Some(text.into()),
            },
            usage => usage,
        }
    }

    /// About a file of whoever calls.
    pub(crate) fn file(path: &std::path::Path, error: &dyn std::error::Error) -> Failure {
        Failure::new("file", format!("{}: {error}", path.display()))
    }

    pub(crate) fn code(&self) -> &str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::Failed { code, .. } => code,
        }
    }

    pub(crate) fn message(&self) -> &str {
        match self {
            Failure::Usage(message) | Failure::Failed { message, .. } => message,
        }
    }

    pub(crate) fn show(&self, as_json: bool) {
        let (message, help) = match self {
            Failure::Usage(message) => (message, None),
            Failure::Failed { message, help, .. } => (message, help.as_ref()),
        };
        if as_json {
            let error = json!({ "error": { "code": self.code(), "message": message, "help": help } });
            eprintln!("{error}");
            return;
        }
        eprintln!("error: {message}");
        if let Some(help) = help {
            eprintln!("  help: {help}");
        }
    }
}

/// What a command answers, for people and for programs.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Answer {
        Answer {
            text: text.into(),
            json,
        }
    }

    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json);
        } else if !self.text.is_empty() {
            println!("{}", self.text);
        }
    }
}

/// The status of a command: 0 done, 1 refused or failed, 2 wrong usage.
pub(crate) fn end(outcome: Result<(), Failure>, as_json: bool) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.show(as_json);
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed { .. } => ExitCode::FAILURE,
            }
        }
    }
}
