//! What a caller may see and change, in the terms of the handlers. The table is core's.

use std::sync::Arc;

use artifactdb_core::id::{ArtifactId, FilePath, Project, Version, VersionRef};
use artifactdb_core::permissions::{Action, Scope, may, read_filter, roles};
use artifactdb_core::query::Query;
use artifactdb_core::search::{Document, SearchError, SearchRequest, SortKey};
use artifactdb_core::versions::VersionView;
use serde_json::Value;

use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};

/// Links followed from one file at the most: a cycle ends as a missing file.
pub const HOPS: usize = 32;

/// Who may write without owning.
const WRITERS: [&str; 1] = [roles::UPLOADER];

impl App {
    /// `query` with the caller's read filter inside.
    pub fn visible(&self, identity: &Identity, query: Query) -> Query {
        query.filtered(read_filter(&identity.caller))
    }

    /// The version that `version` names, as far as the caller may know of it: `latest` is the
    /// highest revision among what they may read.
    pub async fn resolve(
        &self,
        identity: &Identity,
        project: &Project,
        version: &VersionRef,
    ) -> ApiResult<Option<Version>> {
        match version {
            VersionRef::Named(_) => Ok(self.versions.resolve(project, version).await?),
            VersionRef::Latest => match self.latest(identity, project).await {
                Ok(latest) => Ok(latest),
                // Without the index, what is latest can only be said of the whole project; the
                // caller's rights on it are checked as on every other version.
                Err(SearchError::Unavailable(_)) => {
                    Ok(self.versions.resolve(project, version).await?)
                }
                Err(error) => Err(error.into()),
            },
        }
    }

    /// The version with the highest revision that the caller may read.
    pub async fn latest(
        &self,
        identity: &Identity,
        project: &Project,
    ) -> Result<Option<Version>, SearchError> {
        let query = Query::all_of(vec![
            Query::exact("_extra.project_id", project.as_str()),
            Query::Exists {
                field: "_extra.numerical_revision".to_owned(),
            },
        ]);
        let page = self
            .search
            .search(SearchRequest {
                query: self.visible(identity, query),
                sort: vec![SortKey {
                    field: "_extra.numerical_revision".to_owned(),
                    descending: true,
                }],
                latest: false,
                size: 1,
                cursor: None,
            })
            .await?;
        Ok(page.hits.first().and_then(|hit| {
            let value = hit.value();
            let name = value.pointer("/_extra/version").and_then(Value::as_str)?;
            Version::new(name).ok()
        }))
    }

    /// The document of an artifact, if the caller may read it.
    pub async fn document(
        &self,
        identity: &Identity,
        id: &ArtifactId,
    ) -> ApiResult<Option<Arc<Document>>> {
        let found = self
            .documents
            .get(&self.versions, &*self.search, id)
            .await?;
        Ok(found.filter(|document| {
            may(
                &identity.caller,
                Action::Read,
                &id.project,
                document.permissions(),
            )
        }))
    }

    /// A published version, if the caller may read it.
    pub async fn view(
        &self,
        identity: &Identity,
        project: &Project,
        version: &Version,
    ) -> ApiResult<Option<VersionView>> {
        let view = self.versions.view(project, version).await?;
        Ok(view.filter(|view| {
            may(
                &identity.caller,
                Action::Read,
                project,
                view.permissions.as_ref(),
            )
        }))
    }

    /// Follows links from a file to the one that has bytes. Each hop is authorised by itself; an
    /// unreadable, missing or endless chain is a missing file.
    pub async fn follow(
        &self,
        identity: &Identity,
        start: &ArtifactId,
    ) -> ApiResult<Option<(ArtifactId, VersionView)>> {
        let mut id = start.clone();
        for _ in 0..HOPS {
            let Some(view) = self.view(identity, &id.project, &id.version).await? else {
                return Ok(None);
            };
            if let Some(target) = view.manifest.links.get(&id.path) {
                id = target.clone();
                continue;
            }
            if view.manifest.files.contains_key(&id.path) {
                return Ok(Some((id, view)));
            }
            // A redirection document is a link that only its metadata tells of.
            let link = self
                .document(identity, &id)
                .await?
                .and_then(|document| document.link().map(str::to_owned));
            match link.map(|link| ArtifactId::parse(&link)) {
                Some(Ok(target)) => id = target,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Lets writers of the version pass: roles, or the nearest permission set. A project that
    /// nobody wrote to yet is open to creators.
    pub async fn require_write(
        &self,
        identity: &Identity,
        project: &Project,
        version: Option<&Version>,
    ) -> ApiResult<()> {
        if identity.caller.has_role(&WRITERS) {
            return Ok(());
        }
        let resolved = self.versions.resolve_permissions(project, version).await?;
        let permissions = resolved.as_ref().map(|resolved| &resolved.permissions);
        if may(&identity.caller, Action::Write, project, permissions) {
            return Ok(());
        }
        // What the whole instance says is about projects that are there.
        let unwritten = resolved
            .as_ref()
            .is_none_or(|resolved| resolved.level == Scope::Global);
        // Numbers of a sequence are given out, so that nobody takes the last one by hand.
        let numbered = self
            .sequences
            .iter()
            .any(|own| own.number(project.as_str()).is_some());
        if unwritten
            && !numbered
            && identity.caller.has_role(&[roles::CREATOR])
            && self.versions.recent_head(project).await?.is_none()
        {
            return Ok(());
        }
        let name = version.map_or_else(
            || project.to_string(),
            |version| format!("{project}/{version}"),
        );
        Err(identity.refusal(&format!(
            "is missing role (one of 'admin', 'uploader'), or write access on {name}"
        )))
    }

    pub fn require_role(&self, identity: &Identity, wanted: &[&str]) -> ApiResult<()> {
        match identity.caller.has_role(wanted) {
            true => Ok(()),
            false => Err(identity.refusal(&format!("is missing role (one of {wanted:?})"))),
        }
    }
}

/// The file that a download of `id` reads, from the version that holds it.
pub fn key_of(id: &ArtifactId, view: &VersionView) -> ApiResult<(String, Option<String>)> {
    let entry = view
        .manifest
        .files
        .get::<FilePath>(&id.path)
        .ok_or_else(ApiError::no_such_file)?;
    Ok((artifactdb_core::keys::file(id), entry.version_id.clone()))
}
