//! Documents that were read within the last second, for engines that are a network away. Who may
//! read them is asked each time, of the permissions that they carry.
//!
//! A replica that tells somebody that a job is done forgets the documents of its project first: what
//! the job changed is seen by whoever waited for it. Other replicas follow within the second that
//! permissions may take anyway (DESIGN section 5).

use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::id::Project;
use artifactdb_core::search::Document;
use moka::sync::Cache;

const LIFE: Duration = Duration::from_secs(1);
/// Bytes of documents at the most.
const CAPACITY: u64 = 16 * 1024 * 1024;

pub struct RecentDocuments(Option<Cache<String, Arc<Document>>>);

impl RecentDocuments {
    /// Remembers nothing unless `enabled`: an engine in this process is as fast itself.
    pub fn new(enabled: bool) -> Self {
        let cache = enabled.then(|| {
            Cache::builder()
                .max_capacity(CAPACITY)
                .weigher(|id: &String, document: &Arc<Document>| {
                    u32::try_from(id.len() + document.body.len() + 256).unwrap_or(u32::MAX)
                })
                .time_to_live(LIFE)
                .support_invalidation_closures()
                .build()
        });
        Self(cache)
    }

    pub fn get(&self, id: &str) -> Option<Arc<Document>> {
        self.0.as_ref()?.get(id)
    }

    pub fn insert(&self, id: String, document: Arc<Document>) {
        if let Some(cache) = &self.0 {
            cache.insert(id, document);
        }
    }

    pub fn forget(&self, project: &Project) {
        let Some(cache) = &self.0 else { return };
        let prefix = format!("{project}:");
        let forgotten = cache.invalidate_entries_if(move |id, _| id.starts_with(&prefix));
        if let Err(error) = forgotten {
            tracing::warn!(%error, "recent documents are not forgotten before their second is over");
        }
    }
}
