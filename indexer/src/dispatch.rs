//! The dispatcher: follows the log of events and starts a Job for every plugin that waits for one.
//!
//! A Job is named after its event, so that an event that is read again starts no second one, and how
//! far the log was read is kept in the store. Who dies between the two leaves events that the next
//! one reads again. Jobs are made suspended: the operator, which sees how many run, lets them begin.
//! This process may make Jobs and nothing else; making one is behind `Jobs`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::event::Event;
use artifactdb_core::keys;
use artifactdb_core::plugin::{Interest, variable};
use artifactdb_core::store::{self, Condition, StoreError};
use artifactdb_core::versions::{LogPosition, LogReader, Logged, Versions};
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

/// On a Job: the event that started it, and the stage of that.
pub const EVENT: &str = "artifactdb.io/event";
pub const STAGE: &str = "artifactdb.io/stage";
/// The container that gets the event.
pub const CONTAINER: &str = "plugin";
/// The variable in which it does.
pub const VARIABLE: &str = "ARTIFACTDB_EVENT";

/// How often it is asked whether there are events: one process of an instance does.
const ASKS: Duration = Duration::from_millis(50);
/// Jobs that are made at the same time.
const TOGETHER: usize = 16;
/// Digits of an event's id in the name of its Job.
const DIGITS: usize = 16;
/// Bytes of an event at the most; what it says beyond them is left out.
const EVENT_MAX: usize = 32 * 1024;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// How long what is read may be kept by this process alone, where it started nothing.
const KEEPS: Duration = Duration::from_secs(60);
/// How long a Job that an admission policy denies is tried for, before others go on without it.
const DENIED_LIFE: Duration = Duration::from_secs(120);

/// A plugin as it is started. The operator writes these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginJob {
    pub name: String,
    /// What the names of its Jobs begin with.
    pub prefix: String,
    /// Events from before are not its own.
    pub since: Timestamp,
    pub interest: Interest,
    /// The Job, but for its name and the event.
    pub job: Value,
}

/// Where Jobs are made.
pub trait Jobs: Send + Sync {
    /// Makes one, or finds that there is one of its name.
    fn create(&self, job: &Value) -> impl Future<Output = Result<(), JobError>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Later it may be taken: nobody answers, or there is no room.
    #[error("{0}")]
    Busy(String),
    /// Somebody's policy does not want it.
    #[error("{0}")]
    Denied(String),
    /// It will never be taken.
    #[error("{0}")]
    Refused(String),
}

/// What is kept of how far the log was read.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Dispatched {
    position: LogPosition,
    /// The plugins that got everything up to there, and since when they are.
    plugins: BTreeMap<String, Timestamp>,
}

pub struct Dispatcher<J> {
    versions: Arc<Versions>,
    /// The storage that this is about, unless that is the default.
    storage: Option<String>,
    plugins: Vec<PluginJob>,
    jobs: J,
    /// Plugins whose Jobs are denied: no later one is waited for, or every one of a burst would hold up
    /// all other plugins.
    denied: Mutex<BTreeSet<String>>,
}

impl<J: Jobs> Dispatcher<J> {
    pub fn new(
        versions: Arc<Versions>,
        storage: Option<String>,
        plugins: Vec<PluginJob>,
        jobs: J,
    ) -> Self {
        Self {
            versions,
            storage,
            plugins,
            jobs,
            denied: Mutex::default(),
        }
    }

    /// Dispatches until `stop` is set. A server that is away is waited for.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let work = async {
            let mut pause = PAUSE_FIRST;
            loop {
                let begun = Instant::now();
                // It ends by an error alone: a store that is away, or another dispatcher.
                if let Err(error) = self.follow().await {
                    tracing::warn!(%error, "cannot follow the log of events; trying again");
                }
                if begun.elapsed() > PAUSE_MAX {
                    pause = PAUSE_FIRST;
                }
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn follow(&self) -> Result<(), StoreError> {
        let (mut known, mut etag) = self.known().await?;
        self.catch_up(&mut known).await?;
        etag = self.keep(&known, etag).await?;
        let mut kept = Instant::now();
        let all: Vec<&PluginJob> = self.plugins.iter().collect();
        let mut reader =
            LogReader::restored(self.versions.clone(), known.position.clone()).asking(ASKS);
        loop {
            let events = reader.next().await?;
            let started = self.dispatch(&events, &all).await;
            known.position = reader.position().clone();
            // What starts nothing may be read again.
            if started > 0 || kept.elapsed() > KEEPS {
                etag = self.keep(&known, etag).await?;
                kept = Instant::now();
            }
        }
    }

    async fn known(&self) -> Result<(Dispatched, Option<String>), StoreError> {
        let found = store::get_json::<Dispatched>(&*self.versions.store, keys::DISPATCHED).await;
        match found {
            Ok(Some((known, etag))) => Ok((known, Some(etag))),
            Ok(None) => Ok((self.unread(), None)),
            // Everything is read again from where the plugins began: their Jobs have their names.
            Err(StoreError::Damaged { key, problem }) => {
                tracing::error!(key, problem, "reading the log of events from the beginning");
                let etag = self.versions.store.get(keys::DISPATCHED, None).await?;
                Ok((self.unread(), etag.map(|own| own.etag)))
            }
            Err(error) => Err(error),
        }
    }

    /// Where to begin where nobody has.
    fn unread(&self) -> Dispatched {
        let first = self.plugins.iter().map(|own| own.since).min();
        Dispatched {
            position: LogPosition::at(first.unwrap_or_else(|| self.versions.clock.now())),
            plugins: self.since(),
        }
    }

    fn since(&self) -> BTreeMap<String, Timestamp> {
        let since = self.plugins.iter().map(|own| (own.name.clone(), own.since));
        since.collect()
    }

    /// Gives plugins that are new what happened between their beginning and now: whoever dispatched
    /// then did not know of them.
    async fn catch_up(&self, known: &mut Dispatched) -> Result<(), StoreError> {
        let all = self.since();
        let new: Vec<&PluginJob> = self
            .plugins
            .iter()
            .filter(|own| known.plugins.get(&own.name) != Some(&own.since))
            .collect();
        if let Some(first) = new.iter().map(|own| own.since).min() {
            let position = LogPosition::at(first);
            let mut reader = LogReader::restored(self.versions.clone(), position);
            loop {
                let events = reader.look().await?;
                self.dispatch(&events, &new).await;
                if reader.is_at_end() {
                    break;
                }
            }
        }
        known.plugins = all;
        Ok(())
    }

    async fn keep(
        &self,
        known: &Dispatched,
        etag: Option<String>,
    ) -> Result<Option<String>, StoreError> {
        let condition = match etag {
            Some(etag) => Condition::IfMatch(etag),
            None => Condition::IfAbsent,
        };
        let put =
            store::put_json(&*self.versions.store, keys::DISPATCHED, known, condition).await?;
        Ok(Some(put.etag))
    }

    /// Starts what waits for these events; returns once every Job is there, or will never be, how many
    /// they are.
    async fn dispatch(&self, events: &[Logged], plugins: &[&PluginJob]) -> usize {
        let wanted = events.iter().flat_map(|logged| {
            plugins
                .iter()
                .filter(|plugin| {
                    logged.event.time >= plugin.since
                        && plugin.interest.matches(&plugin.name, &logged.event)
                })
                .map(|plugin| (*plugin, &logged.event))
        });
        let started = futures::stream::iter(wanted)
            .map(|(plugin, event)| self.start(plugin, event))
            .buffer_unordered(TOGETHER);
        started.count().await
    }

    async fn start(&self, plugin: &PluginJob, event: &Event) {
        let job = self.job(plugin, event);
        let (name, event) = (&plugin.name, &event.id);
        let begun = Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            match self.jobs.create(&job).await {
                Ok(()) => {
                    self.denied.lock().remove(name);
                    tracing::debug!(plugin = name, event, "started");
                    return;
                }
                Err(JobError::Refused(reason)) => {
                    tracing::error!(plugin = name, event, reason, "its Job is refused; left out");
                    return;
                }
                Err(JobError::Denied(reason))
                    if begun.elapsed() > DENIED_LIFE || self.denied.lock().contains(name) =>
                {
                    self.denied.lock().insert(name.clone());
                    tracing::error!(plugin = name, event, reason, "its Job is denied; left out");
                    return;
                }
                Err(JobError::Busy(reason) | JobError::Denied(reason)) => {
                    tracing::warn!(
                        plugin = name,
                        event,
                        reason,
                        "cannot make its Job; trying again"
                    );
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The Job of an event.
    pub fn job(&self, plugin: &PluginJob, event: &Event) -> Value {
        let mut job = plugin.job.clone();
        let storage = self.storage.as_deref();
        job["metadata"]["name"] = json!(job_name(&plugin.prefix, storage, &event.id));
        job["metadata"]["annotations"][EVENT] = json!(event.id);
        job["metadata"]["annotations"][STAGE] = json!(event.stage);
        let containers = job
            .pointer_mut("/spec/template/spec/containers")
            .and_then(Value::as_array_mut);
        let own = containers
            .into_iter()
            .flatten()
            .find(|own| own["name"] == CONTAINER);
        if let Some(env) = own.and_then(|own| own["env"].as_array_mut()) {
            env.retain(|variable| variable["name"] != VARIABLE);
            env.push(json!({"name": VARIABLE, "value": text(event)}));
            if let Some(storage) = storage {
                env.push(json!({"name": "ARTIFACTDB_STORAGE", "value": storage}));
            }
        }
        job
    }
}

/// An event as a plugin gets it.
fn text(event: &Event) -> String {
    let mut text = json!(event).to_string();
    if text.len() > EVENT_MAX {
        let short = Event {
            message: json!({"truncated": true}),
            ..event.clone()
        };
        text = json!(short).to_string();
    }
    variable(&text)
}

/// The same for the same event, and another for every other. Two storages may know events of one id.
fn job_name(prefix: &str, storage: Option<&str>, event: &str) -> String {
    let digits = match storage {
        None => event.to_owned(),
        Some(storage) => {
            let digest = Sha256::digest(format!("{storage}\n{event}"));
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        }
    };
    format!("{prefix}-{}", digits.get(..DIGITS).unwrap_or(&digits))
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifactdb_core::event::EventStage;

    #[test]
    fn names_of_jobs_tell_events_and_storages_apart() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            job_name("a-plugin-b", None, id),
            "a-plugin-b-0123456789abcdef"
        );
        let other = job_name("a-plugin-b", Some("archive"), id);
        assert_ne!(other, job_name("a-plugin-b", None, id));
        assert_eq!(other.len(), "a-plugin-b-".len() + DIGITS);
    }

    #[test]
    fn what_an_event_says_is_no_variable_of_kubernetes_and_has_an_end() {
        let said = |message: Value| {
            let event =
                Event::of_instance(EventStage::Requested, "1", Timestamp::UNIX_EPOCH, message);
            text(&event)
        };
        assert!(said(json!({"a": "$(HOME)"})).contains("$$(HOME)"));
        let long = said(json!({"a": "x".repeat(EVENT_MAX)}));
        assert!(long.len() < 1000 && long.contains("truncated"));
    }
}
