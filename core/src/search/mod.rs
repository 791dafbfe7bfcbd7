//! The door to the search engine. What it holds is disposable: S3 can fill it again.
//!
//! The client of Elasticsearch and OpenSearch is in `elasticsearch`; `admin` is the door for those
//! who look after an index.

pub mod admin;
#[cfg(feature = "search")]
pub mod elasticsearch;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use admin::IndexAdmin;

use crate::id::{Project, Version};
use crate::permissions::Permissions;
use crate::query::Query;
use crate::state::Epoch;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SearchError {
    /// The caller's query, sort or aggregation cannot be: 400.
    #[error("{0}")]
    Invalid(String),
    /// The cursor points into a snapshot that is gone: 410.
    #[error("scroll expired")]
    Expired,
    #[error("the search engine is unavailable: {0}")]
    Unavailable(String),
}

/// A document as it is answered.
#[derive(Debug)]
pub struct Document {
    pub id: String,
    /// JSON without nulls, with `_extra.index_name`.
    pub body: Bytes,
    /// What the server itself needs of it, read when it is first asked for.
    shape: OnceLock<Shape>,
}

#[derive(Debug, Deserialize, Default)]
struct Shape {
    #[serde(default)]
    _extra: Extra,
}

#[derive(Debug, Deserialize, Default)]
struct Extra {
    #[serde(default)]
    permissions: Option<Permissions>,
    #[serde(default)]
    link: Option<Link>,
}

#[derive(Debug, Deserialize)]
struct Link {
    artifactdb: String,
}

impl Document {
    pub fn new(id: String, body: Bytes) -> Self {
        Self {
            id,
            body,
            shape: OnceLock::new(),
        }
    }

    /// The answer parsed again.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn extra(&self) -> &Extra {
        let shape = self
            .shape
            .get_or_init(|| serde_json::from_slice(&self.body).unwrap_or_default());
        &shape._extra
    }

    pub fn permissions(&self) -> Option<&Permissions> {
        self.extra().permissions.as_ref()
    }

    /// What its file links to.
    pub fn link(&self) -> Option<&str> {
        self.extra().link.as_ref().map(|link| &*link.artifactdb)
    }
}

/// One write. Of two writes of one id the one with the higher version stays; with equal versions
/// the later (`external_gte`).
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub id: String,
    pub version: Epoch,
    pub document: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFailure {
    pub id: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    pub field: String,
    pub descending: bool,
}

/// Where the next page starts: a snapshot of the index and the last hit's sort values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    pub snapshot: String,
    pub after: Vec<Value>,
}

#[derive(Debug, Clone)]
pub struct SearchRequest {
    /// With the permission filter inside.
    pub query: Query,
    pub sort: Vec<SortKey>,
    /// Only the matching documents of the highest revision of each project.
    pub latest: bool,
    pub size: usize,
    pub cursor: Option<Cursor>,
}

#[derive(Debug)]
pub struct Page {
    pub hits: Vec<Arc<Document>>,
    /// Exact.
    pub total: u64,
    /// Present when there is a further hit.
    pub next: Option<Cursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregationKind {
    Terms,
    Max,
    Cardinality,
}

/// Projects by name, each with the values that one field has in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectsPage {
    pub projects: Vec<(String, Vec<String>)>,
    /// Of all pages.
    pub total: u64,
    /// Whether projects follow.
    pub more: bool,
}

#[async_trait]
pub trait Search: Send + Sync {
    /// Writes documents; what cannot be written is returned, the rest stays.
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<WriteFailure>, SearchError>;

    /// Bytes of documents that are worth holding back for one call of `write`. An engine that shows
    /// nothing of what is written before it is all there takes a whole version at once.
    fn write_size(&self) -> usize;

    /// Removes the documents of a version that were written below `version`; returns how many.
    async fn remove(
        &self,
        project: &Project,
        name: &Version,
        below: Epoch,
    ) -> Result<u64, SearchError>;

    /// Makes what was written visible and durable.
    async fn refresh(&self) -> Result<(), SearchError>;

    /// One document, whoever may read it: the caller checks.
    async fn get(&self, id: &str) -> Result<Option<Arc<Document>>, SearchError>;

    async fn search(&self, request: SearchRequest) -> Result<Page, SearchError>;

    /// Elasticsearch's aggregation object: buckets, or a value.
    async fn aggregate(
        &self,
        query: &Query,
        field: &str,
        kind: AggregationKind,
        size: usize,
    ) -> Result<Value, SearchError>;

    /// Projects with a name after `after`, and the distinct values of `field` in each.
    async fn projects(
        &self,
        query: &Query,
        field: &str,
        after: Option<&str>,
        size: usize,
    ) -> Result<ProjectsPage, SearchError>;

    /// Whether the index that answers has the mapping of this process. One that has not belongs to
    /// processes with other schemas, and what does not fit here may fit there.
    async fn has_our_mapping(&self) -> Result<bool, SearchError> {
        Ok(true)
    }

    /// What administrators see and do of it.
    fn admin(&self) -> &dyn IndexAdmin;

    /// Documents in the index.
    async fn count(&self) -> Result<u64, SearchError>;
}
