//! The worker: takes tasks, one at a time, and does them so that doing one twice is harmless.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::event::{Event, EventStage};
use artifactdb_core::id::{Project, Version};
use artifactdb_core::permissions::Permissions;
use artifactdb_core::query::Query;
use artifactdb_core::queue::{Delivery, HOLD, Priority, Queue, Task};
use artifactdb_core::search::admin::AdminError;
use artifactdb_core::search::{Cursor, Document, Page, SearchError, SearchRequest, Write};
use artifactdb_core::state::{Epoch, Stage, VersionState};
use artifactdb_core::store::StoreError;
use artifactdb_core::versions::WriteError;
use futures::FutureExt;
use jiff::SignedDuration;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::sync::watch;

use crate::documents::BuildError;
use crate::reindex::{Publish, Shard};
use crate::{Indexer, reindex, sweep, sync};

/// Documents that are read and written again at once.
const BATCH: usize = 500;
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum TaskError {
    /// Trying again will not help.
    #[error("{0}")]
    Permanent(String),
    /// A server was away; the task is done again later.
    #[error("{0}")]
    Transient(String),
}

impl From<StoreError> for TaskError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Conflict => {
                TaskError::Transient(error.to_string())
            }
            StoreError::Refused(_) | StoreError::Damaged { .. } => {
                TaskError::Permanent(error.to_string())
            }
        }
    }
}

impl From<WriteError> for TaskError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => error.into(),
            WriteError::Unavailable(text) => TaskError::Transient(text),
            other => TaskError::Permanent(other.to_string()),
        }
    }
}

impl From<SearchError> for TaskError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Invalid(text) => TaskError::Permanent(text),
            other => TaskError::Transient(other.to_string()),
        }
    }
}

impl From<AdminError> for TaskError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Search(error) => error.into(),
            other => TaskError::Permanent(other.to_string()),
        }
    }
}

impl From<BuildError> for TaskError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Invalid(text) => TaskError::Permanent(text),
            BuildError::Store(error) => error.into(),
        }
    }
}

/// Works until `stop` changes; the task in hand is finished first.
pub async fn run(indexer: Arc<Indexer>, mut stop: watch::Receiver<bool>) {
    let queue = indexer.versions.queue.clone();
    loop {
        let delivery = tokio::select! {
            _ = stop.changed() => return,
            next = queue.next() => match next {
                Ok(delivery) => delivery,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a task");
                    tokio::time::sleep(RETRY_FIRST).await;
                    continue;
                }
            },
        };
        // A panic is a defect of one task; the worker has others to do.
        let performed = AssertUnwindSafe(indexer.perform(&delivery.task)).catch_unwind();
        let outcome = holding(&*queue, &delivery, performed).await;
        let outcome = outcome.unwrap_or_else(|_| {
            Err(TaskError::Permanent(
                "the task broke off by a defect".to_owned(),
            ))
        });
        let answered = match &outcome {
            Ok(result) => queue.finish(&delivery, Ok(result.clone())).await,
            Err(TaskError::Permanent(text)) => {
                tracing::warn!(task = ?delivery.task, reason = %text, "a task failed");
                queue.finish(&delivery, Err(text.clone())).await
            }
            Err(TaskError::Transient(text)) => {
                tracing::warn!(task = ?delivery.task, attempt = delivery.attempt, reason = %text, "a task is put off");
                queue.retry(&delivery, text, backoff(&delivery)).await
            }
        };
        if let Err(error) = answered {
            // It will be delivered again; doing it twice is harmless.
            tracing::warn!(task = ?delivery.task, %error, "cannot record the end of a task");
        }
    }
}

/// Runs `work`, and says all the while that the task is in hand.
async fn holding<T>(queue: &dyn Queue, delivery: &Delivery, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + HOLD, HOLD);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => {
                if let Err(error) = queue.hold(delivery).await {
                    tracing::debug!(%error, "cannot say that a task is in hand");
                }
            }
        }
    }
}

/// A version whose documents follow a change of permissions.
struct Followed {
    epoch: Epoch,
    permissions: Option<Permissions>,
}

fn published_epoch(state: &VersionState) -> Option<Epoch> {
    state.published().map(|published| published.epoch)
}

/// The version that a document belongs to, and the document as it is stored.
fn versioned(hit: &Document) -> Option<(Version, Map<String, Value>)> {
    let Value::Object(document) = hit.value() else {
        return None;
    };
    let name = document.get("_extra")?.get("version")?.as_str()?;
    let name = Version::new(name).ok()?;
    Some((name, document))
}

fn replace_permissions(document: &mut Map<String, Value>, permissions: Option<&Permissions>) {
    let Some(extra) = document.get_mut("_extra").and_then(Value::as_object_mut) else {
        return;
    };
    extra.shift_remove("index_name");
    match permissions {
        Some(permissions) => extra.insert("permissions".to_owned(), json!(permissions)),
        None => extra.shift_remove("permissions"),
    };
}

fn backoff(delivery: &Delivery) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << delivery.attempt.min(10).saturating_sub(1));
    doubled.min(RETRY_MAX)
}

impl Indexer {
    pub async fn perform(&self, task: &Task) -> Result<Value, TaskError> {
        let outcome = self.try_perform(task).await;
        if let Err(error) = self.tell(task, &outcome).await {
            tracing::warn!(?task, %error, "events are left to the sweeper");
        }
        outcome
    }

    /// Tells what a task brought about.
    async fn tell(
        &self,
        task: &Task,
        outcome: &Result<Value, TaskError>,
    ) -> Result<(), WriteError> {
        if let Some(project) = task.project() {
            self.versions.tell(project).await?;
        }
        let everything = matches!(task, Task::Reindex { projects } if projects.is_empty());
        let (stage, message) = match outcome {
            Ok(result) => (EventStage::AllIndexed, result.clone()),
            Err(TaskError::Permanent(reason)) => {
                (EventStage::AllIndexedFailed, json!({"reason": reason}))
            }
            Err(TaskError::Transient(_)) => return Ok(()),
        };
        if everything {
            let now = self.versions.clock.now();
            let event = Event::of_instance(stage, &now.to_string(), now, message);
            self.versions.tell_of_instance(&event).await?;
        }
        Ok(())
    }

    async fn try_perform(&self, task: &Task) -> Result<Value, TaskError> {
        match task {
            Task::Index {
                project,
                version,
                epoch,
            } => self.index(project, version, *epoch).await,
            Task::Permissions { project, .. } => self.follow_permissions(project).await,
            Task::Remove {
                project,
                version,
                epoch,
            } => self.remove(project, version, *epoch).await,
            Task::Reindex { projects } => self.reindex(projects).await,
            Task::Snapshot { repository, name } => {
                let taken = self.search.admin().take_snapshot(repository, name).await;
                taken.map_err(TaskError::from)
            }
            Task::SyncPermissions => Ok(json!(sync::sync_permissions(self).await?)),
            Task::PurgeStale { older_than_seconds } => {
                let age = SignedDuration::from_secs(i64::from(*older_than_seconds));
                let limit = self.versions.clock.now() - age;
                Ok(json!(sweep::purge_stale(&self.versions, limit).await?))
            }
        }
    }

    async fn reindex(&self, projects: &[Project]) -> Result<Value, TaskError> {
        let projects = match projects.is_empty() {
            true => reindex::projects(self, Shard::WHOLE).await?,
            false => projects.to_vec(),
        };
        let done = reindex::reindex(self, projects, Publish::Again, |progress| {
            tracing::debug!(?progress, "indexing again");
        });
        Ok(json!(done.await?))
    }

    async fn index(
        &self,
        project: &Project,
        name: &Version,
        epoch: Epoch,
    ) -> Result<Value, TaskError> {
        let result = |documents: u64| json!({"project_id": project, "indexed_files": documents, "version": name});
        let superseded = || {
            let text = format!("'{project}@{name}' has moved on since it was completed");
            TaskError::Permanent(text)
        };
        let state = match self.versions.state(project, name).await? {
            Some((state, _)) if state.epoch == epoch && state.stage.is_published() => state,
            _ => return Err(superseded()),
        };
        let revision = self.versions.settle(project, name, &state).await?;
        let mut version = self.versions.document_version(project, epoch).await?;
        let documents = loop {
            let written = self
                .write_version(project, name, &state, Some(revision), version)
                .await;
            let documents = match written {
                Ok(documents) => documents,
                // The index was switched to other schemas, and a process that knows them follows.
                Err(TaskError::Permanent(reason)) if !self.search.has_our_mapping().await? => {
                    return Err(TaskError::Transient(format!(
                        "the live index has the mapping of other schemas than this process: {reason}"
                    )));
                }
                // What it was made of before is shown still, and stays.
                Err(TaskError::Permanent(reason)) if state.stage == Stage::Indexed => {
                    let documents = state.documents.unwrap_or_default();
                    self.versions
                        .published(project, name, epoch, documents)
                        .await?;
                    return Err(TaskError::Permanent(reason));
                }
                Err(TaskError::Permanent(reason)) => {
                    // Of a version that cannot be indexed whole, nothing is shown.
                    self.search.remove(project, name, version + 1).await?;
                    self.search.refresh().await?;
                    self.versions
                        .unpublishable(project, name, epoch, &reason)
                        .await?;
                    return Err(TaskError::Permanent(reason));
                }
                Err(transient) => return Err(transient),
            };
            self.search.refresh().await?;
            // Permissions that changed meanwhile: whoever followed the change did not see these
            // documents, and they do not know of it.
            let now = self.versions.document_version(project, epoch).await?;
            if now == version {
                break documents;
            }
            version = now;
        };
        // What an earlier epoch had and this one has not.
        if !state.first && self.search.remove(project, name, epoch).await? > 0 {
            self.search.refresh().await?;
        }
        self.versions
            .write_layout(project, name, &state, Some(revision))
            .await?;
        match self
            .versions
            .published(project, name, epoch, documents)
            .await?
        {
            true => Ok(result(documents)),
            // Expired or replaced while it was written: its documents must not stay.
            false => match self.versions.state(project, name).await? {
                Some((now, _)) if now.epoch == epoch && now.stage == Stage::Indexed => {
                    Ok(result(documents))
                }
                Some((now, _)) if !now.stage.is_published() => {
                    self.search.remove(project, name, version + 1).await?;
                    self.search.refresh().await?;
                    Err(superseded())
                }
                _ => Err(superseded()),
            },
        }
    }

    /// Writes the documents of a project again with the permissions that its files hold now.
    pub(crate) async fn follow_permissions(&self, project: &Project) -> Result<Value, TaskError> {
        let result = |documents: usize| json!({"project_id": project, "indexed_files": documents});
        let Some(tick) = self.versions.permission_tick(project).await? else {
            return Ok(result(0));
        };
        // Read after the tick was taken, once for each version; `None` where it is not published.
        let mut known: HashMap<Version, Option<Followed>> = HashMap::new();
        let mut cursor = None;
        let mut documents = 0;
        loop {
            let page = self.documents_of(project, cursor.take()).await?;
            let mut writes = Vec::with_capacity(page.hits.len());
            for hit in &page.hits {
                let Some((name, mut document)) = versioned(hit) else {
                    continue;
                };
                if !known.contains_key(&name) {
                    let followed = self.followed(project, &name).await?;
                    known.insert(name.clone(), followed);
                }
                if let Some(Some(followed)) = known.get(&name) {
                    replace_permissions(&mut document, followed.permissions.as_ref());
                    writes.push(Write {
                        id: hit.id.clone(),
                        version: tick,
                        document,
                    });
                }
            }
            documents += writes.len();
            if let Some(failure) = self.search.write(writes).await?.first() {
                return Err(TaskError::Permanent(format!(
                    "'{}': {}",
                    failure.id, failure.reason
                )));
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        self.search.refresh().await?;
        self.settle_followed(project, tick, known).await?;
        self.versions.permissions_followed(project, tick).await?;
        Ok(result(documents))
    }

    /// A page of the documents of a project, as the index has them.
    pub(crate) async fn documents_of(
        &self,
        project: &Project,
        cursor: Option<Cursor>,
    ) -> Result<Page, SearchError> {
        self.search
            .search(SearchRequest {
                query: Query::exact("_extra.project_id", project.as_str()),
                sort: Vec::new(),
                latest: false,
                size: BATCH,
                cursor,
            })
            .await
    }

    async fn followed(
        &self,
        project: &Project,
        name: &Version,
    ) -> Result<Option<Followed>, TaskError> {
        let state = self.versions.state(project, name).await?;
        let Some(epoch) = state.as_ref().and_then(|(state, _)| published_epoch(state)) else {
            return Ok(None);
        };
        let resolved = self
            .versions
            .current_permissions(project, Some(name))
            .await?;
        Ok(Some(Followed {
            epoch,
            permissions: resolved.map(|own| own.permissions),
        }))
    }

    /// A version may have expired or been replaced while its documents were written again from what
    /// the index held of it: then they go again, or are made anew from the store.
    async fn settle_followed(
        &self,
        project: &Project,
        tick: Epoch,
        known: HashMap<Version, Option<Followed>>,
    ) -> Result<(), TaskError> {
        for (name, followed) in known {
            let Some(followed) = followed else { continue };
            let state = self.versions.state(project, &name).await?;
            match state.as_ref().and_then(|(state, _)| published_epoch(state)) {
                Some(epoch) if epoch == followed.epoch => {}
                Some(epoch) => {
                    let task = Task::Index {
                        project: project.clone(),
                        version: name,
                        epoch,
                    };
                    let queue = &self.versions.queue;
                    queue
                        .enqueue(task, Priority::Interactive)
                        .await
                        .map_err(|error| TaskError::Transient(error.to_string()))?;
                }
                None => {
                    self.search.remove(project, &name, tick + 1).await?;
                    self.search.refresh().await?;
                }
            }
        }
        Ok(())
    }

    async fn remove(
        &self,
        project: &Project,
        name: &Version,
        epoch: Epoch,
    ) -> Result<Value, TaskError> {
        let state = self.versions.state(project, name).await?;
        let published = state.as_ref().and_then(|(state, _)| published_epoch(state));
        if published == Some(epoch) {
            return Err(TaskError::Permanent(format!(
                "'{project}@{name}' is published and stays"
            )));
        }
        // Documents are gone before their files are; those of what is published stay.
        let head = self.versions.head(project).await?.unwrap_or_default();
        let below = head.documents_below(name, epoch);
        let below = published.map_or(below, |published| below.min(published));
        let removed = self.search.remove(project, name, below).await?;
        // Also where none was left: another worker may have removed them a moment ago, and its refresh is
        // not over.
        self.search.refresh().await?;
        self.versions.remove_files(project, name, epoch).await?;
        Ok(json!({"project_id": project, "version": name, "removed_files": removed}))
    }
}
