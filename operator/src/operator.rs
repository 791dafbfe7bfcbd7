//! What the controllers share: caches, clients, what was told last, and how failures are waited out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use artifactdb_crds::ArtifactDB;
use artifactdb_crds::instance::ArtifactDBStatus;
use futures::StreamExt;
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;
use rand::Rng;
use thiserror::Error;

use crate::apply::{Applier, ApplyError};
use crate::engine::EngineError;
use crate::gather::Reading;
use crate::names::MANAGER;
use crate::object::ChildKind;
use crate::render::{Context, Images};
use crate::runs::Ledger;
use crate::world::{Guard, Queues, World, requests};
use crate::{instance, plugin, schedule, schema};

/// First and longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Changes that come together are acted on together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How long it is known since when a new resource waits.
const NEW: Duration = Duration::from_secs(600);
/// Longest note of an Event, in bytes.
const NOTE_MAX: usize = 1000;

#[derive(Debug, Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

pub struct Operator {
    pub world: Arc<World>,
    pub reading: Reading,
    pub applier: Applier,
    images: Images,
    recorder: Recorder,
    /// Failures in a row, by resource.
    failures: Mutex<HashMap<String, u32>>,
    /// Statuses that were written and may not have come back yet.
    statuses: Mutex<HashMap<String, (u64, ArtifactDBStatus)>>,
    /// When resources were looked at, of those that are not looked at at each change; by uid.
    looks: Mutex<HashMap<String, (Instant, Duration)>>,
    /// Since when new resources wait for something, by uid.
    waiting: Mutex<HashMap<String, Instant>>,
    /// What is known of plugins' runs, by the uid of the plugin.
    pub ledgers: Mutex<HashMap<String, Ledger>>,
    /// Resources that cannot be read and were told so.
    pub undecodable: Mutex<HashSet<String>>,
    pub reconciles: AtomicU64,
    pub failed: AtomicU64,
    status_writes: AtomicU64,
}

/// `pause`, a tenth shorter or longer: what began together shall not go on together.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.9..1.1))
}

fn version(instance: &ArtifactDB) -> u64 {
    instance
        .resource_version()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

impl Operator {
    pub fn new(world: Arc<World>, client: Client, images: Images, identity: &str) -> Self {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            world,
            reading: Reading::default(),
            applier: Applier::default(),
            images,
            recorder: Recorder::new(client, reporter),
            failures: Mutex::default(),
            statuses: Mutex::default(),
            looks: Mutex::default(),
            waiting: Mutex::default(),
            ledgers: Mutex::default(),
            undecodable: Mutex::default(),
            reconciles: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            status_writes: AtomicU64::new(0),
        }
    }

    pub fn context(&self) -> Context {
        Context {
            images: self.images.clone(),
            http_routes: self.world.knows(ChildKind::HttpRoute),
            service_monitors: self.world.knows(ChildKind::ServiceMonitor),
        }
    }

    /// Writes to the API server since this process began.
    pub fn writes(&self) -> u64 {
        self.applier.writes.load(Ordering::Relaxed) + self.status_writes.load(Ordering::Relaxed)
    }

    pub fn wrote(&self) {
        self.status_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// The status as it was written or seen last.
    pub fn known_status(&self, instance: &ArtifactDB) -> Option<ArtifactDBStatus> {
        let uid = instance.uid().unwrap_or_default();
        match self.statuses.lock().get(&uid) {
            Some((at, told)) if *at > version(instance) => Some(told.clone()),
            _ => instance.status.clone(),
        }
    }

    pub fn learn_status(&self, written: &ArtifactDB) {
        let uid = written.uid().unwrap_or_default();
        if let Some(status) = &written.status {
            self.statuses
                .lock()
                .insert(uid, (version(written), status.clone()));
        }
    }

    /// Tells people what happened. That it could not be told stops nothing.
    pub async fn event<K>(&self, about: &K, reason: &str, message: &str, bad: bool)
    where
        K: Resource<DynamicType = ()>,
    {
        let mut note = message.to_owned();
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX).rev().find(|at| note.is_char_boundary(*at));
            note.truncate(end.unwrap_or(0));
        }
        let event = Event {
            type_: if bad {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let published = self.recorder.publish(&event, &about.object_ref(&())).await;
        if let Err(error) = published {
            tracing::warn!(%error, reason, "cannot publish an event");
        }
    }

    /// How long a resource may wait that was looked at less than `pace` ago; otherwise it is its turn.
    pub fn pace(&self, uid: &str, pace: Duration) -> Option<Duration> {
        let mut looks = self.looks.lock();
        let at = looks.get(uid);
        let left = at.and_then(|(at, _)| pace.checked_sub(at.elapsed()));
        if left.is_none() {
            looks.retain(|_, (at, pace)| at.elapsed() < *pace);
            looks.insert(uid.to_owned(), (Instant::now(), pace));
        }
        left
    }

    /// How long a new resource may still wait for what will be there soon, counted from the first time;
    /// `limit` is shorter than `NEW`.
    pub fn patience(&self, uid: &str, limit: Duration) -> Option<Duration> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, since| since.elapsed() < NEW);
        let since = *waiting.entry(uid.to_owned()).or_insert_with(Instant::now);
        limit.checked_sub(since.elapsed())
    }

    /// How long to wait after a failure: longer each time in a row, and never all at once.
    fn pause(&self, key: String) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        let factor = 1_u32 << (*count - 1).min(10);
        jittered((FIRST_PAUSE * factor).min(LONGEST_PAUSE))
    }

    fn succeeded(&self, key: &str) {
        self.failures.lock().remove(key);
    }
}

fn key<K: Resource<DynamicType = ()>>(own: &K) -> String {
    let meta = own.meta();
    format!(
        "{} {}/{}",
        K::kind(&()),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// Runs one controller until its queue ends.
macro_rules! control {
    ($operator:expr, $store:ident, $queue:expr, $concurrency:expr, $reconcile:path, $kind:ty) => {{
        let operator: Arc<Operator> = $operator.clone();
        let reconcile = |own: Arc<Guard<$kind>>, operator: Arc<Operator>| {
            Box::pin(async move {
                operator.reconciles.fetch_add(1, Ordering::Relaxed);
                let key = key(&*own);
                let done = $reconcile(own, operator.clone()).await;
                if done.is_ok() {
                    operator.succeeded(&key);
                }
                done
            })
        };
        let policy = |own: Arc<Guard<$kind>>, error: &ReconcileError, operator: Arc<Operator>| {
            operator.failed.fetch_add(1, Ordering::Relaxed);
            let key = key(&*own);
            let pause = operator.pause(key.clone());
            tracing::warn!(resource = key, %error, ?pause, "cannot reconcile; trying again");
            Action::requeue(pause)
        };
        applier(
            reconcile,
            policy,
            operator.clone(),
            operator.world.$store.clone(),
            requests($queue),
            Config::default().concurrency($concurrency).debounce(DEBOUNCE),
        )
        .for_each(|_| futures::future::ready(()))
    }};
}

/// Runs all controllers, for ever. Nothing is reconciled before everything was seen once.
pub async fn control(operator: Arc<Operator>, queues: Queues, concurrency: u16) {
    operator.world.ready().await;
    tracing::info!("everything was seen; reconciling");
    tokio::join!(
        control!(
            operator,
            instances,
            queues.instances,
            concurrency,
            instance::reconcile,
            ArtifactDB
        ),
        control!(
            operator,
            schemas,
            queues.schemas,
            concurrency,
            schema::reconcile,
            artifactdb_crds::ArtifactSchema
        ),
        control!(
            operator,
            plugins,
            queues.plugins,
            concurrency,
            plugin::reconcile,
            artifactdb_crds::ArtifactPlugin
        ),
        control!(
            operator,
            schedules,
            queues.schedules,
            concurrency,
            schedule::reconcile,
            artifactdb_crds::ArtifactSchedule
        ),
    );
}
