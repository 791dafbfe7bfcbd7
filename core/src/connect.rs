//! The doors of one instance on real servers, from its configuration and its mounted secrets.
//!
//! Secrets are files below one folder, as Kubernetes mounts them; every one may be absent:
//!
//! | file | holds |
//! |---|---|
//! | `storage/<alias>/accessKey`, `secretKey`, `sessionToken` | credentials of a storage; absent: `AWS_ACCESS_KEY_ID` and its companions, or the role that the cloud gives this process |
//! | `elasticsearch/username`, `password` or `apiKey` | credentials of the engine |
//! | `elasticsearch-ca/ca.crt`, `redis-ca/ca.crt` | certificate authorities, PEM |
//! | `redis/url` | the server's URL, with its password |
//! | `signing/key` | what signs URLs, cursors and job ids; the same for every replica |
//! | `service/key` | by which automation acts as an administrator |
//! | `static-keys/*.json` | JSON Web Keys, or sets of them, that verify tokens |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;
use crate::config::{InstanceConfig, StorageConfig};
use crate::redis::{Redis, RedisCounter, RedisLease, RedisQueue, RedisSetupError};
use crate::search::elasticsearch::{
    Elasticsearch, EngineCredentials, EngineSetupError, IndexOptions,
};
use crate::store::{Credentials, RoleError, S3Store, StoreError};
use crate::versions::{Rules, Versions};

const ROLE_ATTEMPTS: u32 = 3;
/// Pauses between attempts to reach the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("cannot read '{path}': {problem}")]
    File { path: String, problem: String },
    #[error("the configuration names no storage")]
    NoStorage,
    #[error("the configuration names no elasticsearch")]
    NoElasticsearch,
    #[error("the configuration names no redis, or no URL of it")]
    NoRedis,
    #[error(
        "storage '{alias}' has no credentials: mount storage/{alias}/accessKey and secretKey, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this process a role ({problem})"
    )]
    NoCredentials { alias: String, problem: String },
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    #[error(transparent)]
    Engine(#[from] EngineSetupError),
    #[error("storage '{alias}': {problem}")]
    Store { alias: String, problem: StoreError },
}

/// A folder of mounted secrets.
#[derive(Debug, Clone)]
pub struct SecretFiles(PathBuf);

impl SecretFiles {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The content of a file, or nothing when there is none.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, ConnectError> {
        let path = self.0.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// The same as text, without the newline that editors leave at the end.
    pub fn text(&self, name: &str) -> Result<Option<String>, ConnectError> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(unreadable(&self.0.join(name), &error)),
        }
    }

    /// The contents of the files in a folder that end as `ending`, by name.
    pub fn all(&self, folder: &str, ending: &str) -> Result<Vec<Vec<u8>>, ConnectError> {
        let path = self.0.join(folder);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let mut names: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with(ending))
            .collect();
        names.sort();
        names
            .iter()
            .map(|path| std::fs::read(path).map_err(|error| unreadable(path, &error)))
            .collect()
    }
}

fn unreadable(path: &Path, problem: &dyn std::fmt::Display) -> ConnectError {
    ConnectError::File {
        path: path.display().to_string(),
        problem: problem.to_string(),
    }
}

/// Reads an `InstanceConfig` from a JSON file. The files `*.json` of a folder of `schemas`, each a
/// list of schemas, are added to its own in the order of their names.
pub fn read_config(path: &Path, schemas: Option<&Path>) -> Result<InstanceConfig, ConnectError> {
    fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConnectError> {
        let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| unreadable(path, &error))
    }
    let mut config: InstanceConfig = read(path)?;
    let Some(folder) = schemas else {
        return Ok(config);
    };
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|own| own == "json"))
        .collect();
    files.sort();
    for file in files {
        config
            .schemas
            .items
            .extend(read::<Vec<crate::config::SchemaItem>>(&file)?);
    }
    Ok(config)
}

/// The client of a storage, by mounted files, else the environment, else the role of this process.
async fn store(storage: &StorageConfig, secrets: &SecretFiles) -> Result<S3Store, ConnectError> {
    if let Some(credentials) = credentials(storage, secrets)? {
        return Ok(S3Store::new(storage, credentials));
    }
    // A metadata service may be a moment behind what it serves; a platform that has none is told.
    let mut attempt = 1;
    loop {
        match S3Store::of_role(storage).await {
            Ok(store) => return Ok(store),
            Err(RoleError::Away(reason)) if attempt < ROLE_ATTEMPTS => {
                tracing::warn!(
                    storage.alias,
                    reason,
                    "waiting for the credentials of the role"
                );
                tokio::time::sleep(STORE_PAUSE * attempt).await;
                attempt += 1;
            }
            Err(error) => {
                return Err(ConnectError::NoCredentials {
                    alias: storage.alias.clone(),
                    problem: error.to_string(),
                });
            }
        }
    }
}

fn credentials(
    storage: &StorageConfig,
    secrets: &SecretFiles,
) -> Result<Option<Credentials>, ConnectError> {
    let file = |name: &str| secrets.text(&format!("storage/{}/{name}", storage.alias));
    if let (Some(access_key), Some(secret_key)) = (file("accessKey")?, file("secretKey")?) {
        return Ok(Some(Credentials {
            access_key,
            secret_key,
            session_token: file("sessionToken")?,
        }));
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let keys = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    Ok(keys.map(|(access_key, secret_key)| Credentials {
        access_key,
        secret_key,
        session_token: variable("AWS_SESSION_TOKEN"),
    }))
}

/// The servers of one instance.
pub struct Servers {
    pub versions: Arc<Versions>,
    pub search: Arc<Elasticsearch>,
    pub redis: Redis,
}

/// Makes the clients; nothing is sent but the probe of the store, which is refused when it ignores
/// conditional writes and asked whether it keeps versions; while it does not answer, this waits.
/// `remembered_files`: see `Rules`.
pub async fn connect(
    config: &InstanceConfig,
    secrets: &SecretFiles,
    clock: Arc<dyn Clock>,
    remembered_files: u64,
) -> Result<Servers, ConnectError> {
    let (versions, redis) = connect_versions(config, secrets, clock, remembered_files).await?;
    Ok(Servers {
        versions,
        search: Arc::new(engine(config, secrets)?),
        redis,
    })
}

/// The same without the engine, for who has no business with it.
pub async fn connect_versions(
    config: &InstanceConfig,
    secrets: &SecretFiles,
    clock: Arc<dyn Clock>,
    remembered_files: u64,
) -> Result<(Arc<Versions>, Redis), ConnectError> {
    let storage = config.storage.first().ok_or(ConnectError::NoStorage)?;
    let mut store = store(storage, secrets).await?;
    loop {
        match store.prepare().await {
            Ok(()) => break,
            // It comes back, and this process with it.
            Err(StoreError::Unavailable(reason)) => {
                tracing::warn!(storage.alias, reason, "waiting for the object store");
                tokio::time::sleep(STORE_PAUSE).await;
            }
            Err(problem) => {
                return Err(ConnectError::Store {
                    alias: storage.alias.clone(),
                    problem,
                });
            }
        }
    }
    let redis = redis(config, secrets)?;
    let versions = Versions::new(
        Arc::new(store),
        Arc::new(RedisLease::new(redis.clone(), clock.clone())),
        Arc::new(RedisQueue::new(redis.clone(), clock.clone())),
        Arc::new(RedisCounter::new(redis.clone())),
        clock,
        Rules {
            remembered_files,
            ..Rules::of(config)
        },
    );
    Ok((Arc::new(versions), redis))
}

/// The instance's part of its Redis.
pub fn redis(config: &InstanceConfig, secrets: &SecretFiles) -> Result<Redis, ConnectError> {
    let mounted = secrets.text("redis/url")?;
    let named = config.redis.as_ref().and_then(|redis| redis.url.clone());
    let url = mounted.or(named).ok_or(ConnectError::NoRedis)?;
    let ca = secrets.bytes("redis-ca/ca.crt")?;
    Ok(Redis::new(&url, ca, &config.instance_id())?)
}

/// The instance's part of its engine.
pub fn engine(
    config: &InstanceConfig,
    secrets: &SecretFiles,
) -> Result<Elasticsearch, ConnectError> {
    let engine = config
        .elasticsearch
        .as_ref()
        .ok_or(ConnectError::NoElasticsearch)?;
    let file = |name: &str| secrets.text(&format!("elasticsearch/{name}"));
    let credentials = match (file("apiKey")?, file("username")?, file("password")?) {
        (Some(key), ..) => Some(EngineCredentials::ApiKey(key)),
        (None, Some(username), Some(password)) => {
            Some(EngineCredentials::Basic { username, password })
        }
        _ => None,
    };
    let ca = secrets.bytes("elasticsearch-ca/ca.crt")?;
    Ok(Elasticsearch::new(
        &engine.urls,
        credentials,
        ca.as_deref(),
        &config.instance_id(),
        config.mapping().0,
        IndexOptions {
            shards: engine.shards,
            replicas: engine.replicas,
            retained_indices: usize::try_from(engine.retained_indices).unwrap_or(usize::MAX),
        },
    )?)
}
