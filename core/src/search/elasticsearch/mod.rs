//! The search door on Elasticsearch 8 and, as far as the same calls go, OpenSearch 2.
//!
//! `client` sends requests, `compile` makes queries, `bulk` writes, `page` answers searches with what
//! is `remembered` of them, `aggregate` counts, `index` holds the template and the numbered indices
//! behind the alias. No painless, no `_reindex` and no `_update_by_query`: S3 is the truth, and whole
//! documents are written again with a version.

mod admin;
mod aggregate;
mod bulk;
mod client;
mod compile;
mod index;
mod page;
mod remembered;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use elasticsearch::http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    AggregationKind, Document, Page, ProjectsPage, Search, SearchError, SearchRequest, Write,
    WriteFailure,
};
use crate::id::{Project, Version};
use crate::mapping::{Found as Mapped, Mapping, Scalar};
use crate::query::Query;
use crate::search::admin::IndexAdmin;
use crate::state::Epoch;
use client::Client;
use remembered::Remembered;

pub use client::{EngineCredentials, EngineSetupError};
pub use index::{Found, Seen, Standing, TemplateStanding};

/// How long it may take until a writer learns that an index is being built.
pub const TARGETS_LIFE: Duration = Duration::from_secs(1);

/// What an instance's indices are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexOptions {
    pub shards: u32,
    pub replicas: u32,
    /// Former indices that stay after a swap.
    pub retained_indices: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            replicas: 1,
            retained_indices: 1,
        }
    }
}

/// A client of an engine's nodes, for any number of instances.
#[derive(Clone)]
pub struct Connection(Client);

impl Connection {
    /// Nothing is sent yet.
    pub fn new(
        urls: &[String],
        credentials: Option<EngineCredentials>,
        ca: Option<&[u8]>,
    ) -> Result<Self, EngineSetupError> {
        Ok(Self(Client::new(urls, credentials, ca)?))
    }
}

/// The part of an engine that is one instance's.
pub struct Elasticsearch {
    client: Client,
    /// `<namespace>/<name>`
    instance: String,
    /// The live alias, and the stem of every other name.
    base: String,
    mapping: Arc<Mapping>,
    mapping_hash: OnceLock<String>,
    options: IndexOptions,
    /// Set: everything goes to this index alone, and not through the alias.
    only: Option<String>,
    targets: Mutex<Option<(Instant, bool)>>,
    /// OpenSearch has another path for a point in time.
    opensearch: AtomicBool,
    /// Made at the first search: who never searches has none.
    remembered: LazyLock<Remembered>,
}

impl Elasticsearch {
    /// `instance` is `<namespace>/<name>`, in lower case as Kubernetes has it. Nothing is sent yet.
    pub fn new(
        urls: &[String],
        credentials: Option<EngineCredentials>,
        ca: Option<&[u8]>,
        instance: &str,
        mapping: Mapping,
        options: IndexOptions,
    ) -> Result<Self, EngineSetupError> {
        let connection = Connection::new(urls, credentials, ca)?;
        Ok(Self::on(&connection, instance, mapping, options))
    }

    /// The part of an instance, over a connection that others use too.
    pub fn on(
        connection: &Connection,
        instance: &str,
        mapping: impl Into<Arc<Mapping>>,
        options: IndexOptions,
    ) -> Self {
        let base = format!("artifactdb_{}", instance.replace('/', "_")).to_lowercase();
        Self {
            client: connection.0.clone(),
            instance: instance.to_owned(),
            base,
            mapping: mapping.into(),
            mapping_hash: OnceLock::new(),
            options,
            only: None,
            targets: Mutex::new(None),
            opensearch: AtomicBool::new(false),
            remembered: LazyLock::new(Remembered::new),
        }
    }

    /// The same engine, restricted to one index: what fills an index that is not live yet.
    pub fn restricted(&self, index: &str) -> Self {
        Self {
            client: self.client.clone(),
            instance: self.instance.clone(),
            base: self.base.clone(),
            mapping: self.mapping.clone(),
            mapping_hash: self.mapping_hash.clone(),
            options: self.options.clone(),
            only: Some(index.to_owned()),
            targets: Mutex::new(None),
            opensearch: AtomicBool::new(self.opensearch.load(Ordering::Relaxed)),
            remembered: LazyLock::new(Remembered::new),
        }
    }

    /// The alias that searches go through.
    pub fn alias(&self) -> &str {
        &self.base
    }

    fn target(&self) -> &str {
        self.only.as_deref().unwrap_or(&self.base)
    }

    fn forget_targets(&self) {
        *self.targets.lock() = None;
    }

    /// Where writes go: the live alias, and the one of an index that is being built. Always names
    /// and never an index, so that a writer that was held up over a swap writes to what is live then.
    async fn write_targets(&self) -> Result<Vec<String>, SearchError> {
        if let Some(only) = &self.only {
            return Ok(vec![only.clone()]);
        }
        let known = *self.targets.lock();
        let building = match known {
            Some((at, building)) if at.elapsed() < TARGETS_LIFE => building,
            _ => {
                let path = format!("/_alias/{}", self.building_alias());
                let building = match self.client.json(Method::Get, &path, &[], None).await {
                    Ok(_) => true,
                    Err(error) if error.status() == 404 => false,
                    Err(error) => return Err(error.into()),
                };
                *self.targets.lock() = Some((Instant::now(), building));
                building
            }
        };
        let mut targets = vec![self.base.clone()];
        if building {
            targets.push(self.building_alias());
        }
        Ok(targets)
    }

    /// The field that sorts or aggregates for `field`: a keyword stands in for analysed text.
    fn column(
        &self,
        field: &str,
        purpose: &str,
        analysed: &dyn Fn(&str) -> SearchError,
    ) -> Result<(String, Scalar), SearchError> {
        match self.mapping.field(field) {
            Some(Mapped::Scalar(own)) if own.kind == Scalar::Text => match own.keyword {
                true => Ok((format!("{field}.keyword"), Scalar::Keyword)),
                false => Err(analysed(field)),
            },
            Some(Mapped::Scalar(own)) => Ok((field.to_owned(), own.kind)),
            Some(Mapped::KeywordOf(_)) => Ok((field.to_owned(), Scalar::Keyword)),
            _ => Err(SearchError::Invalid(format!(
                "No mapping found for [{field}] in order to {purpose}"
            ))),
        }
    }
}

/// Bytes of the engine's own `_id` at the most.
const ID_MAX: usize = 512;

/// The engine's `_id` of a document: its identifier, or a hash of one that is too long for that. A
/// hash holds no `@`, and every identifier does.
fn engine_id(id: &str) -> Cow<'_, str> {
    match id.len() <= ID_MAX {
        true => Cow::Borrowed(id),
        false => Cow::Owned(format!("sha256-{}", hex::encode(Sha256::digest(id)))),
    }
}

/// The answer to a request for a document: its source, and in `_extra` the index that holds it.
///
/// `_extra` is the last member of every document that is written here (`bulk`), so that the text
/// needs no parsing.
fn answered(id: String, index: &str, source: &str) -> Document {
    const END: &str = "}}";
    let body = match source.strip_suffix(END) {
        Some(head) => {
            let mut body = String::with_capacity(source.len() + index.len() + 20);
            body.push_str(head);
            if !head.ends_with('{') {
                body.push(',');
            }
            body.push_str("\"index_name\":\"");
            // Index names hold nothing that JSON escapes.
            body.push_str(index);
            body.push('"');
            body.push_str(END);
            body
        }
        None => source.to_owned(),
    };
    let document = Document::new(id, Bytes::from(body));
    if document.id.contains('@') {
        return document;
    }
    let value = document.value();
    match value.pointer("/_extra/id").and_then(Value::as_str) {
        Some(id) => Document::new(id.to_owned(), document.body),
        None => document,
    }
}

#[async_trait]
impl Search for Elasticsearch {
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<WriteFailure>, SearchError> {
        self.write_bulk(writes).await
    }

    fn write_size(&self) -> usize {
        bulk::BATCH_BYTES
    }

    async fn remove(
        &self,
        project: &Project,
        name: &Version,
        below: Epoch,
    ) -> Result<u64, SearchError> {
        self.remove_below(project, name, below).await
    }

    async fn refresh(&self) -> Result<(), SearchError> {
        self.refresh_targets().await
    }

    async fn get(&self, id: &str) -> Result<Option<Arc<Document>>, SearchError> {
        self.get_document(id).await
    }

    async fn search(&self, request: SearchRequest) -> Result<Page, SearchError> {
        self.search_page(request).await
    }

    async fn aggregate(
        &self,
        query: &Query,
        field: &str,
        kind: AggregationKind,
        size: usize,
    ) -> Result<Value, SearchError> {
        let (column, scalar) = self.column(field, "aggregate on", &|field| {
            SearchError::Invalid(format!("Field '{field}' can't be aggregated"))
        })?;
        let aggregation = match kind {
            AggregationKind::Terms => json!({"terms": {
                "field": column, "size": size,
                "order": [{"_count": "desc"}, {"_key": "asc"}],
            }}),
            AggregationKind::Max if matches!(scalar, Scalar::Keyword | Scalar::Text) => {
                return Err(SearchError::Invalid(format!(
                    "Field '{field}' is not numeric: it has no maximum"
                )));
            }
            AggregationKind::Max => json!({"max": {"field": column}}),
            AggregationKind::Cardinality => {
                json!({"cardinality": {"field": column, "precision_threshold": 40_000}})
            }
        };
        let mut answer = self.aggregation(query, aggregation).await?;
        let whole = !scalar.is_float();
        Ok(match kind {
            // A maximum is answered as a floating-point number, whatever the field is.
            AggregationKind::Max => match answer["value"].as_f64() {
                Some(value) if whole => json!({"value": value as i64}),
                Some(value) => json!({"value": value}),
                None => json!({"value": null}),
            },
            AggregationKind::Cardinality => json!({"value": answer["value"]}),
            AggregationKind::Terms => answer.take(),
        })
    }

    async fn projects(
        &self,
        query: &Query,
        field: &str,
        after: Option<&str>,
        size: usize,
    ) -> Result<ProjectsPage, SearchError> {
        self.projects_page(query, field, after, size).await
    }

    fn admin(&self) -> &dyn IndexAdmin {
        self
    }

    async fn has_our_mapping(&self) -> Result<bool, SearchError> {
        let hash = self.live().await?.map(|live| live.mapping_hash);
        Ok(hash.is_none_or(|hash| hash == self.mapping_hash()))
    }

    async fn count(&self) -> Result<u64, SearchError> {
        let path = format!("/{}/_count", self.target());
        let answer = self.client.json(Method::Get, &path, &[], None).await?;
        Ok(answer["count"].as_u64().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_are_too_long_are_hashed_and_told_whole() {
        let id = format!("P:{}@1", "x".repeat(600));
        let own = engine_id(&id).into_owned();
        assert!(own.len() <= ID_MAX && !own.contains('@'), "{own}");
        assert_eq!(engine_id("P:a@1"), "P:a@1");
        let source = json!({"path": "x", "_extra": {"id": id}}).to_string();
        assert_eq!(answered(own, "i", &source).id, id);
    }

    #[test]
    fn the_index_is_told_without_parsing() {
        let document = answered(
            "P:a@1".to_owned(),
            "i_000001",
            r#"{"path":"a","_extra":{"id":"P:a@1","link":{"artifactdb":"P:a@0"}}}"#,
        );
        assert_eq!(document.value()["_extra"]["index_name"], "i_000001");
        assert_eq!(document.link(), Some("P:a@0"));
        let bare = answered("x".to_owned(), "i", r#"{"_extra":{}}"#);
        assert_eq!(bare.value(), json!({"_extra": {"index_name": "i"}}));
    }
}
