//! The sweeper: finds in the store what a dead process left undone, and what has become due.

use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::id::Project;
use artifactdb_core::versions::{Purged, Versions, WriteError};
use futures::StreamExt;
use jiff::Timestamp;
use tokio::sync::watch;

/// Heads that are looked at together.
const LOOKS: usize = 16;

/// Looks at every project's head once. Returns how much there was to do.
pub async fn sweep(versions: &Versions) -> Result<usize, WriteError> {
    let folders = versions.store.folders("").await?;
    let projects = folders
        .into_iter()
        .filter_map(|name| Project::new(name).ok());
    let looks = futures::stream::iter(projects).map(|project| async move {
        match versions.recover(&project).await {
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%project, %error, "cannot sweep a project");
                0
            }
        }
    });
    let acted = looks.buffer_unordered(LOOKS).collect::<Vec<usize>>().await;
    if let Err(error) = versions.forget_events().await {
        tracing::warn!(%error, "old events stay in the log");
    }
    Ok(acted.into_iter().sum())
}

/// Deletes what was marked for that before `limit` (`Versions::purge_stale`), in every project.
pub async fn purge_stale(versions: &Versions, limit: Timestamp) -> Result<Purged, WriteError> {
    let mut purged = Purged::default();
    for name in versions.store.folders("").await? {
        let Ok(project) = Project::new(name) else {
            continue;
        };
        match versions.purge_stale(&project, limit).await {
            Ok(own) => purged += own,
            Err(error @ (WriteError::Store(_) | WriteError::Unavailable(_))) => return Err(error),
            Err(error) => tracing::warn!(%project, %error, "cannot purge what is marked"),
        }
    }
    Ok(purged)
}

/// Sweeps each `interval` until `stop` changes.
pub async fn sweep_forever(
    versions: Arc<Versions>,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(interval) => {}
        }
        match sweep(&versions).await {
            Ok(0) => {}
            Ok(acted) => tracing::info!(acted, "swept"),
            Err(error) => tracing::warn!(%error, "cannot sweep"),
        }
    }
}
