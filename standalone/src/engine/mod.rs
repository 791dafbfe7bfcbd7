//! The embedded search engine: tantivy behind the search door.
//!
//! `fields` makes its schema from the mapping, `compile` its queries, `collect` its pages and
//! aggregations, `admin` what those see who look after it. What it holds can be lost: `serve` fills it again from the store.

mod admin;
mod collect;
mod compile;
mod excluded;
mod fields;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use artifactdb_core::document::without_nulls;
use artifactdb_core::id::{Project, Version};
use artifactdb_core::mapping::Mapping;
use artifactdb_core::query::Query;
use artifactdb_core::search::admin::IndexAdmin;
use artifactdb_core::search::{
    AggregationKind, Cursor, Document, Page, ProjectsPage, Search, SearchError, SearchRequest,
    SortKey, Write, WriteFailure,
};
use artifactdb_core::state::Epoch;
use async_trait::async_trait;
use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tantivy::columnar::MonotonicallyMappableToU64;
use tantivy::directory::MmapDirectory;
use tantivy::index::SegmentId;
use tantivy::schema::{IndexRecordOption, Value as _};
use tantivy::{
    DocAddress, DocId, Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument,
    Term,
};

use collect::{
    FieldValue, GroupCollector, Hit, LatestCollector, LatestFields, PageCollector, SortColumn,
    SortValue, ValueCollector, failure,
};
use fields::{Fields, Kind};

/// Changes when the way in which documents are indexed does: older indices are built anew.
const FORMAT: u32 = 2;
const WRITER_BYTES: usize = 48 * 1024 * 1024;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a cursor's snapshot lives after its last use.
const SNAPSHOT_LIFE: Duration = Duration::from_secs(120);
const SNAPSHOTS_MAX: usize = 256;
/// Documents up to which a plain search is done where it is asked for.
const QUICK_DOCUMENTS: u64 = 20_000;

#[derive(Debug, thiserror::Error)]
#[error("cannot open the search index in '{path}': {problem}")]
pub struct EngineError {
    path: String,
    problem: String,
}

/// Which index is the live one, and what it was built for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Current {
    index: String,
    mapping_hash: String,
    format: u32,
}

pub struct Engine {
    folder: PathBuf,
    name: String,
    mapping: Mapping,
    fields: Fields,
    reader: IndexReader,
    writer: Mutex<Writer>,
    documents: Cache<(SegmentId, DocId), Arc<Document>>,
    snapshots: Mutex<HashMap<String, (Searcher, Instant)>>,
    /// Set by the first write that fails: tantivy's writer is of no use from then on, and what it
    /// held is not in the index. Only a restart helps, which finds in the store what is missing.
    broken: AtomicBool,
}

struct Writer {
    inner: IndexWriter,
    /// Versions of documents written since the last commit.
    uncommitted: HashMap<String, Epoch>,
}

impl Engine {
    /// Opens the index in `folder`. The flag says that it is empty and has to be filled from the
    /// store: it is new, of another mapping, or cannot be read. Call `adopt` once that is done.
    pub fn open(
        folder: &Path,
        instance: &str,
        mapping: Mapping,
    ) -> Result<(Self, bool), EngineError> {
        let fail = |problem: String| EngineError {
            path: folder.display().to_string(),
            problem,
        };
        std::fs::create_dir_all(folder).map_err(|error| fail(error.to_string()))?;
        let current = std::fs::read(folder.join("current.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Current>(&bytes).ok());
        if let Some(current) = &current
            && current.mapping_hash == mapping.hash()
            && current.format == FORMAT
        {
            match Self::at(folder, &current.index, mapping.clone()) {
                Ok(engine) => return Ok((engine, false)),
                Err(error) => {
                    tracing::warn!(%error, "the search index cannot be read and is built anew");
                }
            }
        }
        let number = current
            .and_then(|current| current.index.rsplit('-').next()?.parse::<u32>().ok())
            .unwrap_or(0);
        let name = format!("{instance}-{:06}", number + 1);
        // What an interrupted build left.
        let _ = std::fs::remove_dir_all(folder.join(&name));
        Self::at(folder, &name, mapping)
            .map(|engine| (engine, true))
            .map_err(|error| fail(error.to_string()))
    }

    fn at(folder: &Path, name: &str, mapping: Mapping) -> tantivy::Result<Self> {
        let path = folder.join(name);
        std::fs::create_dir_all(&path)?;
        let fields = Fields::of(&mapping);
        let index = Index::open_or_create(MmapDirectory::open(&path)?, fields.schema.clone())?;
        index
            .tokenizers()
            .register(fields::ANALYZER, fields::analyzer());
        let inner = index.writer_with_num_threads(1, WRITER_BYTES)?;
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(16)
            .try_into()?;
        Ok(Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            mapping,
            fields,
            reader,
            writer: Mutex::new(Writer {
                inner,
                uncommitted: HashMap::new(),
            }),
            documents: Cache::builder()
                .max_capacity(CACHE_BYTES)
                .weigher(|_, document: &Arc<Document>| {
                    u32::try_from(document.body.len() + 256).unwrap_or(u32::MAX)
                })
                .build(),
            snapshots: Mutex::new(HashMap::new()),
            broken: AtomicBool::new(false),
        })
    }

    /// Makes this index the live one and deletes the others.
    pub fn adopt(&self) -> std::io::Result<()> {
        let current = Current {
            index: self.name.clone(),
            mapping_hash: self.mapping.hash(),
            format: FORMAT,
        };
        let path = self.folder.join("current.json");
        let next = self.folder.join("current.json.next");
        std::fs::write(&next, serde_json::to_vec(&current)?)?;
        std::fs::File::open(&next)?.sync_all()?;
        std::fs::rename(&next, &path)?;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != self.name.as_str() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    fn find(&self, searcher: &Searcher, id: &str) -> tantivy::Result<Option<DocAddress>> {
        let term = Term::from_field_text(self.fields.id, id);
        for (ordinal, segment) in searcher.segment_readers().iter().enumerate() {
            let index = segment.inverted_index(self.fields.id)?;
            let Some(mut postings) = index.read_postings(&term, IndexRecordOption::Basic)? else {
                continue;
            };
            let mut doc = tantivy::DocSet::doc(&postings);
            while doc != tantivy::TERMINATED {
                if !segment.is_deleted(doc) {
                    let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
                    return Ok(Some(DocAddress::new(ordinal, doc)));
                }
                doc = tantivy::DocSet::advance(&mut postings);
            }
        }
        Ok(None)
    }

    fn version_of(&self, searcher: &Searcher, id: &str) -> tantivy::Result<Option<Epoch>> {
        let Some(address) = self.find(searcher, id)? else {
            return Ok(None);
        };
        let segment = searcher.segment_reader(address.segment_ord);
        let column = segment.fast_fields().u64("version")?;
        Ok(column.first(address.doc_id))
    }

    fn load(&self, searcher: &Searcher, address: DocAddress) -> tantivy::Result<Arc<Document>> {
        let segment = searcher.segment_reader(address.segment_ord);
        let key = (segment.segment_id(), address.doc_id);
        if let Some(known) = self.documents.get(&key) {
            return Ok(known);
        }
        let stored: TantivyDocument = searcher.doc(address)?;
        let id = stored
            .get_first(self.fields.id)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .to_owned();
        let body = stored
            .get_first(self.fields.source)
            .and_then(|value| value.as_bytes())
            .unwrap_or_default();
        let document = Arc::new(Document::new(id, Bytes::copy_from_slice(body)));
        self.documents.insert(key, document.clone());
        Ok(document)
    }

    fn check_writer(&self) -> Result<(), SearchError> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(SearchError::Unavailable(
                "the index could not be written; is the disk full? restart the process to mend it"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// Runs a change of the index; its failure is the last thing that the writer did.
    fn changing<R>(&self, change: impl FnOnce() -> tantivy::Result<R>) -> Result<R, SearchError> {
        self.check_writer()?;
        change().map_err(|error| {
            tracing::error!(%error, "the search index cannot be written");
            self.broken.store(true, Ordering::Relaxed);
            failure(error)
        })
    }

    fn write_now(&self, writes: Vec<Write>) -> tantivy::Result<Vec<WriteFailure>> {
        let searcher = self.reader.searcher();
        let mut writer = self.writer.lock();
        let mut failures = Vec::new();
        for write in writes {
            let problems = self.mapping.check(&write.document, 3);
            if !problems.is_empty() {
                failures.push(WriteFailure {
                    id: write.id,
                    reason: problems.join("; "),
                });
                continue;
            }
            let known = match writer.uncommitted.get(&write.id) {
                Some(version) => Some(*version),
                None => self.version_of(&searcher, &write.id)?,
            };
            if known.is_some_and(|known| known > write.version) {
                continue;
            }
            let body = self.body(&write.document);
            let document = self.fields.document(
                &write.id,
                write.version,
                &write.document,
                &body,
                &self.mapping,
            );
            writer
                .inner
                .delete_term(Term::from_field_text(self.fields.id, &write.id));
            writer.inner.add_document(document)?;
            writer.uncommitted.insert(write.id, write.version);
        }
        Ok(failures)
    }

    /// The answer to a request for the document: without nulls, with the index that holds it.
    fn body(&self, document: &Map<String, Value>) -> Vec<u8> {
        let mut answer = without_nulls(Value::Object(document.clone()));
        if let Some(extra) = answer.get_mut("_extra").and_then(Value::as_object_mut) {
            extra.insert("index_name".to_owned(), json!(self.name));
        }
        answer.to_string().into_bytes()
    }

    fn remove_now(&self, project: &Project, name: &Version, below: Epoch) -> tantivy::Result<u64> {
        let query = Query::all_of(vec![
            Query::exact("_extra.project_id", project.as_str()),
            Query::exact("_extra.version", name.as_str()),
        ]);
        let compiled = compile::compile(&query, &self.fields)
            .map_err(|error| tantivy::TantivyError::InvalidArgument(error.to_string()))?;
        let mut writer = self.writer.lock();
        if !writer.uncommitted.is_empty() {
            writer.inner.commit()?;
            writer.uncommitted.clear();
            self.reader.reload()?;
        }
        let searcher = self.reader.searcher();
        let addresses = searcher.search(&*compiled, &tantivy::collector::DocSetCollector)?;
        let mut removed = 0;
        for address in addresses {
            let segment = searcher.segment_reader(address.segment_ord);
            let version = segment.fast_fields().u64("version")?.first(address.doc_id);
            if version.is_none_or(|version| version < below) {
                let id = &self.load(&searcher, address)?.id;
                writer
                    .inner
                    .delete_term(Term::from_field_text(self.fields.id, id));
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn refresh_now(&self) -> tantivy::Result<()> {
        let mut writer = self.writer.lock();
        writer.inner.commit()?;
        writer.uncommitted.clear();
        self.reader.reload()
    }

    fn sort_columns(&self, keys: &[SortKey]) -> Result<Vec<SortColumn>, SearchError> {
        let mut columns = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            if key.field == "_score" {
                columns.push(SortColumn::Score);
                continue;
            }
            columns.push(SortColumn::Field {
                name: self.column(&key.field, "sort on", &|field| {
                    SearchError::Invalid(format!("sort error: Field '{field}' isn't sortable"))
                })?,
                descending: key.descending,
            });
        }
        if columns.is_empty() {
            columns.push(SortColumn::Score);
        }
        Ok(columns)
    }

    /// The name of the column of a field that is sorted or aggregated.
    fn column(
        &self,
        field: &str,
        purpose: &str,
        analysed: &dyn Fn(&str) -> SearchError,
    ) -> Result<String, SearchError> {
        let found = self.fields.get(field).ok_or_else(|| {
            SearchError::Invalid(format!(
                "No mapping found for [{field}] in order to {purpose}"
            ))
        })?;
        if found.kind != Kind::Text {
            return Ok(format!("field:{field}"));
        }
        let keyword = format!("{field}.keyword");
        match self.fields.get(&keyword) {
            Some(_) => Ok(format!("field:{keyword}")),
            None => Err(analysed(field)),
        }
    }

    fn snapshot(&self, id: &str) -> Result<Searcher, SearchError> {
        let mut snapshots = self.snapshots.lock();
        match snapshots.get_mut(id) {
            Some((searcher, used)) if used.elapsed() < SNAPSHOT_LIFE => {
                *used = Instant::now();
                Ok(searcher.clone())
            }
            _ => Err(SearchError::Expired),
        }
    }

    fn keep_snapshot(&self, searcher: &Searcher) -> String {
        let mut snapshots = self.snapshots.lock();
        snapshots.retain(|_, (_, used)| used.elapsed() < SNAPSHOT_LIFE);
        // Pages of one generation share a snapshot.
        let id = format!("{:x}", searcher.generation().generation_id());
        if snapshots.len() >= SNAPSHOTS_MAX && !snapshots.contains_key(&id) {
            let oldest = snapshots
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                snapshots.remove(&oldest);
            }
        }
        snapshots.insert(id.clone(), (searcher.clone(), Instant::now()));
        id
    }

    fn search_now(&self, request: &SearchRequest) -> Result<Page, SearchError> {
        let searcher = match &request.cursor {
            Some(cursor) => self.snapshot(&cursor.snapshot)?,
            None => self.reader.searcher(),
        };
        let columns = self.sort_columns(&request.sort)?;
        let query = compile::compile(&request.query, &self.fields)?;
        let latest = match request.latest {
            false => None,
            true => {
                let fields = LatestFields {
                    project: "field:_extra.project_id".to_owned(),
                    revision: "field:_extra.numerical_revision".to_owned(),
                };
                let highest = searcher
                    .search(&*query, &LatestCollector(fields.clone()))
                    .map_err(failure)?;
                Some((fields, Arc::new(highest)))
            }
        };
        let after = match &request.cursor {
            None => None,
            Some(cursor) => Some(parse_cursor(cursor, columns.len()).ok_or(SearchError::Expired)?),
        };
        let collector = PageCollector {
            columns,
            limit: request.size + 1,
            after,
            latest,
        };
        let (mut hits, total) = searcher.search(&*query, &collector).map_err(failure)?;
        let more = hits.len() > request.size;
        hits.truncate(request.size);
        let next = match hits.last() {
            Some(last) if more => Some(Cursor {
                snapshot: self.keep_snapshot(&searcher),
                after: print_cursor(last),
            }),
            _ => None,
        };
        let documents = hits
            .iter()
            .map(|hit| self.load(&searcher, hit.address))
            .collect::<tantivy::Result<Vec<_>>>()
            .map_err(failure)?;
        Ok(Page {
            hits: documents,
            total,
            next,
        })
    }

    /// Whether a search takes less time than the way to another thread and back: the index is small,
    /// and nothing in the query runs over the dictionaries.
    fn is_quick(&self, query: &Query) -> bool {
        self.reader.searcher().num_docs() <= QUICK_DOCUMENTS && !expands(query)
    }

    fn aggregate_now(
        &self,
        query: &Query,
        field: &str,
        kind: AggregationKind,
        size: usize,
    ) -> Result<Value, SearchError> {
        let column = self.column(field, "aggregate on", &|field| {
            SearchError::Invalid(format!("Field '{field}' can't be aggregated"))
        })?;
        let compiled = compile::compile(query, &self.fields)?;
        let values = self
            .reader
            .searcher()
            .search(&*compiled, &ValueCollector(column))
            .map_err(failure)?;
        let field_kind = match self.fields.get(field) {
            Some(found) => found.kind,
            None => Kind::Keyword,
        };
        Ok(match kind {
            AggregationKind::Cardinality => json!({"value": values.len()}),
            AggregationKind::Max => {
                let greatest = values.into_keys().max();
                match greatest {
                    None => json!({"value": null}),
                    Some(FieldValue::Text(_)) => {
                        return Err(SearchError::Invalid(format!(
                            "Field '{field}' is not numeric: it has no maximum"
                        )));
                    }
                    Some(value) => json!({"value": value_json(&value, field_kind)}),
                }
            }
            AggregationKind::Terms => {
                let mut buckets: Vec<(FieldValue, u64)> = values.into_iter().collect();
                buckets.sort_by(|(a, left), (b, right)| right.cmp(left).then_with(|| a.cmp(b)));
                let others: u64 = buckets.iter().skip(size).map(|(_, count)| count).sum();
                let buckets: Vec<Value> = buckets
                    .into_iter()
                    .take(size)
                    .map(|(value, count)| bucket_json(&value, field_kind, count))
                    .collect();
                json!({
                    "doc_count_error_upper_bound": 0,
                    "sum_other_doc_count": others,
                    "buckets": buckets,
                })
            }
        })
    }
}

/// Whether a part of the query is a pattern over terms.
fn expands(query: &Query) -> bool {
    match query {
        Query::Wildcard { .. } | Query::Regex { .. } | Query::Fuzzy { .. } => true,
        Query::Bool {
            must,
            should,
            must_not,
        } => [must, should, must_not].into_iter().flatten().any(expands),
        Query::Boost(inner, _) => expands(inner),
        _ => false,
    }
}

fn bucket_json(value: &FieldValue, kind: Kind, count: u64) -> Value {
    match (value, kind) {
        (FieldValue::Text(text), Kind::Boolean) => json!({
            "key": i32::from(text == "true"), "key_as_string": text, "doc_count": count,
        }),
        (FieldValue::Number(number), Kind::Date) => {
            let millis = i64::from_u64(*number);
            let text = jiff::Timestamp::from_millisecond(millis)
                .map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
                .unwrap_or_default();
            json!({"key": millis, "key_as_string": text, "doc_count": count})
        }
        _ => json!({"key": value_json(value, kind), "doc_count": count}),
    }
}

fn value_json(value: &FieldValue, kind: Kind) -> Value {
    match (value, kind) {
        (FieldValue::Text(text), _) => json!(text),
        (FieldValue::Number(number), Kind::Float) => json!(f64::from_u64(*number)),
        (FieldValue::Number(number), _) => json!(i64::from_u64(*number)),
    }
}

fn print_cursor(hit: &Hit) -> Vec<Value> {
    let mut after: Vec<Value> = hit.key.iter().map(SortValue::to_json).collect();
    after.push(json!(hit.address.segment_ord));
    after.push(json!(hit.address.doc_id));
    after
}

fn parse_cursor(cursor: &Cursor, keys: usize) -> Option<Hit> {
    let (key, address) = cursor.after.split_at_checked(keys)?;
    let [segment, doc] = address else { return None };
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    Some(Hit {
        key: key
            .iter()
            .map(SortValue::from_json)
            .collect::<Option<_>>()?,
        address: DocAddress::new(number(segment)?, number(doc)?),
    })
}

/// Runs `work` where it may block.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, SearchError> + Send + 'static,
) -> Result<R, SearchError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SearchError::Unavailable(format!("the search was lost: {error}")))?
}

/// The engine as the rest of the process holds it.
#[derive(Clone)]
pub struct EmbeddedSearch(pub Arc<Engine>);

#[async_trait]
impl Search for EmbeddedSearch {
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<WriteFailure>, SearchError> {
        let engine = self.0.clone();
        blocking(move || engine.changing(|| engine.write_now(writes))).await
    }

    /// Another version's commit must not show a part of this one.
    fn write_size(&self) -> usize {
        usize::MAX
    }

    async fn remove(
        &self,
        project: &Project,
        name: &Version,
        below: Epoch,
    ) -> Result<u64, SearchError> {
        let (engine, project, name) = (self.0.clone(), project.clone(), name.clone());
        blocking(move || engine.changing(|| engine.remove_now(&project, &name, below))).await
    }

    async fn refresh(&self) -> Result<(), SearchError> {
        let engine = self.0.clone();
        blocking(move || engine.changing(|| engine.refresh_now())).await
    }

    async fn get(&self, id: &str) -> Result<Option<Arc<Document>>, SearchError> {
        // A look into the term dictionaries: shorter than the way to another thread.
        let searcher = self.0.reader.searcher();
        match self.0.find(&searcher, id).map_err(failure)? {
            None => Ok(None),
            Some(address) => self.0.load(&searcher, address).map(Some).map_err(failure),
        }
    }

    async fn search(&self, request: SearchRequest) -> Result<Page, SearchError> {
        if self.0.is_quick(&request.query) {
            return self.0.search_now(&request);
        }
        let engine = self.0.clone();
        blocking(move || engine.search_now(&request)).await
    }

    async fn aggregate(
        &self,
        query: &Query,
        field: &str,
        kind: AggregationKind,
        size: usize,
    ) -> Result<Value, SearchError> {
        let (engine, query, field) = (self.0.clone(), query.clone(), field.to_owned());
        blocking(move || engine.aggregate_now(&query, &field, kind, size)).await
    }

    async fn projects(
        &self,
        query: &Query,
        field: &str,
        after: Option<&str>,
        size: usize,
    ) -> Result<ProjectsPage, SearchError> {
        let (engine, query) = (self.0.clone(), query.clone());
        let (field, after) = (field.to_owned(), after.map(str::to_owned));
        blocking(move || {
            let compiled = compile::compile(&query, &engine.fields)?;
            let groups = engine
                .reader
                .searcher()
                .search(
                    &*compiled,
                    &GroupCollector {
                        group: "field:_extra.project_id".to_owned(),
                        field: format!("field:{field}"),
                    },
                )
                .map_err(failure)?;
            let total = groups.len() as u64;
            let mut rest = groups
                .into_iter()
                .filter(|(project, _)| after.as_ref().is_none_or(|after| project > after));
            let projects: Vec<(String, Vec<String>)> = rest
                .by_ref()
                .take(size)
                .map(|(project, values)| (project, values.into_iter().collect()))
                .collect();
            Ok(ProjectsPage {
                projects,
                total,
                more: rest.next().is_some(),
            })
        })
        .await
    }

    fn admin(&self) -> &dyn IndexAdmin {
        self
    }

    async fn count(&self) -> Result<u64, SearchError> {
        self.0.check_writer()?;
        Ok(self.0.reader.searcher().num_docs())
    }
}
