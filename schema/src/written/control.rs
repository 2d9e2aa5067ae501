//! Control: this machine is the control plane, or a PoP of one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::door::CertificateFiles;
use super::{resolve, size};
use crate::Sites;
use crate::config;
use crate::text::{ByteSize, Text};

/// With `listen` this file's `selvedge control` is the control plane; with `url` this machine is a PoP of one, and its
/// agent keeps a replica of what control has for PoPs.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    /// IP address and port of the API.
    listen: Option<Text<SocketAddr>>,
    /// Certificate of `listen`; without one it speaks plain HTTP.
    tls: Option<CertificateFiles>,
    /// Folder for uploaded components and assets; `artifacts` in `data_dir` unless given.
    artifacts: Option<PathBuf>,
    /// The largest file that may be uploaded.
    #[serde(default = "max_artifact")]
    max_artifact: Text<ByteSize>,
    /// File of the keys that secrets are encrypted with, one a line in base64, the newest first; made when it is missing.
    /// `secrets.key` beside the folder of artifacts unless given. Keep a copy elsewhere, and never beside the database's.
    secrets_key: Option<PathBuf>,
    /// Where the PoPs serve apps, for the answers of the API: a URL with `*` for an app's name. Its domain is the `domain`
    /// of the PoPs.
    #[serde(default = "sites")]
    sites: Text<Sites>,
    /// Whom control tells of what happens: `POST /v1/webhooks`.
    #[serde(default)]
    webhooks: Webhooks,
    /// Address of the control plane, such as `https://control.example.com:7200`.
    #[schemars(regex(pattern = r"^https?://[^/]+/?$"))]
    url: Option<String>,
    /// What control gave this PoP, or a join token for it.
    #[schemars(length(min = 1))]
    token: Option<String>,
    /// PEM file of authorities whose certificates are believed at `url`, besides the machine's own.
    ca: Option<PathBuf>,
    /// Apps are served at their name below this domain, such as `shop.edge.example.com`, besides the domains they were given;
    /// version 3 is previewed at `shop-v3.edge.example.com`.
    #[serde(default = "domain")]
    #[schemars(length(min = 1))]
    domain: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Webhooks {
    /// They may be on this machine and in private networks, also without TLS. Whoever may make a webhook then reaches what
    /// control's machine reaches.
    #[serde(default)]
    allow_private: bool,
}

fn domain() -> String {
    config::ControlLink::DOMAIN.to_owned()
}

fn sites() -> Text<Sites> {
    Text(Sites::default())
}

fn max_artifact() -> Text<ByteSize> {
    size(config::ControlPlane::MAX_ARTIFACT_BYTES)
}

impl Control {
    pub(super) fn into_used(self, base: &Path, data_dir: &Path) -> config::Control {
        config::Control {
            plane: self.listen.map(|listen| {
                let artifacts = self
                    .artifacts
                    .map_or_else(|| data_dir.join("artifacts"), |path| resolve(base, path));
                config::ControlPlane {
                    listen: listen.0,
                    tls: self.tls.map(|files| files.into_used(base)),
                    secrets_key: self
                        .secrets_key
                        .map_or_else(|| artifacts.with_file_name("secrets.key"), |path| resolve(base, path)),
                    artifacts,
                    max_artifact_bytes: self.max_artifact.0.0,
                    sites: self.sites.0,
                    allow_private_webhooks: self.webhooks.allow_private,
                }
            }),
            link: self.url.map(|url| config::ControlLink {
                url,
                token: self.token.unwrap_or_default(),
                ca: self.ca.map(|path| resolve(base, path)),
                domain: self.domain.to_ascii_lowercase(),
            }),
        }
    }
}

/// The token is not shown.
impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
