//! Spin's manifest, version 2.

use serde_json::{Map, Value};

use super::{Handler, Imported, label, texts};
use crate::outcome::Failure;

pub(super) fn read(manifest: &Value, version: &Value) -> Result<Imported, Failure> {
    if version != 2 {
        let failure = Failure::new("import", format!("this is a Spin manifest of version {version}"));
        return Err(failure.help("only version 2 is known: `spin doctor` brings an older one up to it"));
    }
    let empty = Map::new();
    let mut imported = Imported {
        app: label(manifest["application"]["name"].as_str().unwrap_or_default()),
        ..Imported::default()
    };
    let variables = manifest["variables"].as_object().unwrap_or(&empty);
    let mut builds = Vec::new();
    for (id, component) in manifest["component"].as_object().unwrap_or(&empty) {
        let handler = handler(component, variables, &mut imported);
        if let Some(command) = component["build"]["command"].as_str() {
            builds.push(match component["build"]["workdir"].as_str() {
                Some(folder) => format!("(cd '{folder}' && {command})"),
                None => command.to_owned(),
            });
        }
        let folder = component["build"]["workdir"].as_str();
        imported.watch.extend(
            texts(&component["build"]["watch"])
                .into_iter()
                .map(|watched| match folder {
                    Some(folder) => format!("{folder}/{watched}"),
                    None => watched,
                }),
        );
        if handler.component.is_empty() {
            imported.notes.push(format!(
                "component {id}: its source is fetched from elsewhere; put the .wasm into the project"
            ));
            continue;
        }
        imported.handlers.insert(id.clone(), handler);
    }
    imported.build = (!builds.is_empty()).then(|| builds.join(" && "));
    for trigger in manifest["trigger"]["http"].as_array().into_iter().flatten() {
        route(trigger, &mut imported);
    }
    for kind in manifest["trigger"]
        .as_object()
        .unwrap_or(&empty)
        .keys()
        .filter(|kind| *kind != "http")
    {
        imported
            .notes
            .push(format!("trigger.{kind}: only HTTP triggers are known"));
    }
    Ok(imported)
}

fn handler(component: &Value, variables: &Map<String, Value>, imported: &mut Imported) -> Handler {
    let mut handler = Handler {
        component: component["source"].as_str().unwrap_or_default().to_owned(),
        ..Handler::default()
    };
    for database in texts(&component["sqlite_databases"]) {
        imported.databases.entry(database.clone()).or_default();
        handler.bindings.insert(database.clone(), database);
    }
    for (name, value) in component["environment"].as_object().into_iter().flatten() {
        handler
            .env
            .insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
    }
    for (name, template) in component["variables"].as_object().into_iter().flatten() {
        variable(name, template.as_str().unwrap_or_default(), variables, &mut handler);
    }
    let outbound = texts(&component["allowed_outbound_hosts"]);
    if !outbound.is_empty() {
        handler.notes.push(format!(
            "allowed_outbound_hosts {}: handlers have no outbound requests yet",
            outbound.join(" ")
        ));
    }
    let stores = texts(&component["key_value_stores"]);
    if !stores.is_empty() {
        handler.notes.push(format!(
            "key_value_stores {}: there is no key-value store yet",
            stores.join(" ")
        ));
    }
    if component["files"].as_array().is_some_and(|files| !files.is_empty()) {
        handler
            .notes
            .push("files: a handler has no files; serve them with a `static` route".to_owned());
    }
    if component["ai_models"].is_array() {
        handler.notes.push("ai_models: there are none".to_owned());
    }
    handler
}

/// A variable becomes one of the environment, or a secret.
fn variable(name: &str, template: &str, variables: &Map<String, Value>, handler: &mut Handler) {
    let inside = template
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .map(str::trim);
    let Some(of) = inside else {
        match template.contains("{{") {
            true => handler
                .notes
                .push(format!("variable {name} = {template:?}: put its value into `env`")),
            false => drop(handler.env.insert(name.to_owned(), template.to_owned())),
        }
        return;
    };
    let variable = &variables.get(of).cloned().unwrap_or_default();
    if variable["secret"] == true {
        handler.secrets.push(name.to_owned());
        handler
            .notes
            .push(format!("variable {name} is a secret: `selvedge secret set {name}`"));
    } else if let Some(default) = variable["default"].as_str() {
        handler.env.insert(name.to_owned(), default.to_owned());
    } else {
        handler
            .notes
            .push(format!("variable {name} has no default: `selvedge env set {name}=…`"));
    }
}

fn route(trigger: &Value, imported: &mut Imported) {
    let Some(component) = trigger["component"].as_str() else {
        imported
            .notes
            .push("a trigger with a component of its own: give the component a name".to_owned());
        return;
    };
    let Some(route) = trigger["route"].as_str() else {
        imported
            .notes
            .push(format!("component {component} is private: it is reached by no route"));
        return;
    };
    if !imported.handlers.contains_key(component) {
        imported
            .notes
            .push(format!("route {route}: component {component} was not carried over"));
        return;
    }
    let path = match route.strip_suffix("...") {
        Some(start) => format!("{}/*", start.trim_end_matches('/')),
        None => route.to_owned(),
    };
    imported.routes.push((path, format!("handler: {component}")));
}
