//! The door to counters that the processes of an instance share.
//!
//! A counter arranges who tries which number; the store decides who has it. One that is lost is
//! raised again to what the store tells.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the counters are unavailable: {0}")]
pub struct CounterError(pub String);

#[async_trait]
pub trait Counter: Send + Sync {
    /// Takes the number after the last one, or none where the last one is not known.
    async fn take(&self, name: &str) -> Result<Option<u64>, CounterError>;

    /// Says that `last` and what is below it are taken.
    async fn raise(&self, name: &str, last: u64) -> Result<(), CounterError>;

    /// The last number that was taken, where it is known.
    async fn last(&self, name: &str) -> Result<Option<u64>, CounterError>;
}

/// Counters of one process.
#[derive(Debug, Default)]
pub struct LocalCounter(Mutex<HashMap<String, u64>>);

impl LocalCounter {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, u64>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Counter for LocalCounter {
    async fn take(&self, name: &str) -> Result<Option<u64>, CounterError> {
        Ok(self.with(|all| {
            let last = all.get_mut(name)?;
            *last += 1;
            Some(*last)
        }))
    }

    async fn raise(&self, name: &str, last: u64) -> Result<(), CounterError> {
        self.with(|all| {
            let known = all.entry(name.to_owned()).or_insert(last);
            *known = last.max(*known);
        });
        Ok(())
    }

    async fn last(&self, name: &str) -> Result<Option<u64>, CounterError> {
        Ok(self.with(|all| all.get(name).copied()))
    }
}
