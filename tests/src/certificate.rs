//! Certificates for tests, made by openssl. All functions write `STEM.pem` and `STEM.key` in a folder, and return `false`
//! when openssl is missing and the test is to be skipped.

use std::path::Path;
use std::process::Command;

use crate::peer;

/// Of a server, self-signed for `localhost` and `name`.
pub fn make(folder: &Path, stem: &str, name: &str) -> bool {
    let names = format!("subjectAltName=DNS:localhost,DNS:{name}");
    run(folder, stem, name, &[&names, SERVER], None)
}

/// Of an authority.
pub fn make_authority(folder: &Path, stem: &str) -> bool {
    run(folder, stem, stem, &["basicConstraints=critical,CA:TRUE"], None)
}

/// Of a server, for `name`, signed by the `authority` that [`make_authority`] made.
pub fn issue(folder: &Path, authority: &str, stem: &str, name: &str) -> bool {
    let names = format!("subjectAltName=DNS:{name}");
    run(folder, stem, name, &[&names, SERVER], Some(authority))
}

/// An authority is no server (RFC 5280 section 4.2.1.9).
const SERVER: &str = "basicConstraints=critical,CA:FALSE";

fn run(folder: &Path, stem: &str, name: &str, extensions: &[&str], authority: Option<&str>) -> bool {
    let Some(openssl) = peer::find("openssl") else {
        return false;
    };
    // openssl's own configuration would add extensions of its own.
    let config = folder.join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n").expect("writing in a temporary folder");
    let of = |stem: &str| [format!("{stem}.pem"), format!("{stem}.key")];
    let [pem, key] = of(stem);
    let mut command = Command::new(openssl);
    command
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "30", "-config", "openssl.cnf"])
        .args(["-subj", &format!("/CN={name}"), "-keyout", &key, "-out", &pem])
        .current_dir(folder);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    if let Some([pem, key]) = authority.map(of) {
        command.args(["-CA", &pem, "-CAkey", &key]);
    }
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
    true
}
