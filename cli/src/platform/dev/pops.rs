//! `selvedge dev --pops N`: the platform itself on loopback, to deploy to: a primary with control beside it, and PoPs, each
//! an agent and a proxy.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::children::Children;
use super::{Sockets, failed, is_free, lines, literal, make_state, say, token, write_private};
use crate::outcome::Failure;
use crate::platform::client::Client;
use crate::platform::cluster;
use crate::platform::profile::{Profile, Profiles, Target};
use crate::service;

/// The profile that is made for it.
const PROFILE: &str = "dev";

pub(super) fn run(folder: &Path, port: u16, pops: u16, as_json: bool) -> Result<(), Failure> {
    if u16::MAX - pops < port {
        return Err(Failure::Usage(format!("--port {port} leaves no room for {pops} PoPs")));
    }
    let ports = (0..pops).map(|number| if port == 0 { 0 } else { port + number });
    let ports: Vec<u16> = ports.collect();
    ports.iter().try_for_each(|port| is_free(*port))?;
    let state = make_state(folder, "platform")?;
    let running = async {
        let end = service::told_to_end().map_err(|error| failed("signal", &error))?;
        let mut children = Children::default();
        let outcome = tokio::select! {
            biased;
            () = end => Ok(()),
            outcome = serve(&mut children, &state, &ports, as_json) => outcome,
        };
        children.end().await;
        outcome
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| failed("dev", &error))?.block_on(running)
}

/// Returns when one of them ends.
async fn serve(children: &mut Children, state: &Path, ports: &[u16], as_json: bool) -> Result<(), Failure> {
    let platform = Platform {
        state,
        token: token(state)?,
        sockets: Sockets::default(),
    };
    let mut plane = json!({ "listen": "127.0.0.1:0" });
    // A port that the system picks is not known yet.
    if let Some(port) = ports.first().filter(|port| **port != 0) {
        plane["sites"] = json!(format!("http://*.localhost:{port}"));
    }
    let primary = platform.file(
        "primary",
        json!({
            "agent": { "name": "primary", "listen": "127.0.0.1:0", "token": platform.token },
            "control": plane,
        }),
    )?;
    let key_file = state.join("owner.key");
    let agent = children.start("primary", "agent", &primary, &[]).await?;
    let options = ["--key-file".as_ref(), key_file.as_os_str()];
    let control = children.start("primary", "control", &primary, &options).await?;
    let control = format!("http://{}", control["control"].as_str().unwrap_or_default());
    let client = logged_in(&control, &key_file)?;
    let mut urls = Vec::new();
    for (number, port) in (1..).zip(ports) {
        let name = format!("pop{number}");
        let invited = cluster::invite(&client, Some(&name), None).await?;
        let primary = format!("http://{}", agent["agent"].as_str().unwrap_or_default());
        let file = platform.file(
            &name,
            json!({
                "listeners": [{ "address": format!("127.0.0.1:{port}") }],
                "admin": { "address": "127.0.0.1:0" },
                "agent": { "name": name, "primary": primary, "token": platform.token },
                "control": { "url": control, "token": invited["token"], "domain": "localhost" },
                "access_log": { "file": literal(&state.join(&name).join("access.log").display().to_string()) },
                "shutdown": { "grace": "2s" },
            }),
        )?;
        children.start(&name, "agent", &file, &[]).await?;
        let proxy = children.start(&name, "run", &file, &[]).await?;
        let address = proxy["listeners"][0]["address"].as_str().unwrap_or_default();
        let url = format!("http://{}", address.replace("127.0.0.1", "localhost"));
        say(
            as_json,
            &format!("{name}: {url}"),
            &json!({ "event": "pop", "pop": name, "url": url }),
        );
        urls.push(url);
    }
    let first = urls[0].trim_start_matches("http://");
    let text = format!(
        "control: {control}, profile {PROFILE}\nnext: selvedge deploy --profile {PROFILE}\nan app is at \
         http://APP.{first} then, and the same at the other PoPs; Ctrl-C ends all of them"
    );
    say(
        as_json,
        &text,
        &json!({ "event": "serving", "control": control, "profile": PROFILE, "urls": urls }),
    );
    children.watch().await
}

struct Platform<'a> {
    state: &'a Path,
    token: String,
    sockets: Sockets,
}

impl Platform<'_> {
    /// The configuration of one machine, with a folder of its own.
    fn file(&self, name: &str, mut whole: Value) -> Result<PathBuf, Failure> {
        let folder = self.state.join(name);
        std::fs::create_dir_all(&folder).map_err(|error| Failure::file(&folder, &error))?;
        whole["data_dir"] = literal(&folder.join("data").display().to_string()).into();
        let socket = self.sockets.of(name, &folder.join("agent.sock"))?;
        whole["agent"]["socket"] = literal(&socket.display().to_string()).into();
        let file = folder.join("edge.yaml");
        write_private(&file, &(lines(&whole).join("\n") + "\n"))?;
        Ok(file)
    }
}

/// Remembers the owner's key, and asks with it. The profile that is meant when none is named stays what it is.
fn logged_in(control: &str, key_file: &Path) -> Result<Client, Failure> {
    let key = std::fs::read_to_string(key_file).map_err(|error| {
        let failure = Failure::file(key_file, &error);
        failure.help("the first start writes it; remove .selvedge/platform to begin anew")
    })?;
    let key = key.trim().to_owned();
    let mut profiles = Profiles::read()?;
    let profile = Profile {
        url: control.to_owned(),
        key: key.clone(),
        ca: None,
    };
    profiles.profiles.insert(PROFILE.to_owned(), profile);
    profiles.write()?;
    Client::of(Target {
        url: control.to_owned(),
        key: Some(key),
        ca: None,
        profile: Some(PROFILE.to_owned()),
    })
}
