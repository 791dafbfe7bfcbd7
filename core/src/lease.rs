//! The door to leases on projects and versions.
//!
//! A lease arranges the queue of writers; it decides nothing (DESIGN section 5): the epoch in S3
//! does. Losing every lease costs politeness, never data.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Project, Version};

/// What is leased. A lease on a project excludes those on its versions, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseKey {
    pub project: Project,
    pub version: Option<Version>,
}

impl LeaseKey {
    pub fn version(project: &Project, version: &Version) -> Self {
        Self {
            project: project.clone(),
            version: Some(version.clone()),
        }
    }
}

/// Who holds a lease and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub owner: String,
    /// `uploading`, `completed`, `indexing`, or what a person said.
    pub stage: String,
    #[serde(default)]
    pub info: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub key: LeaseKey,
    #[serde(flatten)]
    pub holder: Holder,
    pub created: Timestamp,
    pub expires: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    #[error("held by '{}' in stage '{}' since {}", .0.holder.owner, .0.holder.stage, .0.created)]
    Held(Box<LeaseRecord>),
    #[error("the lease service is unavailable: {0}")]
    Unavailable(String),
}

#[async_trait]
pub trait Lease: Send + Sync {
    /// Takes the lease until `expires`; returns the random token that renews and releases it.
    async fn acquire(
        &self,
        key: &LeaseKey,
        holder: Holder,
        expires: Timestamp,
    ) -> Result<String, LeaseError>;

    /// Moves the end and the stage of a lease; false when the token does not hold it (any more).
    async fn renew(
        &self,
        key: &LeaseKey,
        token: &str,
        stage: &str,
        expires: Timestamp,
    ) -> Result<bool, LeaseError>;

    /// Gives the lease back; false when the token does not hold it (any more).
    async fn release(&self, key: &LeaseKey, token: &str) -> Result<bool, LeaseError>;

    /// Ends a lease whoever holds it, and returns what it was.
    async fn expire(&self, key: &LeaseKey) -> Result<Option<LeaseRecord>, LeaseError>;

    /// The live leases of one project, its own and its versions'.
    async fn of_project(&self, project: &Project) -> Result<Vec<LeaseRecord>, LeaseError>;

    /// Every live lease.
    async fn all(&self) -> Result<Vec<LeaseRecord>, LeaseError>;
}
