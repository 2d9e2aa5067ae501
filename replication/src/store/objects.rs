//! The store's objects, whatever service holds them: listed, read in pieces and written whole.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
};
use thiserror::Error;

use super::layout::{ChainFolder, ChainName, EPOCH, Inventory, Item, LevelNames};
use super::settings::StoreSettings;
use crate::folder::Folder;
use crate::ltx::{HEADER_BYTES, Header, LtxError};

/// An object is read and written in pieces of this size: above the 5 MiB that S3 asks of a part, and 10,000 parts (its
/// most) are 80 GiB.
pub(super) const PIECE_BYTES: usize = 8 * 1024 * 1024;
/// One request, also one with a whole piece: 2 Mbit/s suffice.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The client's own tries; beyond them ours go on, visibly.
const TRIES: usize = 2;

/// Why the store did not do something.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("{0:?} is neither a folder nor s3://bucket/prefix")]
    Url(String),
    #[error("the store cannot be set up")]
    Setup(#[source] object_store::Error),
    #[error("{place} cannot be {doing}")]
    Object {
        doing: &'static str,
        place: String,
        source: object_store::Error,
    },
    #[error("{place} is damaged")]
    Damaged { place: String, source: LtxError },
    #[error("{place} does not hold a number; if no replica is ahead of this machine, remove it")]
    NotAnEpoch { place: String },
    #[error("what is to be stored cannot be read")]
    Local(#[source] std::io::Error),
    #[error("merging stored files")]
    Merge(#[from] super::CompactError),
    #[error("taking a snapshot")]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    #[error("reading the log")]
    Log(#[from] crate::log::LogError),
}

impl StoreError {
    /// Whether an object that should be there is not.
    pub(super) fn is_missing(&self) -> bool {
        matches!(
            self,
            StoreError::Object {
                source: object_store::Error::NotFound { .. },
                ..
            }
        )
    }
}

/// An opened store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    levels: LevelNames,
    pub(super) settings: Arc<StoreSettings>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Store").field(&self.settings).finish()
    }
}

impl Store {
    /// Prepares access. Nothing is asked of a service, and no folder is made, before something is stored.
    pub fn open(settings: &StoreSettings) -> Result<Store, StoreError> {
        let invalid = || StoreError::Url(settings.url.clone());
        let (objects, prefix, levels): (Arc<dyn ObjectStore>, Path, LevelNames) =
            match settings.url.strip_prefix("s3://") {
                Some(place) => {
                    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
                    if bucket.is_empty() {
                        return Err(invalid());
                    }
                    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| invalid())?;
                    crate::agent::install_crypto();
                    (Arc::new(s3(settings, bucket)?), prefix, LevelNames::Hexadecimal)
                }
                None => {
                    let path = settings.url.strip_prefix("file://").unwrap_or(&settings.url);
                    if path.is_empty() || path.contains("://") {
                        return Err(invalid());
                    }
                    let path = std::path::absolute(path).map_err(|_| invalid())?;
                    let prefix = Path::from_absolute_path(&path).map_err(|_| invalid())?;
                    (Arc::new(file_system()), prefix, LevelNames::Decimal)
                }
            };
        Ok(Store {
            objects,
            prefix,
            levels,
            settings: Arc::new(settings.clone()),
        })
    }

    /// The names of the databases it has.
    pub async fn databases(&self) -> Result<Vec<String>, StoreError> {
        let names = self.folders(&self.prefix).await?;
        Ok(names.into_iter().filter(|name| Folder::is_valid_name(name)).collect())
    }

    /// The names of all objects below a folder, such as [`super::StoreStatus::folder`].
    pub async fn keys(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let folder = folder.split('/').fold(self.prefix.clone(), Path::join);
        let listed = self
            .objects
            .list(Some(&folder))
            .map_ok(|meta| meta.location.to_string());
        listed.try_collect().await.map_err(failed("listed", &folder))
    }

    /// Removes everything it has of a database.
    pub async fn remove(&self, database: &str) -> Result<(), StoreError> {
        self.remove_below(&self.prefix.clone().join(database)).await
    }

    pub(super) async fn remove_chain(&self, database: &str, name: ChainName) -> Result<(), StoreError> {
        self.remove_below(&self.chain(database, name).path).await
    }

    async fn remove_below(&self, folder: &Path) -> Result<(), StoreError> {
        let found: Vec<_> = self
            .objects
            .list(Some(folder))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(failed("listed", folder))?;
        for key in found {
            self.delete(&key).await?;
        }
        Ok(())
    }

    /// A database's chains, the current one last.
    pub(super) async fn chains(&self, database: &str) -> Result<Vec<ChainName>, StoreError> {
        let names = self.folders(&self.prefix.clone().join(database)).await?;
        let chains: BTreeSet<ChainName> = names.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(chains.into_iter().collect())
    }

    pub(super) fn chain(&self, database: &str, name: ChainName) -> ChainFolder {
        ChainFolder {
            path: self.prefix.clone().join(database).join(name.to_string()),
            levels: self.levels,
        }
    }

    pub(super) fn epoch_key(&self) -> Path {
        self.prefix.clone().join(EPOCH)
    }

    pub(super) async fn inventory(&self, chain: &ChainFolder) -> Result<Inventory, StoreError> {
        let listed = self.objects.list(Some(&chain.path));
        let items = listed.try_filter_map(async |meta| Ok(Item::of(chain, &meta)));
        let items: Vec<Item> = items.try_collect().await.map_err(failed("listed", &chain.path))?;
        Ok(items.into_iter().collect())
    }

    async fn folders(&self, below: &Path) -> Result<Vec<String>, StoreError> {
        let listed = self.objects.list_with_delimiter(Some(below)).await;
        let listed = match listed {
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            other => other.map_err(failed("listed", below))?,
        };
        let names = listed.common_prefixes.iter().filter_map(Path::filename);
        Ok(names.map(str::to_owned).collect())
    }

    /// What a transaction file is about, without reading it.
    pub(super) async fn header(&self, key: &Path) -> Result<Header, StoreError> {
        let bytes = self.read(key, 0..HEADER_BYTES as u64).await?;
        let damaged = |source| StoreError::Damaged {
            place: key.to_string(),
            source,
        };
        let first = bytes
            .first_chunk()
            .ok_or(LtxError::Field { what: "the length" })
            .map_err(damaged)?;
        Header::parse(first).map_err(damaged)
    }

    pub(super) async fn read(&self, key: &Path, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        self.objects.get_range(key, range).await.map_err(failed("read", key))
    }

    /// A small object; `None` when there is none.
    pub(super) async fn read_small(&self, key: &Path) -> Result<Option<Bytes>, StoreError> {
        let found = match self.objects.get(key).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed("read", key))?,
        };
        found.bytes().await.map(Some).map_err(failed("read", key))
    }

    pub(super) async fn put(&self, key: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_from(key, bytes, bytes.len() as u64).await
    }

    /// Writes what a reader gives, `bytes` of it. The reader may block for as long as a disk does.
    pub(super) async fn put_from(&self, key: &Path, mut from: impl Read, bytes: u64) -> Result<(), StoreError> {
        let mut upload = self.begin(key);
        let mut left = bytes;
        while left > 0 {
            let mut piece = vec![0; (PIECE_BYTES as u64).min(left) as usize];
            from.read_exact(&mut piece).map_err(StoreError::Local)?;
            left -= piece.len() as u64;
            upload.write(&piece).await?;
        }
        upload.finish().await
    }

    /// Begins an object that comes piece by piece. It exists when it is finished.
    pub(super) fn begin(&self, key: &Path) -> Upload {
        Upload {
            objects: Arc::clone(&self.objects),
            key: key.clone(),
            waiting: Vec::new(),
            parts: None,
        }
    }

    pub(super) async fn delete(&self, key: &Path) -> Result<(), StoreError> {
        match self.objects.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("removed", key)(error)),
        }
    }
}

/// An object that is being written, in parts of equal size (some services want that) or, when it is small, at once.
/// Dropped, it is given up.
pub(super) struct Upload {
    objects: Arc<dyn ObjectStore>,
    key: Path,
    waiting: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl Upload {
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            if self.waiting.len() == PIECE_BYTES {
                self.send().await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), StoreError> {
        let failed = failed("written", &self.key);
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let begun = self.objects.put_multipart(&self.key).await;
                self.parts.insert(begun.map_err(&failed)?)
            }
        };
        let part = PutPayload::from(std::mem::take(&mut self.waiting));
        parts.put_part(part).await.map_err(failed)
    }

    pub(super) async fn finish(mut self) -> Result<(), StoreError> {
        if self.parts.is_none() {
            let whole = PutPayload::from(std::mem::take(&mut self.waiting));
            let put = self.objects.put(&self.key, whole).await;
            return put.map(drop).map_err(failed("written", &self.key));
        }
        self.send().await?;
        let Some(parts) = &mut self.parts else { return Ok(()) };
        parts.complete().await.map_err(failed("written", &self.key))?;
        self.parts = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut parts) = self.parts.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                // What stays behind when this fails is invisible, and a matter of the service's own rules.
                let _ = parts.abort().await;
            });
        }
    }
}

fn failed(doing: &'static str, key: &Path) -> impl Fn(object_store::Error) -> StoreError {
    let place = key.to_string();
    move |source| StoreError::Object {
        doing,
        place: place.clone(),
        source,
    }
}

/// The whole file system, so that a folder that is not there now (a disk that is not mounted) stops no start.
fn file_system() -> LocalFileSystem {
    LocalFileSystem::new().with_fsync(true)
}

fn s3(settings: &StoreSettings, bucket: &str) -> Result<impl ObjectStore, StoreError> {
    let options = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(settings.allow_http);
    let mut builder = AmazonS3Builder::from_env()
        .with_client_options(options)
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: TRIES,
            retry_timeout: REQUEST_TIMEOUT,
        })
        .with_bucket_name(bucket);
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
    }
    if let (Some(id), Some(secret)) = (&settings.access_key_id, &settings.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    builder.build().map_err(StoreError::Setup)
}
