//! Permissions of the index held to those of the store. Changes by the API follow by themselves; what
//! somebody wrote to the bucket past it counts in searches once this has run.

use std::collections::HashMap;

use artifactdb_core::id::{Project, Version};
use artifactdb_core::permissions::Permissions;
use serde::Serialize;
use serde_json::Value;

use crate::Indexer;
use crate::reindex::{Shard, projects};
use crate::worker::TaskError;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Synced {
    pub projects: usize,
    /// Projects whose documents had other permissions than the store, and were written again.
    pub changed: usize,
}

/// Writes the documents of every project again that have other permissions than the store.
pub async fn sync_permissions(indexer: &Indexer) -> Result<Synced, TaskError> {
    let mut synced = Synced::default();
    for project in projects(indexer, Shard::WHOLE).await? {
        synced.projects += 1;
        if differs(indexer, &project).await? {
            tracing::info!(%project, "its documents follow the permissions of the store");
            indexer.versions.permissions_changed(&project).await?;
            indexer.follow_permissions(&project).await?;
            synced.changed += 1;
        }
    }
    Ok(synced)
}

async fn differs(indexer: &Indexer, project: &Project) -> Result<bool, TaskError> {
    let mut known: HashMap<String, Option<Permissions>> = HashMap::new();
    let mut cursor = None;
    loop {
        let page = indexer.documents_of(project, cursor.take()).await?;
        for hit in &page.hits {
            let value = hit.value();
            let name = value.pointer("/_extra/version").and_then(Value::as_str);
            let Some(version) = name.and_then(|name| Version::new(name).ok()) else {
                continue;
            };
            if !known.contains_key(version.as_str()) {
                let resolved = indexer
                    .versions
                    .current_permissions(project, Some(&version))
                    .await?;
                let stored = resolved.map(|own| own.permissions);
                known.insert(version.as_str().to_owned(), stored);
            }
            let stored = known.get(version.as_str()).and_then(Option::as_ref);
            if hit.permissions() != stored {
                return Ok(true);
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(false);
        }
    }
}
