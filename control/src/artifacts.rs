//! Blobs by their digest, in an object store: `blobs/sha256/<hex>`.
//!
//! A blob is written under a temporary name and gets its own only when its digest is right: under a digest there is that
//! content, or nothing.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use futures::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::RwLock;

use crate::chain::hex;

/// Parts written at one time.
const PARTS: usize = 2;

#[derive(Debug, Error)]
pub(crate) enum ArtifactError {
    #[error("the content has the digest {found}, not {expected}; nothing was kept")]
    Digest { expected: String, found: String },
    #[error("the content is larger than {limit} bytes; nothing was kept")]
    TooLarge { limit: u64 },
    #[error("the content did not arrive whole; nothing was kept")]
    Body(#[source] axum::Error),
    #[error("there is no such blob")]
    Missing,
    #[error("the folder of artifacts cannot be read or written")]
    Objects(#[from] object_store::Error),
}

/// SHA-256 in lower-case hex, known to be one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn parse(text: &str) -> Option<Digest> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(is_hex)).then(|| Digest(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Key {
        Key::from(format!("blobs/sha256/{}", self.0))
    }
}

pub(crate) struct Artifacts {
    objects: Arc<dyn ObjectStore>,
    max_bytes: u64,
    /// Held for writing while blobs are collected: none appears and goes at the same time.
    collecting: RwLock<()>,
}

impl Artifacts {
    pub(crate) fn in_folder(folder: &Path, max_bytes: u64) -> Result<Artifacts, ArtifactError> {
        std::fs::create_dir_all(folder).map_err(|source| object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(source),
        })?;
        let objects = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Artifacts {
            objects: Arc::new(objects),
            max_bytes,
            collecting: RwLock::default(),
        })
    }

    /// Keeps a blob, and does `then` with its size before it can be collected.
    pub(crate) async fn put<T>(
        &self,
        digest: &Digest,
        body: Body,
        then: impl AsyncFnOnce(u64) -> T,
    ) -> Result<T, ArtifactError> {
        let upload = self.objects.put_multipart(&digest.key()).await?;
        let mut writer = WriteMultipart::new(upload);
        let written = self.write(&mut writer, digest, body).await;
        let bytes = match written {
            Ok(bytes) => bytes,
            Err(error) => {
                // Whatever is left has a temporary name.
                if let Err(error) = writer.abort().await {
                    tracing::warn!(%error, "the parts of a refused blob could not be removed");
                }
                return Err(error);
            }
        };
        let _standing = self.collecting.read().await;
        writer.finish().await?;
        Ok(then(bytes).await)
    }

    async fn write(&self, writer: &mut WriteMultipart, digest: &Digest, body: Body) -> Result<u64, ArtifactError> {
        let mut body = body.into_data_stream();
        let mut sum = Sha256::new();
        let mut bytes = 0;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(ArtifactError::Body)?;
            bytes += piece.len() as u64;
            if bytes > self.max_bytes {
                return Err(ArtifactError::TooLarge { limit: self.max_bytes });
            }
            sum.update(&piece);
            writer.wait_for_capacity(PARTS).await?;
            writer.put(piece);
        }
        let found = hex(&sum.finalize());
        match found == digest.0 {
            true => Ok(bytes),
            false => Err(ArtifactError::Digest {
                expected: digest.0.clone(),
                found,
            }),
        }
    }

    /// A part of a blob, which must have it; `None` is all of it.
    pub(crate) async fn get(&self, digest: &Digest, part: Option<Range<u64>>) -> Result<Body, ArtifactError> {
        let options = GetOptions {
            range: part.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        match self.objects.get_opts(&digest.key(), options).await {
            Ok(found) => Ok(Body::from_stream(found.into_stream())),
            Err(object_store::Error::NotFound { .. }) => Err(ArtifactError::Missing),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a blob that `forget` takes out of the index, while none can be put.
    pub(crate) async fn remove_if<E: From<ArtifactError>>(
        &self,
        digest: &Digest,
        forget: impl Future<Output = Result<bool, E>>,
    ) -> Result<bool, E> {
        let _alone = self.collecting.write().await;
        if !forget.await? {
            return Ok(false);
        }
        match self.objects.delete(&digest.key()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(ArtifactError::Objects(error).into()),
        }
    }
}
