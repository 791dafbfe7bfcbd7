//! What readers see of a version, from S3 alone: downloads work without the index (DESIGN I4).

use std::sync::Arc;

use super::Versions;
use crate::head::Head;
use crate::id::{Project, Version, VersionRef, revision_number};
use crate::keys;
use crate::permissions::Permissions;
use crate::state::{Epoch, Manifest, Stage, VersionState};
use crate::store::{self, StoreError};

/// A published version.
#[derive(Debug, Clone)]
pub struct VersionView {
    pub version: Version,
    pub state: Arc<VersionState>,
    pub manifest: Arc<Manifest>,
    pub permissions: Option<Permissions>,
}

/// What has to stay as it is for the documents of a version to be what they were: they are written
/// again only by a new epoch, an expiry, or a permission tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentStamp {
    epoch: Epoch,
    permissions: Epoch,
}

impl Versions {
    /// The stamp of a version's documents, from what was read within the last second and without
    /// reading anything; `None` where that is not known, or where documents are being written.
    pub fn known_stamp(&self, project: &Project, version: &Version) -> Option<DocumentStamp> {
        let state = self.states.get(&keys::state(project, version))??;
        let head = self.heads.get(&keys::head(project))??;
        (state.stage == Stage::Indexed && head.permission_changes.is_empty()).then_some(
            DocumentStamp {
                epoch: state.epoch,
                permissions: head.permissions,
            },
        )
    }

    /// Reads what `known_stamp` looks at.
    pub async fn refresh_stamp(
        &self,
        project: &Project,
        version: &Version,
    ) -> Result<(), StoreError> {
        tokio::try_join!(
            self.recent_head(project),
            self.recent_state(project, version)
        )?;
        Ok(())
    }

    /// The head of a project, at most a second old.
    pub async fn recent_head(&self, project: &Project) -> Result<Option<Arc<Head>>, StoreError> {
        let key = keys::head(project);
        if let Some(known) = self.heads.get(&key) {
            return Ok(known);
        }
        let head = self.head(project).await?.map(Arc::new);
        self.heads.insert(key, head.clone());
        Ok(head)
    }

    async fn recent_state(
        &self,
        project: &Project,
        version: &Version,
    ) -> Result<Option<Arc<VersionState>>, StoreError> {
        let key = keys::state(project, version);
        if let Some(known) = self.states.get(&key) {
            return Ok(known);
        }
        let read = store::get_json::<VersionState>(&*self.store, &key).await?;
        let state = read.map(|(state, _)| Arc::new(state));
        self.states.insert(key, state.clone());
        Ok(state)
    }

    /// The version that a reader means: `latest` is the owner of the highest revision; a name is
    /// first a version, then a revision.
    pub async fn resolve(
        &self,
        project: &Project,
        version: &VersionRef,
    ) -> Result<Option<Version>, StoreError> {
        let name = match version {
            VersionRef::Latest => {
                let head = self.recent_head(project).await?;
                return Ok(head.and_then(|head| head.latest.clone()).map(|l| l.version));
            }
            VersionRef::Named(name) => name,
        };
        if self.recent_state(project, name).await?.is_some() {
            return Ok(Some(name.clone()));
        }
        let Some(number) = revision_number(name.as_str()) else {
            return Ok(None);
        };
        let head = self.recent_head(project).await?;
        Ok(head.and_then(|head| Some(head.revisions.get(&number)?.0.clone())))
    }

    /// A published, unexpired version; the caller checks its permissions.
    pub async fn view(
        &self,
        project: &Project,
        version: &Version,
    ) -> Result<Option<VersionView>, StoreError> {
        let Some(state) = self.recent_state(project, version).await? else {
            return Ok(None);
        };
        let Some(published) = state.published() else {
            return Ok(None);
        };
        if Self::is_expired(published, self.clock.now()) {
            return Ok(None);
        }
        let Some(id) = published.manifest.as_deref() else {
            return Ok(None);
        };
        let (manifest, permissions) = tokio::try_join!(
            self.manifest(project, version, id),
            self.resolve_permissions(project, Some(version)),
        )?;
        Ok(Some(VersionView {
            version: version.clone(),
            state: Arc::new(published.clone()),
            manifest,
            permissions: permissions.map(|resolved| resolved.permissions),
        }))
    }
}
