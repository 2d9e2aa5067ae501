//! Cloudflare's `wrangler` configuration, in TOML or JSON.

use std::path::Path;

use serde_json::{Value, json};

use super::{Handler, Imported, label, texts};

/// What we have no counterpart for, and what is said of it.
const LEFT: [(&str, &str); 8] = [
    ("kv_namespaces", "there is no key-value store yet"),
    ("r2_buckets", "there is no object storage binding yet"),
    ("durable_objects", "there are no durable objects yet"),
    ("queues", "there are no queues"),
    ("services", "handlers do not call each other yet"),
    ("triggers", "there are no scheduled handlers"),
    ("ai", "there are no models"),
    ("env", "environments: each is an app of its own; deploy with --app NAME"),
];
/// Where the component is expected.
const COMPONENT: &str = "dist/handler.wasm";

pub(super) fn read(config: &Value, folder: &Path) -> Imported {
    let mut imported = Imported {
        app: label(config["name"].as_str().unwrap_or_default()),
        build: config["build"]["command"].as_str().map(str::to_owned),
        ..Imported::default()
    };
    match &config["build"]["watch_dir"] {
        Value::String(folder) => imported.watch.push(folder.clone()),
        folders => imported.watch = texts(folders),
    }
    for (key, why) in LEFT {
        if !config[key].is_null() {
            imported.notes.push(format!("{key}: {why}"));
        }
    }
    let worker = config["main"].as_str().map(|main| worker(main, config, &mut imported));
    let assets = config["assets"]["directory"]
        .as_str()
        .or_else(|| config["site"]["bucket"].as_str());
    if let Some(assets) = assets {
        static_routes(assets, worker.is_some(), folder, &mut imported);
    }
    if let Some(handler) = worker {
        imported.handlers.insert("worker".to_owned(), handler);
        imported.routes.push(("/*".to_owned(), "handler: worker".to_owned()));
    }
    hosts(config, &mut imported);
    imported
}

fn worker(main: &str, config: &Value, imported: &mut Imported) -> Handler {
    let mut handler = Handler {
        component: COMPONENT.to_owned(),
        ..Handler::default()
    };
    handler.notes.push(format!(
        "main {main}: build it into {COMPONENT}; `selvedge init NAME --template js` shows how"
    ));
    for (name, value) in config["vars"].as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        handler.env.insert(name.clone(), text);
    }
    for database in config["d1_databases"].as_array().into_iter().flatten() {
        let Some(binding) = database["binding"].as_str() else {
            continue;
        };
        let name = label(database["database_name"].as_str().unwrap_or(binding));
        let migrations = database["migrations_dir"].as_str().map(str::to_owned);
        imported.notes.push(format!(
            "d1_databases {binding}: bring its rows over with `wrangler d1 export` and `selvedge db import {name}`"
        ));
        imported.databases.insert(name.clone(), migrations);
        handler.bindings.insert(binding.to_owned(), name);
    }
    for (key, secret) in config["secrets"]["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .enumerate()
    {
        if key == 0 {
            handler
                .notes
                .push("secrets: `selvedge secret set NAME` for each".to_owned());
        }
        handler.secrets.push(secret.to_owned());
    }
    handler
}

/// With a worker, an asset is looked for first: here each file and folder of the assets is a route.
fn static_routes(assets: &str, has_worker: bool, folder: &Path, imported: &mut Imported) {
    let root = json!(assets.trim_end_matches('/'));
    if !has_worker {
        imported
            .routes
            .push(("/*".to_owned(), format!("static: {{ root: {root} }}")));
        return;
    }
    let mut names: Vec<(String, bool)> = std::fs::read_dir(folder.join(assets))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().into_string().ok()?, entry.path().is_dir()))
        })
        .filter(|(name, _)| !name.starts_with(['_', '.']))
        .collect();
    names.sort();
    if names.is_empty() {
        imported.notes.push(format!(
            "assets {assets}: it is not there yet; add a `static` route for each folder in it"
        ));
    }
    for (name, is_folder) in names {
        let (path, target) = match (is_folder, name.as_str()) {
            (true, _) => {
                let root = json!(format!("{}/{name}", assets.trim_end_matches('/')));
                (format!("/{name}/*"), format!("static: {{ root: {root} }}"))
            }
            (false, "index.html") => ("/".to_owned(), format!("static: {{ root: {root} }}")),
            (false, _) => (
                format!("/{name}"),
                format!("static: {{ root: {root}, index: {} }}", json!(name)),
            ),
        };
        imported.routes.push((path, target));
    }
}

fn hosts(config: &Value, imported: &mut Imported) {
    let one = config["route"].as_str().map(str::to_owned);
    let several = config["routes"].as_array().into_iter().flatten();
    let several = several.filter_map(|route| route.as_str().or_else(|| route["pattern"].as_str()).map(str::to_owned));
    for pattern in one.into_iter().chain(several) {
        let plain = pattern.trim_start_matches("https://").trim_start_matches("http://");
        let host = plain.split('/').next().unwrap_or_default();
        imported.notes.push(match host.contains('*') {
            true => format!("route {pattern}: a domain without `*` is added with `selvedge domains add HOST`"),
            false => format!("route {pattern}: `selvedge domains add {host}`"),
        });
    }
}
