//! The door to what all processes of an instance remember together. Everything in it may be gone at
//! any moment.

use std::time::Duration;

use async_trait::async_trait;

#[async_trait]
pub trait SharedCache: Send + Sync {
    /// Keeps `value` under `name` for `life`, or as long as there is room. A failure only makes
    /// things slower, so none is told.
    async fn remember(&self, name: &str, value: &str, life: Option<Duration>);

    /// What was remembered under `name`.
    async fn recall(&self, name: &str) -> Option<String>;
}
