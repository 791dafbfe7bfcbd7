//! Writes and removals: bulk requests of bounded size, a few at a time, every item's outcome looked
//! at.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::RequestError;
use super::{Elasticsearch, engine_id};
use crate::document::without_nulls;
use crate::id::{Project, Version};
use crate::query::Query;
use crate::search::{SearchError, Write, WriteFailure};
use crate::state::Epoch;

/// Bytes of one bulk request, about.
pub(super) const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Bulk requests on their way at the same time.
const IN_FLIGHT: usize = 3;
/// Attempts at what the engine has no room for now, each after a longer pause.
const ATTEMPTS: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const BULK_TIMEOUT: Duration = Duration::from_secs(120);
/// Documents looked at together when a version is removed.
const REMOVAL_PAGE: usize = 1000;

/// One action: its line or lines, and the document that it is about.
struct Action {
    id: String,
    text: Vec<u8>,
}

#[derive(Deserialize)]
struct BulkAnswer {
    errors: bool,
    #[serde(default)]
    items: Vec<BulkItem>,
}

#[derive(Deserialize)]
struct BulkItem {
    #[serde(alias = "delete")]
    index: ItemAnswer,
}

#[derive(Deserialize)]
struct ItemAnswer {
    status: u16,
    #[serde(default)]
    error: Option<ItemError>,
}

#[derive(Deserialize, Default)]
struct ItemError {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    caused_by: Option<Box<ItemError>>,
}

impl ItemError {
    fn text(&self) -> String {
        match &self.caused_by {
            Some(inner) if !self.reason.contains(&inner.reason) => {
                format!("{}: {}", self.reason, inner.text())
            }
            _ => self.reason.clone(),
        }
    }
}

/// What became of a batch.
#[derive(Default)]
struct Outcome {
    failures: Vec<WriteFailure>,
    /// Items that did something.
    done: u64,
}

fn write_action(write: Write) -> Action {
    let Write {
        id,
        version,
        mut document,
    } = write;
    // Last, as `answered` relies on.
    if let Some(extra) = document.shift_remove("_extra") {
        document.insert("_extra".to_owned(), extra);
    }
    let head = json!({"index": {"_id": engine_id(&id), "version": version, "version_type": "external_gte"}});
    let mut text = head.to_string().into_bytes();
    text.push(b'\n');
    text.extend_from_slice(
        without_nulls(Value::Object(document))
            .to_string()
            .as_bytes(),
    );
    text.push(b'\n');
    Action { id, text }
}

fn delete_action(id: String, version: Epoch) -> Action {
    let head = json!({"delete": {"_id": id, "version": version, "version_type": "external_gte"}});
    let mut text = head.to_string().into_bytes();
    text.push(b'\n');
    Action { id, text }
}

fn pause(attempt: u32) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << attempt.min(10).saturating_sub(1));
    let jitter = Duration::from_millis(rand::random_range(0..100));
    doubled.min(PAUSE_MAX) + jitter
}

impl Elasticsearch {
    /// Makes what was written to the live index, and to the one that is being built, visible: the
    /// second may be the first before the next search.
    pub(super) async fn refresh_targets(&self) -> Result<(), SearchError> {
        let targets = self.write_targets().await?;
        for (number, target) in targets.iter().enumerate() {
            match self.refresh_one(target).await {
                Err(error) if number > 0 && error.status() == 404 => {
                    self.forget_targets();
                    self.refresh_one(&targets[0]).await?;
                }
                refreshed => refreshed?,
            }
        }
        Ok(())
    }

    async fn refresh_one(&self, target: &str) -> Result<(), RequestError> {
        let path = format!("/{target}/_refresh");
        let answer = self.client.json(Method::Post, &path, &[], None).await?;
        match answer["_shards"]["failed"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(RequestError::Away(
                "not every shard could be refreshed".to_owned(),
            )),
        }
    }

    pub(super) async fn write_bulk(
        &self,
        writes: Vec<Write>,
    ) -> Result<Vec<WriteFailure>, SearchError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let targets = self.write_targets().await?;
        let batches = batches(writes.into_iter().map(write_action));
        let outcome = self.send_batches(batches, &targets).await?;
        Ok(outcome.failures)
    }

    /// Sends batches to the live index, whose outcome counts, and to the one that is being built.
    async fn send_batches(
        &self,
        batches: impl Iterator<Item = Vec<Action>> + Send,
        targets: &[String],
    ) -> Result<Outcome, SearchError> {
        let mut sent = futures::stream::iter(batches)
            .map(|batch| async move {
                let batch = std::sync::Arc::new(batch);
                let mut outcome = Outcome::default();
                for (number, target) in targets.iter().enumerate() {
                    let own = self.send_batch(target, &batch).await;
                    match own {
                        Ok(own) if number == 0 => outcome = own,
                        Err(error) if number == 0 => return Err(error),
                        // The build is over, or finds by itself what does not fit.
                        Ok(own) => {
                            for failure in own.failures {
                                tracing::warn!(
                                    id = failure.id,
                                    reason = failure.reason,
                                    target,
                                    "a document does not fit the index that is being built"
                                );
                            }
                        }
                        // The build is over, and what was live when this began may be a former
                        // index now: what is live has to have it too.
                        Err(SearchError::Unavailable(text)) if text.contains("index_not_found") => {
                            self.forget_targets();
                            outcome = self.send_batch(&targets[0], &batch).await?;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(outcome)
            })
            .buffer_unordered(IN_FLIGHT);
        let mut total = Outcome::default();
        while let Some(outcome) = sent.try_next().await? {
            total.failures.extend(outcome.failures);
            total.done += outcome.done;
        }
        Ok(total)
    }

    /// Sends one batch until every item is written, refused for good, or given up.
    async fn send_batch(&self, target: &str, batch: &[Action]) -> Result<Outcome, SearchError> {
        let path = format!("/{target}/_bulk");
        let query = [
            (
                "require_alias",
                if self.only.is_some() { "false" } else { "true" },
            ),
            (
                "filter_path",
                "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by",
            ),
        ];
        let mut outcome = Outcome::default();
        let mut open: Vec<&Action> = batch.iter().collect();
        let mut last = String::new();
        for attempt in 1..=ATTEMPTS {
            if attempt > 1 {
                tokio::time::sleep(pause(attempt - 1)).await;
            }
            let size = open.iter().map(|action| action.text.len()).sum();
            let mut body = Vec::with_capacity(size);
            for action in &open {
                body.extend_from_slice(&action.text);
            }
            let answer = self
                .client
                .send_as(
                    Method::Post,
                    &path,
                    &query,
                    Some(Bytes::from(body)),
                    Some(BULK_TIMEOUT),
                    "application/x-ndjson",
                )
                .await;
            let bytes = match answer {
                Ok(bytes) => bytes,
                Err(RequestError::Refused(refusal)) if refusal.status == 429 => {
                    last = refusal.reason;
                    continue;
                }
                // Of a bulk request as a whole, no document can be to blame.
                Err(error) => return Err(SearchError::Unavailable(error.to_string())),
            };
            let answer: BulkAnswer = serde_json::from_slice(&bytes)
                .map_err(|error| SearchError::Unavailable(format!("a bulk answer: {error}")))?;
            if !answer.errors && answer.items.is_empty() {
                return Err(SearchError::Unavailable("an empty bulk answer".to_owned()));
            }
            let mut again = Vec::new();
            for (action, item) in open.iter().zip(&answer.items) {
                let item = &item.index;
                let reason = || item.error.as_ref().map(ItemError::text).unwrap_or_default();
                match item.status {
                    200 | 201 => outcome.done += 1,
                    // Something newer is there, or what was to be deleted is not.
                    409 | 404
                        if item
                            .error
                            .as_ref()
                            .is_none_or(|error| error.kind.contains("version_conflict")) => {}
                    400 => outcome.failures.push(WriteFailure {
                        id: action.id.clone(),
                        reason: reason(),
                    }),
                    429 => {
                        last = reason();
                        again.push(*action);
                    }
                    status => {
                        let kind = item.error.as_ref().map_or("", |error| error.kind.as_str());
                        return Err(SearchError::Unavailable(format!(
                            "{status} {kind}: {}",
                            reason()
                        )));
                    }
                }
            }
            if again.is_empty() {
                return Ok(outcome);
            }
            open = again;
        }
        Err(SearchError::Unavailable(format!(
            "the engine has no room for more writes: {last}"
        )))
    }

    /// Deletes the documents of a version whose external version is below `below`. The deletion
    /// carries `below - 1`, so that a later writer's document is not held up by it.
    pub(super) async fn remove_below(
        &self,
        project: &Project,
        name: &Version,
        below: Epoch,
    ) -> Result<u64, SearchError> {
        let Some(highest) = below.checked_sub(1) else {
            return Ok(0);
        };
        let query = Query::all_of(vec![
            Query::exact("_extra.project_id", project.as_str()),
            Query::exact("_extra.version", name.as_str()),
        ]);
        let query = super::compile::compile(&query, &self.mapping);
        let mut removed = 0;
        let mut targets = VecDeque::from(self.write_targets().await?);
        let live = targets.front().cloned();
        let mut number = 0;
        while let Some(target) = targets.pop_front() {
            let first = number == 0;
            number += 1;
            match self.refresh_one(&target).await {
                Ok(()) => {}
                // The build is over: as for writes.
                Err(error) if !first && error.status() == 404 => {
                    self.forget_targets();
                    targets.extend(live.clone().filter(|live| *live != target));
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let mut after: Option<Value> = None;
            loop {
                let mut body = json!({
                    "query": query,
                    "size": REMOVAL_PAGE,
                    "_source": false,
                    "version": true,
                    "track_total_hits": false,
                    "sort": [{"_extra.id": "asc"}],
                });
                if let Some(after) = after.take() {
                    body["search_after"] = after;
                }
                let path = format!("/{target}/_search");
                let answer = self
                    .client
                    .json(Method::Post, &path, &[], Some(&body))
                    .await?;
                let hits = answer["hits"]["hits"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let stale: Vec<Action> = hits
                    .iter()
                    .filter(|hit| hit["_version"].as_u64().is_some_and(|own| own < below))
                    .filter_map(|hit| Some(delete_action(hit["_id"].as_str()?.to_owned(), highest)))
                    .collect();
                if !stale.is_empty() {
                    let outcome = self.send_batch(&target, &stale).await?;
                    if first {
                        removed += outcome.done;
                    }
                }
                match hits.last() {
                    Some(last) if hits.len() == REMOVAL_PAGE => after = Some(last["sort"].clone()),
                    _ => break,
                }
            }
        }
        Ok(removed)
    }
}

/// Actions in batches of about `BATCH_BYTES`, made as they are asked for.
fn batches(actions: impl Iterator<Item = Action>) -> impl Iterator<Item = Vec<Action>> {
    let mut actions = actions.peekable();
    std::iter::from_fn(move || {
        actions.peek()?;
        let mut size = 0;
        let mut batch = Vec::new();
        while let Some(next) = actions.peek() {
            if !batch.is_empty() && size + next.text.len() > BATCH_BYTES {
                break;
            }
            let action = actions.next()?;
            size += action.text.len();
            batch.push(action);
        }
        Some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_by_bytes_and_lose_nothing() {
        let action = |bytes: usize| Action {
            id: bytes.to_string(),
            text: vec![0; bytes],
        };
        let sizes = [BATCH_BYTES + 1, 1, BATCH_BYTES - 1, 1, 1];
        let cut: Vec<Vec<usize>> = batches(sizes.into_iter().map(action))
            .map(|batch| batch.iter().map(|action| action.text.len()).collect())
            .collect();
        assert_eq!(
            cut,
            [vec![BATCH_BYTES + 1], vec![1, BATCH_BYTES - 1], vec![1, 1]]
        );
        assert_eq!(batches(std::iter::empty()).count(), 0);
    }

    #[test]
    fn the_extra_block_is_written_last() {
        let Value::Object(document) = json!({"_extra": {"id": "x"}, "a": null, "path": "p"}) else {
            unreachable!()
        };
        let action = write_action(Write {
            id: "x".into(),
            version: 3,
            document,
        });
        let text = String::from_utf8(action.text).unwrap();
        assert_eq!(
            text,
            "{\"index\":{\"_id\":\"x\",\"version\":3,\"version_type\":\"external_gte\"}}\n{\"path\":\"p\",\"_extra\":{\"id\":\"x\"}}\n"
        );
    }
}
