//! What the store knows of its objects, in one database.
//!
//! A single thread applies all writes, each whole or not at all, and commits what has gathered
//! with one fsync: so conditional writes are atomic and concurrent ones share the cost. An answer
//! is given only after the commit. Reads run beside it on snapshots.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::ObjectStoreError;
use super::content::{Content, Contents, TemporaryFile};

const BUCKETS: TableDefinition<&str, &[u8]> = TableDefinition::new("buckets");
/// `bucket \0 key` → the current entry.
pub(super) const CURRENT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("current");
/// `bucket \0 key \0 !sequence` → every entry of a bucket that keeps versions, newest first.
pub(super) const VERSIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("versions");
const SMALL: TableDefinition<u64, &[u8]> = TableDefinition::new("small");
/// Content files that something refers to.
const FILES: TableDefinition<&str, ()> = TableDefinition::new("files");
pub(super) const UPLOADS: TableDefinition<&str, &[u8]> = TableDefinition::new("uploads");
/// (upload, part number) → part.
pub(super) const PARTS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("parts");
const SEQUENCE: TableDefinition<(), u64> = TableDefinition::new("sequence");

/// Writes that share one commit at the most.
const BATCH: usize = 512;
const CACHE_BYTES: usize = 16 * 1024 * 1024;
const UPLOAD_LIFE_MILLIS: i64 = 7 * 24 * 3600 * 1000;
/// Files younger than this may belong to a write that is still under way.
const GARBAGE_AGE: std::time::Duration = std::time::Duration::from_secs(3600);

#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    #[error("the bucket does not exist")]
    NoSuchBucket,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("the key does not exist")]
    NoSuchKey,
    #[error("the upload does not exist")]
    NoSuchUpload,
    #[error("the condition does not hold")]
    PreconditionFailed,
    #[error("{0}")]
    InvalidPart(String),
    #[error("the parts are not in order")]
    InvalidPartOrder,
    #[error("a part but the last is smaller than 5 MiB")]
    TooSmall,
    #[error("the database failed: {0}")]
    Database(String),
}

macro_rules! database_errors {
    ($($kind:ty),*) => {$(
        impl From<$kind> for CatalogError {
            fn from(error: $kind) -> Self {
                CatalogError::Database(error.to_string())
            }
        }
    )*};
}
database_errors!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    serde_json::Error
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketInfo {
    /// Milliseconds since the epoch, here and below.
    pub created: i64,
    pub versioned: bool,
}

/// Headers that a client gave an object and gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// One version of an object, or the marker of its deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub sequence: u64,
    pub versioned: bool,
    pub modified: i64,
    pub size: u64,
    /// Without quotes; the MD5 in hexadecimal, with `-<parts>` after a multipart upload.
    pub etag: String,
    /// Absent in a deletion marker.
    pub content: Option<Content>,
    #[serde(default)]
    pub headers: Headers,
}

impl Entry {
    /// `null` in a bucket without versions.
    pub fn version_id(&self) -> String {
        if self.versioned {
            format!("{:016x}", self.sequence)
        } else {
            "null".to_owned()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub bucket: String,
    pub key: String,
    pub initiated: i64,
    #[serde(default)]
    pub headers: Headers,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub etag: String,
    pub size: u64,
    pub modified: i64,
    pub content: Content,
}

/// New content on its way into the catalog.
pub enum NewContent {
    Small(Bytes),
    /// With its size in bytes.
    File(TemporaryFile, u64),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-None-Match: *`
    pub absent: bool,
    /// `If-Match`, without quotes; `*` is any.
    pub etag: Option<String>,
}

impl Conditions {
    fn check(&self, current: Option<&Entry>) -> Result<(), CatalogError> {
        if self.absent && current.is_some() {
            return Err(CatalogError::PreconditionFailed);
        }
        match (&self.etag, current) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(CatalogError::NoSuchKey),
            (Some(wanted), Some(entry)) if wanted == "*" || *wanted == entry.etag => Ok(()),
            _ => Err(CatalogError::PreconditionFailed),
        }
    }
}

pub struct NewObject {
    pub bucket: String,
    pub key: String,
    pub size: u64,
    pub etag: String,
    pub content: NewContent,
    pub headers: Headers,
    pub conditions: Conditions,
}

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    pub version_id: Option<String>,
    pub marker: bool,
}

/// What happens to content files once a transaction is committed, or not.
#[derive(Default)]
struct Aftermath {
    /// Nothing refers to them any more: deleted after a commit.
    released: Vec<String>,
    /// Kept after a commit, deleted without one. They are held here and not by the request: a
    /// client that goes away takes its request with it, and the write may still be committed.
    arrived: Vec<TemporaryFile>,
}
type Job = Box<dyn FnOnce(&WriteTransaction, &mut Aftermath) -> Done + Send>;
/// How to answer, and whether the database failed under the job: then what it had altered so far
/// must not be committed.
type Done = (Reply, bool);
/// Sends the caller its answer, when the commit has succeeded or failed.
type Reply = Box<dyn FnOnce(Result<(), CatalogError>) + Send>;

pub struct Catalog {
    database: std::sync::Arc<Database>,
    pub contents: Contents,
    jobs: mpsc::Sender<Job>,
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub(super) fn current_key(bucket: &str, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bucket.len() + key.len() + 1);
    out.extend_from_slice(bucket.as_bytes());
    out.push(0);
    out.extend_from_slice(key.as_bytes());
    out
}

fn version_key(bucket: &str, key: &str, sequence: u64) -> Vec<u8> {
    let mut out = current_key(bucket, key);
    out.push(0);
    out.extend_from_slice(&(!sequence).to_be_bytes());
    out
}

impl Catalog {
    pub fn open(folder: &Path) -> Result<Self, ObjectStoreError> {
        let fail = |problem: String| ObjectStoreError::Open {
            path: folder.display().to_string(),
            problem,
        };
        let contents = Contents::open(&folder.join("content")).map_err(|e| fail(e.to_string()))?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(folder.join("catalog.redb"))
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    ObjectStoreError::InUse(folder.display().to_string())
                }
                other => fail(other.to_string()),
            })?;
        let prepare = || -> Result<(), CatalogError> {
            let transaction = database.begin_write()?;
            transaction.open_table(BUCKETS)?;
            transaction.open_table(CURRENT)?;
            transaction.open_table(VERSIONS)?;
            transaction.open_table(SMALL)?;
            transaction.open_table(FILES)?;
            transaction.open_table(UPLOADS)?;
            transaction.open_table(PARTS)?;
            transaction.open_table(SEQUENCE)?;
            transaction.commit()?;
            Ok(())
        };
        prepare().map_err(|error| fail(error.to_string()))?;
        let database = std::sync::Arc::new(database);
        let (jobs, queue) = mpsc::channel::<Job>();
        let (writer, files) = (database.clone(), contents.clone());
        std::thread::Builder::new()
            .name("object-store".to_owned())
            .spawn(move || write_loop(&writer, &files, &queue))
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            database,
            contents,
            jobs,
        })
    }

    /// Runs `change` in the next transaction; its answer comes after the commit. `change` must
    /// check everything before it alters anything: it shares the transaction with others.
    async fn write<R: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction, &mut Aftermath) -> Result<R, CatalogError>
        + Send
        + 'static,
    ) -> Result<R, CatalogError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |transaction, aftermath| {
            let result = change(transaction, aftermath);
            let failed = matches!(result, Err(CatalogError::Database(_)));
            let reply: Reply = Box::new(move |committed| {
                let _ = sender.send(committed.and(result));
            });
            (reply, failed)
        });
        let gone = || CatalogError::Database("the writer has stopped".to_owned());
        self.jobs.send(job).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, CatalogError> {
        Ok(self.database.begin_read()?)
    }

    pub fn bucket(&self, name: &str) -> Result<BucketInfo, CatalogError> {
        let table = self.read()?.open_table(BUCKETS)?;
        let info = table.get(name)?.ok_or(CatalogError::NoSuchBucket)?;
        Ok(serde_json::from_slice(info.value())?)
    }

    pub fn buckets(&self) -> Result<Vec<(String, BucketInfo)>, CatalogError> {
        let table = self.read()?.open_table(BUCKETS)?;
        let mut found = Vec::new();
        for row in table.iter()? {
            let (name, info) = row?;
            found.push((
                name.value().to_owned(),
                serde_json::from_slice(info.value())?,
            ));
        }
        Ok(found)
    }

    /// Makes a versioned bucket unless there is one.
    pub async fn ensure_bucket(&self, name: &str) -> Result<(), CatalogError> {
        if self.bucket(name).is_ok_and(|info| info.versioned) {
            return Ok(());
        }
        self.put_bucket(name, true).await
    }

    /// Makes a bucket, or changes whether it keeps versions.
    pub async fn put_bucket(&self, name: &str, versioned: bool) -> Result<(), CatalogError> {
        let name = name.to_owned();
        self.write(move |transaction, _| {
            let mut table = transaction.open_table(BUCKETS)?;
            let known = table
                .get(name.as_str())?
                .map(|info| serde_json::from_slice::<BucketInfo>(info.value()))
                .transpose()?;
            let created = known.map_or_else(now, |info| info.created);
            let info = serde_json::to_vec(&BucketInfo { created, versioned })?;
            table.insert(name.as_str(), info.as_slice())?;
            Ok(())
        })
        .await
    }

    pub async fn delete_bucket(&self, name: &str) -> Result<(), CatalogError> {
        let name = name.to_owned();
        self.write(move |transaction, _| {
            let mut table = transaction.open_table(BUCKETS)?;
            if table.get(name.as_str())?.is_none() {
                return Err(CatalogError::NoSuchBucket);
            }
            let first = current_key(&name, "");
            for table in [CURRENT, VERSIONS] {
                let objects = transaction.open_table(table)?;
                if let Some(row) = objects.range(first.as_slice()..)?.next()
                    && row?.0.value().starts_with(&first)
                {
                    return Err(CatalogError::BucketNotEmpty);
                }
            }
            table.remove(name.as_str())?;
            Ok(())
        })
        .await
    }

    /// The current entry, or the named version. `None` where there is none, or a marker.
    pub fn entry(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Option<Entry>, CatalogError> {
        self.entry_in(&self.read()?, bucket, key, version_id)
    }

    /// An entry with its content, where that is small: both of one moment, whoever overwrites it.
    pub fn entry_and_bytes(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Option<(Entry, Option<Bytes>)>, CatalogError> {
        let transaction = self.read()?;
        let Some(entry) = self.entry_in(&transaction, bucket, key, version_id)? else {
            return Ok(None);
        };
        let bytes = match &entry.content {
            Some(Content::Inline(number)) => {
                let table = transaction.open_table(SMALL)?;
                let row = table.get(number)?;
                row.map(|bytes| Bytes::copy_from_slice(bytes.value()))
            }
            _ => None,
        };
        Ok(Some((entry, bytes)))
    }

    fn entry_in(
        &self,
        transaction: &ReadTransaction,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Option<Entry>, CatalogError> {
        let found = match version_id {
            None | Some("null") => {
                let table = transaction.open_table(CURRENT)?;
                table
                    .get(current_key(bucket, key).as_slice())?
                    .map(|row| serde_json::from_slice::<Entry>(row.value()))
            }
            Some(id) => {
                let Ok(sequence) = u64::from_str_radix(id, 16) else {
                    return Ok(None);
                };
                let table = transaction.open_table(VERSIONS)?;
                table
                    .get(version_key(bucket, key, sequence).as_slice())?
                    .map(|row| serde_json::from_slice::<Entry>(row.value()))
            }
        };
        let entry = found.transpose()?.filter(|entry| entry.content.is_some());
        match entry {
            None => self.bucket(bucket).map(|_| None),
            some => Ok(some),
        }
    }

    pub async fn put(&self, object: NewObject) -> Result<Entry, CatalogError> {
        self.write(move |transaction, aftermath| {
            let bucket = bucket_in(transaction, &object.bucket)?;
            let current = current_in(transaction, &object.bucket, &object.key)?;
            object.conditions.check(current.as_ref())?;
            let sequence = next_sequence(transaction)?;
            let content = store_content(transaction, sequence, object.content, aftermath)?;
            let entry = Entry {
                sequence,
                versioned: bucket.versioned,
                modified: now(),
                size: object.size,
                etag: object.etag,
                content: Some(content),
                headers: object.headers,
            };
            replace(
                transaction,
                &object.bucket,
                &object.key,
                current,
                &entry,
                aftermath,
            )?;
            Ok(entry)
        })
        .await
    }

    /// Deletes the object (in a versioned bucket: puts a marker on top), or one version for good.
    pub async fn delete(
        &self,
        bucket: &str,
        objects: Vec<(String, Option<String>)>,
        condition: Option<String>,
    ) -> Result<Vec<Deleted>, CatalogError> {
        let bucket = bucket.to_owned();
        self.write(move |transaction, aftermath| {
            let info = bucket_in(transaction, &bucket)?;
            if let (Some(etag), Some((key, _))) = (condition, objects.first()) {
                let current = current_in(transaction, &bucket, key)?;
                let conditions = Conditions {
                    absent: false,
                    etag: Some(etag),
                };
                conditions.check(current.as_ref())?;
            }
            let mut deleted = Vec::with_capacity(objects.len());
            for (key, version_id) in &objects {
                deleted.push(match version_id {
                    Some(id) => delete_version(transaction, &bucket, key, id, aftermath)?,
                    None => delete_current(transaction, &bucket, key, &info, aftermath)?,
                });
            }
            Ok(deleted)
        })
        .await
    }

    pub async fn create_upload(&self, upload: Upload) -> Result<String, CatalogError> {
        let id = format!("{:032x}", rand::random::<u128>());
        self.write(move |transaction, _| {
            bucket_in(transaction, &upload.bucket)?;
            let mut table = transaction.open_table(UPLOADS)?;
            table.insert(id.as_str(), serde_json::to_vec(&upload)?.as_slice())?;
            Ok(id)
        })
        .await
    }

    pub async fn put_part(
        &self,
        id: &str,
        target: (&str, &str),
        number: u32,
        size: u64,
        etag: String,
        content: NewContent,
    ) -> Result<(), CatalogError> {
        let id = id.to_owned();
        let target = (target.0.to_owned(), target.1.to_owned());
        self.write(move |transaction, aftermath| {
            upload_in(transaction, &id, (&target.0, &target.1))?;
            let sequence = next_sequence(transaction)?;
            let content = store_content(transaction, sequence, content, aftermath)?;
            let part = Part {
                etag,
                size,
                modified: now(),
                content,
            };
            let mut table = transaction.open_table(PARTS)?;
            let old = table.insert((id.as_str(), number), serde_json::to_vec(&part)?.as_slice())?;
            let old: Option<Part> = old
                .map(|old| serde_json::from_slice(old.value()))
                .transpose()?;
            if let Some(old) = old {
                release(transaction, &old.content, aftermath)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the object of an upload from its parts, in the order given, with their ETags.
    pub async fn complete_upload(
        &self,
        id: &str,
        target: (&str, &str),
        parts: Vec<(u32, Option<String>)>,
        conditions: Conditions,
    ) -> Result<Entry, CatalogError> {
        /// S3's own lower limit for every part but the last.
        const PART_MIN: u64 = 5 * 1024 * 1024;
        let id = id.to_owned();
        let target = (target.0.to_owned(), target.1.to_owned());
        self.write(move |transaction, aftermath| {
            let upload = upload_in(transaction, &id, (&target.0, &target.1))?;
            let bucket = bucket_in(transaction, &target.0)?;
            let current = current_in(transaction, &target.0, &target.1)?;
            conditions.check(current.as_ref())?;
            if parts.is_empty() {
                return Err(CatalogError::InvalidPart("no part is named".to_owned()));
            }
            if !parts.is_sorted_by(|(a, _), (b, _)| a < b) {
                return Err(CatalogError::InvalidPartOrder);
            }
            let stored = parts_in(transaction, &id)?;
            let mut chosen = Vec::with_capacity(parts.len());
            for (number, etag) in &parts {
                let part = stored
                    .get(number)
                    .filter(|part| etag.as_ref().is_none_or(|etag| *etag == part.etag))
                    .ok_or_else(|| {
                        CatalogError::InvalidPart(format!("part {number} is not there"))
                    })?;
                chosen.push((*number, part.clone()));
            }
            let (_, all_but_last) = chosen.split_last().ok_or(CatalogError::InvalidPartOrder)?;
            if all_but_last.iter().any(|(_, part)| part.size < PART_MIN) {
                return Err(CatalogError::TooSmall);
            }
            let mut digest = <md5::Md5 as md5::Digest>::new();
            let mut size = 0;
            for (_, part) in &chosen {
                md5::Digest::update(&mut digest, hex::decode(&part.etag).unwrap_or_default());
                size += part.size;
            }
            let etag = format!(
                "{}-{}",
                hex::encode(md5::Digest::finalize(digest)),
                chosen.len()
            );
            let sequence = next_sequence(transaction)?;
            let content = gather(&chosen);
            for (number, part) in &stored {
                let moved = chosen.iter().any(|(own, _)| own == number);
                if !moved || matches!(part.content, Content::Inline(_)) {
                    release(transaction, &part.content, aftermath)?;
                }
            }
            forget_upload(transaction, &id)?;
            let entry = Entry {
                sequence,
                versioned: bucket.versioned,
                modified: now(),
                size,
                etag,
                content: Some(content),
                headers: upload.headers,
            };
            replace(
                transaction,
                &target.0,
                &target.1,
                current,
                &entry,
                aftermath,
            )?;
            Ok(entry)
        })
        .await
    }

    pub async fn abort_upload(&self, id: &str, target: (&str, &str)) -> Result<(), CatalogError> {
        let id = id.to_owned();
        let target = (target.0.to_owned(), target.1.to_owned());
        self.write(move |transaction, aftermath| {
            upload_in(transaction, &id, (&target.0, &target.1))?;
            for part in parts_in(transaction, &id)?.values() {
                release(transaction, &part.content, aftermath)?;
            }
            forget_upload(transaction, &id)
        })
        .await
    }

    /// Ends multipart uploads that nobody completed for a week, as a lifecycle rule would, and
    /// deletes content that nothing refers to. Returns how many files went. Blocks.
    pub fn collect_garbage(&self) -> std::io::Result<usize> {
        let oldest = now() - UPLOAD_LIFE_MILLIS;
        for (bucket, _) in self.buckets().map_err(std::io::Error::other)? {
            let uploads = self.uploads(&bucket, "").map_err(std::io::Error::other)?;
            for (id, upload) in uploads {
                if upload.initiated < oldest {
                    let aborted = self.abort_upload(&id, (&bucket, &upload.key));
                    futures::executor::block_on(aborted).map_err(std::io::Error::other)?;
                }
            }
        }
        let names = self.contents.older_than(GARBAGE_AGE)?;
        let known = || -> Result<Vec<String>, CatalogError> {
            let table = self.read()?.open_table(FILES)?;
            let mut unknown = Vec::new();
            for name in names {
                if table.get(name.as_str())?.is_none() {
                    unknown.push(name);
                }
            }
            Ok(unknown)
        };
        let unknown = known().map_err(std::io::Error::other)?;
        for name in &unknown {
            self.contents.remove(name);
        }
        Ok(unknown.len())
    }
}

fn write_loop(database: &Database, contents: &Contents, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut replies: Vec<Reply> = Vec::new();
        let mut aftermath = Aftermath::default();
        let transaction = match database.begin_write() {
            Ok(transaction) => transaction,
            Err(error) => {
                tracing::error!(%error, "the object store's database fails");
                drop(first);
                continue;
            }
        };
        let (reply, mut failed) = first(&transaction, &mut aftermath);
        replies.push(reply);
        while !failed
            && replies.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            let (reply, broken) = job(&transaction, &mut aftermath);
            replies.push(reply);
            failed = broken;
        }
        let committed = if failed {
            let _ = transaction.abort();
            Err(CatalogError::Database("a write failed".to_owned()))
        } else {
            transaction.commit().map_err(CatalogError::from)
        };
        match &committed {
            Ok(()) => aftermath.arrived.iter_mut().for_each(TemporaryFile::keep),
            Err(error) => {
                tracing::error!(%error, "the object store cannot commit");
                aftermath.released.clear();
            }
        }
        for reply in replies {
            reply(committed.clone());
        }
        for name in aftermath.released {
            contents.remove(&name);
        }
    }
}

fn bucket_in(transaction: &WriteTransaction, name: &str) -> Result<BucketInfo, CatalogError> {
    let table = transaction.open_table(BUCKETS)?;
    let info = table.get(name)?.ok_or(CatalogError::NoSuchBucket)?;
    Ok(serde_json::from_slice(info.value())?)
}

fn current_in(
    transaction: &WriteTransaction,
    bucket: &str,
    key: &str,
) -> Result<Option<Entry>, CatalogError> {
    let table = transaction.open_table(CURRENT)?;
    let row = table.get(current_key(bucket, key).as_slice())?;
    Ok(row
        .map(|row| serde_json::from_slice(row.value()))
        .transpose()?)
}

fn next_sequence(transaction: &WriteTransaction) -> Result<u64, CatalogError> {
    let mut table = transaction.open_table(SEQUENCE)?;
    let next = table.get(())?.map_or(0, |value| value.value()) + 1;
    table.insert((), next)?;
    Ok(next)
}

fn store_content(
    transaction: &WriteTransaction,
    sequence: u64,
    content: NewContent,
    aftermath: &mut Aftermath,
) -> Result<Content, CatalogError> {
    match content {
        NewContent::Small(bytes) => {
            transaction
                .open_table(SMALL)?
                .insert(sequence, bytes.as_ref())?;
            Ok(Content::Inline(sequence))
        }
        NewContent::File(file, size) => {
            let name = file.name.clone();
            transaction.open_table(FILES)?.insert(name.as_str(), ())?;
            aftermath.arrived.push(file);
            Ok(Content::Files(vec![(name, size)]))
        }
    }
}

/// The content of a completed upload: its parts' files, in order.
fn gather(parts: &[(u32, Part)]) -> Content {
    let files = parts.iter().filter_map(|(_, part)| match &part.content {
        Content::Files(own) => Some(own.iter().cloned()),
        // Parts go to files whatever their size; only an empty one has none.
        Content::Inline(_) => None,
    });
    Content::Files(files.flatten().collect())
}

/// Lets go of content: its file is deleted after the commit.
fn release(
    transaction: &WriteTransaction,
    content: &Content,
    aftermath: &mut Aftermath,
) -> Result<(), CatalogError> {
    match content {
        Content::Inline(number) => {
            transaction.open_table(SMALL)?.remove(number)?;
        }
        Content::Files(files) => {
            let mut table = transaction.open_table(FILES)?;
            for (name, _) in files {
                table.remove(name.as_str())?;
                aftermath.released.push(name.clone());
            }
        }
    }
    Ok(())
}

/// Whether older versions of a key are of use. Internal objects are history by themselves: their
/// own counters number them, and keeping each would grow the store with every compare-and-swap.
fn keeps_history(key: &str) -> bool {
    !artifactdb_core::keys::is_internal(key)
}

/// Puts `entry` on top of what is current.
fn replace(
    transaction: &WriteTransaction,
    bucket: &str,
    key: &str,
    current: Option<Entry>,
    entry: &Entry,
    aftermath: &mut Aftermath,
) -> Result<(), CatalogError> {
    let bytes = serde_json::to_vec(entry)?;
    if let Some(current) = &current
        && (!current.versioned || !keeps_history(key))
    {
        if let Some(content) = &current.content {
            release(transaction, content, aftermath)?;
        }
        transaction
            .open_table(VERSIONS)?
            .remove(version_key(bucket, key, current.sequence).as_slice())?;
    }
    if entry.versioned {
        transaction.open_table(VERSIONS)?.insert(
            version_key(bucket, key, entry.sequence).as_slice(),
            bytes.as_slice(),
        )?;
    }
    let mut table = transaction.open_table(CURRENT)?;
    let current_key = current_key(bucket, key);
    if entry.content.is_some() {
        table.insert(current_key.as_slice(), bytes.as_slice())?;
    } else {
        table.remove(current_key.as_slice())?;
    }
    Ok(())
}

fn delete_current(
    transaction: &WriteTransaction,
    bucket: &str,
    key: &str,
    info: &BucketInfo,
    aftermath: &mut Aftermath,
) -> Result<Deleted, CatalogError> {
    let current = current_in(transaction, bucket, key)?;
    if info.versioned && keeps_history(key) {
        let sequence = next_sequence(transaction)?;
        let marker = Entry {
            sequence,
            versioned: true,
            modified: now(),
            size: 0,
            etag: String::new(),
            content: None,
            headers: Headers::default(),
        };
        replace(transaction, bucket, key, current, &marker, aftermath)?;
        return Ok(Deleted {
            version_id: Some(marker.version_id()),
            marker: true,
        });
    }
    if let Some(current) = current {
        if let Some(content) = &current.content {
            release(transaction, content, aftermath)?;
        }
        transaction
            .open_table(VERSIONS)?
            .remove(version_key(bucket, key, current.sequence).as_slice())?;
        transaction
            .open_table(CURRENT)?
            .remove(current_key(bucket, key).as_slice())?;
    }
    Ok(Deleted::default())
}

fn delete_version(
    transaction: &WriteTransaction,
    bucket: &str,
    key: &str,
    version_id: &str,
    aftermath: &mut Aftermath,
) -> Result<Deleted, CatalogError> {
    let current = current_in(transaction, bucket, key)?;
    let deleted = Deleted {
        version_id: Some(version_id.to_owned()),
        marker: false,
    };
    if version_id == "null" {
        if let Some(current) = current.filter(|current| !current.versioned) {
            if let Some(content) = &current.content {
                release(transaction, content, aftermath)?;
            }
            transaction
                .open_table(CURRENT)?
                .remove(current_key(bucket, key).as_slice())?;
        }
        return Ok(deleted);
    }
    let Ok(sequence) = u64::from_str_radix(version_id, 16) else {
        return Ok(deleted);
    };
    let mut versions = transaction.open_table(VERSIONS)?;
    let removed = versions
        .remove(version_key(bucket, key, sequence).as_slice())?
        .map(|row| serde_json::from_slice::<Entry>(row.value()))
        .transpose()?;
    let Some(removed) = removed else {
        return Ok(deleted);
    };
    if let Some(content) = &removed.content {
        release(transaction, content, aftermath)?;
    }
    // The newest version that is left is the current one.
    let first = version_key(bucket, key, u64::MAX);
    let last = version_key(bucket, key, 0);
    let newest = versions
        .range(first.as_slice()..=last.as_slice())?
        .next()
        .transpose()?
        .map(|(_, row)| row.value().to_vec());
    let mut table = transaction.open_table(CURRENT)?;
    let current_key = current_key(bucket, key);
    match newest {
        Some(bytes) if serde_json::from_slice::<Entry>(&bytes)?.content.is_some() => {
            table.insert(current_key.as_slice(), bytes.as_slice())?;
        }
        _ => {
            table.remove(current_key.as_slice())?;
        }
    }
    Ok(Deleted {
        marker: removed.content.is_none(),
        ..deleted
    })
}

fn upload_in(
    transaction: &WriteTransaction,
    id: &str,
    target: (&str, &str),
) -> Result<Upload, CatalogError> {
    let table = transaction.open_table(UPLOADS)?;
    let row = table.get(id)?.ok_or(CatalogError::NoSuchUpload)?;
    let upload: Upload = serde_json::from_slice(row.value())?;
    if (upload.bucket.as_str(), upload.key.as_str()) != target {
        return Err(CatalogError::NoSuchUpload);
    }
    Ok(upload)
}

fn parts_in(transaction: &WriteTransaction, id: &str) -> Result<BTreeMap<u32, Part>, CatalogError> {
    let table = transaction.open_table(PARTS)?;
    let mut parts = BTreeMap::new();
    for row in table.range((id, 0)..=(id, u32::MAX))? {
        let (key, part) = row?;
        parts.insert(key.value().1, serde_json::from_slice(part.value())?);
    }
    Ok(parts)
}

fn forget_upload(transaction: &WriteTransaction, id: &str) -> Result<(), CatalogError> {
    transaction.open_table(UPLOADS)?.remove(id)?;
    transaction
        .open_table(PARTS)?
        .retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    Ok(())
}
