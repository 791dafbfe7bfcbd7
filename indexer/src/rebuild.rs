//! A new index beside the live one, and the switch to it (DESIGN section 4, "Index lifecycle").
//!
//! 1. The new index is made under the building alias. Workers learn of it within
//!    `TARGETS_LIFE` and write to both.
//! 2. Every shard of the projects is written from the store. What a process has done is recorded in
//!    the store, so several processes may share the work, and one that is killed is begun again:
//!    writes carry versions, so doing them twice is harmless.
//! 3. Whoever finds all shards done goes over the projects that changed meanwhile, compares the
//!    counts, and moves the alias in one step.
//! 4. What changed before the step without a worker knowing of the new index is written once more.
//!
//! A change shows in its project's `head.json` after its documents are written, so "changed" is a
//! question to the store's own clock: later than the marker that was put when the build began.

use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::head::Head;
use artifactdb_core::id::Project;
use artifactdb_core::keys;
use artifactdb_core::search::SearchError;
use artifactdb_core::search::elasticsearch::{Elasticsearch, TARGETS_LIFE};
use artifactdb_core::store::{self, Condition, ObjectRef, StoreError};
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Indexer;
use crate::reindex::{Progress, Publish, Shard, projects, reindex};
use crate::worker::TaskError;

/// Heads that are looked at together.
const LOOKS: usize = 16;
/// Rounds over what changed before the counts must agree.
const ROUNDS: usize = 5;
/// By how much the store may round the times of objects.
const ROUNDING: SignedDuration = SignedDuration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{failed} versions do not fit the schemas now and would be missing from the new index '{index}'; mend the schemas, or pass --allow-failed"
    )]
    Failed { failed: usize, index: String },
    #[error(
        "the new index '{index}' has {new} documents and the live one {live}; it does not become the live one"
    )]
    Counts { index: String, new: u64, live: u64 },
    #[error("shard {index} of {of} does not exist: shards are numbered from 0")]
    Shard { index: u32, of: u32 },
    #[error("{0}")]
    Setup(String),
}

/// Where a rebuild is.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    Begun {
        index: String,
        shard: u32,
        shards: u32,
    },
    Progress(Progress),
    /// This shard is done; others are not.
    Waiting {
        done: usize,
        of: u32,
    },
    CatchingUp {
        projects: usize,
    },
    Compared {
        live: Option<u64>,
        new: u64,
    },
    Switched {
        index: String,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct RebuildOptions {
    pub shard: Shard,
    /// Switch although versions do not fit.
    pub allow_failed: bool,
}

#[derive(Serialize, Deserialize)]
struct ShardRecord {
    progress: Progress,
}

/// Where the records of one build are: by the index's uuid, because a number comes again once the
/// index that had it is deleted.
fn folder(uuid: &str) -> String {
    format!("{}/reindex/{uuid}/", keys::INSTANCE_META)
}

/// Builds a new index and makes it the live one. Returns whether the switch was made here: it is
/// left to the process that ends last.
pub async fn rebuild(
    indexer: &Indexer,
    engine: &Elasticsearch,
    options: RebuildOptions,
    mut report: impl FnMut(Event),
) -> Result<bool, RebuildError> {
    let shard = options.shard;
    if shard.index >= shard.of {
        return Err(RebuildError::Shard {
            index: shard.index,
            of: shard.of,
        });
    }
    let index = engine.begin_build().await?;
    let records = folder(&engine.uuid(&index).await?);
    let filling = Indexer::new(
        indexer.versions.clone(),
        Arc::new(engine.restricted(&index)),
        indexer.config.clone(),
    )
    .map_err(RebuildError::Setup)?;
    let begun = mark(&filling, &index, &records).await?;
    report(Event::Begun {
        index: index.clone(),
        shard: shard.index,
        shards: shard.of,
    });
    tokio::time::sleep(TARGETS_LIFE + TARGETS_LIFE / 2).await;

    let own = projects(&filling, shard).await?;
    let progress = reindex(&filling, own, Publish::No, |progress| {
        report(Event::Progress(*progress));
    })
    .await?;
    report(Event::Progress(progress));
    let store = &*indexer.versions.store;
    let record = format!("{records}shard-{}-of-{}.json", shard.index, shard.of);
    store::put_json(store, &record, &ShardRecord { progress }, Condition::Always).await?;

    let mut failed = 0;
    let mut done = 0;
    for number in 0..shard.of {
        let key = format!("{records}shard-{number}-of-{}.json", shard.of);
        if let Some((record, _)) = store::get_json::<ShardRecord>(store, &key).await? {
            failed += record.progress.failed;
            done += 1;
        }
    }
    if done < shard.of as usize {
        report(Event::Waiting { done, of: shard.of });
        return Ok(false);
    }
    switch(
        &filling,
        engine,
        &index,
        begun,
        failed,
        options.allow_failed,
        &mut report,
    )
    .await?;
    Ok(true)
}

async fn switch(
    filling: &Indexer,
    engine: &Elasticsearch,
    index: &str,
    begun: Timestamp,
    failed: usize,
    allow_failed: bool,
    report: &mut impl FnMut(Event),
) -> Result<(), RebuildError> {
    let live = engine.live().await?;
    if live.as_ref().is_some_and(|live| live.name == index) {
        // Another process was faster.
        return Ok(());
    }
    if failed > 0 && live.is_some() && !allow_failed {
        return Err(RebuildError::Failed {
            failed,
            index: index.to_owned(),
        });
    }
    let mut round = 0;
    loop {
        round += 1;
        let changed = changed(filling, begun).await?;
        report(Event::CatchingUp {
            projects: changed.len(),
        });
        reindex(filling, changed, Publish::No, |_| {}).await?;
        let Some(live) = &live else { break };
        let (new, old) = (
            engine.count_in(index).await?,
            engine.count_in(&live.name).await?,
        );
        report(Event::Compared {
            live: Some(old),
            new,
        });
        if new >= old || (failed > 0 && allow_failed) {
            break;
        }
        if round == ROUNDS {
            return Err(RebuildError::Counts {
                index: index.to_owned(),
                new,
                live: old,
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    engine.swap(index).await?;
    report(Event::Switched {
        index: index.to_owned(),
    });
    let changed = changed(filling, begun).await?;
    reindex(filling, changed, Publish::No, |_| {}).await?;
    let store = &*filling.versions.store;
    let records: Vec<ObjectRef> = store
        .list(&folder(&engine.uuid(index).await?))
        .await?
        .into_iter()
        .map(|object| ObjectRef {
            key: object.key,
            version_id: None,
        })
        .collect();
    // Records that stay behind are only litter.
    if let Err(error) = store.delete(&records).await {
        tracing::warn!(%error, "cannot delete the records of a rebuild");
    }
    Ok(())
}

/// Puts the marker of a build, unless an earlier process did; returns its time by the store.
async fn mark(filling: &Indexer, index: &str, records: &str) -> Result<Timestamp, RebuildError> {
    let key = format!("{records}begun.json");
    let store = &*filling.versions.store;
    match store::put_json(store, &key, &json!({"index": index}), Condition::IfAbsent).await {
        Ok(_) | Err(StoreError::Conflict) => {}
        Err(error) => return Err(error.into()),
    }
    match store.get(&key, None).await? {
        Some(object) => Ok(object.last_modified),
        None => Err(StoreError::Conflict.into()),
    }
}

/// Projects whose head was written since `begun`.
async fn changed(filling: &Indexer, begun: Timestamp) -> Result<Vec<Project>, RebuildError> {
    let all = projects(filling, Shard::WHOLE).await?;
    let store = &*filling.versions.store;
    let looked: Vec<Option<Project>> = futures::stream::iter(all)
        .map(|project| async move {
            let Some(object) = store.get(&keys::head(&project), None).await? else {
                return Ok(None);
            };
            let pending = serde_json::from_slice::<Head>(&object.bytes)
                .is_ok_and(|head| !head.pending.is_empty() || !head.permission_changes.is_empty());
            let recent = object.last_modified + ROUNDING >= begun;
            Ok::<_, StoreError>((recent || pending).then_some(project))
        })
        .buffer_unordered(LOOKS)
        .try_collect()
        .await?;
    Ok(looked.into_iter().flatten().collect())
}
