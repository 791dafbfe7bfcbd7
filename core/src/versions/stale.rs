//! What somebody marked for deletion: a `..deleteme` object in a version or a project says so, and
//! once it is old enough what it marks goes (CONTRACT section 4.11). Deletions of our own need no
//! mark; marks come from people and from the system that had the bucket before.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Versions, WriteError};
use crate::id::{Project, Version};
use crate::keys;
use crate::lease::{Holder, LeaseError, LeaseKey};
use crate::state::Stage;
use crate::store::ObjectRef;

/// How long one call of deletion may take: the lease is renewed before each.
const DELETING: SignedDuration = SignedDuration::from_mins(10);
/// Objects that one call deletes.
const BATCH: usize = 1000;

/// What a look at one project came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Versions, or what is left of them.
    pub versions: usize,
    /// Marks that were left alone: too young, or what they mark is in use.
    pub kept: usize,
}

impl std::ops::AddAssign for Purged {
    fn add_assign(&mut self, other: Self) {
        self.versions += other.versions;
        self.kept += other.kept;
    }
}

impl Versions {
    /// Deletes what was marked in a project before `limit`. A version that was completed after it was
    /// marked stays, and its mark goes. Repeating it is harmless.
    pub async fn purge_stale(
        &self,
        project: &Project,
        limit: Timestamp,
    ) -> Result<Purged, WriteError> {
        let whole = self.marked(&keys::project_mark(project)).await?;
        let mut purged = Purged::default();
        for name in self.store.folders(&keys::project_prefix(project)).await? {
            let Ok(version) = Version::new(name) else {
                continue;
            };
            let own = self.marked(&keys::version_mark(project, &version)).await?;
            let Some(marked) = own.or(whole) else {
                continue;
            };
            match marked < limit && self.purge_version(project, &version, marked).await? {
                true => purged.versions += 1,
                false => purged.kept += 1,
            }
        }
        if let Some(marked) = whole
            && purged.kept == 0
        {
            match marked < limit && self.purge_rest(project).await? {
                true => {}
                false => purged.kept += 1,
            }
        }
        Ok(purged)
    }

    async fn marked(&self, key: &str) -> Result<Option<Timestamp>, WriteError> {
        // By the store's clock: what the mark says of its time has no zone.
        Ok(self
            .store
            .get(key, None)
            .await?
            .map(|own| own.last_modified))
    }

    async fn purge_version(
        &self,
        project: &Project,
        version: &Version,
        marked: Timestamp,
    ) -> Result<bool, WriteError> {
        let mark = keys::version_mark(project, version);
        match self.state(project, version).await? {
            Some((state, _)) => match state.stage {
                Stage::Uploading => return Ok(false),
                Stage::Completed | Stage::Indexed
                    if state.completed_at.is_some_and(|at| at > marked) => {}
                Stage::Completed | Stage::Indexed => {
                    self.remove(project, version).await?;
                }
                Stage::Aborted | Stage::Expired => {
                    self.removal(project, version, state.epoch).await?;
                }
            },
            None => {
                let key = LeaseKey::version(project, version);
                let prefix = keys::version_prefix(project, version);
                return self.purge_unknown(&key, &prefix, &mark).await;
            }
        }
        self.delete(&[mark]).await?;
        Ok(true)
    }

    /// What is left of a project that this system has no record of.
    async fn purge_rest(&self, project: &Project) -> Result<bool, WriteError> {
        let mark = keys::project_mark(project);
        if self.head(project).await?.is_some() {
            self.delete(&[mark]).await?;
            return Ok(true);
        }
        let key = LeaseKey {
            project: project.clone(),
            version: None,
        };
        let prefix = keys::project_prefix(project);
        self.purge_unknown(&key, &prefix, &mark).await
    }

    /// Deletes everything below `prefix`, the mark last, while nobody else may write there.
    async fn purge_unknown(
        &self,
        key: &LeaseKey,
        prefix: &str,
        mark: &str,
    ) -> Result<bool, WriteError> {
        let holder = Holder {
            owner: "system".to_owned(),
            stage: "deleting".to_owned(),
            info: None,
        };
        let end = self.clock.now() + DELETING;
        let token = match self.lease.acquire(key, holder, end).await {
            Ok(token) => token,
            Err(LeaseError::Held(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let deleted = self.delete_below(key, &token, prefix, mark).await;
        let _ = self.lease.release(key, &token).await;
        deleted
    }

    /// False when the lease was lost: what is below `prefix` may be somebody else's by now.
    async fn delete_below(
        &self,
        key: &LeaseKey,
        token: &str,
        prefix: &str,
        mark: &str,
    ) -> Result<bool, WriteError> {
        let listed = self.store.list(prefix).await?;
        let keys = listed.into_iter().map(|own| own.key);
        let keys: Vec<String> = keys.filter(|key| key != mark).collect();
        for batch in keys.chunks(BATCH) {
            let end = self.clock.now() + DELETING;
            if !self.lease.renew(key, token, "deleting", end).await? {
                return Ok(false);
            }
            self.delete(batch).await?;
        }
        self.delete(&[mark.to_owned()]).await?;
        Ok(true)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), WriteError> {
        let objects: Vec<ObjectRef> = keys
            .iter()
            .map(|key| ObjectRef {
                key: key.clone(),
                version_id: None,
            })
            .collect();
        Ok(self.store.delete(&objects).await?)
    }
}
