//! Certificates for tests, made by openssl.

use std::path::Path;
use std::process::Command;

use crate::peer;

/// `STEM.pem` and `STEM.key` in `folder`, self-signed for `localhost` and `name`; `false` when openssl is missing and the
/// test is to be skipped.
pub fn make(folder: &Path, stem: &str, name: &str) -> bool {
    let Some(openssl) = peer::find("openssl") else {
        return false;
    };
    let (key, cert) = (format!("{stem}.key"), format!("{stem}.pem"));
    let names = format!("subjectAltName=DNS:localhost,DNS:{name}");
    let output = Command::new(openssl)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
        ])
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            &names,
            "-keyout",
            &key,
            "-out",
            &cert,
        ])
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
    true
}
