//! All stored metadata held to the schemas, before they replace others (DESIGN section 4, "Index
//! lifecycle"). Nothing is written.

use artifactdb_core::id::{Project, Version};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::Indexer;
use crate::reindex::{Shard, projects};
use crate::worker::TaskError;

/// Versions that are read at the same time.
const VERSIONS: usize = 4;
/// Documents that are named.
const SAMPLES: usize = 10;
/// Characters of what is said of one.
const SAMPLE_MAX: usize = 240;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Documents that were looked at.
    pub checked: u64,
    /// Those that do not fit.
    pub failed: u64,
    /// Some of these, with what is wrong.
    pub samples: Vec<String>,
}

impl Rehearsal {
    pub fn add(&mut self, other: Rehearsal) {
        self.checked += other.checked;
        self.failed += other.failed;
        self.samples.extend(other.samples);
        self.samples.truncate(SAMPLES);
    }
}

/// Bytes of a result at the most: a pod's last words are cut at 4096 (kubernetes.io/docs/tasks/debug,
/// "Determine the reason for pod failure"), and half a JSON text is none.
const TEXT_MAX: usize = 3500;

impl Rehearsal {
    /// As JSON that fits a pod's last words, with as many samples as there is room for.
    pub fn to_text(&self) -> String {
        let mut told = self.clone();
        loop {
            let text = serde_json::json!(told).to_string();
            if text.len() <= TEXT_MAX || told.samples.pop().is_none() {
                return text;
            }
        }
    }
}

/// Looks at every published version.
pub async fn rehearse(indexer: &Indexer) -> Result<Rehearsal, TaskError> {
    let mut found = Rehearsal::default();
    for project in projects(indexer, Shard::WHOLE).await? {
        let head = indexer.versions.head(&project).await?.unwrap_or_default();
        let versions: Vec<Version> = head.revisions.values().map(|own| own.0.clone()).collect();
        let project = &project;
        let mut looked = futures::stream::iter(versions)
            .map(|name| async move { look(indexer, project, &name).await })
            .buffer_unordered(VERSIONS);
        while let Some(own) = looked.try_next().await? {
            found.add(own);
        }
    }
    Ok(found)
}

async fn look(
    indexer: &Indexer,
    project: &Project,
    name: &Version,
) -> Result<Rehearsal, TaskError> {
    let state = indexer.versions.state(project, name).await?;
    let Some(state) = state.as_ref().and_then(|(state, _)| state.published()) else {
        return Ok(Rehearsal::default());
    };
    let (checked, problems) = indexer.rehearse_version(project, name, state).await?;
    Ok(Rehearsal {
        checked,
        failed: problems.len() as u64,
        samples: problems
            .into_iter()
            .take(SAMPLES)
            .map(|problem| problem.chars().take(SAMPLE_MAX).collect())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_fits_the_last_words_of_a_pod() {
        let found = Rehearsal {
            checked: 9,
            failed: 9,
            samples: vec!["\u{1F427}\"".repeat(SAMPLE_MAX / 2); SAMPLES],
        };
        let text = found.to_text();
        assert!(text.len() <= TEXT_MAX);
        let told: Rehearsal = serde_json::from_str(&text).unwrap();
        assert_eq!((told.checked, told.failed), (9, 9));
        assert!(!told.samples.is_empty());
    }
}
