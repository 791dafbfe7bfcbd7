//! The door to the task queue and the job records.
//!
//! Delivery is at least once and in no order that a task may rely on; tasks are idempotent. What is
//! lost here is found again in S3 by the sweeper.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::id::{Project, Version};
use crate::state::Epoch;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Write the documents of a completed version.
    Index {
        project: Project,
        version: Version,
        epoch: Epoch,
    },
    /// Write the documents of a project again, with its permissions as they are now. `tick` is the
    /// change that asked for it.
    Permissions { project: Project, tick: Epoch },
    /// Remove what an abort or an expiry left.
    Remove {
        project: Project,
        version: Version,
        epoch: Epoch,
    },
    /// Write the documents of projects again, from the store; of all projects where none is named.
    Reindex { projects: Vec<Project> },
    /// Take a snapshot of the index.
    Snapshot { repository: String, name: String },
    /// Delete what was marked for that this long ago.
    PurgeStale { older_than_seconds: u32 },
    /// Hold the permissions of all documents to the store.
    SyncPermissions,
}

impl Priority {
    pub const ALL: [Priority; 3] = [Priority::Interactive, Priority::Bulk, Priority::Maintenance];
}

impl Task {
    /// The project whose documents it changes; none where they may be any.
    pub fn project(&self) -> Option<&Project> {
        match self {
            Task::Index { project, .. }
            | Task::Permissions { project, .. }
            | Task::Remove { project, .. } => Some(project),
            Task::Reindex { .. }
            | Task::Snapshot { .. }
            | Task::PurgeStale { .. }
            | Task::SyncPermissions => None,
        }
    }

    /// What kind of task it is, as it is stored.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Index { .. } => "index",
            Task::Permissions { .. } => "permissions",
            Task::Remove { .. } => "remove",
            Task::Reindex { .. } => "reindex",
            Task::Snapshot { .. } => "snapshot",
            Task::PurgeStale { .. } => "purge-stale",
            Task::SyncPermissions => "sync-permissions",
        }
    }
}

/// How often a worker says that it still has a task.
pub const HOLD: Duration = Duration::from_secs(5);

/// One stream per priority; a worker empties the first before it looks at the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Interactive,
    Bulk,
    Maintenance,
}

/// A task handed to a worker, which must answer with `finish` or `retry`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub receipt: String,
    pub task: Task,
    pub priority: Priority,
    /// From 1.
    pub attempt: u32,
}

/// The states that clients poll for (CONTRACT section 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    Pending,
    Started,
    Retry,
    Success,
    Failure,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub status: JobStatus,
    pub result: Value,
    /// What went wrong, for people.
    pub error: Option<String>,
    pub done: Option<Timestamp>,
}

/// A task that is given up, for people to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub task: Task,
    pub error: String,
    pub attempts: u32,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the task queue is unavailable: {0}")]
pub struct QueueError(pub String);

#[async_trait]
pub trait Queue: Send + Sync {
    /// Adds a task. One that already waits is not added twice.
    async fn enqueue(&self, task: Task, priority: Priority) -> Result<(), QueueError>;

    /// Waits for the next task.
    async fn next(&self) -> Result<Delivery, QueueError>;

    /// Says that a task is still in hand, so that it is not taken for that of a dead worker; to be
    /// called every `HOLD`.
    async fn hold(&self, delivery: &Delivery) -> Result<(), QueueError>;

    /// Ends a task. One that failed for good becomes a dead letter.
    async fn finish(
        &self,
        delivery: &Delivery,
        outcome: Result<Value, String>,
    ) -> Result<(), QueueError>;

    /// Gives a task back, to be delivered again after `delay`.
    async fn retry(
        &self,
        delivery: &Delivery,
        error: &str,
        delay: Duration,
    ) -> Result<(), QueueError>;

    /// What is known of a task's job; records expire.
    async fn job(&self, task: &Task) -> Result<Option<JobRecord>, QueueError>;

    /// Tasks that were given up, newest first, at most `limit`.
    async fn dead(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Forgets the tasks that were given up.
    async fn forget_dead(&self) -> Result<(), QueueError>;

    /// Tasks that wait, and tasks in hand.
    async fn depth(&self) -> Result<(usize, usize), QueueError>;
}
