//! The indexer: `worker` takes tasks, `documents` reads a version's metadata out of the store and
//! makes what is indexed, `reindex` fills an index from the store, `rebuild` makes a new one the
//! live one, `sweep` finds what was left undone, `dispatch` starts plugins on events.
//!
//! It reaches everything through core's doors; no HTTP server and no engine here. The binary is in
//! `main`, with `jobs`, which makes Jobs in a cluster.

mod dispatch;
mod documents;
mod rebuild;
mod rehearse;
mod reindex;
mod sweep;
mod sync;
mod worker;

use std::sync::Arc;

use artifactdb_core::config::InstanceConfig;
use artifactdb_core::gprn::Gprn;
use artifactdb_core::mapping::Mapping;
use artifactdb_core::search::Search;
use artifactdb_core::versions::Versions;
use jsonschema::Validator;
use std::collections::HashMap;

pub use dispatch::{Dispatcher, JobError, Jobs, PluginJob};
pub use rebuild::{Event, RebuildError, RebuildOptions, rebuild};
pub use rehearse::{Rehearsal, rehearse};
pub use reindex::{Progress, Publish, Shard, projects, reindex};
pub use sweep::{purge_stale, sweep, sweep_forever};
pub use sync::{Synced, sync_permissions};
pub use worker::{TaskError, run as work};

/// What an indexing process works with.
pub struct Indexer {
    pub versions: Arc<Versions>,
    pub search: Arc<dyn Search>,
    pub config: Arc<InstanceConfig>,
    gprn: Option<Gprn>,
    mapping: Mapping,
    /// By `$schema`, compiled once. Empty where documents are not validated.
    validators: HashMap<String, Validator>,
}

impl Indexer {
    pub fn new(
        versions: Arc<Versions>,
        search: Arc<dyn Search>,
        config: Arc<InstanceConfig>,
    ) -> Result<Self, String> {
        let mut validators = HashMap::new();
        if config.schemas.validate_documents {
            for item in &config.schemas.items {
                let validator = jsonschema::validator_for(&item.schema)
                    .map_err(|error| format!("schema '{}': {error}", item.name()))?;
                validators.insert(item.name(), validator);
            }
        }
        Ok(Self {
            versions,
            search,
            gprn: config.own_gprn(),
            mapping: config.mapping().0,
            config,
            validators,
        })
    }
}
