//! What a change is: files by their times and sizes, looked at again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::files;
use super::super::project::{self, Found};
use super::{SECRETS, environment};

/// What a deployment may have, and so what is worth to be looked at.
const FILES: usize = 20_000;
/// Folders in a watched folder that hold what others have made, in numbers.
const PASSED_OVER: [&str; 4] = [files::STATE, ".git", "node_modules", "target"];

/// Files as they were.
pub(super) type Seen = BTreeMap<PathBuf, (SystemTime, u64)>;

/// What the build reads, and what is served of it.
pub(super) struct Watched {
    folder: PathBuf,
    /// Relative to the folder.
    inputs: Vec<PathBuf>,
    outputs: Vec<PathBuf>,
}

impl Watched {
    /// Of a project that cannot be read.
    pub(super) fn nothing_but_the_file(folder: &Path) -> Watched {
        Watched {
            folder: folder.to_owned(),
            inputs: [project::FILE, environment::FILE, SECRETS].map(PathBuf::from).into(),
            outputs: Vec::new(),
        }
    }

    pub(super) fn of(found: &Found) -> Watched {
        let mut watched = Watched::nothing_but_the_file(&found.folder);
        let build = found.project.build.watch.iter().map(|path| without_pattern(path));
        watched.inputs.extend(build);
        let named = files::named(&found.project.document).into_iter();
        watched.outputs = named
            .map(|(_, path, _)| path.strip_prefix(&found.folder).unwrap_or(path).to_owned())
            .collect();
        watched
    }

    pub(super) fn inputs(&self) -> Seen {
        self.look(&self.inputs)
    }

    pub(super) fn outputs(&self) -> Seen {
        self.look(&self.outputs)
    }

    /// Both; what is one and the other is an output.
    pub(super) fn all(&self) -> Seen {
        let mut seen = self.inputs();
        seen.extend(self.outputs());
        seen
    }

    /// The paths, as a person reads them.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for path in self.inputs.iter().chain(&self.outputs) {
            let name = path.display().to_string();
            if !names.contains(&name) && self.folder.join(path).exists() {
                names.push(name);
            }
        }
        names
    }

    fn look(&self, paths: &[PathBuf]) -> Seen {
        let mut seen = Seen::new();
        for path in paths {
            look(&self.folder.join(path), &mut seen);
        }
        seen
    }
}

fn look(path: &Path, seen: &mut Seen) {
    let Ok(metadata) = path.metadata() else { return };
    if seen.len() >= FILES {
        return;
    }
    if !metadata.is_dir() {
        if let Ok(modified) = metadata.modified() {
            seen.insert(path.to_owned(), (modified, metadata.len()));
        }
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        // A link could lead in circles.
        let is_passed_over = PASSED_OVER.iter().any(|name| entry.file_name() == *name);
        let is_linked_folder = entry.file_type().is_ok_and(|kind| kind.is_symlink()) && entry.path().is_dir();
        if !is_passed_over && !is_linked_folder {
            look(&entry.path(), seen);
        }
    }
}

/// `src/**/*.rs` is `src`.
fn without_pattern(path: &Path) -> PathBuf {
    let plain = path
        .components()
        .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']));
    let plain: PathBuf = plain.collect();
    match plain.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_watched_from_where_it_begins() {
        for (written, watched) in [("src", "src"), ("src/**/*.rs", "src"), ("*.js", "."), ("a/b?", "a")] {
            assert_eq!(without_pattern(Path::new(written)), Path::new(watched), "{written}");
        }
    }
}
