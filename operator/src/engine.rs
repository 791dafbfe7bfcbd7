//! An instance's part of Elasticsearch, as the operator looks at it and changes it: index template,
//! first index, added fields, deletion. Documents are the indexer's.

use std::collections::HashMap;

use artifactdb_core::config::InstanceConfig;
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

#[derive(Debug, Error)]
pub enum EngineError {
    #[error(transparent)]
    Setup(#[from] EngineSetupError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("the spec names no elasticsearch")]
    None,
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
pub struct Engines(Mutex<HashMap<String, Connection>>);

impl Engines {
    fn connection(&self, urls: &[String], access: &Access) -> Result<Connection, EngineError> {
        let key = short_hash(&format!("{urls:?} {}", access.version), 32);
        let mut known = self.0.lock();
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
                    config.mapping().0,
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

/// What there is of an instance; changes nothing.
pub async fn look(parts: &[Elasticsearch]) -> Result<Vec<IndexSeen>, EngineError> {
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
