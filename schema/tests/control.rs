//! `control` as it is written: what is taken, and what its author is told.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use common::parse;
use selvedge_schema::{Control, ControlPlane};

fn control(text: &str, agent: &str) -> Result<Control, String> {
    match parse(&format!("{agent}\ncontrol: {{ {text} }}\n")) {
        Ok(document) => Ok(document.config.control.unwrap()),
        Err(problems) => Err(problems.items()[0].message.clone()),
    }
}

const AGENT: &str = "agent: {}";

#[test]
fn the_plane_and_the_way_to_it() {
    let plane = control("listen: 127.0.0.1:7200", AGENT).unwrap().plane.unwrap();
    assert_eq!(plane.artifacts, Path::new("/etc/selvedge/data/artifacts"));
    assert_eq!(plane.max_artifact_bytes, ControlPlane::MAX_ARTIFACT_BYTES);
    assert_eq!(plane.sites.app("shop"), "http://shop.localhost/");
    assert!(!plane.allow_private_webhooks);
    let plane = control(
        "listen: 127.0.0.1:7200, sites: \"https://*.edge.example.com\", webhooks: { allow_private: true }",
        AGENT,
    );
    let plane = plane.unwrap().plane.unwrap();
    assert!(plane.allow_private_webhooks);
    assert_eq!(plane.sites.preview("shop", 3), "https://shop-v3.edge.example.com/");
    let link = control("url: https://control.example.com, token: \"${TOKEN}\"", AGENT)
        .unwrap()
        .link
        .unwrap();
    assert_eq!(link.token, "123456789012345678");
    assert!(!format!("{link:?}").contains("123456789012345678"));
}

#[test]
fn mistakes() {
    for (text, agent, message) in [
        ("", AGENT, "neither `listen` nor `url`"),
        (
            "listen: 127.0.0.1:0, url: https://x.example.com, token: t",
            AGENT,
            "both",
        ),
        ("listen: 0.0.0.0:7200", AGENT, "without TLS"),
        ("url: https://x.example.com", AGENT, "no token"),
        (
            "listen: 127.0.0.1:0, sites: http://localhost",
            AGENT,
            "where the name of an app belongs",
        ),
        ("listn: 127.0.0.1:0", AGENT, "unknown key"),
    ] {
        let told = control(text, agent).unwrap_err();
        assert!(told.contains(message), "{text}: {told}");
    }
    let edge = "listeners: [{ address: 127.0.0.1:0 }]\nroutes: [{ match: { path: /* }, respond: { body: hi } }]";
    assert!(
        control("listen: 127.0.0.1:7200", edge)
            .unwrap_err()
            .contains("needs an agent")
    );
    let platform = parse("agent: {}\ndatabases: { _config: {} }\n").unwrap_err();
    assert!(platform.items()[0].message.contains("the platform's"));
}
