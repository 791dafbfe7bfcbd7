//! Counters in Redis: one key each.

use async_trait::async_trait;
use redis::{RedisError, Script};

use super::Redis;
use crate::counter::{Counter, CounterError};

/// Taken twice when the answer got lost: a number is skipped, and none is given out twice.
const TAKE: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then return false end return redis.call('INCR', KEYS[1])";
const RAISE: &str = "local known = tonumber(redis.call('GET', KEYS[1]))
if not known or known < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
return 0";

pub struct RedisCounter {
    redis: Redis,
    take: Script,
    raise: Script,
}

fn failed(error: RedisError) -> CounterError {
    CounterError(error.to_string())
}

impl RedisCounter {
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            take: Script::new(TAKE),
            raise: Script::new(RAISE),
        }
    }

    fn key(&self, name: &str) -> String {
        self.redis.key(&format!("counter:{name}"))
    }
}

#[async_trait]
impl Counter for RedisCounter {
    async fn take(&self, name: &str) -> Result<Option<u64>, CounterError> {
        let taken = self.redis.script(&self.take, &[self.key(name)], &[]).await;
        taken.map_err(failed)
    }

    async fn raise(&self, name: &str, last: u64) -> Result<(), CounterError> {
        let last = last.to_string();
        self.redis
            .script::<i64>(&self.raise, &[self.key(name)], &[&last])
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn last(&self, name: &str) -> Result<Option<u64>, CounterError> {
        let mut command = redis::cmd("GET");
        command.arg(self.key(name));
        self.redis.query(&command).await.map_err(failed)
    }
}
