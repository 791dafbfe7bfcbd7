//! Step 3, indexing: what the worker records before and after it writes documents.

use jiff::Timestamp;

use super::{Versions, WriteError};
use crate::id::{Project, Version};
use crate::keys;
use crate::lease::LeaseKey;
use crate::state::{Epoch, Stage, VersionState};
use crate::store::{self, Condition, ObjectRef, StoreError};

impl Versions {
    /// The external version under which documents at `epoch` are written now. Permissions must be
    /// read after this: whoever has a higher number has seen newer ones.
    pub async fn document_version(
        &self,
        project: &Project,
        epoch: Epoch,
    ) -> Result<Epoch, StoreError> {
        let head = self.head(project).await?.unwrap_or_default();
        Ok(epoch.max(head.permissions))
    }

    /// `links.json` and `revision.json` in upstream's layout, for whoever reads the bucket.
    pub async fn write_layout(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
        revision: Option<u64>,
    ) -> Result<(), WriteError> {
        let id = state.manifest.as_deref().unwrap_or_default();
        let manifest = self.manifest(project, version, id).await?;
        if !manifest.links.is_empty() {
            let links: serde_json::Map<_, _> = manifest
                .links
                .iter()
                .map(|(path, target)| {
                    let link = serde_json::json!({"type": "artifactdb", "id": target});
                    (path.to_string(), link)
                })
                .collect();
            let key = keys::links(project, version);
            store::put_json(&*self.store, &key, &links, Condition::Always).await?;
        }
        if let Some(revision) = revision {
            self.write_revision_file(project, version, revision).await?;
        }
        Ok(())
    }

    /// `completed`@`epoch` → `indexed`, the head's entry closed, the lease given back, the promise
    /// and unused manifests deleted. False when the version has moved on meanwhile.
    pub async fn published(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
        documents: u64,
    ) -> Result<bool, WriteError> {
        let Some((state, etag)) = self.state(project, version).await? else {
            return Ok(false);
        };
        let Some(indexed) = state.indexed(epoch, documents) else {
            return Ok(false);
        };
        if indexed != state {
            match self
                .swap_state(project, version, &indexed, Condition::IfMatch(etag))
                .await
            {
                Ok(()) => {}
                Err(StoreError::Conflict) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let (name, now) = (self.entry_name(), self.clock.now());
        let told = self
            .swap_head(project, |head| {
                let moved = head.indexed(epoch, indexed.expires_at, documents);
                moved.then(|| head.claim_events(&name, now))
            })
            .await?
            .unwrap_or_default();
        let promise = ObjectRef {
            key: keys::promise(project, version, &state.upload),
            version_id: None,
        };
        // A promise that stays behind is only litter.
        let (_, (), told) = tokio::join!(
            self.store.delete(std::slice::from_ref(&promise)),
            self.release(project, version, &state),
            self.write_claimed(project, &name, &told),
        );
        if let Err(error) = told {
            tracing::warn!(%project, %version, %error, "events are left to the sweeper");
        }
        Ok(true)
    }

    /// Records why the documents of a completed version cannot be written.
    pub async fn unpublishable(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
        reason: &str,
    ) -> Result<(), WriteError> {
        let Some((state, etag)) = self.state(project, version).await? else {
            return Ok(());
        };
        if let Some(failed) = state.failed(epoch, reason) {
            match self
                .swap_state(project, version, &failed, Condition::IfMatch(etag))
                .await
            {
                Ok(()) | Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            self.tell_failure(project, epoch, reason).await?;
        }
        self.release(project, version, &state).await;
        Ok(())
    }

    /// Notes that a version cannot be indexed. False when it was told.
    pub(super) async fn tell_failure(
        &self,
        project: &Project,
        epoch: Epoch,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let told = self.swap_head(project, |head| head.failed(epoch, reason).then_some(()));
        Ok(told.await?.is_some())
    }

    /// Records that somebody changed the permissions of a project past this system: from here on the
    /// sweeper sees to it that its documents follow.
    pub async fn permissions_changed(&self, project: &Project) -> Result<(), StoreError> {
        self.forget_permissions(project, None);
        self.swap_head(project, |head| Some(head.permission_change(None)))
            .await?;
        Ok(())
    }

    /// Takes the tick under which the documents of a project are to be written again, after the
    /// permission changes recorded so far; `None` when there are none.
    pub async fn permission_tick(&self, project: &Project) -> Result<Option<Epoch>, StoreError> {
        self.swap_head(project, |head| {
            (!head.permission_changes.is_empty()).then(|| head.permission_tick())
        })
        .await
    }

    /// Records that all documents carry the permissions as of `tick`.
    pub async fn permissions_followed(
        &self,
        project: &Project,
        tick: Epoch,
    ) -> Result<(), StoreError> {
        self.swap_head(project, |head| {
            head.permissions_followed(tick).then_some(())
        })
        .await
        .map(|_| ())
    }

    /// Gives back the lease that the state's upload took; it ends by itself otherwise.
    pub(super) async fn release(&self, project: &Project, version: &Version, state: &VersionState) {
        let key = LeaseKey::version(project, version);
        if let Err(error) = self.lease.release(&key, &state.lease).await {
            tracing::warn!(%project, %version, %error, "cannot release a lease");
        }
    }

    /// Whether the version is over by its own expiry.
    pub fn is_expired(state: &VersionState, now: Timestamp) -> bool {
        state.stage == Stage::Expired || state.expires_at.is_some_and(|at| at <= now)
    }
}
