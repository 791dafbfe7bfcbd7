//! Fills an index from the store: the index is disposable (DESIGN I5). Which index that is, and how
//! it becomes the live one, is `rebuild`'s.

use artifactdb_core::head::Head;
use artifactdb_core::id::{Project, Version};
use artifactdb_core::state::{Epoch, Stage};
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use crate::Indexer;
use crate::worker::TaskError;

/// Versions that are read and written at the same time.
const VERSIONS: usize = 4;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    pub projects: usize,
    /// Projects that there are to do.
    pub of_projects: usize,
    pub versions: usize,
    pub documents: u64,
    /// Versions whose metadata does not fit the instance's schemas now.
    pub failed: usize,
}

/// A part of all projects: number `index` of `of`, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: u32,
    pub of: u32,
}

impl Shard {
    pub const WHOLE: Shard = Shard { index: 0, of: 1 };

    /// By a hash of the name: the same in every process.
    pub fn holds(self, project: &Project) -> bool {
        let digest = Sha256::digest(project.as_str());
        let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        number % self.of.max(1) == self.index
    }
}

/// Where the documents go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// To an empty index that will answer searches: a completed version counts as indexed then.
    Yes,
    /// To one that answers already, over what it holds: that stays where a version cannot be made
    /// again.
    Again,
    /// To one beside it.
    No,
}

enum Outcome {
    Written(u64),
    Failed,
    Nothing,
}

/// The projects of a shard, by the store.
pub async fn projects(indexer: &Indexer, shard: Shard) -> Result<Vec<Project>, TaskError> {
    let folders = indexer.versions.store.folders("").await?;
    Ok(folders
        .into_iter()
        .filter_map(|name| Project::new(name).ok())
        .filter(|project| shard.holds(project))
        .collect())
}

/// Writes the documents of every published version of `projects`. A version that cannot be indexed
/// is reported and left out; the others are not held up by it.
pub async fn reindex(
    indexer: &Indexer,
    projects: Vec<Project>,
    publish: Publish,
    mut report: impl FnMut(&Progress),
) -> Result<Progress, TaskError> {
    let mut progress = Progress {
        of_projects: projects.len(),
        ..Progress::default()
    };
    for project in projects {
        let head = indexer.versions.head(&project).await?.unwrap_or_default();
        let versions: Vec<_> = head.revisions.clone().into_iter().collect();
        let (head, project) = (&head, &project);
        let mut done = futures::stream::iter(versions)
            .map(|(revision, (name, _))| async move {
                index_one(indexer, project, head, &name, revision, publish).await
            })
            .buffer_unordered(VERSIONS);
        while let Some(outcome) = done.try_next().await? {
            match outcome {
                Outcome::Written(documents) => {
                    progress.versions += 1;
                    progress.documents += documents;
                }
                Outcome::Failed => progress.failed += 1,
                Outcome::Nothing => {}
            }
            report(&progress);
        }
        progress.projects += 1;
        report(&progress);
    }
    indexer.search.refresh().await?;
    Ok(progress)
}

async fn index_one(
    indexer: &Indexer,
    project: &Project,
    head: &Head,
    name: &Version,
    revision: u64,
    publish: Publish,
) -> Result<Outcome, TaskError> {
    let versions = &indexer.versions;
    let Some((state, _)) = versions.state(project, name).await? else {
        return Ok(Outcome::Nothing);
    };
    let Some(published) = state.published() else {
        return Ok(Outcome::Nothing);
    };
    // Not indexed yet: its worker will write it, to this index too.
    if publish == Publish::No && published.stage == Stage::Completed {
        return Ok(Outcome::Nothing);
    }
    let epoch = published.epoch;
    let version: Epoch = epoch.max(head.permissions);
    let written = indexer
        .write_version(project, name, published, Some(revision), version)
        .await;
    match written {
        Ok(documents) => {
            if publish != Publish::No {
                versions.published(project, name, epoch, documents).await?;
            }
            Ok(Outcome::Written(documents))
        }
        Err(TaskError::Permanent(reason)) => {
            tracing::warn!(%project, version = %name, %reason, "a version cannot be indexed");
            if publish != Publish::Again {
                indexer.search.remove(project, name, version + 1).await?;
            }
            Ok(Outcome::Failed)
        }
        Err(transient) => Err(transient),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_project_is_in_one_shard() {
        for number in 0..200 {
            let project = Project::new(format!("P{number}")).unwrap();
            let holding = (0..7).filter(|index| {
                Shard {
                    index: *index,
                    of: 7,
                }
                .holds(&project)
            });
            assert_eq!(holding.count(), 1);
            assert!(Shard::WHOLE.holds(&project));
        }
    }
}
