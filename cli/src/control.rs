//! `selvedge control`: the control plane, beside an agent.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use selvedge_control::{ControlSettings, Started};
use selvedge_proxy::OpenError;
use serde_json::json;

use crate::{explain, service};

pub(crate) fn run(file: &Path, ready_file: Option<&Path>, key_file: Option<&Path>) -> Result<(), String> {
    let document = selvedge_proxy::read_configuration(file).map_err(|error| match error {
        OpenError::Invalid(diagnostics) => diagnostics,
        other => explain(&other),
    })?;
    let config = document.config;
    let plane = config.control.and_then(|control| control.plane);
    let (Some(plane), Some(agent)) = (plane, config.agent) else {
        return Err(format!(
            "error: {} has no control plane\n  help: add `control: {{ listen: 127.0.0.1:7200 }}` beside the `agent`",
            file.display()
        ));
    };
    let settings = ControlSettings::of(&plane, &agent, selvedge_filters::schemas());
    service::block_on(serve(settings, ready_file, key_file))
}

async fn serve(settings: ControlSettings, ready_file: Option<&Path>, key_file: Option<&Path>) -> Result<(), String> {
    let failed = |error: std::io::Error| explain(&error);
    let stop = service::told_to_end().map_err(failed)?;
    let mut told = Ok(());
    let ready = |started: Started| told = tell(&started, ready_file, key_file);
    selvedge_control::run(settings, ready, stop)
        .await
        .map_err(|error| explain(&error))?;
    told.map_err(failed)
}

/// Shows the first key or writes it where it was asked for, and says where control serves.
fn tell(started: &Started, ready_file: Option<&Path>, key_file: Option<&Path>) -> std::io::Result<()> {
    match (&started.first_key, key_file) {
        (Some(key), Some(path)) => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "{}", key.reveal())?;
        }
        (Some(key), None) => {
            // Not through the log, which is kept.
            let mut shown = std::io::stderr().lock();
            writeln!(shown, "The first key, shown this once: {}", key.reveal())?;
        }
        (None, _) => {}
    }
    let Some(path) = ready_file else { return Ok(()) };
    service::write_ready(path, &json!({ "control": started.address.to_string() }))
}
