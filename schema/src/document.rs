//! A configuration that was read: as used, with the places in its text.

use std::path::{Path, PathBuf};

use crate::check::check;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::json_schema::{FilterSchema, json_schema};
use crate::source::SourceMap;
use crate::substitute::{Environment, substitute};
use crate::walk::walk;
use crate::{Config, written, yaml};

/// What [`parse`] makes of a text: the configuration, and where everything in it was said.
#[derive(Debug, Clone)]
pub struct Document {
    pub config: Config,
    pub source: SourceMap,
    /// Relative paths were resolved against this folder.
    pub base_dir: PathBuf,
    /// What has no effect; never errors.
    pub warnings: Vec<Diagnostic>,
}

impl Document {
    /// An error at the value of a JSON pointer, for a stage after parsing.
    pub fn error(&self, pointer: &str, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        self.source.at_value(Severity::Error, pointer, message, help)
    }

    /// A warning at the value of a JSON pointer.
    pub fn warning(&self, pointer: &str, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        self.source.at_value(Severity::Warning, pointer, message, help)
    }

    /// Findings together with the text, ready to be shown.
    pub fn diagnostics(&self, items: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics::new(self.source.clone(), items)
    }
}

/// Reads a configuration.
///
/// `source_name` is how diagnostics call the text. Relative paths are resolved against `base_dir`, the folder of the
/// file. `env` answers for `${NAME}`, and for `${file:path}` when asked for `file:` and the resolved path. `filters`
/// says which filters exist and what their settings look like; reading the settings is their own business.
///
/// The error holds everything that was found, several findings where possible, in the order of the text.
pub fn parse(
    source_name: &str,
    text: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    filters: &[FilterSchema],
) -> Result<Document, Diagnostics> {
    let (mut root, mut findings) = yaml::load(text)
        .map_err(|findings| Diagnostics::new(SourceMap::without_places(source_name, text), findings))?;
    let source = SourceMap::new(source_name, text, &root);
    let environment = Environment { lookup: env, base_dir };
    substitute(&mut root, "", &environment, &mut findings);
    findings.extend(walk(&mut root, &json_schema(filters)));
    if !findings.is_empty() {
        return Err(Diagnostics::new(source, findings));
    }
    let config = match serde_json::from_value::<written::Config>(root.to_json()) {
        Ok(written) => written.into_used(base_dir),
        // The schema and the types derive from the same source; where they still disagree, say so rather than stop.
        Err(error) => {
            let finding = source.at_value(Severity::Error, "", error.to_string(), None);
            return Err(Diagnostics::new(source, vec![finding]));
        }
    };
    let findings = check(&config, &source);
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(Diagnostics::new(source, findings));
    }
    let base_dir = base_dir.to_owned();
    Ok(Document {
        config,
        source,
        base_dir,
        warnings: findings,
    })
}
