//! `.env`: a developer's values for the variables of all handlers.
//!
//! They are never shown: the generated file names files with them, so that no line of it that is said has one.

use std::collections::BTreeMap;
use std::path::Path;

use super::write_private;
use crate::outcome::Failure;

pub(super) const FILE: &str = ".env";
const VALUES: &str = "values";

/// The variables of the project's `.env`; none when there is no such file.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let path = folder.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Failure::file(&path, &error)),
    };
    parse(&text).map_err(|line| {
        let failure = Failure::new("env", format!("{FILE}:{line}: a line is NAME=VALUE"));
        failure.help("names have letters, digits and `_`; values may stand in quotes; `#` begins a comment line")
    })
}

/// Writes each value to a file in the folder `values` beside the configuration, and says how that names it.
pub(super) fn placed(variables: &BTreeMap<String, String>, state: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let folder = state.join(VALUES);
    std::fs::create_dir_all(&folder).map_err(|error| Failure::file(&folder, &error))?;
    let placed = variables.iter().map(|(name, value)| {
        write_private(&folder.join(name), value)?;
        Ok((name.clone(), format!("${{file:{VALUES}/{name}}}")))
    });
    placed.collect()
}

/// The number of the line that is wrong, otherwise.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(index + 1)?;
        let (name, value) = (name.trim(), value.trim());
        let is_name = |text: &str| {
            let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            letters && !text.is_empty() && !text.as_bytes()[0].is_ascii_digit()
        };
        if !is_name(name) {
            return Err(index + 1);
        }
        variables.insert(name.to_owned(), unquoted(value).to_owned());
    }
    Ok(variables)
}

fn unquoted(value: &str) -> &str {
    let inside = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# a comment\n\nA=1\nexport B = \"two words\"\nC='$x'\nD=\nE=a=b\n";
        let expected = [("A", "1"), ("B", "two words"), ("C", "$x"), ("D", ""), ("E", "a=b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text), Ok(BTreeMap::from(expected)));
        for (text, line) in [("A=1\nB\n", 2), ("=1\n", 1), ("1A=1\n", 1), ("A B=1\n", 1)] {
            assert_eq!(parse(text), Err(line), "{text}");
        }
    }
}
