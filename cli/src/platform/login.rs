//! `selvedge login` and `logout`: a key is checked, then kept in a profile.

use std::io::{IsTerminal, Read};

use clap::Args;
use serde_json::json;

use super::Reach;
use super::client::Client;
use super::profile::{DEFAULT, Profile, Profiles, Target, address, token};
use crate::db::rows::aligned;
use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Login {
    /// The key; `-` reads it from standard input. Otherwise it is asked for, or taken from $SELVEDGE_TOKEN.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// List the profiles.
    #[arg(long, conflicts_with = "token")]
    list: bool,
}

#[derive(Args)]
pub(crate) struct Logout {}

pub(super) async fn login(reach: &Reach, login: Login) -> Result<Answer, Failure> {
    let mut profiles = Profiles::read()?;
    if login.list {
        return Ok(list(&profiles));
    }
    let name = reach.profile.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let known = profiles.profiles.get(&name);
    let url = match (&reach.control, known) {
        (Some(url), _) => address(url)?,
        (None, Some(known)) => known.url.clone(),
        (None, None) => return Err(Failure::Usage("which control? Give --control URL".to_owned())),
    };
    let ca = match &reach.ca {
        Some(ca) => Some(ca.canonicalize().map_err(|error| Failure::file(ca, &error))?),
        None => known
            .filter(|known| known.url == url)
            .and_then(|known| known.ca.clone()),
    };
    let key = match login.token.as_deref() {
        Some("-") => piped()?,
        Some(key) => key.to_owned(),
        None => match token() {
            Some(key) => key,
            None => asked("Key: ")?,
        },
    };
    let target = Target {
        url: url.clone(),
        key: Some(key.clone()),
        ca: ca.clone(),
        profile: Some(name.clone()),
    };
    let found = Client::of(target)?.get("/v1/keys/self").await?;
    profiles.profiles.insert(
        name.clone(),
        Profile {
            url: url.clone(),
            key,
            ca,
        },
    );
    profiles.current = Some(name.clone());
    profiles.write()?;
    let text = format!(
        "logged in to {url} as {} ({}), profile {name}",
        found["name"].as_str().unwrap_or_default(),
        found["role"].as_str().unwrap_or_default()
    );
    let answer = json!({ "profile": name, "control": url, "key": found });
    Ok(Answer::new(text, answer))
}

pub(super) fn logout(reach: &Reach) -> Result<Answer, Failure> {
    let mut profiles = Profiles::read()?;
    let name = reach.profile.clone().or_else(|| profiles.current.clone());
    let name = name.unwrap_or_else(|| DEFAULT.to_owned());
    if profiles.profiles.remove(&name).is_none() {
        let failure = Failure::new("profile", format!("there is no profile {name}"));
        return Err(failure.help("`selvedge login --list` shows those there are"));
    }
    if profiles.current.as_deref() == Some(&name) {
        profiles.current = profiles.profiles.keys().next().cloned();
    }
    profiles.write()?;
    let text = format!("logged out of {name}; the key itself is valid until `selvedge keys revoke` ends it");
    Ok(Answer::new(text, json!({ "profile": name })))
}

fn list(profiles: &Profiles) -> Answer {
    let is_current = |name: &str| profiles.current.as_deref() == Some(name);
    let lines: Vec<_> = profiles
        .profiles
        .iter()
        .map(|(name, profile)| {
            let mark = if is_current(name) { "*" } else { "" };
            vec![name.clone(), profile.url.clone(), mark.to_owned()]
        })
        .collect();
    let text = match lines.is_empty() {
        true => "no profiles; `selvedge login --control URL` makes one".to_owned(),
        false => aligned(&["profile", "control", "current"], &lines),
    };
    let items = profiles.profiles.iter().map(|(name, profile)| {
        json!({ "profile": name, "control": profile.url, "ca": profile.ca, "current": is_current(name) })
    });
    Answer::new(text, items.collect())
}

/// All of standard input, without the end of its last line.
pub(super) fn piped() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Failure::new("input", format!("standard input: {error}")))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// A line that is typed and not shown, or what is piped in.
pub(super) fn asked(prompt: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return piped();
    }
    // The terminal's echo is its own setting: stty changes it without code of ours.
    let echo = |on: &str| std::process::Command::new("stty").arg(on).status();
    let hidden = echo("-echo").is_ok_and(|status| status.success());
    eprint!("{prompt}");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if hidden {
        let _ = echo("echo");
        eprintln!();
    }
    read.map_err(|error| Failure::new("input", format!("standard input: {error}")))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
