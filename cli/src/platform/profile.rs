//! Profiles: which control a developer works with, and the key that is shown to it.
//!
//! Kept in `$XDG_CONFIG_HOME/selvedge/profiles.json` (else `~/.config`), readable for its owner only. A key is shown to the
//! control it was stored for and to no other.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Reach;
use crate::outcome::Failure;

/// The name of a profile that nobody named.
pub(super) const DEFAULT: &str = "default";
const OWNER_ONLY: u32 = 0o600;
const FOLDER_OWNER_ONLY: u32 = 0o700;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profiles {
    /// The one that is meant when none is named: the last logged in to.
    #[serde(default)]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) url: String,
    pub(super) key: String,
    /// PEM file of authorities, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<PathBuf>,
}

/// The key is not shown.
impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Profiles {
    pub(super) fn read() -> Result<Profiles, Failure> {
        let path = path()?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Profiles::default()),
            Err(error) => return Err(Failure::file(&path, &error)),
        };
        serde_json::from_str(&text)
            .map_err(|error| Failure::file(&path, &error).help("mend it, or remove it and log in again"))
    }

    /// Whole, or not at all.
    pub(super) fn write(&self) -> Result<(), Failure> {
        let path = path()?;
        let failed = |error: std::io::Error| Failure::file(&path, &error);
        let folder = path.parent().unwrap_or(&path);
        if !folder.exists() {
            std::fs::create_dir_all(folder).map_err(failed)?;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(FOLDER_OWNER_ONLY)).map_err(failed)?;
        }
        let mut file = tempfile::Builder::new()
            .permissions(PermissionsExt::from_mode(OWNER_ONLY))
            .tempfile_in(folder)
            .map_err(failed)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::file(&path, &error))?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn path() -> Result<PathBuf, Failure> {
    let environment = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = environment("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".config")));
    let folder = folder.ok_or_else(|| Failure::Usage("where are profiles? Set HOME or XDG_CONFIG_HOME".to_owned()))?;
    Ok(folder.join("selvedge/profiles.json"))
}

/// Which control is asked, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) key: Option<String>,
    pub(super) ca: Option<PathBuf>,
    /// The profile that says so.
    pub(super) profile: Option<String>,
}

impl Target {
    /// What the command line says, then the environment, then the profile.
    pub(super) fn find(reach: &Reach) -> Result<Target, Failure> {
        let profiles = Profiles::read()?;
        let name = reach.profile.clone().or_else(|| profiles.current.clone());
        let profile = name.as_ref().and_then(|name| profiles.profiles.get(name));
        if let (Some(name), None) = (&reach.profile, profile) {
            let known: Vec<&str> = profiles.profiles.keys().map(String::as_str).collect();
            let failure = Failure::new("profile", format!("there is no profile {name}"));
            return Err(failure.help(match known.is_empty() {
                true => format!("`selvedge login --profile {name} --control URL` makes it"),
                false => format!("there are {}; `selvedge login` makes another", known.join(", ")),
            }));
        }
        let asked = reach.control.as_deref().map(address).transpose()?;
        // A key goes only where it belongs.
        let own = profile.filter(|profile| asked.as_ref().is_none_or(|asked| *asked == profile.url));
        let url = asked.or_else(|| profile.map(|profile| profile.url.clone())).ok_or_else(|| {
            Failure::Usage(
                "which control? `selvedge login --control URL` remembers one; or give --control, or set SELVEDGE_CONTROL"
                    .to_owned(),
            )
        })?;
        Ok(Target {
            url,
            key: token().or_else(|| own.map(|profile| profile.key.clone())),
            ca: reach.ca.clone().or_else(|| own.and_then(|profile| profile.ca.clone())),
            profile: own.and(name),
        })
    }
}

/// For programs, which log in nowhere.
pub(super) fn token() -> Option<String> {
    std::env::var("SELVEDGE_TOKEN").ok().filter(|token| !token.is_empty())
}

/// The address of a control, without a slash at its end.
pub(super) fn address(text: &str) -> Result<String, Failure> {
    let url = reqwest::Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| Failure::Usage(format!("{text:?} is no address like https://control.example.com")))?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
