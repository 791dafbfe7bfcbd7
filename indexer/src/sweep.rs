//! The sweeper: finds in the store what a dead process left undone, and what has become due.

use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::id::Project;
use artifactdb_core::versions::{Versions, WriteError};
use tokio::sync::watch;

/// Looks at every project's head once. Returns how much there was to do.
pub async fn sweep(versions: &Versions) -> Result<usize, WriteError> {
    let mut acted = 0;
    for name in versions.store.folders("").await? {
        let Ok(project) = Project::new(name) else {
            continue;
        };
        match versions.recover(&project).await {
            Ok(count) => acted += count,
            Err(error) => tracing::warn!(%project, %error, "cannot sweep a project"),
        }
    }
    Ok(acted)
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
