//! The S3 operations, from the s3s crate's types to the catalog and back.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::catalog::{
    Catalog, CatalogError, Conditions, Entry, Headers, NewContent, NewObject, Upload, now,
};
use super::conditions;
use super::content::{Content, INLINE, OpenFiles, Staged};
use super::digests::Digests;
use super::listing::{Listing, Range as KeyRange, Row};

const PAGE: usize = 1000;
const PART_MAX: i32 = 10_000;

pub struct Service {
    catalog: Arc<Catalog>,
}

impl Service {
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog }
    }
}

impl From<CatalogError> for S3Error {
    fn from(error: CatalogError) -> Self {
        let code = match &error {
            CatalogError::NoSuchBucket => S3ErrorCode::NoSuchBucket,
            CatalogError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
            CatalogError::NoSuchKey => S3ErrorCode::NoSuchKey,
            CatalogError::NoSuchUpload => S3ErrorCode::NoSuchUpload,
            CatalogError::PreconditionFailed => S3ErrorCode::PreconditionFailed,
            CatalogError::InvalidPart(_) => S3ErrorCode::InvalidPart,
            CatalogError::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
            CatalogError::TooSmall => S3ErrorCode::EntityTooSmall,
            CatalogError::Database(_) => S3ErrorCode::InternalError,
        };
        let mut answer = S3Error::with_message(code, error.to_string());
        answer.set_source(Box::new(error));
        answer
    }
}

fn io_error(error: std::io::Error) -> S3Error {
    match error.get_ref() {
        // A body that broke off, or chunks whose signatures do not hold.
        Some(_) => s3_error!(error, IncompleteBody, "the body could not be read whole"),
        None => s3_error!(error, InternalError, "the content could not be stored"),
    }
}

pub fn timestamp(millis: i64) -> Timestamp {
    let since = std::time::Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    Timestamp::from(std::time::SystemTime::UNIX_EPOCH + since)
}

fn etag(entry: &Entry) -> ETag {
    ETag::Strong(entry.etag.clone())
}

fn version_id(entry: &Entry) -> Option<String> {
    entry.versioned.then(|| entry.version_id())
}

fn check_key(key: &str) -> S3Result<()> {
    if key.len() > 1024 {
        return Err(s3_error!(
            KeyTooLongError,
            "the key is longer than 1024 bytes"
        ));
    }
    if key.is_empty() || key.chars().any(char::is_control) {
        return Err(s3_error!(
            InvalidArgument,
            "the key is empty or holds control characters"
        ));
    }
    Ok(())
}

/// A body taken in and verified.
struct Stored {
    size: u64,
    md5: String,
    content: Staged,
    checksum: Checksum,
}

impl Stored {
    /// What the catalog takes.
    fn into_content(self) -> NewContent {
        match self.content {
            Staged::Memory(bytes) => NewContent::Small(bytes),
            Staged::File(file) => NewContent::File(file, self.size),
        }
    }
}

impl Service {
    async fn receive(
        &self,
        body: Option<StreamingBlob>,
        length: Option<i64>,
        mut digests: Digests,
        inline: usize,
    ) -> S3Result<Stored> {
        let hasher = digests.hasher();
        let received = match body {
            Some(body) => self.catalog.contents.receive(body, hasher, inline).await,
            None => {
                let empty = futures::stream::empty::<Result<Bytes, std::io::Error>>();
                self.catalog.contents.receive(empty, hasher, inline).await
            }
        }
        .map_err(io_error)?;
        if let Some(length) = length
            && u64::try_from(length).is_ok_and(|length| length != received.size)
        {
            return Err(s3_error!(
                IncompleteBody,
                "the body is not as long as its Content-Length"
            ));
        }
        digests.check(received.md5, &received.checksum)?;
        Ok(Stored {
            size: received.size,
            md5: hex::encode(received.md5),
            content: received.bytes,
            checksum: received.checksum,
        })
    }

    fn find(&self, bucket: &str, key: &str, version: Option<&str>) -> S3Result<Entry> {
        check_key(key)?;
        match self.catalog.entry(bucket, key, version)? {
            Some(entry) => Ok(entry),
            None => Err(missing(version)),
        }
    }

    /// Finds an object and makes its content ready to be read: both of one moment. An object that
    /// is overwritten just now is looked up again.
    async fn open(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> S3Result<(Entry, Opened)> {
        check_key(key)?;
        for _ in 0..LOOKUPS {
            let Some((entry, bytes)) = self.catalog.entry_and_bytes(bucket, key, version)? else {
                break;
            };
            match (bytes, &entry.content) {
                (Some(bytes), _) => return Ok((entry, Opened::Memory(bytes))),
                (None, Some(Content::Files(files))) => {
                    match self.catalog.contents.open_files(files).await {
                        Ok(files) => return Ok((entry, Opened::Files(files))),
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => return Err(io_error(error)),
                    }
                }
                (None, _) => break,
            }
        }
        Err(missing(version))
    }

    /// The object that a copy reads.
    async fn source(&self, source: &CopySource) -> S3Result<(Entry, Opened)> {
        let CopySource::Bucket {
            bucket,
            key,
            version_id,
        } = source
        else {
            return Err(s3_error!(NotImplemented, "access points are not supported"));
        };
        self.open(bucket, key, version_id.as_deref()).await
    }
}

/// How often an object that changes under a reader is looked up.
const LOOKUPS: usize = 10;

fn missing(version: Option<&str>) -> S3Error {
    match version {
        Some(_) => s3_error!(NoSuchVersion, "the version does not exist"),
        None => s3_error!(NoSuchKey, "the key does not exist"),
    }
}

/// Content that stays readable, whatever becomes of its object.
enum Opened {
    Memory(Bytes),
    Files(OpenFiles),
}

impl Opened {
    /// `length` bytes from `start`.
    async fn read(self, start: u64, length: u64) -> S3Result<StreamingBlob> {
        match self {
            Opened::Memory(bytes) => {
                let (start, length) = (cut(start), cut(length));
                let end = start.saturating_add(length).min(bytes.len());
                let bytes = bytes.slice(start.min(end)..end);
                Ok(StreamingBlob::from(s3s::Body::from(bytes)))
            }
            Opened::Files(files) => {
                let stream = files.read(start, length).await.map_err(io_error)?;
                Ok(StreamingBlob::wrap(stream))
            }
        }
    }
}

fn cut(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct HeaderSource {
    content_type: Option<String>,
    content_encoding: Option<String>,
    content_disposition: Option<String>,
    content_language: Option<String>,
    cache_control: Option<String>,
    metadata: Option<Metadata>,
}

impl From<HeaderSource> for Headers {
    fn from(source: HeaderSource) -> Self {
        Headers {
            content_type: source.content_type,
            content_encoding: source.content_encoding,
            content_disposition: source.content_disposition,
            content_language: source.content_language,
            cache_control: source.cache_control,
            metadata: source.metadata.unwrap_or_default().into_iter().collect(),
        }
    }
}

macro_rules! headers_of {
    ($input:expr) => {
        Headers::from(HeaderSource {
            content_type: $input.content_type.clone(),
            content_encoding: $input.content_encoding.clone(),
            content_disposition: $input.content_disposition.clone(),
            content_language: $input.content_language.clone(),
            cache_control: $input.cache_control.clone(),
            metadata: $input.metadata.clone(),
        })
    };
}

macro_rules! digests_of {
    ($request:expr) => {
        Digests {
            content_md5: $request.input.content_md5.take(),
            expected: Checksum {
                checksum_crc32: $request.input.checksum_crc32.clone(),
                checksum_crc32c: $request.input.checksum_crc32c.clone(),
                checksum_crc64nvme: $request.input.checksum_crc64nvme.clone(),
                checksum_sha1: $request.input.checksum_sha1.clone(),
                checksum_sha256: $request.input.checksum_sha256.clone(),
                ..Checksum::default()
            },
            trailing: $request
                .headers
                .get("x-amz-trailer")
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            trailers: $request.trailing_headers.take(),
        }
    };
}

/// Keys in answers, percent-encoded where the request asks for that.
fn encoded(key: &str, encoding: Option<&EncodingType>) -> String {
    match encoding {
        Some(encoding) if encoding.as_str() == EncodingType::URL => {
            percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        }
        _ => key.to_owned(),
    }
}

fn limit(asked: Option<i32>) -> usize {
    asked.map_or(PAGE, |asked| usize::try_from(asked).unwrap_or(0).min(PAGE))
}

fn split(listing: Listing, encoding: Option<&EncodingType>) -> (Vec<Object>, Vec<CommonPrefix>) {
    let (mut objects, mut folders) = (Vec::new(), Vec::new());
    for row in listing.rows {
        match row {
            Row::Object(key, entry) => objects.push(Object {
                key: Some(encoded(&key, encoding)),
                e_tag: Some(etag(&entry)),
                size: i64::try_from(entry.size).ok(),
                last_modified: Some(timestamp(entry.modified)),
                ..Object::default()
            }),
            Row::Folder(prefix) => folders.push(CommonPrefix {
                prefix: Some(encoded(&prefix, encoding)),
            }),
        }
    }
    (objects, folders)
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let name = request.input.bucket;
        if self.catalog.bucket(&name).is_ok() {
            return Err(s3_error!(BucketAlreadyOwnedByYou, "the bucket exists"));
        }
        self.catalog.put_bucket(&name, false).await?;
        Ok(S3Response::new(CreateBucketOutput {
            location: Some(format!("/{name}")),
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.catalog.bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.catalog.delete_bucket(&request.input.bucket).await?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn list_buckets(
        &self,
        _request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self
            .catalog
            .buckets()?
            .into_iter()
            .map(|(name, info)| Bucket {
                name: Some(name),
                creation_date: Some(timestamp(info.created)),
                ..Bucket::default()
            });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..ListBucketsOutput::default()
        }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.catalog.bucket(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let input = request.input;
        let info = self.catalog.bucket(&input.bucket)?;
        let status = input.versioning_configuration.status;
        let enable = status.is_some_and(|s| s.as_str() == BucketVersioningStatus::ENABLED);
        if info.versioned && !enable {
            return Err(s3_error!(
                NotImplemented,
                "versioning cannot be suspended once it is enabled"
            ));
        }
        if enable {
            self.catalog.put_bucket(&input.bucket, true).await?;
        }
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let info = self.catalog.bucket(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketVersioningOutput {
            status: info
                .versioned
                .then(|| BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            ..GetBucketVersioningOutput::default()
        }))
    }

    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        check_key(&request.input.key)?;
        self.catalog.bucket(&request.input.bucket)?;
        let digests = digests_of!(request);
        let input = request.input;
        let conditions = conditions::on_write(input.if_match.clone(), input.if_none_match.clone())?;
        let headers = headers_of!(input);
        let stored = self
            .receive(input.body, input.content_length, digests, INLINE)
            .await?;
        let (size, md5) = (stored.size, stored.md5.clone());
        let checksum = stored.checksum.clone();
        let content = stored.into_content();
        let entry = self
            .catalog
            .put(NewObject {
                bucket: input.bucket,
                key: input.key,
                size,
                etag: md5,
                content,
                headers,
                conditions,
            })
            .await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(etag(&entry)),
            version_id: version_id(&entry),
            checksum_crc32: checksum.checksum_crc32,
            checksum_crc32c: checksum.checksum_crc32c,
            checksum_crc64nvme: checksum.checksum_crc64nvme,
            checksum_sha1: checksum.checksum_sha1,
            checksum_sha256: checksum.checksum_sha256,
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (entry, content) = self
            .open(&input.bucket, &input.key, input.version_id.as_deref())
            .await?;
        conditions::on_read(
            &entry,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )?;
        let (start, length, range) = match &input.range {
            None => (0, entry.size, None),
            Some(range) => {
                let span = range.check(entry.size)?;
                let text = format!("bytes {}-{}/{}", span.start, span.end - 1, entry.size);
                (span.start, span.end - span.start, Some(text))
            }
        };
        let body = content.read(start, length).await?;
        let headers = entry.headers.clone();
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(body),
            content_length: i64::try_from(length).ok(),
            content_range: range,
            content_type: input.response_content_type.or(headers.content_type),
            content_encoding: input.response_content_encoding.or(headers.content_encoding),
            content_disposition: input
                .response_content_disposition
                .or(headers.content_disposition),
            content_language: input.response_content_language.or(headers.content_language),
            cache_control: input.response_cache_control.or(headers.cache_control),
            metadata: Some(headers.metadata.into_iter().collect()),
            e_tag: Some(etag(&entry)),
            last_modified: Some(timestamp(entry.modified)),
            version_id: version_id(&entry),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let entry = self.find(&input.bucket, &input.key, input.version_id.as_deref())?;
        conditions::on_read(
            &entry,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
            input.if_modified_since.as_ref(),
            input.if_unmodified_since.as_ref(),
        )?;
        let headers = entry.headers.clone();
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(entry.size).ok(),
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_disposition: headers.content_disposition,
            content_language: headers.content_language,
            cache_control: headers.cache_control,
            metadata: Some(headers.metadata.into_iter().collect()),
            e_tag: Some(etag(&entry)),
            last_modified: Some(timestamp(entry.modified)),
            version_id: version_id(&entry),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        check_key(&input.key)?;
        let condition = conditions::on_write(input.if_match, None)?.etag;
        let deleted = self
            .catalog
            .delete(
                &input.bucket,
                vec![(input.key, input.version_id)],
                condition,
            )
            .await?;
        let deleted = deleted.into_iter().next().unwrap_or_default();
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: deleted.marker.then_some(true),
            version_id: deleted.version_id,
            ..DeleteObjectOutput::default()
        }))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        if input.delete.objects.len() > PAGE {
            return Err(s3_error!(
                MalformedXML,
                "more than 1000 keys in one request"
            ));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let (mut objects, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            match check_key(&object.key) {
                Ok(()) => objects.push((object.key, object.version_id)),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                }),
            }
        }
        let names = objects.clone();
        let deleted = self.catalog.delete(&input.bucket, objects, None).await?;
        let deleted = names
            .into_iter()
            .zip(deleted)
            .map(|((key, asked), deleted)| {
                let marker_id = deleted.marker.then(|| deleted.version_id.clone()).flatten();
                DeletedObject {
                    key: Some(key),
                    version_id: asked,
                    delete_marker: deleted.marker.then_some(true),
                    delete_marker_version_id: marker_id,
                }
            });
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then(|| deleted.collect()),
            errors: (!errors.is_empty()).then_some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        check_key(&input.key)?;
        let (source, content) = self.source(&input.copy_source).await?;
        conditions::on_read(
            &source,
            input.copy_source_if_match.as_ref(),
            input.copy_source_if_none_match.as_ref(),
            input.copy_source_if_modified_since.as_ref(),
            input.copy_source_if_unmodified_since.as_ref(),
        )
        .map_err(|_| s3_error!(PreconditionFailed))?;
        let replaced = input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let headers = if replaced {
            headers_of!(input)
        } else {
            source.headers.clone()
        };
        let body = content.read(0, source.size).await?;
        let stored = self
            .receive(Some(body), None, Digests::default(), INLINE)
            .await?;
        let (size, md5) = (stored.size, stored.md5.clone());
        let content = stored.into_content();
        let entry = self
            .catalog
            .put(NewObject {
                bucket: input.bucket,
                key: input.key,
                size,
                etag: md5,
                content,
                headers,
                conditions: Conditions::default(),
            })
            .await?;
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(etag(&entry)),
                last_modified: Some(timestamp(entry.modified)),
                ..CopyObjectResult::default()
            }),
            copy_source_version_id: version_id(&source),
            version_id: version_id(&entry),
            ..CopyObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let after = match &input.continuation_token {
            None => input.start_after.clone(),
            Some(token) => {
                let decoded = STANDARD.decode(token).ok();
                let key = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
                let invalid = || s3_error!(InvalidArgument, "the continuation token is not ours");
                Some(key.ok_or_else(invalid)?)
            }
        };
        let prefix = input.prefix.clone().unwrap_or_default();
        let limit = limit(input.max_keys);
        let listing = self.catalog.list(&KeyRange {
            bucket: &input.bucket,
            prefix: &prefix,
            delimiter: input.delimiter.as_deref(),
            after: after.as_deref(),
            limit,
        })?;
        let truncated = listing.truncated;
        let next = listing
            .rows
            .last()
            .filter(|_| truncated)
            .map(|row| STANDARD.encode(row.name()));
        let encoding = input.encoding_type;
        let (objects, folders) = split(listing, encoding.as_ref());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(objects.len() + folders.len()).ok(),
            contents: Some(objects),
            common_prefixes: Some(folders),
            name: Some(input.bucket),
            prefix: Some(encoded(&prefix, encoding.as_ref())),
            delimiter: input.delimiter,
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(truncated),
            continuation_token: input.continuation_token,
            next_continuation_token: next,
            start_after: input.start_after,
            encoding_type: encoding,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let limit = limit(input.max_keys);
        let listing = self.catalog.list(&KeyRange {
            bucket: &input.bucket,
            prefix: &prefix,
            delimiter: input.delimiter.as_deref(),
            after: input.marker.as_deref(),
            limit,
        })?;
        let truncated = listing.truncated;
        let next = listing.rows.last().map(|row| row.name().to_owned());
        let encoding = input.encoding_type;
        let (objects, folders) = split(listing, encoding.as_ref());
        Ok(S3Response::new(ListObjectsOutput {
            contents: Some(objects),
            common_prefixes: Some(folders),
            name: Some(input.bucket),
            prefix: Some(encoded(&prefix, encoding.as_ref())),
            delimiter: input.delimiter,
            marker: input.marker,
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(truncated),
            next_marker: next.filter(|_| truncated),
            encoding_type: encoding,
            ..ListObjectsOutput::default()
        }))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        if input
            .delimiter
            .as_deref()
            .is_some_and(|text| !text.is_empty())
        {
            return Err(s3_error!(
                NotImplemented,
                "versions are listed without a delimiter"
            ));
        }
        let prefix = input.prefix.clone().unwrap_or_default();
        let limit = limit(input.max_keys);
        let listing = self.catalog.list_versions(
            &KeyRange {
                bucket: &input.bucket,
                prefix: &prefix,
                delimiter: None,
                after: input
                    .key_marker
                    .as_deref()
                    .filter(|marker| !marker.is_empty()),
                limit,
            },
            input.version_id_marker.as_deref(),
        )?;
        let encoding = input.encoding_type;
        let last = listing
            .versions
            .last()
            .filter(|_| listing.truncated)
            .map(|(key, entry, _)| (encoded(key, encoding.as_ref()), entry.version_id()));
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (key, entry, newest) in listing.versions {
            let key = Some(encoded(&key, encoding.as_ref()));
            if entry.content.is_some() {
                versions.push(ObjectVersion {
                    key,
                    version_id: Some(entry.version_id()),
                    is_latest: Some(newest),
                    e_tag: Some(etag(&entry)),
                    size: i64::try_from(entry.size).ok(),
                    last_modified: Some(timestamp(entry.modified)),
                    ..ObjectVersion::default()
                });
            } else {
                markers.push(DeleteMarkerEntry {
                    key,
                    version_id: Some(entry.version_id()),
                    is_latest: Some(newest),
                    last_modified: Some(timestamp(entry.modified)),
                    ..DeleteMarkerEntry::default()
                });
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            versions: Some(versions),
            delete_markers: Some(markers),
            name: Some(input.bucket),
            prefix: Some(prefix),
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(listing.truncated),
            next_key_marker: last.as_ref().map(|(key, _)| key.clone()),
            next_version_id_marker: last.map(|(_, id)| id),
            key_marker: input.key_marker,
            version_id_marker: input.version_id_marker,
            encoding_type: encoding,
            ..ListObjectVersionsOutput::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        check_key(&input.key)?;
        let id = self
            .catalog
            .create_upload(Upload {
                bucket: input.bucket.clone(),
                key: input.key.clone(),
                initiated: now(),
                headers: headers_of!(input),
            })
            .await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let digests = digests_of!(request);
        let input = request.input;
        let number = part_number(input.part_number)?;
        self.catalog
            .upload(&input.upload_id, &input.bucket, &input.key)?;
        let stored = self
            .receive(input.body, input.content_length, digests, 0)
            .await?;
        let md5 = self
            .store_part(
                &input.upload_id,
                (&input.bucket, &input.key),
                number,
                stored,
            )
            .await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(md5)),
            ..UploadPartOutput::default()
        }))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = request.input;
        let number = part_number(input.part_number)?;
        self.catalog
            .upload(&input.upload_id, &input.bucket, &input.key)?;
        let (source, content) = self.source(&input.copy_source).await?;
        let (start, length) = match &input.copy_source_range {
            None => (0, source.size),
            Some(text) => {
                let range = Range::parse(text)
                    .map_err(|error| s3_error!(error, InvalidArgument, "the range is not one"))?;
                let span = range.check(source.size)?;
                (span.start, span.end - span.start)
            }
        };
        let body = content.read(start, length).await?;
        let stored = self
            .receive(Some(body), None, Digests::default(), 0)
            .await?;
        let md5 = self
            .store_part(
                &input.upload_id,
                (&input.bucket, &input.key),
                number,
                stored,
            )
            .await?;
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: Some(ETag::Strong(md5)),
                last_modified: Some(timestamp(now())),
                ..CopyPartResult::default()
            }),
            ..UploadPartCopyOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let conditions = conditions::on_write(input.if_match, input.if_none_match)?;
        let parts = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default()
            .into_iter()
            .map(|part| {
                let number = part_number(part.part_number.unwrap_or_default())?;
                Ok((number, part.e_tag.map(ETag::into_value)))
            })
            .collect::<S3Result<Vec<_>>>()?;
        let entry = self
            .catalog
            .complete_upload(
                &input.upload_id,
                (&input.bucket, &input.key),
                parts,
                conditions,
            )
            .await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(etag(&entry)),
            version_id: version_id(&entry),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.catalog
            .abort_upload(&input.upload_id, (&input.bucket, &input.key))
            .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        self.catalog
            .upload(&input.upload_id, &input.bucket, &input.key)?;
        let after = input
            .part_number_marker
            .as_ref()
            .and_then(|marker| marker.to_string().parse().ok())
            .unwrap_or(0);
        let limit = limit(input.max_parts);
        let (parts, truncated) = self.catalog.parts(&input.upload_id, after, limit)?;
        let parts = parts.into_iter().map(|(number, part)| Part {
            part_number: i32::try_from(number).ok(),
            e_tag: Some(ETag::Strong(part.etag)),
            size: i64::try_from(part.size).ok(),
            last_modified: Some(timestamp(part.modified)),
            ..Part::default()
        });
        let parts: Vec<Part> = parts.collect();
        let last = parts.last().and_then(|part| part.part_number);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            max_parts: i32::try_from(limit).ok(),
            next_part_number_marker: last.filter(|_| truncated),
            part_number_marker: input.part_number_marker,
            parts: Some(parts),
            ..ListPartsOutput::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let limit = limit(input.max_uploads);
        let key_marker = input.key_marker.clone().unwrap_or_default();
        let id_marker = input.upload_id_marker.clone().unwrap_or_default();
        let mut uploads = self.catalog.uploads(&input.bucket, &prefix)?;
        uploads.retain(|(id, upload)| {
            upload.key > key_marker
                || (upload.key == key_marker && !id_marker.is_empty() && *id > id_marker)
        });
        let truncated = uploads.len() > limit;
        uploads.truncate(limit);
        let last = uploads.last().filter(|_| truncated).cloned();
        let uploads = uploads.into_iter().map(|(id, upload)| MultipartUpload {
            key: Some(upload.key),
            upload_id: Some(id),
            initiated: Some(timestamp(upload.initiated)),
            ..MultipartUpload::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(prefix),
            is_truncated: Some(truncated),
            max_uploads: i32::try_from(limit).ok(),
            next_key_marker: last.as_ref().map(|(_, upload)| upload.key.clone()),
            next_upload_id_marker: last.map(|(id, _)| id),
            uploads: Some(uploads.collect()),
            ..ListMultipartUploadsOutput::default()
        }))
    }
}

impl Service {
    async fn store_part(
        &self,
        upload: &str,
        target: (&str, &str),
        number: u32,
        stored: Stored,
    ) -> S3Result<String> {
        let (size, md5) = (stored.size, stored.md5.clone());
        let content = stored.into_content();
        self.catalog
            .put_part(upload, target, number, size, md5.clone(), content)
            .await?;
        Ok(md5)
    }
}

fn part_number(number: i32) -> S3Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|_| (1..=PART_MAX).contains(&number))
        .ok_or_else(|| s3_error!(InvalidArgument, "part numbers go from 1 to 10000"))
}
