//! Brings each PoP the secrets of every app, sealed to its key.
//!
//! What should be there is computed from what is stored, and compared with what is there: nothing is lost when a process is
//! killed between a secret and its seals. Who changes a secret or a PoP waits for it; what could not be done then is done
//! by [`now_and_then`].

use std::sync::Arc;
use std::time::Duration;

use selvedge_schema::sealed::{PublicSealingKey, seal};
use thiserror::Error;

use crate::api::Control;
use crate::chain::hex;
use crate::store::StoreError;
use crate::store::change::ChangeError;
use crate::store::secrets::Sealed;
use crate::vault::VaultError;

/// Time between two looks for what was left undone.
const EVERY: Duration = Duration::from_secs(10);
/// Seals in one change. The largest secret makes 128 KiB of hex.
const SEALS: usize = 100;
/// Rows taken away in one change.
const REMOVED: usize = 5_000;

#[derive(Debug, Error)]
pub(crate) enum SealingError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<StoreError> for SealingError {
    fn from(error: StoreError) -> SealingError {
        SealingError::Change(error.into())
    }
}

/// Seals what is missing and removes what is left over; the revision PoPs have it with.
pub(crate) async fn bring_about(control: &Control, actor: &str) -> Result<i64, SealingError> {
    let _turn = control.sealing.lock().await;
    let difference = control.store.unsealed().await?;
    let mut revision = control.store.config.revision();
    for left_over in difference.left_over.chunks(REMOVED) {
        revision = control.store.seal_secrets(actor, &[], left_over).await?;
    }
    let mut failed = None;
    for missing in difference.missing.chunks(SEALS) {
        let mut sealed = Vec::new();
        for to in missing {
            let Some(encrypted) = control.store.encrypted(&to.app, &to.name, to.version).await? else {
                continue;
            };
            // One that does not decrypt keeps no other from its PoP.
            let value = match control.vault.load().decrypt(&to.app, &to.name, &encrypted) {
                Ok(value) => value,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let Ok(public) = to.sealing_key.parse::<PublicSealingKey>() else {
                tracing::error!(pop = to.pop, "the sealing key of a PoP is none; let it report another");
                continue;
            };
            sealed.push(Sealed {
                sealed: hex(&seal(&public, &to.pop, &to.app, &to.name, value.as_str().as_bytes())),
                app: to.app.clone(),
                name: to.name.clone(),
                version: to.version,
                pop: to.pop.clone(),
                sealing_key: to.sealing_key.clone(),
            });
        }
        if !sealed.is_empty() {
            revision = control.store.seal_secrets(actor, &sealed, &[]).await?;
        }
    }
    failed.map_or(Ok(revision), |error| Err(error.into()))
}

/// Does what a request, or a process before this one, has left undone.
pub(crate) async fn now_and_then(control: Arc<Control>) {
    let mut interval = tokio::time::interval(EVERY);
    loop {
        interval.tick().await;
        let done = async {
            control.store.forget_secrets_of_gone_apps().await?;
            bring_about(&control, "control").await
        };
        if let Err(error) = done.await {
            tracing::warn!(
                error = selvedge_replication::chain(&error),
                "secrets could not be sealed for the PoPs"
            );
        }
    }
}
