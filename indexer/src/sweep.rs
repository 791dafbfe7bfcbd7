//! The sweeper: finds in the store what a dead process left undone, and what has become due.

use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::id::Project;
use artifactdb_core::versions::{Versions, WriteError};
use futures::StreamExt;
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
    Ok(acted.into_iter().sum())
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
