//! Where a site keeps its data: a folder, a file system that fills up, or one whose power can be cut.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Of a file system that can fill up: what a scenario writes fits many times over while nothing fills it.
const SMALL_BYTES: u64 = 192 * 1024 * 1024;
/// The least that mkfs.xfs takes; the file has holes.
const IMAGE_BYTES: u64 = 320 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    /// A tmpfs.
    Small,
    /// XFS on a loop device. What was not synced is lost when its power is cut.
    Cuttable,
}

pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    kind: Kind,
    image: PathBuf,
}

impl Disk {
    /// Makes it at `path`, which does not exist.
    pub(crate) fn make(kind: Kind, path: &Path) -> Result<Disk, String> {
        fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let disk = Disk {
            path: path.to_owned(),
            kind,
            image: path.with_extension("image"),
        };
        match kind {
            Kind::Folder => {}
            Kind::Small => {
                let size = format!("size={SMALL_BYTES}");
                run("mount", &["-t", "tmpfs", "-o", &size, "selvedge-torture", &text(path)])?;
            }
            Kind::Cuttable => {
                let made = File::create(&disk.image).and_then(|image| image.set_len(IMAGE_BYTES));
                made.map_err(|error| error.to_string())?;
                run("mkfs.xfs", &["-q", &text(&disk.image)])?;
                disk.mount()?;
            }
        }
        Ok(disk)
    }

    /// Nothing that was not synced reaches the disk any more, and nothing can be read.
    pub(crate) fn cut_power(&self) {
        assert_eq!(self.kind, Kind::Cuttable, "only such a disk has power");
        run("xfs_io", &["-x", "-c", "shutdown", &text(&self.path)]).expect("the power is cut");
    }

    /// The machine is on again. Nobody may hold a file of it open.
    pub(crate) fn restore_power(&self) {
        self.unmount().expect("nobody uses the disk");
        self.mount().expect("the file system recovers");
    }

    /// Takes all room that is left.
    pub(crate) fn fill(&self) {
        assert_eq!(self.kind, Kind::Small, "only such a disk is filled");
        let mut filler = File::create(self.filler()).expect("a file can be made");
        let mut piece = vec![1; 1024 * 1024];
        // Smaller and smaller pieces until not a page is left.
        while !piece.is_empty() {
            if filler.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }

    pub(crate) fn make_room(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &text(&self.image), &text(&self.path)])
    }

    fn unmount(&self) -> Result<(), String> {
        run("umount", &[&text(&self.path)])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.kind != Kind::Folder && self.unmount().is_err() {
            let _ = run("umount", &["-l", &text(&self.path)]);
        }
    }
}

/// A folder for one run, in memory where there is room for it: what others do to the machine's disk is then nobody's
/// fault, and what a power cut takes is the same, since the cut file systems keep their own time.
pub(crate) fn folder() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

/// Why disks of this kind cannot be made here, if they cannot.
pub(crate) fn why_not(kind: Kind) -> Option<String> {
    let folder = folder();
    Disk::make(kind, &folder.path().join("try")).err()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
