//! Documents that were read before, for engines that are a network away. Who may read them is asked
//! each time, of the permissions that they carry.
//!
//! Within a second of its reading a document is answered again as it is: permissions may take that
//! long anyway (DESIGN section 5). After that it is answered only while the version's stamp
//! (`core::versions::DocumentStamp`) is the one from before it was read. Stamps are read from the
//! store beside the requests and never waited for: a request that finds none known asks the engine.
//!
//! A replica that tells somebody that a job is done forgets the documents of its project first: what
//! the job changed is seen by whoever waited for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use artifactdb_core::id::{ArtifactId, Project, Version};
use artifactdb_core::search::{Document, Search, SearchError};
use artifactdb_core::versions::{DocumentStamp, Versions};
use moka::sync::Cache;

const FRESH: Duration = Duration::from_secs(1);
/// A rebuilt index says when and where documents were indexed, which no stamp tells.
const LIFE: Duration = Duration::from_secs(60);
/// Bytes of documents at the most.
const CAPACITY: u64 = 16 * 1024 * 1024;

#[derive(Clone)]
struct Entry {
    document: Arc<Document>,
    read: Instant,
    /// From before the document was read.
    stamp: Option<DocumentStamp>,
}

pub struct RecentDocuments {
    entries: Option<Cache<String, Entry>>,
    /// Versions whose stamps are being read.
    reading: Cache<(Project, Version), ()>,
}

impl RecentDocuments {
    /// Remembers nothing unless `enabled`: an engine in this process is as fast itself.
    pub fn new(enabled: bool) -> Self {
        let entries = enabled.then(|| {
            Cache::builder()
                .max_capacity(CAPACITY)
                .weigher(|id: &String, entry: &Entry| {
                    let bytes = id.len() + entry.document.body.len() + 256;
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                })
                .time_to_live(LIFE)
                .support_invalidation_closures()
                .build()
        });
        Self {
            entries,
            reading: Cache::builder()
                .max_capacity(1_000)
                .time_to_live(FRESH / 2)
                .build(),
        }
    }

    /// The document of `id`, from memory or from the engine.
    pub async fn get(
        &self,
        versions: &Arc<Versions>,
        search: &dyn Search,
        id: &ArtifactId,
    ) -> Result<Option<Arc<Document>>, SearchError> {
        let name = id.to_string();
        let Some(entries) = &self.entries else {
            return search.get(&name).await;
        };
        let stamp = versions.known_stamp(&id.project, &id.version);
        if let Some(entry) = entries.get(&name)
            && (entry.read.elapsed() < FRESH || (stamp.is_some() && stamp == entry.stamp))
        {
            return Ok(Some(entry.document));
        }
        if stamp.is_none() {
            self.read_stamp(versions, id);
        }
        let found = search.get(&name).await?;
        if let Some(document) = &found {
            let entry = Entry {
                document: document.clone(),
                read: Instant::now(),
                stamp,
            };
            entries.insert(name, entry);
        }
        Ok(found)
    }

    fn read_stamp(&self, versions: &Arc<Versions>, id: &ArtifactId) {
        let key = (id.project.clone(), id.version.clone());
        if self.reading.contains_key(&key) {
            return;
        }
        self.reading.insert(key.clone(), ());
        let versions = versions.clone();
        tokio::spawn(async move {
            if let Err(error) = versions.refresh_stamp(&key.0, &key.1).await {
                tracing::debug!(%error, "cannot tell whether documents are unchanged");
            }
        });
    }

    pub fn forget(&self, project: &Project) {
        let Some(entries) = &self.entries else { return };
        let prefix = format!("{project}:");
        let forgotten = entries.invalidate_entries_if(move |id, _| id.starts_with(&prefix));
        if let Err(error) = forgotten {
            tracing::warn!(%error, "recent documents are not forgotten at once");
        }
    }
}
