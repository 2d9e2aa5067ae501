//! What disks do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peer;

/// Changes one bit of the first occurrence of `value` in a file, whose time of change stays.
pub fn flip_bit(path: &Path, value: &[u8]) {
    let bytes = std::fs::read(path).expect("the file can be read");
    let found = bytes.windows(value.len()).position(|window| window == value);
    let at = found.expect("the value is in the file");
    let file = File::options().write(true).open(path).expect("the file can be written");
    let changed = file.metadata().and_then(|metadata| metadata.modified());
    file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("it takes a byte");
    file.set_modified(changed.expect("a time of change"))
        .expect("setting the time of change");
}

/// A file system of its own whose writing can be held up: writes and fsyncs wait as on a disk that does not answer.
pub struct SlowDisk {
    folder: tempfile::TempDir,
}

impl SlowDisk {
    /// `None`, said aloud, where this process may not mount one.
    pub fn mount() -> Option<SlowDisk> {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, root) = (folder.path().join("image"), folder.path().join("root"));
        std::fs::create_dir(&root).expect("a folder");
        let file = File::create(&image).expect("a file");
        file.set_len(256 << 20).expect("a file with holes");
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let mounted = done(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && done(
                Command::new("mount")
                    .args(["-o", "loop,noatime"])
                    .arg(&image)
                    .arg(&root),
            );
        if !mounted {
            peer::skip("this user may not mount a file system");
            return None;
        }
        Some(SlowDisk { folder })
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// From now on nothing is written, until [`SlowDisk::go_on`].
    pub fn hold(&self) {
        assert!(self.freeze("--freeze"), "a mounted file system can be frozen");
    }

    pub fn go_on(&self) {
        assert!(self.freeze("--unfreeze"), "a frozen file system can be thawed");
    }

    fn freeze(&self, how: &str) -> bool {
        let status = Command::new("fsfreeze").arg(how).arg(self.path()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(self.path()).output();
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
