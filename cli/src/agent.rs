//! `selvedge agent`: the process beside the proxy that keeps its databases current.

use std::path::Path;

use selvedge_proxy::OpenError;
use selvedge_replication::agent::{Agent, AgentClientToken, AgentDatabase, AgentSettings, AgentTls, ClientRole, Role};
use selvedge_replication::postgres::PostgresSettings;
use selvedge_replication::queue::QueueBounds;
use selvedge_replication::store::StoreSettings;
use selvedge_schema::{AgentClient, Config};
use serde_json::json;

use crate::{explain, service};

/// What control has for PoPs.
const CONFIG_DATABASE: &str = "_config";

pub(crate) fn run(file: &Path, ready_file: Option<&Path>) -> Result<(), String> {
    let document = selvedge_proxy::read_configuration(file).map_err(|error| match error {
        OpenError::Invalid(diagnostics) => diagnostics,
        other => explain(&other),
    })?;
    let settings = settings(&document.config).ok_or_else(|| {
        format!(
            "error: {} has no `agent`\n  help: add `agent: {{}}` for a primary, or `agent: {{ primary: URL }}`",
            file.display()
        )
    })?;
    service::block_on(serve(settings, ready_file))
}

async fn serve(settings: AgentSettings, ready_file: Option<&Path>) -> Result<(), String> {
    let failed = |error: std::io::Error| explain(&error);
    let end = service::told_to_end().map_err(failed)?;
    let role = match &settings.role {
        Role::Primary => "primary".to_owned(),
        Role::Replica { primary } => format!("replica of {primary}"),
    };
    let agent = Agent::start(settings).await.map_err(|error| explain(&error))?;
    let ready = json!({ "agent": agent.address().map(|address| address.to_string()), "socket": agent.socket() });
    tracing::info!(%ready, role, "the agent serves");
    if let Some(path) = ready_file {
        service::write_ready(path, &ready).map_err(failed)?;
    }
    end.await;
    tracing::info!("the agent stops");
    agent.stop().await;
    Ok(())
}

/// What the configuration says of its agent.
pub(crate) fn settings(config: &Config) -> Option<AgentSettings> {
    let agent = config.agent.clone()?;
    let role = match agent.primary {
        Some(primary) => Role::Replica { primary },
        None => Role::Primary,
    };
    let replicated = config.databases.iter().filter(|(_, database)| database.path.is_none());
    let postgres = config.postgres.iter().filter_map(|(name, postgres)| {
        Some(PostgresSettings {
            name: name.clone(),
            url: postgres.url.clone()?,
            pool: postgres.pool,
            statement_timeout: postgres.statement_timeout,
            ca: postgres.ca.clone(),
        })
    });
    Some(AgentSettings {
        name: agent.name,
        role,
        data_dir: agent.data_dir,
        socket: agent.socket,
        listen: agent.listen,
        token: agent.token,
        tls: agent.tls.map(|tls| AgentTls {
            cert: tls.cert,
            key: tls.key,
        }),
        ca: agent.ca,
        clients: agent.clients.into_iter().map(client).collect(),
        databases: replicated
            .map(|(name, database)| AgentDatabase {
                name: name.clone(),
                migrations: database.migrations.clone(),
                seed: database.seed.clone(),
            })
            .collect(),
        platform_databases: config
            .control
            .iter()
            .filter(|control| control.link.is_some())
            .map(|_| CONFIG_DATABASE.to_owned())
            .collect(),
        postgres: postgres.collect(),
        queue: QueueBounds {
            rows: agent.queue_rows,
            bytes: agent.queue_bytes,
        },
        log_retain_bytes: agent.log_retain_bytes,
        store: agent.store.map(store),
        write_timeout: agent.write_timeout,
        open_databases: agent.open_databases,
        scrub_interval: agent.scrub_interval,
    })
}

/// The settings of the object store.
fn store(written: selvedge_schema::AgentStore) -> StoreSettings {
    StoreSettings {
        endpoint: written.endpoint,
        region: written.region,
        access_key_id: written.access_key_id,
        secret_access_key: written.secret_access_key,
        allow_http: written.allow_http,
        snapshot_interval: written.snapshot_interval,
        retention: written.retention,
        sync_interval: written.sync_interval,
        ..StoreSettings::new(written.url)
    }
}

fn client(client: AgentClient) -> AgentClientToken {
    AgentClientToken {
        token: client.token,
        database: client.database,
        role: match client.role {
            selvedge_schema::ClientRole::Read => ClientRole::Read,
            selvedge_schema::ClientRole::Write => ClientRole::Write,
        },
    }
}
