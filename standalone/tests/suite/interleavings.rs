//! The protocol on a fake clock, with writers that pause, die and come back at random between any
//! two steps, leases that expire and are lost, and replayed tasks: DESIGN's invariants I1 to I3.
//!
//! The object store is an in-memory one with the conditional writes of S3; every call of it is a
//! point where the writer may be held up for a random time, or die.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use artifactdb::lease::EmbeddedLease;
use artifactdb::queue::EmbeddedQueue;
use artifactdb_core::clock::Clock;
use artifactdb_core::counter::LocalCounter;
use artifactdb_core::event::{Event, EventStage};
use artifactdb_core::head::Head;
use artifactdb_core::id::{FilePath, Project, Version};
use artifactdb_core::keys;
use artifactdb_core::lease::{Lease, LeaseKey};
use artifactdb_core::permissions::PermissionsPatch;
use artifactdb_core::queue::{Queue, Task};
use artifactdb_core::state::{Promise, Stage};
use artifactdb_core::store::{Condition, Listed, Object, ObjectRef, Store, StoreError, Written};
use artifactdb_core::versions::{Rules, UploadTerms, Versions, WriteError};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::harness::md5_hex;

/// The runtime's paused clock: time passes only when everybody waits.
struct FakeClock(Instant);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        start + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

/// One version of an object: its number, bytes and date.
type Stored = (u64, Bytes, Timestamp);

/// Objects with versions and conditional writes; every call may be held up or die with its writer.
struct MemoryStore {
    objects: Mutex<BTreeMap<String, Vec<Stored>>>,
    sequence: AtomicU64,
    clock: Arc<FakeClock>,
    random: Mutex<StdRng>,
}

/// Marks the death of a writer: it unwinds to the top and is never heard of again.
const DEATH: &str = "the writer died";

impl MemoryStore {
    async fn step(&self) -> Result<(), StoreError> {
        let roll: u32 = self.random.lock().random_range(0..1000);
        if roll < 12 {
            return Err(StoreError::Unavailable(DEATH.to_owned()));
        }
        let millis = match roll {
            // Held up for long: leases expire and deadlines pass meanwhile.
            12..40 => self.random.lock().random_range(1_000..60_000),
            _ => self.random.lock().random_range(0..20),
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(())
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", md5_hex(bytes))
}

#[async_trait]
impl Store for MemoryStore {
    fn bucket(&self) -> &str {
        "memory"
    }

    async fn get(&self, key: &str, version_id: Option<&str>) -> Result<Option<Object>, StoreError> {
        self.step().await?;
        let objects = self.objects.lock();
        let versions = objects.get(key);
        let found = versions.and_then(|versions| match version_id {
            None => versions.last(),
            Some(id) => versions
                .iter()
                .find(|(sequence, ..)| sequence.to_string() == id),
        });
        Ok(found.map(|(sequence, bytes, at)| Object {
            bytes: bytes.clone(),
            etag: etag(bytes),
            version_id: Some(sequence.to_string()),
            last_modified: *at,
        }))
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Written, StoreError> {
        self.step().await?;
        let written = {
            let mut objects = self.objects.lock();
            let current = objects
                .get(key)
                .and_then(|versions| versions.last())
                .map(|(_, bytes, _)| etag(bytes));
            let holds = match &condition {
                Condition::Always => true,
                Condition::IfAbsent => current.is_none(),
                Condition::IfMatch(wanted) => current.as_ref() == Some(wanted),
            };
            if !holds {
                return Err(StoreError::Conflict);
            }
            let sequence = self.sequence.fetch_add(1, Ordering::SeqCst);
            let tag = etag(&bytes);
            objects
                .entry(key.to_owned())
                .or_default()
                .push((sequence, bytes, self.clock.now()));
            Written {
                etag: tag,
                version_id: Some(sequence.to_string()),
            }
        };
        // The write may have happened and the writer may die before it hears of it.
        self.step().await?;
        Ok(written)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.step().await?;
        let objects = self.objects.lock();
        let listed = objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        Ok(listed
            .filter_map(|(key, versions)| {
                let (sequence, bytes, at) = versions.last()?;
                Some(Listed {
                    key: key.clone(),
                    size: bytes.len() as u64,
                    etag: etag(bytes),
                    version_id: Some(sequence.to_string()),
                    last_modified: *at,
                })
            })
            .collect())
    }

    async fn list_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let listed = self.list(prefix).await?.into_iter();
        let follows = |own: &Listed| after.is_none_or(|after| *own.key > *after);
        Ok(listed.filter(follows).take(most).collect())
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = self
            .objects
            .lock()
            .keys()
            .filter_map(|key| key.strip_prefix(prefix)?.split_once('/'))
            .map(|(name, _)| name.to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, wanted: &[ObjectRef]) -> Result<(), StoreError> {
        self.step().await?;
        let mut objects = self.objects.lock();
        for object in wanted {
            match &object.version_id {
                None => {
                    objects.remove(&object.key);
                }
                Some(id) => {
                    if let Some(versions) = objects.get_mut(&object.key) {
                        versions.retain(|(sequence, ..)| sequence.to_string() != *id);
                        if versions.is_empty() {
                            objects.remove(&object.key);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn presign_get(&self, key: &str, _: Option<&str>, _: Timestamp, _: u64) -> String {
        key.to_owned()
    }

    fn presign_put(&self, key: &str, _: Option<&str>, _: Timestamp, _: u64) -> String {
        key.to_owned()
    }
}

/// What the outside saw.
#[derive(Default)]
struct History {
    /// Acknowledged completions: version → (writer, revision).
    acknowledged: BTreeMap<Version, (usize, u64)>,
    /// Contents that were visible in a published version at some time.
    seen: BTreeMap<Version, Bytes>,
}

pub(crate) struct World {
    pub(crate) versions: Arc<Versions>,
    store: Arc<MemoryStore>,
    lease: Arc<EmbeddedLease>,
    queue: Arc<EmbeddedQueue>,
    clock: Arc<FakeClock>,
    history: Mutex<History>,
    project: Project,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let clock = Arc::new(FakeClock(Instant::now()));
        let store = Arc::new(MemoryStore {
            objects: Mutex::default(),
            sequence: AtomicU64::new(1),
            clock: clock.clone(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let lease = Arc::new(EmbeddedLease::new(clock.clone()));
        let queue = Arc::new(EmbeddedQueue::new(clock.clone()));
        let versions = Versions::new(
            store.clone(),
            lease.clone(),
            queue.clone(),
            Arc::new(LocalCounter::default()),
            clock.clone(),
            Rules::default(),
        );
        Self {
            versions: Arc::new(versions),
            store,
            lease,
            queue,
            clock,
            history: Mutex::default(),
            project: Project::new("P").unwrap(),
        }
    }

    /// A writer tries one version after another, with content of its own.
    async fn writer(&self, number: usize, names: &[Version]) {
        for version in names {
            match self.write(number, version).await {
                Ok(())
                | Err(
                    WriteError::Exists { .. }
                    | WriteError::Locked(_)
                    | WriteError::Superseded { .. }
                    | WriteError::Refused(_)
                    | WriteError::NotFound,
                ) => {}
                Err(error) if error.to_string().contains(DEATH) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn write(&self, number: usize, version: &Version) -> Result<(), WriteError> {
        let content = Bytes::from(format!("writer {number}"));
        let path = FilePath::new("a.txt").unwrap();
        let promise = Promise {
            files: [(path.clone(), Some(md5_hex(&content)))].into(),
            links: BTreeMap::new(),
            ..Promise::default()
        };
        let deadline = self.clock.now() + SignedDuration::from_secs(30);
        let terms = UploadTerms {
            owner: format!("w{number}"),
            deadline,
            expires_at: None,
            promise,
        };
        let begun = self.versions.begin(&self.project, version, terms).await?;
        self.store
            .put(
                &keys::file_in(&self.project, version, &path),
                content,
                Condition::Always,
            )
            .await?;
        if number.is_multiple_of(7) {
            return self
                .versions
                .abort(&self.project, version, Some(begun.epoch))
                .await;
        }
        let completed = self
            .versions
            .complete(
                &self.project,
                version,
                Some(begun.epoch),
                None,
                &PermissionsPatch::default(),
                false,
            )
            .await?;
        let mut history = self.history.lock();
        let before = history
            .acknowledged
            .insert(version.clone(), (number, completed.revision));
        assert!(
            before.is_none(),
            "I2: '{version}' was published twice: {before:?} and {number}"
        );
        Ok(())
    }

    /// Does tasks as the indexer would, twice now and then, and looks at what readers see.
    async fn worker(&self) {
        loop {
            let Ok(delivery) = self.queue.next().await else {
                return;
            };
            let outcome = self.perform(&delivery.task).await;
            let again: u32 = self.store.random.lock().random_range(0..4);
            if again == 0 {
                let _ = self.perform(&delivery.task).await;
            }
            match outcome {
                Ok(()) => self
                    .queue
                    .finish(&delivery, Ok(serde_json::json!(null)))
                    .await
                    .unwrap(),
                // A dead worker never answers; the sweeper finds its task.
                Err(_) => self
                    .queue
                    .finish(&delivery, Err("dead".to_owned()))
                    .await
                    .unwrap(),
            }
        }
    }

    async fn perform(&self, task: &Task) -> Result<(), WriteError> {
        match task {
            Task::Index {
                project,
                version,
                epoch,
            } => {
                let Some((state, _)) = self.versions.state(project, version).await? else {
                    return Ok(());
                };
                if state.epoch == *epoch && state.stage.is_published() {
                    self.versions.settle(project, version, &state).await?;
                    self.look(version).await?;
                    self.versions.published(project, version, *epoch, 1).await?;
                }
                Ok(())
            }
            Task::Remove {
                project,
                version,
                epoch,
            } => {
                self.versions.remove_files(project, version, *epoch).await?;
                self.versions.tell(project).await.map(|_| ())
            }
            Task::Permissions { .. }
            | Task::Reindex { .. }
            | Task::Snapshot { .. }
            | Task::PurgeStale { .. }
            | Task::SyncPermissions => Ok(()),
        }
    }

    /// The dust settles: deadlines pass, and the sweeper is given the time it needs.
    async fn settle(&self) {
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            let _ = self.versions.recover(&self.project).await;
            let head = self.versions.head(&self.project).await;
            if self.queue.depth().await.unwrap() == (0, 0)
                && head.is_ok_and(|head| {
                    head.is_none_or(|head| head.pending.is_empty() && head.events.is_empty())
                })
            {
                break;
            }
        }
    }

    /// I3: what a published version holds never changes.
    async fn look(&self, version: &Version) -> Result<(), WriteError> {
        let Some((state, _)) = self.versions.state(&self.project, version).await? else {
            return Ok(());
        };
        let Some(id) = state.published().and_then(|state| state.manifest.clone()) else {
            return Ok(());
        };
        let manifest = self.versions.manifest(&self.project, version, &id).await?;
        for (path, entry) in &manifest.files {
            let key = keys::file_in(&self.project, version, path);
            let object = self.store.get(&key, entry.version_id.as_deref()).await?;
            let bytes = object
                .unwrap_or_else(|| panic!("I3: a file of published '{version}' is gone"))
                .bytes;
            let mut history = self.history.lock();
            let before = history
                .seen
                .entry(version.clone())
                .or_insert_with(|| bytes.clone());
            assert_eq!(*before, bytes, "I3: '{version}' changed");
        }
        Ok(())
    }
}

async fn run(seed: u64) -> usize {
    let world = Arc::new(World::new(seed));
    let names: Vec<Version> = (0..3)
        .map(|n| Version::new(format!("v{n}")).unwrap())
        .collect();
    let mut random = StdRng::seed_from_u64(seed);
    let worker = tokio::spawn({
        let world = world.clone();
        async move { world.worker().await }
    });
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let (world, names) = (world.clone(), names.clone());
            tokio::spawn(async move { world.writer(number, &names).await })
        })
        .collect();
    // Meanwhile the sweeper runs, leases are lost, and people force locks off.
    let mut running = writers;
    while !running.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(random.random_range(1..3_000))).await;
        let version = &names[random.random_range(0..names.len())];
        match random.random_range(0..4) {
            0 => {
                world
                    .lease
                    .expire(&LeaseKey::version(&world.project, version))
                    .await
                    .unwrap();
            }
            1 => {
                let _ = world.versions.recover(&world.project).await;
            }
            _ => {
                let _ = world.look(version).await;
            }
        }
    }
    for writer in running.drain(..) {
        writer.await.unwrap();
    }
    world.settle().await;
    worker.abort();
    check(&world, &names).await
}

async fn calm<T>(mut read: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    loop {
        if let Ok(value) = read().await {
            return value;
        }
    }
}

async fn check(world: &World, names: &[Version]) -> usize {
    let head = calm(async || world.versions.head(&world.project).await)
        .await
        .unwrap_or_default();
    assert!(
        head.pending.is_empty(),
        "unfinished work stays: {:?}",
        head.pending
    );
    let history = std::mem::take(&mut *world.history.lock());
    for (version, (writer, revision)) in &history.acknowledged {
        let state = calm(async || world.versions.state(&world.project, version).await).await;
        let state = state.unwrap_or_else(|| panic!("I1: '{version}' is lost")).0;
        assert_eq!(
            state.stage,
            Stage::Indexed,
            "I1: '{version}' of writer {writer} was acknowledged"
        );
        assert_eq!(
            head.revisions.get(revision).map(|(owner, _)| owner),
            Some(version),
            "I2: revision {revision}"
        );
        let seen = history.seen.get(version).map(|bytes| bytes.to_vec());
        assert_eq!(
            seen,
            Some(format!("writer {writer}").into_bytes()),
            "I3: '{version}'"
        );
    }
    // Every revision up to the last belongs to one version, and every published version has one.
    let owners: BTreeSet<&Version> = head.revisions.values().map(|(owner, _)| owner).collect();
    assert_eq!(
        owners.len(),
        head.revisions.len(),
        "I2: a version has two revisions"
    );
    let numbers: Vec<u64> = head.revisions.keys().copied().collect();
    assert_eq!(
        numbers,
        (1..=head.revision).collect::<Vec<_>>(),
        "I2: revisions are consecutive"
    );
    for version in names {
        let state = calm(async || world.versions.state(&world.project, version).await).await;
        let published = state.is_some_and(|(state, _)| state.stage.is_published());
        assert_eq!(published, owners.contains(version), "I2: '{version}'");
    }
    check_events(world, &head, names).await;
    history.acknowledged.len()
}

/// Every transition is told, and none twice: what stands in the log under two names has one id.
async fn check_events(world: &World, head: &Head, names: &[Version]) {
    assert!(head.events.is_empty(), "untold: {:?}", head.events);
    let mut told: BTreeMap<String, Event> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = calm(async || world.versions.events_after(after.as_deref(), 7).await).await;
        for logged in page.events {
            let known = told.insert(logged.event.id.clone(), logged.event.clone());
            assert!(
                known.is_none_or(|known| known == logged.event),
                "{logged:?}"
            );
        }
        after = page.last;
        if !page.more {
            break;
        }
    }
    let count = |version: &Version, stage| {
        let fits = |own: &&Event| own.version.as_ref() == Some(version) && own.stage == stage;
        told.values().filter(fits).count()
    };
    for version in names {
        let published = head.revisions.values().any(|(own, _)| own == version);
        for stage in [
            EventStage::Uploaded,
            EventStage::Completed,
            EventStage::Indexed,
        ] {
            let wanted = usize::from(published);
            assert_eq!(count(version, stage), wanted, "{stage:?} of '{version}'");
        }
        // What was given up was deleted afterwards, and nothing else was.
        let purged = count(version, EventStage::Purged);
        assert_eq!(count(version, EventStage::Deleted), purged, "'{version}'");
        assert_eq!(
            count(version, EventStage::Expired),
            0,
            "'{version}' is to stay"
        );
    }
    let created = told
        .values()
        .filter(|own| own.stage == EventStage::Created)
        .count();
    assert_eq!(created, usize::from(head.revision > 0), "the project");
}

/// Versions are deleted by somebody who may die in the middle of it: each stays whole, or goes whole.
async fn run_removal(seed: u64) -> usize {
    let world = Arc::new(World::new(seed));
    let names: Vec<Version> = (0..3)
        .map(|n| Version::new(format!("v{n}")).unwrap())
        .collect();
    let worker = tokio::spawn({
        let world = world.clone();
        async move { world.worker().await }
    });
    for writer in 1..4 {
        world.writer(writer, &names).await;
        world.settle().await;
    }
    let indexed = async |version: &Version| {
        let state = calm(async || world.versions.state(&world.project, version).await).await;
        state.is_some_and(|(state, _)| state.stage == Stage::Indexed)
    };
    let mut before = Vec::new();
    for version in &names {
        if indexed(version).await {
            before.push(version.clone());
        }
    }
    // The newest first: what is latest falls back.
    for version in before.iter().rev().take(2) {
        let _ = world.versions.remove(&world.project, version).await;
    }
    world.settle().await;
    worker.abort();
    let head = calm(async || world.versions.head(&world.project).await)
        .await
        .unwrap_or_default();
    assert!(head.pending.is_empty(), "work stays: {:?}", head.pending);
    let mut removed = 0;
    let mut newest = None;
    for version in &before {
        let stays = indexed(version).await;
        removed += usize::from(!stays);
        let numbered = head.revisions.iter().find(|(_, (own, _))| own == version);
        assert_eq!(stays, numbered.is_some(), "the revision of '{version}'");
        newest = newest.max(numbered.map(|(number, _)| *number));
        let prefix = keys::version_prefix(&world.project, version);
        let files = calm(async || world.store.list(&prefix).await).await;
        let files = files
            .iter()
            .filter(|own| keys::path_below(&prefix, &own.key).is_some());
        assert_eq!(stays, files.count() > 0, "the files of '{version}'");
    }
    assert_eq!(
        head.latest.map(|own| own.revision),
        newest,
        "what is latest"
    );
    removed
}

#[test]
fn a_deletion_leaves_nothing_half_deleted() {
    let (removed, runs) = seeds(run_removal);
    assert!(
        removed as u64 > runs / 4,
        "hardly anything was removed: {removed}"
    );
}

#[test]
fn invariants_hold_under_random_interleavings() {
    let (acknowledged, runs) = seeds(run);
    assert!(
        acknowledged as u64 > runs / 4,
        "hardly anything was written: {acknowledged}"
    );
}

/// The sum of what the runs of many seeds count, and how many runs.
pub(crate) fn seeds<F: Future<Output = usize>>(run: impl Fn(u64) -> F) -> (usize, u64) {
    let first: u32 = std::env::var("ARTIFACTDB_TEST_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(rand::random);
    let count: u64 = std::env::var("ARTIFACTDB_TEST_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(400);
    println!("seeds {first} and the {count} that follow");
    let mut counted = 0;
    for seed in (0..count).map(|n| u64::from(first) + n) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(3600), run(seed))
                    .await
                    .expect("the run does not end")
            })
        }));
        match outcome {
            Ok(count) => counted += count,
            Err(cause) => {
                println!("seed {seed} breaks an invariant");
                std::panic::resume_unwind(cause);
            }
        }
    }
    println!("{count} runs, {counted} versions");
    (counted, count)
}
