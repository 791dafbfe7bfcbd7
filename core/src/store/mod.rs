//! The door to object storage: S3, and whatever speaks its protocol. S3 is the truth.
//!
//! The trait holds what the protocol in `versions` needs; the client is in `s3`, URL signing in
//! `presign`, who we are in `credentials`. Keys are built in `keys`, never here.

mod credentials;
mod presign;
#[cfg(feature = "store")]
mod s3;
mod session;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

#[cfg(feature = "store")]
pub use credentials::RoleError;
pub use credentials::{Credentials, CurrentCredentials};
pub use presign::Presigner;
#[cfg(feature = "store")]
pub use s3::S3Store;
pub use session::{Session, SessionAccess, SessionRequest};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// A conditional write lost, or met another write: nothing was changed by it.
    #[error("the object was changed by someone else")]
    Conflict,
    /// The store did not answer, or answered that it cannot now. The outcome of a write is unknown.
    #[error("the object store is unavailable: {0}")]
    Unavailable(String),
    #[error("the object store refused: {0}")]
    Refused(String),
    /// An internal object that does not hold what it should.
    #[error("object '{key}' is damaged: {problem}")]
    Damaged { key: String, problem: String },
}

#[derive(Debug, Clone)]
pub struct Object {
    pub bytes: Bytes,
    pub etag: String,
    pub version_id: Option<String>,
    pub last_modified: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// In bytes.
    pub size: u64,
    pub etag: String,
    /// Present where the bucket keeps versions.
    pub version_id: Option<String>,
    pub last_modified: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// `If-None-Match: *`
    IfAbsent,
    /// `If-Match: <etag>`
    IfMatch(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub etag: String,
    pub version_id: Option<String>,
}

/// What to delete: an object, or one version of it for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    pub key: String,
    pub version_id: Option<String>,
}

/// Where the parts of a file go, and what ends its upload. The completion is a POST of S3's own
/// `CompleteMultipartUpload` document with the ETags of the parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MultipartUrls {
    /// For PUT, in order.
    pub parts: Vec<String>,
    /// For POST.
    pub complete: String,
    /// For DELETE.
    pub abort: String,
}

#[async_trait]
pub trait Store: Send + Sync {
    fn bucket(&self) -> &str;

    /// The whole object, or `None` when there is none.
    async fn get(&self, key: &str, version_id: Option<&str>) -> Result<Option<Object>, StoreError>;

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Written, StoreError>;

    /// Every current object whose key starts with `prefix`, in key order.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// The first `most` (1000 at the most) current objects whose key starts with `prefix` and sorts
    /// after `after`, in key order.
    async fn list_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Listed>, StoreError>;

    /// The names directly below `prefix` that hold objects, without the trailing `/`.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    async fn delete(&self, objects: &[ObjectRef]) -> Result<(), StoreError>;

    /// Whether `session` gives any.
    fn gives_sessions(&self) -> bool {
        false
    }

    /// Credentials of the caller's own for the files of one version; `None` where the storage has
    /// none to give.
    async fn session(&self, _: &SessionRequest) -> Result<Option<Session>, StoreError> {
        Ok(None)
    }

    /// Begins an upload in parts; returns its id.
    async fn create_multipart(&self, _key: &str) -> Result<String, StoreError> {
        Err(StoreError::Refused(
            "this store takes no files in parts".to_owned(),
        ))
    }

    /// Gives up the uploads in parts below `prefix` that were not completed.
    async fn abort_multiparts(&self, _prefix: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// URLs for an upload in `parts` parts, good for `seconds`.
    fn presign_multipart(
        &self,
        _key: &str,
        _upload_id: &str,
        _parts: u64,
        _now: Timestamp,
        _seconds: u64,
    ) -> MultipartUrls {
        MultipartUrls::default()
    }

    /// A URL that reads the object for `seconds`; `file_name` names the download.
    fn presign_get(
        &self,
        key: &str,
        version_id: Option<&str>,
        now: Timestamp,
        seconds: u64,
    ) -> String;

    /// A URL that writes the object for `seconds`. `content_md5` (base64) is then part of what is
    /// signed: the store refuses other bytes.
    fn presign_put(
        &self,
        key: &str,
        content_md5: Option<&str>,
        now: Timestamp,
        seconds: u64,
    ) -> String;
}

/// Reads a JSON object and its ETag.
pub async fn get_json<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<(T, String)>, StoreError> {
    let Some(object) = store.get(key, None).await? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&object.bytes).map_err(|error| StoreError::Damaged {
        key: key.to_owned(),
        problem: error.to_string(),
    })?;
    Ok(Some((value, object.etag)))
}

/// Internal objects are JSON with an indent of four, as upstream writes them.
pub fn to_json<T: Serialize>(value: &T) -> Result<Bytes, StoreError> {
    let mut out = Vec::with_capacity(256);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value
        .serialize(&mut serializer)
        .map_err(|error| StoreError::Refused(format!("cannot serialize: {error}")))?;
    Ok(out.into())
}

pub async fn put_json<T: Serialize + Sync>(
    store: &dyn Store,
    key: &str,
    value: &T,
    condition: Condition,
) -> Result<Written, StoreError> {
    store.put(key, to_json(value)?, condition).await
}

/// Attempts of a compare-and-swap before the object counts as contended.
const SWAP_ATTEMPTS: u32 = 200;

/// Changes a JSON object by compare-and-swap until it holds: reads it (absent: `T::default()`),
/// lets `change` alter it, and writes it back on the condition that nobody else did. `change`
/// returns `None` to leave the object as it is. It may run several times and sees a fresh value
/// each time.
pub async fn swap_json<T, R>(
    store: &dyn Store,
    key: &str,
    mut change: impl FnMut(&mut T) -> Option<R> + Send,
) -> Result<Option<R>, StoreError>
where
    T: Serialize + DeserializeOwned + Default + Send + Sync,
    R: Send,
{
    for attempt in 0..SWAP_ATTEMPTS {
        let (mut value, condition) = match get_json::<T>(store, key).await? {
            Some((value, etag)) => (value, Condition::IfMatch(etag)),
            None => (T::default(), Condition::IfAbsent),
        };
        let Some(result) = change(&mut value) else {
            return Ok(None);
        };
        match put_json(store, key, &value, condition).await {
            Ok(_) => return Ok(Some(result)),
            Err(StoreError::Conflict) => {
                let spread = 1 + u64::from(attempt.min(20));
                let pause = rand::random_range(0..=spread);
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Unavailable(format!(
        "'{key}' is contended: {SWAP_ATTEMPTS} attempts to change it lost"
    )))
}
