//! Certificates for tests, made by openssl.

use std::path::Path;
use std::process::Command;

use crate::peer;

/// `STEM.pem` and `STEM.key` in `folder`, for `name`, signed by the certificate that [`make`] made of `authority`; `false`
/// as there.
pub fn issue(folder: &Path, authority: &str, stem: &str, name: &str) -> bool {
    let Some(openssl) = peer::find("openssl") else {
        return false;
    };
    // openssl's own configuration would make it an authority, which is no server (RFC 5280 section 4.2.1.9).
    let config = folder.join("issue.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = dn\n[dn]\n").expect("writing in a temporary folder");
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
        .args(["-config", "issue.cnf", "-subj", &format!("/CN={name}")])
        .args(["-addext", &format!("subjectAltName=DNS:{name}")])
        .args([
            "-CA",
            &format!("{authority}.pem"),
            "-CAkey",
            &format!("{authority}.key"),
        ])
        .args(["-keyout", &format!("{stem}.key"), "-out", &format!("{stem}.pem")])
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
    true
}

/// `STEM.pem` and `STEM.key` in `folder`, self-signed for `localhost` and `name`; `false` when openssl is missing and the
/// test is to be skipped.
pub fn make(folder: &Path, stem: &str, name: &str) -> bool {
    let Some(openssl) = peer::find("openssl") else {
        return false;
    };
    let (key, cert) = (format!("{stem}.key"), format!("{stem}.pem"));
    let names = format!("subjectAltName=DNS:localhost,DNS:{name}");
    // A certificate of a server, not of an authority, which openssl would make it.
    let kind = "basicConstraints=critical,CA:FALSE";
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
            "-addext",
            kind,
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

/// `STEM.pem` and `STEM.key` in `folder` for `localhost`, signed by the authority `authority.pem`; `false` when openssl is
/// missing and the test is to be skipped.
pub fn make_signed(folder: &Path, stem: &str) -> bool {
    let Some(openssl) = peer::find("openssl") else {
        return false;
    };
    // Without openssl's own configuration, whose certificates are all authorities.
    let config = folder.join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n").expect("writing a configuration");
    let run = |arguments: &[&str]| {
        let output = Command::new(&openssl)
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args(["-nodes", "-days", "30", "-config"])
            .arg(&config)
            .args(arguments)
            .current_dir(folder)
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{output:?}");
    };
    let authority = ["-keyout", "authority.key", "-out", "authority.pem"];
    run(&[
        &[
            "-subj",
            "/CN=an authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ],
        &authority[..],
    ]
    .concat());
    let (key, cert) = (format!("{stem}.key"), format!("{stem}.pem"));
    let signed = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-CA",
        "authority.pem",
    ];
    run(&[
        &signed[..],
        &["-CAkey", "authority.key", "-keyout", &key, "-out", &cert],
    ]
    .concat());
    true
}
