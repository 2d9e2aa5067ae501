//! One database's folder: the file that is current, and those before and after it.
//!
//! A replica that cannot go on where it stands (another lineage, damage) is built anew in a file of its own, and `current`
//! is pointed at it: open readers of the old file never see a mix of two histories.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Names the current file.
const CURRENT: &str = "current";
/// Becomes it.
const NEXT: &str = "current.new";

#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of database `name` below `root`; it is made when a file is.
    pub fn of(root: &Path, name: &str) -> Folder {
        Folder { path: root.join(name) }
    }

    /// Names that are safe as a file name, a path segment and a thread name.
    pub fn is_valid_name(name: &str) -> bool {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        (1..=64).contains(&name.len()) && name.bytes().all(valid) && !name.starts_with('.')
    }

    /// Names of the platform's own databases: nobody else makes, deletes or serves them.
    pub fn is_platform_name(name: &str) -> bool {
        name.starts_with('_')
    }

    /// Names of all databases below `root`.
    pub fn names(root: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        match fs::read_dir(root) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry?.file_name().to_string_lossy().into_owned();
                    if Folder::is_valid_name(&name) && Folder::of(root, &name).current().is_some() {
                        names.push(name);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        names.sort_unstable();
        Ok(names)
    }

    /// [`Folder::tidy`] for every database below `root`.
    pub fn tidy_all(root: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if Folder::is_valid_name(&name) && entry.file_type()?.is_dir() {
                Folder::of(root, &name).tidy()?;
            }
        }
        Ok(())
    }

    /// The current file, if there is one.
    pub fn current(&self) -> Option<PathBuf> {
        let name = fs::read_to_string(self.path.join(CURRENT)).ok()?;
        let path = self.path.join(name.trim());
        path.is_file().then_some(path)
    }

    /// A path for the next generation's file, which does not exist.
    pub fn next(&self) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.path)?;
        let mut highest = 0;
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.split_once(".db")?.0.parse::<u64>().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        Ok(self.path.join(format!("{}.db", highest + 1)))
    }

    /// Makes `file` the current one, durably, and removes the others.
    pub fn switch_to(&self, file: &Path) -> io::Result<()> {
        self.prepare_switch(file)?;
        self.finish_switch(file)
    }

    /// Does of [`Folder::switch_to`] what needs room on the disk.
    pub fn prepare_switch(&self, file: &Path) -> io::Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let mut pointer = File::create(self.path.join(NEXT))?;
        pointer.write_all(name.as_bytes())?;
        pointer.sync_all()
    }

    /// Does the rest.
    pub fn finish_switch(&self, file: &Path) -> io::Result<()> {
        fs::rename(self.path.join(NEXT), self.path.join(CURRENT))?;
        File::open(&self.path)?.sync_all()?;
        self.remove_others(file)
    }

    /// Removes what a process that was killed has left: files that never became current, or a folder without any.
    pub fn tidy(&self) -> io::Result<()> {
        match self.current() {
            Some(current) => self.remove_others(&current),
            None if self.path.join(CURRENT).exists() => Ok(()),
            None => self.remove(),
        }
    }

    fn remove_others(&self, file: &Path) -> io::Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let other = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if other.contains(".db") && !other.starts_with(&*name) {
                // A reader that has it open keeps it; one that is about to open it asks for the current one again.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Removes the folder and everything in it, if it is there.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Moves the folder, durably, and says whether there was one.
    pub fn move_to(&self, to: &Folder) -> io::Result<bool> {
        if let Some(parent) = to.path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::rename(&self.path, &to.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        }
        for parent in [self.path.parent(), to.path.parent()].into_iter().flatten() {
            File::open(parent)?.sync_all()?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_follow_each_other() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::of(root.path(), "shop");
        assert_eq!(folder.current(), None);
        for number in 1..=11 {
            let next = folder.next().unwrap();
            assert!(next.ends_with(format!("shop/{number}.db")));
            fs::write(&next, "").unwrap();
            fs::write(next.with_extension("db-wal"), "").unwrap();
            folder.switch_to(&next).unwrap();
            assert_eq!(folder.current(), Some(next));
            assert_eq!(fs::read_dir(root.path().join("shop")).unwrap().count(), 3);
        }
        assert_eq!(Folder::names(root.path()).unwrap(), ["shop"]);
        // What a killed process leaves: a file that never became current, a folder that never had one.
        fs::write(folder.next().unwrap(), "half").unwrap();
        fs::write(Folder::of(root.path(), "half").next().unwrap(), "half").unwrap();
        Folder::tidy_all(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.path().join("shop")).unwrap().count(), 3);
        let aside = Folder::of(&root.path().join("aside"), "shop");
        assert!(folder.move_to(&aside).unwrap());
        assert!(folder.current().is_none() && aside.current().is_some());
        assert!(!folder.move_to(&aside).unwrap());
    }

    #[test]
    fn names() {
        for (name, valid) in [
            ("shop", true),
            ("a-b_c.1", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("_config", true),
            ("ä", false),
        ] {
            assert_eq!(Folder::is_valid_name(name), valid, "{name}");
        }
    }
}
