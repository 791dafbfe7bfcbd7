//! Fills an index from the store: the index is disposable (DESIGN I5).

use artifactdb_core::id::{Project, Version};

use crate::Indexer;
use crate::worker::TaskError;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub projects: usize,
    pub versions: usize,
    pub documents: u64,
    /// Versions whose metadata does not fit the instance's schemas now.
    pub failed: usize,
}

/// Writes the documents of every published version. A version that cannot be indexed is reported
/// and left out; the others are not held up by it.
pub async fn reindex(
    indexer: &Indexer,
    mut report: impl FnMut(&Progress),
) -> Result<Progress, TaskError> {
    let mut progress = Progress::default();
    let versions = &indexer.versions;
    for folder in versions.store.folders("").await? {
        let Ok(project) = Project::new(folder) else {
            continue;
        };
        let head = versions.head(&project).await?.unwrap_or_default();
        for (revision, (name, _)) in &head.revisions {
            index_one(indexer, &project, name, *revision, &mut progress).await?;
            report(&progress);
        }
        progress.projects += 1;
    }
    indexer.search.refresh().await?;
    Ok(progress)
}

async fn index_one(
    indexer: &Indexer,
    project: &Project,
    name: &Version,
    revision: u64,
    progress: &mut Progress,
) -> Result<(), TaskError> {
    let versions = &indexer.versions;
    let Some((state, _)) = versions.state(project, name).await? else {
        return Ok(());
    };
    let Some(published) = state.published() else {
        return Ok(());
    };
    let epoch = published.epoch;
    let version = versions.document_version(project, epoch).await?;
    let written = indexer
        .write_version(project, name, published, Some(revision), version)
        .await;
    match written {
        Ok(documents) => {
            progress.versions += 1;
            progress.documents += documents;
            versions.published(project, name, epoch, documents).await?;
            Ok(())
        }
        Err(TaskError::Permanent(reason)) => {
            tracing::warn!(%project, version = %name, %reason, "a version cannot be indexed");
            progress.failed += 1;
            indexer.search.remove(project, name, version + 1).await?;
            Ok(())
        }
        Err(transient) => Err(transient),
    }
}
