//! Reads: pages of hits, and single documents.
//!
//! A first page is one plain request: most callers ask for no second. The pages after it read a point
//! in time, which is opened when the second is asked for. What the first page showed is left out of
//! them by the cursor, which names it in hashes: whatever was written in between, and however
//! relevance shifted by it, a document that is there all the time is answered exactly once. First
//! pages that are asked for again are compared with what is `remembered` of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use elasticsearch::http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::client::RequestError;
use super::compile::compile;
use super::remembered::{KnownPage, Memory, Place};
use super::{Elasticsearch, answered, engine_id};
use crate::search::{Cursor, Document, Page, SearchError, SearchRequest, SortKey};

/// How long a point in time lives after its last use.
const KEEP_ALIVE: &str = "2m";
/// What a cursor names until its point in time is opened.
const NOT_OPENED: &str = "";
/// A shard that does not answer fails the search: its hits would be left out without a word.
const WHOLE: (&str, &str) = ("allow_partial_search_results", "false");
/// Buckets of one composite aggregation.
pub(super) const BUCKETS: usize = 1000;

#[derive(Deserialize)]
struct Answer<H> {
    hits: Hits<H>,
    #[serde(default)]
    pit_id: Option<String>,
    #[serde(default)]
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
}

impl<H> Answer<H> {
    fn complete(&self) -> Result<(), SearchError> {
        complete(self.timed_out, self.shards.failed)
    }
}

#[derive(Deserialize)]
struct Shards {
    total: u64,
    failed: u64,
}

/// What a search looks at.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Live,
    /// The live index, with a search that was asked before: the engine remembers what it answers
    /// until a refresh shows anything new.
    LiveAgain,
    /// A point in time; it has one reader.
    Snapshot(&'a str),
}

#[derive(Deserialize)]
struct Hits<H> {
    #[serde(default)]
    total: Option<Total>,
    #[serde(default = "Vec::new")]
    hits: Vec<H>,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct Hit<'a> {
    #[serde(borrow)]
    _index: Cow<'a, str>,
    #[serde(borrow)]
    _id: Cow<'a, str>,
    #[serde(borrow)]
    _source: &'a RawValue,
    #[serde(default)]
    sort: Vec<Value>,
    #[serde(default)]
    _seq_no: i64,
    #[serde(default)]
    _primary_term: i64,
}

impl Hit<'_> {
    fn place(&self) -> Place<'static> {
        Place {
            index: Cow::Owned(self._index.clone().into_owned()),
            id: Some(Cow::Owned(self._id.clone().into_owned())),
            sequence: self._seq_no,
            term: self._primary_term,
        }
    }

    fn document(self) -> Arc<Document> {
        let id = self._id.into_owned();
        Arc::new(answered(id, &self._index, self._source.get()))
    }
}

/// Where a page begins.
struct Start {
    snapshot: String,
    /// The sort values of the last hit that was read in the snapshot.
    after: Option<Vec<Value>>,
    /// Fingerprints of the hits that the first page showed.
    shown: Vec<u64>,
}

impl Start {
    fn print(self) -> Cursor {
        let shown: Vec<u8> = self
            .shown
            .iter()
            .flat_map(|own| own.to_be_bytes())
            .collect();
        Cursor {
            snapshot: self.snapshot,
            after: vec![json!(self.after), json!(URL_SAFE_NO_PAD.encode(shown))],
        }
    }

    fn parse(cursor: &Cursor) -> Option<Self> {
        let [after, shown] = cursor.after.as_slice() else {
            return None;
        };
        let shown = URL_SAFE_NO_PAD.decode(shown.as_str()?).ok()?;
        Some(Self {
            snapshot: cursor.snapshot.clone(),
            after: serde_json::from_value(after.clone()).ok()?,
            shown: shown
                .chunks_exact(8)
                .filter_map(|eight| Some(u64::from_be_bytes(eight.try_into().ok()?)))
                .collect(),
        })
    }
}

/// 64 bits of a hash of an identifier, the same in every process.
fn fingerprint(id: &str) -> u64 {
    let digest = Sha256::digest(id);
    let mut eight = [0; 8];
    eight.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(eight)
}

#[derive(Deserialize)]
struct Got<'a> {
    #[serde(borrow)]
    _index: Cow<'a, str>,
    found: bool,
    #[serde(borrow, default)]
    _source: Option<&'a RawValue>,
}

pub(super) fn unreadable(error: serde_json::Error) -> SearchError {
    SearchError::Unavailable(format!("an answer that cannot be read: {error}"))
}

impl Elasticsearch {
    pub(super) async fn get_document(
        &self,
        id: &str,
    ) -> Result<Option<Arc<Document>>, SearchError> {
        let own = engine_id(id);
        let name = utf8_percent_encode(&own, NON_ALPHANUMERIC);
        let path = format!("/{}/_doc/{name}", self.target());
        let bytes = match self.client.send(Method::Get, &path, &[], None, None).await {
            Ok(bytes) => bytes,
            Err(RequestError::Refused(refusal))
                if refusal.status == 404 && refusal.kind.is_empty() =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let got: Got = serde_json::from_slice(&bytes).map_err(unreadable)?;
        Ok(match got._source {
            Some(source) if got.found => {
                Some(Arc::new(answered(id.to_owned(), &got._index, source.get())))
            }
            _ => None,
        })
    }

    /// The sort as the engine takes it; none for relevance, which is its own.
    fn sort(&self, keys: &[SortKey]) -> Result<Vec<Value>, SearchError> {
        let mut sort = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            if key.field == "_score" {
                sort.push(json!({"_score": "desc"}));
                continue;
            }
            let (column, _) = self.column(&key.field, "sort on", &|field| {
                SearchError::Invalid(format!("sort error: Field '{field}' isn't sortable"))
            })?;
            let order = if key.descending { "desc" } else { "asc" };
            sort.push(json!({column: {"order": order, "missing": "_last"}}));
        }
        Ok(sort)
    }

    pub(super) async fn search_page(&self, request: SearchRequest) -> Result<Page, SearchError> {
        match self.page(&request).await {
            // The cursor is another process's, and this one did not know the engine yet.
            Err(SearchError::Invalid(text))
                if text.contains("[_shard_doc]")
                    && !self.opensearch.swap(true, Ordering::Relaxed) =>
            {
                self.page(&request).await
            }
            answered => answered,
        }
    }

    async fn page(&self, request: &SearchRequest) -> Result<Page, SearchError> {
        let sort = self.sort(&request.sort)?;
        match request.cursor {
            // What is highest is to be the same on every page.
            None if request.latest => {
                let place = Start {
                    snapshot: self.open_snapshot().await?,
                    after: None,
                    shown: Vec::new(),
                };
                self.snapshot_page(request, sort, place).await
            }
            None => self.first_page(request, sort).await,
            Some(ref cursor) => {
                let mut place = Start::parse(cursor).ok_or(SearchError::Expired)?;
                if place.snapshot == NOT_OPENED {
                    place.snapshot = self.open_snapshot().await?;
                }
                self.snapshot_page(request, sort, place).await
            }
        }
    }

    async fn first_page(
        &self,
        request: &SearchRequest,
        sort: Vec<Value>,
    ) -> Result<Page, SearchError> {
        let mut body = json!({
            "query": compile(&request.query, &self.mapping),
            "size": request.size,
            "track_total_hits": true,
        });
        if !sort.is_empty() {
            body["sort"] = Value::Array(sort);
        }
        let key = body.to_string();
        let memory = self.remembered.get(&key);
        let Some(memory) = memory else {
            // Most searches are never asked again: for those, remembering would be in vain.
            let bytes = self.send_search(body, Target::Live).await?;
            self.remembered.saw(key);
            let answer: Answer<Hit> = serde_json::from_slice(&bytes).map_err(unreadable)?;
            answer.complete()?;
            let (total, hits) = (answer.hits.total, answer.hits.hits);
            let ids = hits.iter().map(|hit| &*hit._id);
            let next = next_of(request, &total, ids);
            let documents = hits.into_iter().map(Hit::document).collect();
            return Ok(page_of(documents, total, next));
        };
        body["seq_no_primary_term"] = json!(true);
        if let Memory::Known(known) = &memory {
            let mut asked = body.clone();
            known.ask(&mut asked);
            let bytes = self.send_search(asked, Target::LiveAgain).await?;
            let answer: Answer<Place> = serde_json::from_slice(&bytes).map_err(unreadable)?;
            answer.complete()?;
            if known.holds(&answer.hits.hits, answer.shards.total) {
                let total = answer.hits.total;
                let next = next_of(request, &total, known.ids());
                return Ok(page_of(known.documents.clone(), total, next));
            }
        }
        let bytes = self.send_search(body, Target::LiveAgain).await?;
        let answer: Answer<Hit> = serde_json::from_slice(&bytes).map_err(unreadable)?;
        answer.complete()?;
        let one_shard = answer.shards.total == 1;
        let (total, hits) = (answer.hits.total, answer.hits.hits);
        let places = hits.iter().map(Hit::place).collect();
        let documents: Vec<_> = hits.into_iter().map(Hit::document).collect();
        let known = KnownPage {
            places,
            documents: documents.clone(),
            one_shard,
        };
        let next = next_of(request, &total, known.ids());
        self.remembered.know(key, known);
        Ok(page_of(documents, total, next))
    }

    async fn snapshot_page(
        &self,
        request: &SearchRequest,
        mut sort: Vec<Value>,
        mut place: Start,
    ) -> Result<Page, SearchError> {
        let mut query = compile(&request.query, &self.mapping);
        if request.latest {
            let latest = self.latest_filter(&query, &place.snapshot).await?;
            let Some(filter) = latest else {
                self.close_snapshot(&place.snapshot).await;
                return Ok(Page {
                    hits: Vec::new(),
                    total: 0,
                    next: None,
                });
            };
            query = json!({"bool": {"must": [query], "filter": [filter]}});
        }
        if sort.is_empty() {
            sort.push(json!({"_score": "desc"}));
        }
        // OpenSearch has no order of its own behind ours; identifiers are one.
        sort.push(match self.opensearch.load(Ordering::Relaxed) {
            false => json!({"_shard_doc": "asc"}),
            true => json!({"_extra.id": "asc"}),
        });
        let shown: HashSet<u64> = place.shown.iter().copied().collect();
        let mut found: Vec<(Arc<Document>, Vec<Value>)> = Vec::new();
        loop {
            // Behind the first page, all of it may have to be passed over.
            let passed = if place.after.is_none() {
                shown.len()
            } else {
                0
            };
            let size = request.size + 1 + passed - found.len();
            let mut body = json!({
                "query": query, "size": size, "sort": sort, "track_total_hits": true,
            });
            if let Some(after) = &place.after {
                body["search_after"] = json!(after);
            }
            let bytes = self
                .send_search(body, Target::Snapshot(&place.snapshot))
                .await?;
            let answer: Answer<Hit> = serde_json::from_slice(&bytes).map_err(unreadable)?;
            answer.complete()?;
            if let Some(id) = answer.pit_id {
                place.snapshot = id;
            }
            let total = answer.hits.total.map_or(0, |total| total.value);
            let last = answer.hits.hits.len() < size;
            for mut hit in answer.hits.hits {
                let position = std::mem::take(&mut hit.sort);
                if !shown.contains(&fingerprint(&hit._id)) {
                    found.push((hit.document(), position.clone()));
                }
                place.after = Some(position);
            }
            if !last && found.len() <= request.size {
                continue;
            }
            let more = found.len() > request.size;
            found.truncate(request.size);
            let next = if more {
                place.after = found.last().map(|(_, position)| position.clone());
                Some(place.print())
            } else {
                self.close_snapshot(&place.snapshot).await;
                None
            };
            return Ok(Page {
                hits: found.into_iter().map(|(document, _)| document).collect(),
                total,
                next,
            });
        }
    }

    pub(super) async fn send_search(
        &self,
        mut body: Value,
        target: Target<'_>,
    ) -> Result<Bytes, SearchError> {
        let live = || format!("/{}/_search", self.target());
        let (path, parameters): (_, &[(&str, &str)]) = match target {
            Target::Live => (live(), &[WHOLE]),
            Target::LiveAgain => (live(), &[WHOLE, ("request_cache", "true")]),
            Target::Snapshot(id) => {
                body["pit"] = json!({"id": id, "keep_alive": KEEP_ALIVE});
                ("/_search".to_owned(), &[WHOLE])
            }
        };
        let sent = self
            .client
            .send(
                Method::Post,
                &path,
                parameters,
                Some(body.to_string().into()),
                None,
            )
            .await;
        match sent {
            Ok(bytes) => Ok(bytes),
            // An id that no node knows, in any of the ways in which that is told.
            Err(RequestError::Refused(refusal))
                if matches!(target, Target::Snapshot(_))
                    && (refusal.status == 404
                        || refusal.reason.contains("point in time")
                        || refusal.reason.contains("invalid id")) =>
            {
                Err(SearchError::Expired)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn open_snapshot(&self) -> Result<String, SearchError> {
        let query = [("keep_alive", KEEP_ALIVE)];
        if !self.opensearch.load(Ordering::Relaxed) {
            let path = format!("/{}/_pit", self.target());
            match self.client.json(Method::Post, &path, &query, None).await {
                Ok(answer) => return point_in_time(&answer["id"]),
                Err(error) if matches!(error.status(), 400 | 405) => {
                    self.opensearch.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let path = format!("/{}/_search/point_in_time", self.target());
        let answer = self.client.json(Method::Post, &path, &query, None).await?;
        point_in_time(&answer["pit_id"])
    }

    /// Gives a point in time back early; it ends by itself otherwise.
    async fn close_snapshot(&self, id: &str) {
        let (path, body) = match self.opensearch.load(Ordering::Relaxed) {
            false => ("/_pit", json!({"id": id})),
            true => ("/_search/point_in_time", json!({"pit_id": [id]})),
        };
        let closed = self.client.json(Method::Delete, path, &[], Some(&body));
        if let Err(error) = closed.await {
            tracing::debug!(%error, "cannot close a point in time");
        }
    }

    /// The filter for the highest revision of each project among the hits of `query`; `None` when
    /// none has a revision.
    async fn latest_filter(
        &self,
        query: &Value,
        snapshot: &str,
    ) -> Result<Option<Value>, SearchError> {
        let mut by_revision: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut after = None;
        loop {
            let mut composite = json!({
                "size": BUCKETS,
                "sources": [{"project": {"terms": {"field": "_extra.project_id"}}}],
            });
            if let Some(after) = after.take() {
                composite["after"] = after;
            }
            let body = json!({
                "query": query, "size": 0, "track_total_hits": false,
                "aggs": {"projects": {"composite": composite, "aggs": {
                    "highest": {"max": {"field": "_extra.numerical_revision"}},
                }}},
            });
            let bytes = self.send_search(body, Target::Snapshot(snapshot)).await?;
            let mut answer: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
            whole(&answer)?;
            let aggregation = answer["aggregations"]["projects"].take();
            for bucket in aggregation["buckets"].as_array().into_iter().flatten() {
                let highest = bucket["highest"]["value"].as_f64();
                if let (Some(highest), Some(project)) = (highest, bucket["key"]["project"].as_str())
                {
                    by_revision
                        .entry(highest as u64)
                        .or_default()
                        .push(project.to_owned());
                }
            }
            match aggregation.get("after_key") {
                Some(key) => after = Some(key.clone()),
                None => break,
            }
        }
        if by_revision.is_empty() {
            return Ok(None);
        }
        // Few revisions are the highest of many projects: a clause for each revision.
        let should: Vec<Value> = by_revision
            .into_iter()
            .map(|(revision, projects)| {
                json!({"bool": {"filter": [
                    {"term": {"_extra.numerical_revision": revision}},
                    {"terms": {"_extra.project_id": projects}},
                ]}})
            })
            .collect();
        Ok(Some(json!({"bool": {"should": should}})))
    }
}

fn point_in_time(id: &Value) -> Result<String, SearchError> {
    match id.as_str() {
        Some(id) => Ok(id.to_owned()),
        None => Err(SearchError::Unavailable(
            "the engine gave no point in time".to_owned(),
        )),
    }
}

/// The cursor behind a first page names what the page showed.
fn next_of<'a>(
    request: &SearchRequest,
    total: &Option<Total>,
    ids: impl ExactSizeIterator<Item = &'a str>,
) -> Option<Cursor> {
    let total = total.as_ref().map_or(0, |total| total.value);
    let shown = ids.len() as u64;
    let more = ids.len() == request.size && total > shown && request.size > 0;
    more.then(|| {
        Start {
            snapshot: NOT_OPENED.to_owned(),
            after: None,
            shown: ids.map(fingerprint).collect(),
        }
        .print()
    })
}

fn page_of(hits: Vec<Arc<Document>>, total: Option<Total>, next: Option<Cursor>) -> Page {
    let total = total.map_or(0, |total| total.value);
    Page { hits, total, next }
}

/// Refuses an answer that shards are missing from all the same.
fn complete(timed_out: bool, failed: u64) -> Result<(), SearchError> {
    match timed_out || failed > 0 {
        true => Err(SearchError::Unavailable(format!(
            "{failed} shards did not answer"
        ))),
        false => Ok(()),
    }
}

pub(super) fn whole(answer: &Value) -> Result<(), SearchError> {
    complete(
        answer["timed_out"] == true,
        answer["_shards"]["failed"].as_u64().unwrap_or(0),
    )
}
