//! Leases in Redis. One script does everything, so a project's lease and those of its versions
//! exclude each other without a gap.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use jiff::Timestamp;
use redis::{RedisError, Script, Value, from_redis_value_ref};
use serde::{Deserialize, Serialize};

use super::Redis;
use crate::clock::Clock;
use crate::id::{Project, Version};
use crate::lease::{Holder, Lease, LeaseError, LeaseKey, LeaseRecord};

/// Projects whose leases are read at the same time, for the list of all.
const READS: usize = 16;

pub struct RedisLease {
    redis: Redis,
    /// The caller's clock: expiries arrive by it and are handed on as durations.
    clock: Arc<dyn Clock>,
    script: Script,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    owner: String,
    stage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    info: Option<String>,
    #[serde(default, skip_serializing)]
    created: f64,
    #[serde(default, skip_serializing)]
    expires: f64,
}

fn unavailable(error: RedisError) -> LeaseError {
    LeaseError::Unavailable(error.to_string())
}

fn broken(text: impl std::fmt::Display) -> LeaseError {
    LeaseError::Unavailable(format!("a lease record cannot be read: {text}"))
}

impl RedisLease {
    pub fn new(redis: Redis, clock: Arc<dyn Clock>) -> Self {
        Self {
            redis,
            clock,
            script: Script::new(include_str!("scripts/lease.lua")),
        }
    }

    async fn run(
        &self,
        action: &str,
        key: &LeaseKey,
        rest: &[&str],
    ) -> Result<Vec<Value>, LeaseError> {
        let project = key.project.as_str();
        let keys = [
            self.redis.key(&format!("lease:{project}")),
            self.redis.key("leases"),
        ];
        let version = key.version.as_ref().map_or("", Version::as_str);
        let mut arguments = vec![action, project, version];
        arguments.extend_from_slice(rest);
        self.redis
            .script(&self.script, &keys, &arguments)
            .await
            .map_err(unavailable)
    }

    /// Milliseconds from the caller's now.
    fn ttl(&self, expires: Timestamp) -> String {
        let left = expires.as_millisecond() - self.clock.now().as_millisecond();
        left.max(0).to_string()
    }
}

fn done(answer: &[Value]) -> bool {
    matches!(answer.first(), Some(Value::Int(1)))
}

fn text(value: &Value) -> Result<String, LeaseError> {
    from_redis_value_ref(value).map_err(broken)
}

/// The lease in a script's answer: its version and its record.
fn record(project: &Project, version: &Value, value: &Value) -> Result<LeaseRecord, LeaseError> {
    let version = match text(version)?.as_str() {
        "" => None,
        name => Some(Version::new(name).map_err(broken)?),
    };
    let stored: Stored = serde_json::from_str(&text(value)?).map_err(broken)?;
    let at = |millis: f64| Timestamp::from_millisecond(millis as i64).map_err(broken);
    Ok(LeaseRecord {
        key: LeaseKey {
            project: project.clone(),
            version,
        },
        created: at(stored.created)?,
        expires: at(stored.expires)?,
        holder: Holder {
            owner: stored.owner,
            stage: stored.stage,
            info: stored.info,
        },
    })
}

#[async_trait]
impl Lease for RedisLease {
    async fn acquire(
        &self,
        key: &LeaseKey,
        holder: Holder,
        expires: Timestamp,
    ) -> Result<String, LeaseError> {
        let token = format!("{:032x}", rand::random::<u128>());
        let stored = Stored {
            owner: holder.owner,
            stage: holder.stage,
            info: holder.info,
            created: 0.0,
            expires: 0.0,
        };
        let stored = serde_json::to_string(&stored).map_err(broken)?;
        let ttl = self.ttl(expires);
        match &*self.run("acquire", key, &[&token, &stored, &ttl]).await? {
            [Value::Int(1)] => Ok(token),
            [_, version, value] => Err(LeaseError::Held(Box::new(record(
                &key.project,
                version,
                value,
            )?))),
            _ => Err(broken("unexpected answer")),
        }
    }

    async fn renew(
        &self,
        key: &LeaseKey,
        token: &str,
        stage: &str,
        expires: Timestamp,
    ) -> Result<bool, LeaseError> {
        let ttl = self.ttl(expires);
        let answer = self.run("renew", key, &[token, stage, &ttl]).await?;
        Ok(done(&answer))
    }

    async fn release(&self, key: &LeaseKey, token: &str) -> Result<bool, LeaseError> {
        Ok(done(&self.run("release", key, &[token]).await?))
    }

    async fn expire(&self, key: &LeaseKey) -> Result<Option<LeaseRecord>, LeaseError> {
        match &*self.run("expire", key, &[]).await? {
            [_, version, value] => record(&key.project, version, value).map(Some),
            _ => Ok(None),
        }
    }

    async fn of_project(&self, project: &Project) -> Result<Vec<LeaseRecord>, LeaseError> {
        let key = LeaseKey {
            project: project.clone(),
            version: None,
        };
        let answer = self.run("list", &key, &[]).await?;
        let mut records = answer
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| record(project, &pair[0], &pair[1]))
            .collect::<Result<Vec<_>, _>>()?;
        records.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(records)
    }

    async fn all(&self) -> Result<Vec<LeaseRecord>, LeaseError> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.redis.key("leases")).arg(0).arg(-1);
        let projects: Vec<String> = self.redis.query(&command).await.map_err(unavailable)?;
        let projects = projects
            .into_iter()
            .filter_map(|name| Project::new(name).ok());
        let lists: Vec<_> = futures::stream::iter(projects)
            .map(|project| async move { self.of_project(&project).await })
            .buffered(READS)
            .collect()
            .await;
        let mut records = Vec::new();
        for list in lists {
            records.extend(list?);
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(records)
    }
}
