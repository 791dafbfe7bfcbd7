//! The worker: takes tasks, one at a time, and does them so that doing one twice is harmless.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::id::{Project, Version};
use artifactdb_core::permissions::Permissions;
use artifactdb_core::query::Query;
use artifactdb_core::queue::{Delivery, Task};
use artifactdb_core::search::{SearchError, SearchRequest, Write};
use artifactdb_core::state::{Epoch, Stage};
use artifactdb_core::store::StoreError;
use artifactdb_core::versions::WriteError;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;

use crate::Indexer;
use crate::documents::BuildError;

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
        let outcome = indexer.perform(&delivery.task).await;
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

fn backoff(delivery: &Delivery) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << delivery.attempt.min(10).saturating_sub(1));
    doubled.min(RETRY_MAX)
}

impl Indexer {
    pub async fn perform(&self, task: &Task) -> Result<Value, TaskError> {
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
        }
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
        let version = self.versions.document_version(project, epoch).await?;
        let written = self
            .write_version(project, name, &state, Some(revision), version)
            .await;
        let documents = match written {
            Ok(documents) => documents,
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
        // What an earlier epoch had and this one has not.
        self.search.remove(project, name, epoch).await?;
        self.search.refresh().await?;
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

    /// Writes all documents of a version; what the engine refuses makes the version invalid.
    pub(crate) async fn write_version(
        &self,
        project: &Project,
        name: &Version,
        state: &artifactdb_core::state::VersionState,
        revision: Option<u64>,
        version: Epoch,
    ) -> Result<u64, TaskError> {
        let writes = self
            .documents(project, name, state, revision, version)
            .await?;
        let total = writes.len() as u64;
        // In one call: a commit for another version must not show a part of this one.
        if let Some(failure) = self.search.write(writes).await?.first() {
            return Err(TaskError::Permanent(format!(
                "'{}' does not fit the index: {}",
                failure.id, failure.reason
            )));
        }
        Ok(total)
    }

    /// Writes the documents of a project again with the permissions that its files hold now.
    async fn follow_permissions(&self, project: &Project) -> Result<Value, TaskError> {
        let result = |documents: usize| json!({"project_id": project, "indexed_files": documents});
        let Some(tick) = self.versions.permission_tick(project).await? else {
            return Ok(result(0));
        };
        // Read after the tick was taken, once for each version.
        let mut known = HashMap::new();
        let mut cursor = None;
        let mut documents = 0;
        loop {
            let page = self
                .search
                .search(SearchRequest {
                    query: Query::exact("_extra.project_id", project.as_str()),
                    sort: Vec::new(),
                    latest: false,
                    size: BATCH,
                    cursor: cursor.take(),
                })
                .await?;
            let mut writes = Vec::with_capacity(page.hits.len());
            for hit in &page.hits {
                if let Some(write) = self
                    .with_permissions(project, hit, tick, &mut known)
                    .await?
                {
                    writes.push(write);
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
        self.versions.permissions_followed(project, tick).await?;
        Ok(result(documents))
    }

    async fn with_permissions(
        &self,
        project: &Project,
        hit: &artifactdb_core::search::Document,
        tick: Epoch,
        known: &mut HashMap<Version, Option<Permissions>>,
    ) -> Result<Option<Write>, TaskError> {
        let Value::Object(mut document) = hit.value() else {
            return Ok(None);
        };
        let Some(extra) = document.get_mut("_extra").and_then(Value::as_object_mut) else {
            return Ok(None);
        };
        let Some(Ok(name)) = extra
            .get("version")
            .and_then(Value::as_str)
            .map(Version::new)
        else {
            return Ok(None);
        };
        if !known.contains_key(&name) {
            let resolved = self
                .versions
                .current_permissions(project, Some(&name))
                .await?;
            known.insert(name.clone(), resolved.map(|own| own.permissions));
        }
        extra.shift_remove("index_name");
        match known.get(&name).and_then(Option::as_ref) {
            Some(permissions) => extra.insert("permissions".to_owned(), json!(permissions)),
            None => extra.shift_remove("permissions"),
        };
        Ok(Some(Write {
            id: hit.id.clone(),
            version: tick,
            document,
        }))
    }

    async fn remove(
        &self,
        project: &Project,
        name: &Version,
        epoch: Epoch,
    ) -> Result<Value, TaskError> {
        match self.versions.state(project, name).await? {
            Some((state, _)) if state.epoch == epoch && state.stage.is_published() => {
                return Err(TaskError::Permanent(format!(
                    "'{project}@{name}' is published and stays"
                )));
            }
            _ => {}
        }
        // Documents are gone before their files are.
        let head = self.versions.head(project).await?.unwrap_or_default();
        let below = head.documents_below(name, epoch);
        let removed = self.search.remove(project, name, below).await?;
        if removed > 0 {
            self.search.refresh().await?;
        }
        self.versions.remove_files(project, name, epoch).await?;
        Ok(json!({"project_id": project, "version": name, "removed_files": removed}))
    }
}
