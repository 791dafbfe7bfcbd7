//! Writing a version: the protocol of DESIGN section 5, through the doors.
//!
//! A file per step: `begin` (upload), `complete`, `publish` (what the indexer records), `remove`
//! (abort, expiry), `permissions`, `provision` (the next number), `events` (what is told of all this),
//! and `view` (what readers see). Leases arrange the queue; the compare-and-swap on `state.json` and
//! `head.json` decides. No HTTP and no documents here.

mod begin;
mod complete;
mod events;
mod permissions;
mod provision;
mod publish;
mod remove;
mod stale;
mod view;

use std::sync::Arc;

use jiff::SignedDuration;
use moka::sync::Cache;
use thiserror::Error;

use crate::clock::Clock;
use crate::config::InstanceConfig;
use crate::counter::Counter;
use crate::head::Head;
use crate::id::{Project, Version};
use crate::keys;
use crate::lease::{Lease, LeaseError, LeaseRecord};
use crate::permissions::{Permissions, PermissionsPatch};
use crate::queue::{Queue, QueueError};
use crate::state::{Manifest, VersionState};
use crate::store::{self, Store, StoreError};

pub use begin::{Begun, UploadTerms};
pub use complete::Completed;
pub use events::{LogPage, LogPosition, LogReader, Logged};
pub use permissions::Resolved;
pub use stale::Purged;
pub use view::{DocumentStamp, VersionView};

/// How long a permission set or a version's state read for a reader may be old.
const FRESHNESS: std::time::Duration = std::time::Duration::from_secs(1);

/// How a running version is moved on by others.
const MEANWHILE: &str = "it was completed or aborted meanwhile";

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    #[error("version '{version}' already exists for project '{project}'")]
    Exists { project: Project, version: Version },
    #[error("Project '{}' is locked: {}", .0.key.project, **.0)]
    Locked(Box<LeaseRecord>),
    /// Somebody else moved the version on: a later upload, an abort or an expiry.
    #[error("this upload of '{project}@{version}' is over: {reason}")]
    Superseded {
        project: Project,
        version: Version,
        reason: &'static str,
    },
    #[error("No such project/version")]
    NotFound,
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Unavailable(String),
}

impl From<LeaseError> for WriteError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Held(record) => WriteError::Locked(record),
            LeaseError::Unavailable(text) => WriteError::Unavailable(text),
        }
    }
}

impl From<QueueError> for WriteError {
    fn from(error: QueueError) -> Self {
        WriteError::Unavailable(error.to_string())
    }
}

impl std::fmt::Display for LeaseRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "stage '{}' by '{}' since {}",
            self.holder.stage, self.holder.owner, self.created
        )?;
        match &self.key.version {
            Some(version) => write!(f, " on version '{version}'"),
            None => Ok(()),
        }
    }
}

/// The rules of an instance that the protocol needs.
#[derive(Debug, Clone)]
pub struct Rules {
    /// A completed version may be replaced by a new upload.
    pub mutable: bool,
    /// Members of a permission set that nobody gave.
    pub default_permissions: PermissionsPatch,
    /// Files whose entries in manifests are remembered: about 300 bytes each.
    pub remembered_files: u64,
    /// How long events stay in the log.
    pub events_life: SignedDuration,
}

impl Rules {
    /// Those of an instance.
    pub fn of(config: &InstanceConfig) -> Self {
        Self {
            mutable: config.versions.mutable,
            default_permissions: config.permissions.default.clone(),
            events_life: SignedDuration::from_secs(config.events.kept_seconds.into()),
            ..Self::default()
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mutable: false,
            default_permissions: PermissionsPatch::default(),
            remembered_files: 100_000,
            events_life: SignedDuration::from_hours(7 * 24),
        }
    }
}

/// The versions of an instance, as they are written and read.
pub struct Versions {
    pub store: Arc<dyn Store>,
    pub lease: Arc<dyn Lease>,
    pub queue: Arc<dyn Queue>,
    pub counter: Arc<dyn Counter>,
    pub clock: Arc<dyn Clock>,
    rules: Rules,
    permission_files: Cache<String, Option<Arc<Permissions>>>,
    states: Cache<String, Option<Arc<VersionState>>>,
    heads: Cache<String, Option<Arc<Head>>>,
    /// Manifests never change; the weight is their number of files.
    manifests: Cache<String, Arc<Manifest>>,
}

impl Versions {
    pub fn new(
        store: Arc<dyn Store>,
        lease: Arc<dyn Lease>,
        queue: Arc<dyn Queue>,
        counter: Arc<dyn Counter>,
        clock: Arc<dyn Clock>,
        rules: Rules,
    ) -> Self {
        Self {
            store,
            lease,
            queue,
            counter,
            clock,
            manifests: Cache::builder()
                .max_capacity(rules.remembered_files)
                .weigher(|_, manifest: &Arc<Manifest>| {
                    u32::try_from(1 + manifest.files.len() + manifest.links.len())
                        .unwrap_or(u32::MAX)
                })
                .build(),
            rules,
            permission_files: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(FRESHNESS)
                .build(),
            states: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(FRESHNESS)
                .build(),
            heads: Cache::builder()
                .max_capacity(1_000)
                .time_to_live(FRESHNESS)
                .build(),
        }
    }

    /// The state of a version as S3 has it now, and the ETag to swap it by.
    pub async fn state(
        &self,
        project: &Project,
        version: &Version,
    ) -> Result<Option<(VersionState, String)>, StoreError> {
        store::get_json(&*self.store, &keys::state(project, version)).await
    }

    /// The head of a project as S3 has it now.
    pub async fn head(&self, project: &Project) -> Result<Option<Head>, StoreError> {
        let read = store::get_json(&*self.store, &keys::head(project)).await?;
        Ok(read.map(|(head, _)| head))
    }

    pub async fn manifest(
        &self,
        project: &Project,
        version: &Version,
        id: &str,
    ) -> Result<Arc<Manifest>, StoreError> {
        let key = keys::manifest(project, version, id);
        if let Some(known) = self.manifests.get(&key) {
            return Ok(known);
        }
        let Some((manifest, _)) = store::get_json::<Manifest>(&*self.store, &key).await? else {
            return Err(StoreError::Damaged {
                key,
                problem: "it does not exist".to_owned(),
            });
        };
        let manifest = Arc::new(manifest);
        self.manifests.insert(key, manifest.clone());
        Ok(manifest)
    }

    /// Replaces `state.json` on the condition that it is still the one with `etag`.
    async fn swap_state(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
        condition: store::Condition,
    ) -> Result<(), StoreError> {
        let key = keys::state(project, version);
        let written = store::put_json(&*self.store, &key, state, condition).await;
        self.states.invalidate(&key);
        written.map(|_| ())
    }

    /// The same, where losing means that somebody else moved the version on: `reason` says how.
    async fn take_step(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
        condition: store::Condition,
        reason: &'static str,
    ) -> Result<(), WriteError> {
        match self.swap_state(project, version, state, condition).await {
            Err(StoreError::Conflict) => Err(WriteError::Superseded {
                project: project.clone(),
                version: version.clone(),
                reason,
            }),
            other => Ok(other?),
        }
    }

    /// Changes `head.json` by compare-and-swap.
    async fn swap_head<R: Send>(
        &self,
        project: &Project,
        mut change: impl FnMut(&mut Head) -> Option<R> + Send,
    ) -> Result<Option<R>, StoreError> {
        let key = keys::head(project);
        let now = self.clock.now();
        let changed = |head: &mut Head| {
            let result = change(head)?;
            head.date_events(now);
            Some(result)
        };
        let result = store::swap_json(&*self.store, &key, changed).await;
        self.heads.invalidate(&key);
        result
    }
}

/// 128 random bits in hexadecimal: names of uploads and manifests.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
