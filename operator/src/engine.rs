//! An instance's part of Elasticsearch, as the operator looks at it and changes it: index template,
//! first index, added fields, deletion. Documents are the indexer's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifactdb_core::config::InstanceConfig;
use artifactdb_core::mapping::Mapping;
use artifactdb_core::search::SearchError;
use artifactdb_core::search::elasticsearch::{
    Connection, Elasticsearch, EngineCredentials, EngineSetupError, Found, IndexOptions,
};
use parking_lot::Mutex;
use thiserror::Error;

use crate::names::short_hash;
use crate::plan::{IndexSeen, LiveSeen, Step};

/// Connections that are kept; beyond them all are made anew.
const CONNECTIONS: usize = 256;
/// How long a look may take before the engine counts as away: nobody else shall wait for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that was away is not asked again, by any instance.
const PAUSE: Duration = Duration::from_secs(8);

#[derive(Debug, Error)]
pub enum EngineError {
    #[error(transparent)]
    Setup(#[from] EngineSetupError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("the spec names no elasticsearch")]
    None,
    #[error("the search engine is unavailable: {0}")]
    Away(String),
}

/// How an engine is reached. The credentials are held in memory and nowhere else.
#[derive(Clone, Default)]
pub struct Access {
    pub credentials: Option<EngineCredentials>,
    pub ca: Option<Vec<u8>>,
    /// Changes with the Secrets that the above come from.
    pub version: String,
}

/// Connections to engines: instances of one engine share one.
#[derive(Default)]
pub struct Engines {
    connections: Mutex<HashMap<String, Connection>>,
    /// Engines that did not answer, since when, and why.
    away: Mutex<HashMap<String, (Instant, String)>>,
}

fn key(urls: &[String], access: &Access) -> String {
    short_hash(&format!("{urls:?} {}", access.version), 32)
}

impl Engines {
    fn connection(&self, urls: &[String], access: &Access) -> Result<Connection, EngineError> {
        let key = key(urls, access);
        let mut known = self.connections.lock();
        if let Some(connection) = known.get(&key) {
            return Ok(connection.clone());
        }
        let connection = Connection::new(urls, access.credentials.clone(), access.ca.as_deref())?;
        if known.len() >= CONNECTIONS {
            known.clear();
        }
        known.insert(key, connection.clone());
        Ok(connection)
    }

    /// The parts of an instance, by storage, the default one first.
    pub fn of(
        &self,
        config: &InstanceConfig,
        mapping: &Arc<Mapping>,
        access: &Access,
    ) -> Result<Vec<Elasticsearch>, EngineError> {
        let own = config.elasticsearch.as_ref().ok_or(EngineError::None)?;
        let connection = self.connection(&own.urls, access)?;
        let storages = config.by_storage().unwrap_or_else(|_| vec![config.clone()]);
        Ok(storages
            .iter()
            .map(|config| {
                Elasticsearch::on(
                    &connection,
                    &config.instance_id(),
                    mapping.clone(),
                    IndexOptions {
                        shards: own.shards,
                        replicas: own.replicas,
                        retained_indices: usize::try_from(own.retained_indices)
                            .unwrap_or(usize::MAX),
                    },
                )
            })
            .collect())
    }
}

impl Engines {
    /// What there is of an instance; changes nothing. An engine that is away is not waited for.
    pub async fn look(
        &self,
        config: &InstanceConfig,
        access: &Access,
        parts: &[Elasticsearch],
    ) -> Result<Vec<IndexSeen>, EngineError> {
        let own = config.elasticsearch.as_ref().ok_or(EngineError::None)?;
        let key = key(&own.urls, access);
        let known = self.away.lock().get(&key).cloned();
        if let Some((since, reason)) = known
            && since.elapsed() < PAUSE
        {
            return Err(EngineError::Away(reason));
        }
        let looked = match tokio::time::timeout(PATIENCE, look(parts)).await {
            Ok(looked) => looked,
            Err(_) => Err(EngineError::Away(format!(
                "no answer from {} within {} s",
                own.urls.join(", "),
                PATIENCE.as_secs()
            ))),
        };
        let reason = match &looked {
            Ok(_) => None,
            Err(EngineError::Away(reason)) => Some(reason.clone()),
            Err(EngineError::Search(SearchError::Unavailable(reason))) => Some(reason.clone()),
            Err(_) => None,
        };
        match reason {
            Some(reason) => self.away.lock().insert(key, (Instant::now(), reason)),
            None => self.away.lock().remove(&key),
        };
        looked
    }
}

/// What there is of an instance.
async fn look(parts: &[Elasticsearch]) -> Result<Vec<IndexSeen>, EngineError> {
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        let seen = part.look().await?;
        let live = |found: Found| LiveSeen {
            standing: part.standing(&found),
            name: found.name,
            ours: found.ours,
            mapping_hash: found.mapping_hash,
        };
        all.push(IndexSeen {
            alias: part.alias().to_owned(),
            template: seen.template,
            live: seen.live.map(live),
            building: seen.building.map(live),
            documents: seen.documents,
            built: seen.built,
        });
    }
    Ok(all)
}

/// Takes the steps of a plan, in order.
pub async fn take(parts: &[Elasticsearch], steps: &[(usize, Step)]) -> Result<(), EngineError> {
    for (place, step) in steps {
        let Some(part) = parts.get(*place) else {
            continue;
        };
        match step {
            Step::PutTemplate => part.put_template().await?,
            Step::AddFields { index } => part.add_fields(index).await?,
            Step::BeginBuild => {
                part.begin_build().await?;
            }
        }
    }
    Ok(())
}

/// Deletes indices, aliases and templates of an instance. Never anything in storage.
pub async fn delete(parts: &[Elasticsearch]) -> Result<(), EngineError> {
    for part in parts {
        part.delete_all().await?;
    }
    Ok(())
}
