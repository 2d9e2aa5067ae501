//! What disks do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

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
