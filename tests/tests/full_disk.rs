//! A disk that is full: what needs no disk goes on, what needs it is refused by name, and it heals when there is room.

use std::path::Path;
use std::process::Command;

use selvedge_tests::executable::repository;
use selvedge_tests::{Edge, peer};

/// A file system of 256 KiB, for as long as this lives.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    /// `None` where this process may not mount one.
    fn mount(at: &Path) -> Option<SmallDisk<'_>> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(at)
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(at))
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filling")).expect("a file");
        while std::io::Write::write_all(&mut file, &[0; 1024]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filling")).expect("it was there");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_writes_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path()) else {
        peer::skip("this user may not mount a file system");
        return;
    };
    let component = repository().join("tests/guests/probe-p2.wasm");
    let yaml = format!(
        "data_dir: {0}/data\naccess_log: {{ file: {0}/access.log }}\ndatabases: {{ notes: {{ path: {0}/notes.db }} }}\n\
         handlers: {{ probe: {{ component: {1}, bindings: {{ notes: {{ database: notes }} }} }} }}\n\
         routes: [{{ match: {{}}, handler: probe }}]\n",
        folder.path().display(),
        component.display()
    );
    let edge = Edge::start(&yaml).await;
    let get = async |path: &str| edge.get(path).await.text().await.expect("a body");
    // The compiled component alone is larger than the disk: it is compiled again at every start, and that is all.
    edge.logs("cannot keep a compiled component").await;
    assert!(get("/sql-write?db=notes&note=before").await.contains("[[1]]"));
    disk.fill();
    let long = format!("/sql-write?db=notes&note={}", "x".repeat(4000));
    let mut refused = String::new();
    for _ in 0..20 {
        refused = get(&long).await;
    }
    assert!(refused.contains("database-full"), "{refused}");
    assert_eq!(get("/hello").await, "hello\n");
    assert!(
        get("/sql?db=notes&q=SELECT+count(*)+FROM+notes").await.contains("rows"),
        "reads go on"
    );
    disk.make_room();
    assert!(get("/sql-write?db=notes&note=after").await.contains("rows"), "it heals");
}
