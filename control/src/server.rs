//! Control from its start to its end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use selvedge_replication::agent::{TlsError, TlsListener, acceptor};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, watch};

use crate::api::{self, Control};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::auth::access::{Access, Role};
use crate::auth::caller::Keys;
use crate::auth::key::Key;
use crate::databases;
use crate::fleet::Fleet;
use crate::sealing;
use crate::settings::ControlSettings;
use crate::store::change::ChangeError;
use crate::store::keys::NewKey;
use crate::store::{Store, StoreError, now_ms};
use crate::vault::{Vault, VaultError};
use crate::webhooks;

/// How long requests under way may take when control stops.
const STOPPING: Duration = Duration::from_secs(5);
/// Time between two looks for blobs that nothing needs.
const COLLECTING: Duration = Duration::from_secs(60 * 60);
/// How long an uploaded blob waits for its deployment.
const BLOB_GRACE_MS: i64 = 24 * 60 * 60 * 1000;
/// Blobs looked at in one round.
const BLOBS_PER_ROUND: i64 = 500;
/// PoPs there may be; all are looked at when control starts.
const POPS: i64 = 100_000;

/// Why control did not start.
#[derive(Debug, Error)]
pub enum ControlError {
    #[error("preparing the databases of control")]
    Store(#[from] StoreError),
    #[error("making the first key")]
    FirstKey(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("preparing the folder of artifacts")]
    Artifacts(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("preparing the keys of secrets")]
    Vault(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("preparing the client for webhooks")]
    Client(#[source] reqwest::Error),
    #[error("{address} cannot be listened on")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Control serves.
#[derive(Debug)]
pub struct Started {
    pub address: SocketAddr,
    /// The first key, an owner's: made when there was none, and to be shown to the operator, who sees it this once.
    pub first_key: Option<Key>,
}

/// The API's description, as `/openapi.json` has it.
pub fn openapi() -> &'static str {
    api::openapi_text()
}

/// Serves until `stop`, and then what is under way.
pub async fn run(
    settings: ControlSettings,
    ready: impl FnOnce(Started),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ControlError> {
    let artifacts = Artifacts::in_folder(&settings.artifacts, settings.max_artifact_bytes);
    let artifacts = artifacts.map_err(|error| ControlError::Artifacts(Box::new(error)))?;
    let store = Arc::new(Store::open(&settings.agent_socket, &settings.agent_data_dir).await?);
    let failed = |source| ControlError::Listen {
        address: settings.listen,
        source,
    };
    let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let tls = settings.tls.as_ref().map(acceptor).transpose()?;
    let vault = vault(&store, &settings.secrets_key).await?;
    let client = webhooks::client(settings.allow_private_webhooks).map_err(ControlError::Client)?;
    let control = Arc::new(Control {
        vault: ArcSwap::from_pointee(vault),
        sealing: Mutex::default(),
        databases: Notify::new(),
        fleet: fleet(&store).await?,
        store,
        artifacts,
        keys: Keys::default(),
        sites: settings.sites.clone(),
        allow_private_webhooks: settings.allow_private_webhooks,
        filters: settings.filters.clone(),
    });
    let first_key = first_key(&control.store).await;
    let first_key = first_key.map_err(|error| ControlError::FirstKey(Box::new(error)))?;

    let (ending, mut ended) = watch::channel(false);
    let collecting = tokio::spawn(collect_now_and_then(Arc::clone(&control)));
    let sealing = tokio::spawn(sealing::now_and_then(Arc::clone(&control)));
    let databases = tokio::spawn(databases::run(Arc::clone(&control)));
    let telling = tokio::spawn(webhooks::run(Arc::clone(&control), client));
    let router = api::router(control);
    let graceful = async move {
        // The sender is held below: it cannot be gone.
        let _ = ended.wait_for(|ended| *ended).await;
    };
    let serving = match tls {
        None => tokio::spawn(
            axum::serve(listener, router)
                .with_graceful_shutdown(graceful)
                .into_future(),
        ),
        Some(tls) => {
            let listener = TlsListener::new(listener, tls).map_err(failed)?;
            tokio::spawn(
                axum::serve(listener, router)
                    .with_graceful_shutdown(graceful)
                    .into_future(),
            )
        }
    };
    tracing::info!(%address, "control serves");
    ready(Started { address, first_key });
    stop.await;
    tracing::info!("control stops");
    ending.send_replace(true);
    let abort = serving.abort_handle();
    if tokio::time::timeout(STOPPING, serving).await.is_err() {
        abort.abort();
    }
    collecting.abort();
    sealing.abort();
    databases.abort();
    telling.abort();
    Ok(())
}

/// The keys of secrets. A file is only made while no secret needs one that was there before.
async fn vault(store: &Store, path: &Path) -> Result<Vault, ControlError> {
    let failed = |error: VaultError| ControlError::Vault(Box::new(error));
    let needed = store.secret_keys().await?;
    let vault = match needed.is_empty() {
        true => Vault::open_or_make(path),
        false => Vault::open(path),
    };
    let vault = vault.map_err(failed)?;
    for id in needed {
        vault.check(&id).map_err(failed)?;
    }
    Ok(vault)
}

/// The PoPs as they were when they were heard last.
async fn fleet(store: &Store) -> Result<Fleet, StoreError> {
    let fleet = Fleet::default();
    for pop in store.pops("", POPS).await? {
        if let Some(seen_ms) = pop.seen_ms {
            fleet.hear(&pop.name, pop.revision, seen_ms);
        }
    }
    Ok(fleet)
}

async fn first_key(store: &Store) -> Result<Option<Key>, ChangeError> {
    let key = Key::make();
    let new = NewKey {
        name: "first key".to_owned(),
        access: Access {
            role: Role::Owner,
            app: None,
            actions: None,
        },
        expires_ms: None,
    };
    Ok(store.add_first_key(&key, &new).await?.then_some(key))
}

async fn collect_now_and_then(control: Arc<Control>) {
    let mut interval = tokio::time::interval(COLLECTING);
    loop {
        interval.tick().await;
        match collect(&control, now_ms() - BLOB_GRACE_MS).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "blobs that no deployment names were removed"),
            Err(error) => tracing::warn!(
                error = selvedge_replication::chain(&error),
                "blobs could not be collected"
            ),
        }
    }
}

#[derive(Debug, Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
}

/// Removes blobs that no deployment names and that nothing has needed since.
pub(crate) async fn collect(control: &Control, since_ms: i64) -> Result<usize, CollectError> {
    let unneeded = control.store.unneeded(since_ms, BLOBS_PER_ROUND).await?;
    let mut removed = 0;
    for digest in unneeded {
        let forget = async { Ok::<_, CollectError>(control.store.forget_artifact(&digest, since_ms).await?) };
        removed += usize::from(control.artifacts.remove_if(&digest, forget).await?);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use selvedge_replication::agent::{Agent, AgentSettings, Role as AgentRole};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::artifacts::Digest;
    use crate::chain::hex;
    use crate::store::deployments::DeployedBlob;

    #[tokio::test(flavor = "multi_thread")]
    async fn only_what_no_deployment_names_is_collected() {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(AgentSettings::new("primary", AgentRole::Primary, folder.path()))
            .await
            .unwrap();
        let store = Arc::new(Store::open(agent.socket(), folder.path()).await.unwrap());
        let control = Control {
            artifacts: Artifacts::in_folder(&folder.path().join("artifacts"), 1024).unwrap(),
            fleet: Fleet::default(),
            keys: Keys::default(),
            sites: selvedge_schema::Sites::default(),
            allow_private_webhooks: false,
            filters: Vec::new(),
            vault: ArcSwap::from_pointee(Vault::open_or_make(&folder.path().join("secrets.key")).unwrap()),
            sealing: Mutex::default(),
            databases: Notify::new(),
            store: Arc::clone(&store),
        };
        let mut digests = Vec::new();
        for content in ["named", "left"] {
            let digest = Digest::parse(&hex(&Sha256::digest(content))).unwrap();
            let put = control.artifacts.put(&digest, Body::from(content), async |bytes| {
                store.add_artifact(&digest, bytes).await
            });
            put.await.unwrap().unwrap();
            digests.push(digest);
        }
        store.add_app("key", "shop").await.unwrap();
        let blob = DeployedBlob {
            path: "a".to_owned(),
            digest: digests[0].as_str().to_owned(),
            bytes: 5,
        };
        store
            .add_deployment("key", "shop", &serde_json::json!({}), &[blob])
            .await
            .unwrap();
        assert_eq!(collect(&control, 0).await.unwrap(), 0, "all were needed since");
        assert_eq!(collect(&control, i64::MAX).await.unwrap(), 1);
        assert!(control.artifacts.get(&digests[0], None).await.is_ok());
        assert!(matches!(
            control.artifacts.get(&digests[1], None).await,
            Err(ArtifactError::Missing)
        ));
        assert_eq!(store.artifact(&digests[1]).await.unwrap(), None);
        agent.stop().await;
    }
}
