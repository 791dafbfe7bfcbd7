//! The store door on aws-sdk-s3.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, SharedHttpClient, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{BucketVersioningStatus, Delete, ObjectIdentifier};
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Condition, Credentials, CurrentCredentials, Listed, MultipartUrls, Object, ObjectRef,
    Presigner, RoleError, Session, SessionRequest, Store, StoreError, Written,
};
use crate::causes::causes;
use crate::config::StorageConfig;

/// S3 takes at most this many keys in one delete request.
const DELETE_BATCH: usize = 1000;

/// One bucket of an S3 service.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    presigner: Presigner,
    /// Whether listings name object versions.
    versioned: bool,
    pinning: Option<bool>,
    /// Who gives session credentials, and for which role.
    sessions: Option<(aws_sdk_sts::Client, String)>,
}

impl S3Store {
    /// Makes a client; nothing is sent yet.
    pub fn new(storage: &StorageConfig, credentials: impl Into<CurrentCredentials>) -> Self {
        let credentials = credentials.into();
        let http = http_client();
        let endpoint = storage.endpoint.as_deref();
        let sessions = storage.sts.as_ref().map(|sts| {
            let mut config = aws_sdk_sts::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(storage.region.clone()))
                .credentials_provider(credentials.clone())
                .identity_cache(IdentityCache::no_cache())
                .http_client(http.clone())
                .timeout_config(timeouts());
            // Stores that speak S3 answer for STS at the same address.
            config.set_endpoint_url(endpoint.map(str::to_owned));
            let client = aws_sdk_sts::Client::from_conf(config.build());
            (client, sts.role_arn.clone())
        });
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(storage.region.clone()))
            .force_path_style(storage.path_style)
            .credentials_provider(credentials.clone())
            .identity_cache(IdentityCache::no_cache())
            .http_client(http)
            // A retried conditional write may meet its own first attempt and report a conflict, so
            // retries belong to the protocol and not to the client.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            .request_checksum_calculation(
                aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired,
            )
            .response_checksum_validation(
                aws_sdk_s3::config::ResponseChecksumValidation::WhenRequired,
            );
        config.set_endpoint_url(endpoint.map(str::to_owned));
        Self {
            client: Client::from_conf(config.build()),
            bucket: storage.bucket.clone(),
            presigner: Presigner::new(
                storage
                    .public_endpoint
                    .as_deref()
                    .or(endpoint)
                    .unwrap_or(&aws_endpoint(&storage.region)),
                &storage.bucket,
                &storage.region,
                storage.path_style,
                credentials,
            ),
            versioned: storage.version_pinning.unwrap_or(false),
            pinning: storage.version_pinning,
            sessions,
        }
    }

    /// A client that has the credentials of the role of this process.
    pub async fn of_role(storage: &StorageConfig) -> Result<Self, RoleError> {
        let current = CurrentCredentials::of_role(&storage.region, http_client()).await?;
        Ok(Self::new(storage, current))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Refuses a store that ignores conditional writes, and finds out whether the bucket keeps
    /// versions where the configuration does not say so. Before this, it counts as not keeping any.
    pub async fn prepare(&mut self) -> Result<(), StoreError> {
        self.probe().await?;
        if self.pinning.is_none() {
            let answer = self
                .client
                .get_bucket_versioning()
                .bucket(&self.bucket)
                .send()
                .await;
            self.versioned = match answer {
                Ok(answer) => answer.status() == Some(&BucketVersioningStatus::Enabled),
                // Not every store knows the question, and not every role may ask it.
                Err(error) => match failure(error) {
                    StoreError::Refused(text) => {
                        tracing::warn!(bucket = self.bucket, %text, "cannot tell whether the bucket keeps versions; set versionPinning");
                        false
                    }
                    away => return Err(away),
                },
            };
        }
        if !self.versioned {
            tracing::info!(
                bucket = self.bucket,
                "the bucket keeps no versions: late uploads are found by their ETag and not kept out"
            );
        }
        Ok(())
    }

    /// Tries conditional writes for real: some stores accept the headers and ignore them, and on
    /// such a store nothing here would be safe.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let key = format!("..meta/probe-{:016x}", rand::random::<u64>());
        let first = self
            .put(&key, Bytes::from_static(b"1"), Condition::IfAbsent)
            .await?;
        let again = self
            .put(&key, Bytes::from_static(b"2"), Condition::IfAbsent)
            .await;
        let stale = self
            .put(
                &key,
                Bytes::from_static(b"3"),
                Condition::IfMatch("\"00000000000000000000000000000000\"".to_owned()),
            )
            .await;
        let matching = self
            .put(
                &key,
                Bytes::from_static(b"4"),
                Condition::IfMatch(first.etag),
            )
            .await;
        self.delete(&[ObjectRef {
            key,
            version_id: None,
        }])
        .await?;
        if again != Err(StoreError::Conflict) || stale != Err(StoreError::Conflict) {
            return Err(StoreError::Refused(format!(
                "bucket '{}' ignores If-None-Match or If-Match: concurrent writers would lose data on it",
                self.bucket
            )));
        }
        matching.map(|_| ())
    }

    async fn list_pages(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
    ) -> Result<(Vec<Listed>, Vec<String>), StoreError> {
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        let mut token = None;
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_delimiter(delimiter.map(str::to_owned))
                .set_continuation_token(token)
                .send()
                .await
                .map_err(failure)?;
            objects.extend(page.contents().iter().filter_map(listed));
            folders.extend(page.common_prefixes().iter().filter_map(|folder| {
                let name = folder.prefix()?.strip_prefix(prefix)?;
                Some(name.trim_end_matches('/').to_owned())
            }));
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Ok((objects, folders));
            }
        }
    }

    async fn list_versions(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let mut objects = Vec::new();
        let (mut key_marker, mut version_marker) = (after.map(str::to_owned), None);
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_version_id_marker(version_marker)
                .send()
                .await
                .map_err(failure)?;
            let current = page
                .versions()
                .iter()
                .filter(|version| version.is_latest() == Some(true));
            objects.extend(current.filter_map(|version| {
                Some(Listed {
                    key: version.key()?.to_owned(),
                    size: u64::try_from(version.size()?).ok()?,
                    etag: version.e_tag()?.to_owned(),
                    version_id: version.version_id().map(str::to_owned),
                    last_modified: timestamp(version.last_modified()),
                })
            }));
            key_marker = page.next_key_marker().map(str::to_owned);
            version_marker = page.next_version_id_marker().map(str::to_owned);
            let ended = page.is_truncated() != Some(true) || key_marker.is_none();
            if ended || objects.len() >= most {
                objects.truncate(most);
                return Ok(objects);
            }
        }
    }
}

/// AWS's own endpoint in a region. The global one sends requests for other regions on to theirs, and
/// a signed URL is good for one host only.
fn aws_endpoint(region: &str) -> String {
    let partition = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{partition}")
}

/// The HTTP client of everything that speaks to the cloud.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_timeout(Duration::from_secs(60))
        .build()
}

fn listed(object: &aws_sdk_s3::types::Object) -> Option<Listed> {
    Some(Listed {
        key: object.key()?.to_owned(),
        size: u64::try_from(object.size()?).ok()?,
        etag: object.e_tag()?.to_owned(),
        version_id: None,
        last_modified: timestamp(object.last_modified()),
    })
}

fn timestamp(at: Option<&DateTime>) -> Timestamp {
    at.and_then(|at| Timestamp::from_millisecond(at.to_millis().ok()?).ok())
        .unwrap_or_default()
}

fn failure<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> StoreError
where
    SdkError<E, R>: std::error::Error + 'static,
    R: HttpStatus,
{
    if let SdkError::ServiceError(service) = &error {
        let status = service.raw().status_code();
        let code = service.err().code().unwrap_or("error");
        let text = format!("{code} {}", service.err().message().unwrap_or_default());
        return match status {
            409 | 412 => StoreError::Conflict,
            429 | 500..=599 => StoreError::Unavailable(text),
            // Of a role whose credentials could not be renewed in time; they will be.
            _ if code.starts_with("ExpiredToken") => StoreError::Unavailable(text),
            _ => StoreError::Refused(text),
        };
    }
    StoreError::Unavailable(causes(&error))
}

/// The status of a raw response, whatever client it came through.
trait HttpStatus {
    fn status_code(&self) -> u16;
}

impl HttpStatus for aws_smithy_runtime_api::http::Response {
    fn status_code(&self) -> u16 {
        self.status().as_u16()
    }
}

#[async_trait]
impl Store for S3Store {
    fn bucket(&self) -> &str {
        &self.bucket
    }

    async fn get(&self, key: &str, version_id: Option<&str>) -> Result<Option<Object>, StoreError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .send()
            .await;
        let object = match answer {
            Ok(object) => object,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => {
                return Ok(None);
            }
            Err(error)
                if error
                    .as_service_error()
                    .and_then(ProvideErrorMetadata::code)
                    .is_some_and(|code| matches!(code, "NoSuchVersion" | "NotFound")) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failure(error)),
        };
        let etag = object.e_tag().unwrap_or_default().to_owned();
        let version_id = object.version_id().map(str::to_owned);
        let last_modified = timestamp(object.last_modified());
        let bytes = object
            .body
            .collect()
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?
            .into_bytes();
        Ok(Some(Object {
            bytes,
            etag,
            version_id,
            last_modified,
        }))
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Written, StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/json")
            .body(ByteStream::from(bytes));
        let request = match condition {
            Condition::Always => request,
            Condition::IfAbsent => request.if_none_match("*"),
            Condition::IfMatch(etag) => request.if_match(etag),
        };
        let conditional_on_absent = |error: &StoreError| {
            // `If-Match` on an object that is gone: 404.
            matches!(error, StoreError::Refused(text) if text.starts_with("NoSuchKey"))
        };
        match request.send().await.map_err(failure) {
            Ok(written) => Ok(Written {
                etag: written.e_tag().unwrap_or_default().to_owned(),
                version_id: written.version_id().map(str::to_owned),
            }),
            Err(error) if conditional_on_absent(&error) => Err(StoreError::Conflict),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        if self.versioned {
            self.list_versions(prefix, None, usize::MAX).await
        } else {
            self.list_pages(prefix, None)
                .await
                .map(|(objects, _)| objects)
        }
    }

    async fn list_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        if self.versioned {
            return self.list_versions(prefix, after, most).await;
        }
        let page = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .set_max_keys(i32::try_from(most).ok())
            .send()
            .await
            .map_err(failure)?;
        Ok(page.contents().iter().filter_map(listed).collect())
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.list_pages(prefix, Some("/"))
            .await
            .map(|(_, folders)| folders)
    }

    async fn delete(&self, objects: &[ObjectRef]) -> Result<(), StoreError> {
        for batch in objects.chunks(DELETE_BATCH) {
            let identifiers = batch
                .iter()
                .filter_map(|object| {
                    ObjectIdentifier::builder()
                        .key(&object.key)
                        .set_version_id(object.version_id.clone())
                        .build()
                        .ok()
                })
                .collect();
            let delete = Delete::builder()
                .set_objects(Some(identifiers))
                .quiet(true)
                .build()
                .map_err(|error| StoreError::Refused(error.to_string()))?;
            let answer = self
                .client
                .delete_objects()
                .bucket(&self.bucket)
                .delete(delete)
                .send()
                .await
                .map_err(failure)?;
            if let Some(error) = answer.errors().first() {
                return Err(StoreError::Unavailable(format!(
                    "cannot delete '{}': {}",
                    error.key().unwrap_or_default(),
                    error.message().unwrap_or_default()
                )));
            }
        }
        Ok(())
    }

    fn gives_sessions(&self) -> bool {
        self.sessions.is_some()
    }

    async fn session(&self, request: &SessionRequest) -> Result<Option<Session>, StoreError> {
        let Some((client, role)) = &self.sessions else {
            return Ok(None);
        };
        if !request.fits_a_policy() {
            return Err(StoreError::Refused(format!(
                "'{}' holds a character that a policy reads as a wildcard",
                request.prefix
            )));
        }
        let name = request.role_session_name();
        let answer = client
            .assume_role()
            .role_arn(role)
            .role_session_name(&name)
            .duration_seconds(i32::try_from(request.seconds).unwrap_or(i32::MAX))
            .policy(request.policy(&self.bucket).to_string())
            .send()
            .await
            .map_err(failure)?;
        let Some(given) = answer.credentials() else {
            return Err(StoreError::Unavailable(
                "the store gave no session credentials".to_owned(),
            ));
        };
        Ok(Some(Session {
            credentials: Credentials {
                access_key: given.access_key_id().to_owned(),
                secret_key: given.secret_access_key().to_owned(),
                session_token: Some(given.session_token().to_owned()),
            },
            expires: timestamp(Some(given.expiration())),
            name,
        }))
    }

    async fn create_multipart(&self, key: &str) -> Result<String, StoreError> {
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/octet-stream")
            .send()
            .await
            .map_err(failure)?;
        match begun.upload_id() {
            Some(id) => Ok(id.to_owned()),
            None => Err(StoreError::Unavailable(
                "the store gave no id of an upload in parts".to_owned(),
            )),
        }
    }

    async fn abort_multiparts(&self, prefix: &str) -> Result<(), StoreError> {
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker)
                .send()
                .await
                .map_err(failure)?;
            for upload in page.uploads() {
                // Not every store keeps to the prefix.
                let Some(key) = upload.key().filter(|key| key.starts_with(prefix)) else {
                    continue;
                };
                let aborted = self
                    .client
                    .abort_multipart_upload()
                    .bucket(&self.bucket)
                    .key(key)
                    .set_upload_id(upload.upload_id().map(str::to_owned))
                    .send()
                    .await;
                match aborted.map_err(failure) {
                    Ok(_) => {}
                    // It ended meanwhile.
                    Err(StoreError::Refused(text)) if text.starts_with("NoSuchUpload") => {}
                    Err(error) => return Err(error),
                }
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            id_marker = page.next_upload_id_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || key_marker.is_none() {
                return Ok(());
            }
        }
    }

    fn presign_multipart(
        &self,
        key: &str,
        upload_id: &str,
        parts: u64,
        now: Timestamp,
        seconds: u64,
    ) -> MultipartUrls {
        let whole = [("uploadId", upload_id)];
        let sign = |method: &str, query: &[(&str, &str)]| {
            self.presigner.url(method, key, query, &[], now, seconds)
        };
        MultipartUrls {
            parts: (1..=parts)
                .map(|number| {
                    let number = number.to_string();
                    sign("PUT", &[("partNumber", &number), ("uploadId", upload_id)])
                })
                .collect(),
            complete: sign("POST", &whole),
            abort: sign("DELETE", &whole),
        }
    }

    fn presign_get(
        &self,
        key: &str,
        version_id: Option<&str>,
        now: Timestamp,
        seconds: u64,
    ) -> String {
        let query: Vec<(&str, &str)> = version_id.map(|id| ("versionId", id)).into_iter().collect();
        self.presigner.url("GET", key, &query, &[], now, seconds)
    }

    fn presign_put(
        &self,
        key: &str,
        content_md5: Option<&str>,
        now: Timestamp,
        seconds: u64,
    ) -> String {
        let headers: Vec<(&str, &str)> = content_md5
            .map(|md5| ("content-md5", md5))
            .into_iter()
            .collect();
        self.presigner.url("PUT", key, &[], &headers, now, seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_endpoint_of_the_region() {
        let storage = |region: &str, path_style| StorageConfig {
            alias: "a".into(),
            bucket: "b".into(),
            endpoint: None,
            public_endpoint: None,
            region: region.into(),
            path_style,
            version_pinning: None,
            sts: None,
        };
        let credentials = Credentials {
            access_key: "a".into(),
            secret_key: "b".into(),
            session_token: Some("c".into()),
        };
        for (region, path_style, start) in [
            (
                "eu-central-1",
                false,
                "https://b.s3.eu-central-1.amazonaws.com/k?",
            ),
            ("us-east-1", true, "https://s3.us-east-1.amazonaws.com/b/k?"),
            (
                "cn-north-1",
                false,
                "https://b.s3.cn-north-1.amazonaws.com.cn/k?",
            ),
        ] {
            let store = S3Store::new(&storage(region, path_style), credentials.clone());
            let url = store.presign_get("k", None, Timestamp::UNIX_EPOCH, 60);
            assert!(url.starts_with(start), "{url}");
            assert!(url.contains("X-Amz-Security-Token=c&"));
        }
    }
}
