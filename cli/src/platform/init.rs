//! `selvedge init`: a small project to start from.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::outcome::{Answer, Failure};

#[derive(Args)]
pub(crate) struct Init {
    /// Name of the app, and of the folder.
    name: String,
    #[arg(long, value_enum)]
    template: Template,
    /// Folder to write to; otherwise NAME.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Template {
    /// A handler in Rust.
    Rust,
    /// A handler in JavaScript.
    Js,
    /// Pages only.
    Static,
}

/// Path and text; `{{name}}` stands for the app's name.
type Files = &'static [(&'static str, &'static str)];

const RUST: Files = &[
    ("selvedge.yaml", include_str!("templates/rust/selvedge.yaml")),
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.template")),
    ("src/lib.rs", include_str!("templates/rust/lib.rs.template")),
    (".gitignore", "target/\n.selvedge/\n.env\n"),
    ("README.md", include_str!("templates/rust/README.md")),
];
const JS: Files = &[
    ("selvedge.yaml", include_str!("templates/js/selvedge.yaml")),
    ("package.json", include_str!("templates/js/package.json")),
    ("build.mjs", include_str!("templates/js/build.mjs")),
    ("src/index.js", include_str!("templates/js/index.js")),
    (".gitignore", "node_modules/\ndist/\nwit/\n.selvedge/\n.env\n"),
    ("README.md", include_str!("templates/js/README.md")),
];
const STATIC: Files = &[
    ("selvedge.yaml", include_str!("templates/static/selvedge.yaml")),
    ("public/index.html", include_str!("templates/static/index.html")),
    ("public/style.css", include_str!("templates/static/style.css")),
    (".gitignore", ".selvedge/\n.env\n"),
    ("README.md", include_str!("templates/static/README.md")),
];

pub(super) fn run(init: Init) -> Result<Answer, Failure> {
    let Init { name, template, folder } = init;
    let folder = folder.unwrap_or_else(|| PathBuf::from(&name));
    let files = match template {
        Template::Rust => RUST,
        Template::Js => JS,
        Template::Static => STATIC,
    };
    // The name is judged where every project's is.
    let probe = format!("app: {}\n", json!(name));
    selvedge_schema::parse_project("NAME", &probe, &folder, &[]).map_err(|diagnostics| {
        let first = diagnostics.items().first();
        let said = first.map_or(String::new(), |first| first.help.clone().unwrap_or_default());
        Failure::Usage(format!("{name:?} cannot be an app's name: {said}"))
    })?;
    let failed = |error: std::io::Error| Failure::file(&folder, &error);
    match std::fs::read_dir(&folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let failure = Failure::new("not_empty", format!("{} is not empty", folder.display()));
                return Err(failure.help("give a new folder with --folder, or empty this one"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut written = Vec::new();
    for (path, text) in files {
        let file = folder.join(path);
        std::fs::create_dir_all(file.parent().unwrap_or(&folder)).map_err(failed)?;
        std::fs::write(&file, text.replace("{{name}}", &name)).map_err(|error| Failure::file(&file, &error))?;
        written.push(*path);
    }
    let next = match template {
        Template::Js => "npm install && selvedge deploy",
        Template::Rust => "rustup target add wasm32-wasip2 && selvedge deploy",
        Template::Static => "selvedge deploy",
    };
    let text = format!(
        "{} has {}\nnext: cd {} && {next}",
        folder.display(),
        written.join(", "),
        folder.display()
    );
    Ok(Answer::new(
        text,
        json!({ "app": name, "folder": folder, "files": written }),
    ))
}
