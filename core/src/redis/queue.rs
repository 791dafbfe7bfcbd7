//! Tasks in Redis Streams: a stream per priority and one consumer group (DESIGN section 6).
//!
//! A worker that dies leaves its entry pending; whoever takes next claims what has been silent for
//! `SILENT`. Delayed tasks wait in a sorted set. A set of waiting tasks keeps a task from being
//! added twice. What is lost with the server is found again in S3 by the sweeper.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{RedisError, Script, Value, from_redis_value_ref};
use serde_json::{Value as Json, json};
use sha1::{Digest, Sha1};

use super::{BLOCK, PAUSE, Redis, millis};
use crate::clock::Clock;
use crate::queue::{
    DeadLetter, Delivery, HOLD, JobRecord, JobStatus, Priority, Queue, QueueError, Task,
};

/// Silence after which a worker counts as dead.
const SILENT: Duration = Duration::from_secs(6 * HOLD.as_secs());
/// Workers that may die of a task before it is given up.
const DEATHS: u32 = 10;
/// How long the record of a job is kept.
const RECORD_LIFE: Duration = Duration::from_secs(24 * 3600);
const GROUP: &str = "workers";

pub struct RedisQueue {
    redis: Redis,
    clock: Arc<dyn Clock>,
    consumer: String,
    silent: Duration,
    take: Script,
    enqueue: Script,
    settle: Script,
}

fn failed(error: RedisError) -> QueueError {
    QueueError(error.to_string())
}

fn broken(text: impl std::fmt::Display) -> QueueError {
    QueueError(format!("the queue answered what cannot be read: {text}"))
}

fn stream(priority: Priority) -> &'static str {
    match priority {
        Priority::Interactive => "tasks:interactive",
        Priority::Bulk => "tasks:bulk",
        Priority::Maintenance => "tasks:maintenance",
    }
}

/// What a take found when there was no task.
struct Idle {
    /// Until a delayed task is due.
    due: Option<Duration>,
    /// The last entry of each stream.
    ends: Vec<String>,
}

impl RedisQueue {
    pub fn new(redis: Redis, clock: Arc<dyn Clock>) -> Self {
        Self {
            redis,
            clock,
            consumer: format!("{:016x}", rand::random::<u64>()),
            silent: SILENT,
            take: Script::new(include_str!("scripts/take.lua")),
            enqueue: Script::new(include_str!("scripts/enqueue.lua")),
            settle: Script::new(include_str!("scripts/settle.lua")),
        }
    }

    /// Takes over from workers that were silent for `silent`; for tests that do not wait.
    pub fn with_silence(mut self, silent: Duration) -> Self {
        self.silent = silent;
        self
    }

    fn streams(&self) -> [String; 3] {
        Priority::ALL.map(|priority| self.redis.key(stream(priority)))
    }

    fn job_key(&self, task: &str) -> String {
        self.redis
            .key(&format!("job:{}", hex::encode(Sha1::digest(task))))
    }

    fn record(&self, status: JobStatus, result: Json, error: Option<String>) -> String {
        let ended = matches!(status, JobStatus::Success | JobStatus::Failure);
        json!(JobRecord {
            status,
            result,
            error,
            done: ended.then(|| self.clock.now()),
        })
        .to_string()
    }

    async fn take(&self) -> Result<Result<Delivery, Idle>, QueueError> {
        let mut keys = Vec::from(self.streams());
        keys.push(self.redis.key("waiting"));
        keys.push(self.redis.key("delayed"));
        keys.push(self.redis.key("dead"));
        let arguments = [
            self.consumer.as_str(),
            &millis(self.silent).to_string(),
            &DEATHS.to_string(),
            &millis(RECORD_LIFE).to_string(),
            &self.redis.key("job:"),
        ];
        let answer: Vec<Value> = self
            .redis
            .script(&self.take, &keys, &arguments)
            .await
            .map_err(failed)?;
        let text = |value: &Value| from_redis_value_ref::<String>(value).map_err(broken);
        let number = |value: &Value| from_redis_value_ref::<i64>(value).map_err(broken);
        match &*answer {
            [receipt, priority, task, attempt] => {
                let priority = usize::try_from(number(priority)?).map_err(broken)?;
                Ok(Ok(Delivery {
                    receipt: text(receipt)?,
                    task: serde_json::from_str(&text(task)?).map_err(broken)?,
                    priority: *Priority::ALL
                        .get(priority)
                        .ok_or_else(|| broken("an unknown priority"))?,
                    attempt: u32::try_from(number(attempt)?).unwrap_or(u32::MAX),
                }))
            }
            [_, due, ends @ ..] => Ok(Err(Idle {
                due: u64::try_from(number(due)?).ok().map(Duration::from_millis),
                ends: ends.iter().map(text).collect::<Result<_, _>>()?,
            })),
            _ => Err(broken("too few values")),
        }
    }

    /// Waits until a stream grows, a delayed task is due, or some time has passed. Only a look at the
    /// streams tells what there is, so it does not matter how this ends.
    async fn wait(&self, idle: Idle) {
        let connection = self.redis.server.waits.lock().await;
        let block = idle.due.map_or(BLOCK, |due| due.min(BLOCK));
        let mut command = redis::cmd("XREAD");
        command
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(millis(block).max(1))
            .arg("STREAMS");
        for key in self.streams() {
            command.arg(key);
        }
        for end in idle.ends {
            command.arg(end);
        }
        let waited: Result<Option<StreamReadReply>, _> = connection.query(&command).await;
        if let Err(error) = waited {
            tracing::debug!(%error, "cannot wait for tasks");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn settle(
        &self,
        action: &str,
        delivery: &Delivery,
        record: &str,
        rest: &[&str],
    ) -> Result<(), QueueError> {
        let task = json!(delivery.task).to_string();
        let keys = [
            self.redis.key(stream(delivery.priority)),
            self.redis.key("waiting"),
            self.redis.key("delayed"),
            self.redis.key("dead"),
            self.job_key(&task),
        ];
        let (attempt, life) = (
            delivery.attempt.to_string(),
            millis(RECORD_LIFE).to_string(),
        );
        let mut arguments = vec![
            action,
            &self.consumer,
            &delivery.receipt,
            &task,
            &attempt,
            record,
            &life,
        ];
        arguments.extend_from_slice(rest);
        let _: Value = self
            .redis
            .script(&self.settle, &keys, &arguments)
            .await
            .map_err(failed)?;
        Ok(())
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn enqueue(&self, task: Task, priority: Priority) -> Result<(), QueueError> {
        let task = json!(task).to_string();
        let keys = [
            self.redis.key(stream(priority)),
            self.redis.key("waiting"),
            self.job_key(&task),
        ];
        let pending = self.record(JobStatus::Pending, json!({}), None);
        let life = millis(RECORD_LIFE).to_string();
        let _: Value = self
            .redis
            .script(&self.enqueue, &keys, &[&task, &pending, &life])
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn next(&self) -> Result<Delivery, QueueError> {
        loop {
            match self.take().await? {
                Ok(delivery) => return Ok(delivery),
                Err(idle) => self.wait(idle).await,
            }
        }
    }

    async fn hold(&self, delivery: &Delivery) -> Result<(), QueueError> {
        self.settle("hold", delivery, "", &[]).await
    }

    async fn finish(
        &self,
        delivery: &Delivery,
        outcome: Result<Json, String>,
    ) -> Result<(), QueueError> {
        match outcome {
            Ok(result) => {
                let record = self.record(JobStatus::Success, result, None);
                self.settle("finish", delivery, &record, &[]).await
            }
            Err(error) => {
                let record = self.record(JobStatus::Failure, json!({}), Some(error.clone()));
                self.settle("dead", delivery, &record, &[&error]).await
            }
        }
    }

    async fn retry(
        &self,
        delivery: &Delivery,
        error: &str,
        delay: Duration,
    ) -> Result<(), QueueError> {
        let record = self.record(JobStatus::Retry, json!({}), Some(error.to_owned()));
        let (delay, priority) = (
            millis(delay).to_string(),
            (delivery.priority as usize).to_string(),
        );
        self.settle("retry", delivery, &record, &[&delay, &priority])
            .await
    }

    async fn job(&self, task: &Task) -> Result<Option<JobRecord>, QueueError> {
        let mut command = redis::cmd("GET");
        command.arg(self.job_key(&json!(task).to_string()));
        let found: Option<String> = self.redis.query(&command).await.map_err(failed)?;
        found
            .map(|text| serde_json::from_str(&text).map_err(broken))
            .transpose()
    }

    async fn dead(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut command = redis::cmd("XREVRANGE");
        command
            .arg(self.redis.key("dead"))
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(limit);
        let found: StreamRangeReply = self.redis.query(&command).await.map_err(failed)?;
        let letter = |entry: redis::streams::StreamId| {
            let millis = entry.id.split('-').next()?.parse().ok()?;
            Some(DeadLetter {
                task: serde_json::from_str(&entry.get::<String>("task")?).ok()?,
                error: entry.get("error")?,
                attempts: entry.get("attempt")?,
                at: Timestamp::from_millisecond(millis).ok()?,
            })
        };
        Ok(found.ids.into_iter().filter_map(letter).collect())
    }

    async fn forget_dead(&self) -> Result<(), QueueError> {
        let mut command = redis::cmd("DEL");
        command.arg(self.redis.key("dead"));
        self.redis.query::<i64>(&command).await.map_err(failed)?;
        Ok(())
    }

    async fn depth(&self) -> Result<(usize, usize), QueueError> {
        let (mut waiting, mut in_hand) = (0, 0);
        for key in self.streams() {
            let mut length = redis::cmd("XLEN");
            length.arg(&key);
            let length: usize = self.redis.query(&length).await.map_err(failed)?;
            let mut pending = redis::cmd("XPENDING");
            pending.arg(&key).arg(GROUP);
            let pending: usize = match self.redis.query::<Vec<Value>>(&pending).await {
                Ok(summary) => summary
                    .first()
                    .map_or(Ok(0), |count| from_redis_value_ref(count).map_err(broken))?,
                // No worker has looked yet.
                Err(error) if error.code() == Some("NOGROUP") => 0,
                Err(error) => return Err(failed(error)),
            };
            waiting += length.saturating_sub(pending);
            in_hand += pending;
        }
        let mut delayed = redis::cmd("ZCARD");
        delayed.arg(self.redis.key("delayed"));
        let delayed: usize = self.redis.query(&delayed).await.map_err(failed)?;
        Ok((waiting + delayed, in_hand))
    }
}
