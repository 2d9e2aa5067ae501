//! The project a command is about: `selvedge.yaml`, found from the folder it is called in.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use selvedge_schema::{Colour, Diagnostics, Project};

use super::Reach;
use crate::outcome::Failure;

pub(super) const FILE: &str = "selvedge.yaml";

/// A project with the folder it stands in, absolute.
pub(super) struct Found {
    pub(super) folder: PathBuf,
    pub(super) project: Project,
}

/// The project of `--project`, or of this folder or the nearest above it that has one.
pub(super) fn find(reach: &Reach) -> Result<Found, Failure> {
    let file = file(reach)?;
    let text = std::fs::read_to_string(&file).map_err(|error| Failure::file(&file, &error))?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    let project = selvedge_schema::parse_project(FILE, &text, &folder, &selvedge_filters::schemas());
    let project = project.map_err(|diagnostics| invalid(&diagnostics))?;
    Ok(Found { folder, project })
}

/// The folder of the project, whether it can be read or not; absolute.
pub(super) fn folder(reach: &Reach) -> Result<PathBuf, Failure> {
    let file = file(reach)?;
    Ok(file.parent().unwrap_or(Path::new("/")).to_owned())
}

/// The app a command is about: `--app`, or the project's.
pub(super) fn app(reach: &Reach) -> Result<String, Failure> {
    match &reach.app {
        Some(app) => Ok(app.clone()),
        None => Ok(find(reach)?.project.app),
    }
}

pub(super) fn invalid(diagnostics: &Diagnostics) -> Failure {
    let colour = match std::io::stderr().is_terminal() {
        true => Colour::Ansi,
        false => Colour::Plain,
    };
    let message = format!("the project is not valid\n{}", diagnostics.render(colour).trim_end());
    Failure::new("project", message)
}

fn file(reach: &Reach) -> Result<PathBuf, Failure> {
    let start = reach.project.clone().unwrap_or_else(|| PathBuf::from("."));
    let start = start.canonicalize().map_err(|error| Failure::file(&start, &error))?;
    if start.is_file() {
        return Ok(start);
    }
    let folders = start
        .ancestors()
        .take(if reach.project.is_some() { 1 } else { usize::MAX });
    let found = folders.map(|folder| folder.join(FILE)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let failure = Failure::new("project", format!("there is no {FILE} in {}", start.display()));
        failure.help(
            "`selvedge init NAME` writes one; for another folder give --project FOLDER, for an app alone --app NAME",
        )
    })
}
