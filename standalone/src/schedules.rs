//! Schedules in a process: what is due when, by the rules of the CronJob controller (Kubernetes,
//! "CronJob", concurrency policy and starting deadline), and the built-in tasks that they run.
//!
//! When each was started last is kept in the data folder: what fell into a time when nobody was here
//! is made up for, once, as a cluster does it. Plugins are containers and are not run here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use artifactdb_core::clock::Clock;
use artifactdb_core::queue::{JobStatus, Priority, Task};
use artifactdb_core::timestamp::parse_period;
use artifactdb_crds::ArtifactDB;
use artifactdb_crds::cron::Timetable;
use artifactdb_crds::read::ResourceSet;
use artifactdb_crds::schedule::{ArtifactScheduleSpec, BuiltinTask, ConcurrencyPolicy};
use artifactdb_indexer::{Indexer, purge_stale, sweep, sync_permissions};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const FILE: &str = "schedules.json";
/// Hours back in which the last time that was due is looked for, one after the other.
const LOOKS_BACK: [i64; 4] = [1, 24, 32 * 24, 366 * 24];
/// Longest sleep: the clock of a machine may be set, and a machine may be.
const SLEEP: Duration = Duration::from_secs(20);
/// Between two looks at the job of a task.
const LOOK: Duration = Duration::from_millis(200);
/// Age of marks that are purged, where the instance says nothing.
const STALE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// A schedule and how it is followed. It is told the time and says what to do.
#[derive(Debug, Clone)]
pub struct Followed {
    table: Timetable,
    policy: ConcurrencyPolicy,
    deadline: Option<SignedDuration>,
    /// When it was due last and started, or since when it is followed.
    pub last: Timestamp,
}

/// What is to be done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Start what was due at that time; and where `stops`, end the run that goes on.
    Start {
        at: Timestamp,
        stops: bool,
    },
    /// Leave out what was due at that time: its deadline has passed.
    Late(Timestamp),
}

impl Followed {
    pub fn new(spec: &ArtifactScheduleSpec, last: Timestamp) -> Result<Self, String> {
        Ok(Self {
            table: Timetable::parse(&spec.schedule, spec.time_zone.as_deref())?,
            policy: spec.concurrency_policy,
            deadline: spec
                .starting_deadline_seconds
                .map(SignedDuration::from_secs),
            last,
        })
    }

    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.table.next(now)
    }

    /// The last time after `from` and not after `now`. What is near is looked through first: a minute's
    /// schedule is not walked through for a year.
    fn latest(&self, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let next = |at: Timestamp| self.table.next(at).filter(|next| *next <= now);
        let near = LOOKS_BACK
            .into_iter()
            .map(|hours| now - SignedDuration::from_hours(hours));
        let starts = near.take_while(|start| *start > from).chain([from]);
        let first = starts.into_iter().find_map(next)?;
        std::iter::successors(Some(first), |at| next(*at)).last()
    }

    /// What is due at `now`, while a run goes on or not. Of several times that have passed, the last
    /// one counts. What may not start beside the run that goes on is due until the next one is, or
    /// its deadline passes.
    pub fn due(&mut self, now: Timestamp, active: bool) -> Due {
        let earliest = self.deadline.map(|deadline| now - deadline);
        let from = earliest.map_or(self.last, |earliest| earliest.max(self.last));
        let Some(at) = self.latest(from, now) else {
            let missed = self.table.next(self.last).filter(|missed| *missed <= now);
            if let Some(missed) = missed {
                self.last = from;
                return Due::Late(missed);
            }
            return Due::Nothing;
        };
        let stops = match (active, self.policy) {
            (true, ConcurrencyPolicy::Forbid) => return Due::Nothing,
            (true, ConcurrencyPolicy::Replace) => true,
            _ => false,
        };
        self.last = at;
        Due::Start { at, stops }
    }
}

/// A built-in task on the storages of an instance.
struct Scheduled {
    name: String,
    task: BuiltinTask,
    followed: Followed,
    runs: Vec<JoinHandle<()>>,
}

/// The schedules of an instance, and where it is kept when they ran.
pub struct Schedules {
    all: Vec<Scheduled>,
    file: PathBuf,
    clock: Arc<dyn Clock>,
    indexers: Vec<Arc<Indexer>>,
    stale: SignedDuration,
}

impl Schedules {
    /// Those of `set` for its instance; what cannot run here is said.
    pub fn of(
        set: &ResourceSet,
        data: &Path,
        clock: Arc<dyn Clock>,
        indexers: Vec<Arc<Indexer>>,
    ) -> Self {
        let now = clock.now();
        let file = data.join(FILE);
        let known = load(&file);
        let instance = set.instances.first().map(|(_, own)| own);
        let mut all = Vec::new();
        for (_, schedule) in &set.schedules {
            let spec = &schedule.spec;
            let name = schedule.metadata.name.clone().unwrap_or_default();
            if !is_for(spec, instance) {
                continue;
            }
            if let Some(plugin) = &spec.plugin {
                let plugin = &plugin.name;
                tracing::warn!(
                    schedule = name,
                    plugin,
                    "it starts a plugin, which is a container: it does nothing without a cluster"
                );
                continue;
            }
            let Some(task) = spec.task else { continue };
            if task == BuiltinTask::Snapshot {
                tracing::warn!(
                    schedule = name,
                    "snapshots are Elasticsearch's: it does nothing here; copy the data folder instead"
                );
                continue;
            }
            if spec.suspend {
                tracing::info!(schedule = name, "it is suspended");
                continue;
            }
            // `resolve` has read them all.
            let last = known.get(&name).copied().filter(|last| *last <= now);
            if let Ok(followed) = Followed::new(spec, last.unwrap_or(now)) {
                let next = followed.next(now).map(|at| at.to_string());
                tracing::info!(schedule = name, ?task, next, "scheduled");
                all.push(Scheduled {
                    name,
                    task,
                    followed,
                    runs: Vec::new(),
                });
            }
        }
        let stale = instance.and_then(|own| own.spec.retention.stale_after.as_deref());
        Self {
            all,
            file,
            clock,
            indexers,
            stale: stale.and_then(parse_period).unwrap_or(STALE),
        }
    }

    /// Follows them until `stop` is set.
    pub async fn follow(mut self, mut stop: watch::Receiver<bool>) {
        if self.all.is_empty() {
            return;
        }
        self.save();
        loop {
            let pause = self.step();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Starts what is due; returns how long nothing will be.
    fn step(&mut self) -> Duration {
        let now = self.clock.now();
        let mut changed = false;
        let mut pause = SLEEP;
        for own in &mut self.all {
            own.runs.retain(|run| !run.is_finished());
            let before = own.followed.last;
            match own.followed.due(now, !own.runs.is_empty()) {
                Due::Nothing => {}
                Due::Late(at) => {
                    tracing::warn!(schedule = own.name, %at, "its starting deadline has passed: left out");
                }
                Due::Start { at, stops } => {
                    if stops {
                        own.runs.drain(..).for_each(|run| run.abort());
                    }
                    tracing::info!(schedule = own.name, task = ?own.task, due = %at, "starting");
                    let work = run(
                        own.name.clone(),
                        own.task,
                        self.indexers.clone(),
                        self.stale,
                    );
                    own.runs.push(tokio::spawn(work));
                }
            }
            changed |= own.followed.last != before;
            let next = own.followed.next(now).map(|at| at.duration_since(now));
            if let Some(next) = next.and_then(|next| Duration::try_from(next).ok()) {
                pause = pause.min(next);
            }
            if !own.runs.is_empty() {
                // What waits for its end is due then.
                pause = pause.min(Duration::from_secs(1));
            }
        }
        if changed {
            self.save();
        }
        pause
    }

    fn save(&self) {
        let last: BTreeMap<&str, Timestamp> = self
            .all
            .iter()
            .map(|own| (&*own.name, own.followed.last))
            .collect();
        let write = || -> std::io::Result<()> {
            let next = self.file.with_extension("json.next");
            std::fs::write(&next, serde_json::to_vec_pretty(&last)?)?;
            std::fs::rename(&next, &self.file)
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "cannot keep when schedules ran; after a restart they begin anew");
        }
    }
}

fn load(file: &Path) -> BTreeMap<String, Timestamp> {
    let Ok(bytes) = std::fs::read(file) else {
        return BTreeMap::new();
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "cannot read when schedules ran; they begin anew");
        BTreeMap::new()
    })
}

fn is_for(spec: &ArtifactScheduleSpec, instance: Option<&ArtifactDB>) -> bool {
    let labels = instance.and_then(|own| own.metadata.labels.clone());
    let selector = spec.instances.as_ref();
    selector.is_none_or(|selector| selector.matches(&labels.unwrap_or_default()))
}

async fn run(name: String, task: BuiltinTask, indexers: Vec<Arc<Indexer>>, stale: SignedDuration) {
    let begun = std::time::Instant::now();
    for indexer in &indexers {
        if let Err(error) = run_on(task, indexer, stale).await {
            tracing::error!(schedule = name, ?task, "failed: {error:#}");
            return;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!(schedule = name, ?task, seconds, "done");
}

async fn run_on(task: BuiltinTask, indexer: &Indexer, stale: SignedDuration) -> anyhow::Result<()> {
    let versions = &indexer.versions;
    match task {
        BuiltinTask::Sweep => {
            sweep(versions).await?;
        }
        BuiltinTask::PurgeStale => {
            purge_stale(versions, versions.clock.now() - stale).await?;
        }
        BuiltinTask::SyncPermissions => {
            sync_permissions(indexer)
                .await
                .map_err(|error| anyhow!("{error}"))?;
        }
        // By a worker, which tells of its end as of every other.
        BuiltinTask::Reindex => {
            let task = Task::Reindex {
                projects: Vec::new(),
            };
            versions
                .queue
                .enqueue(task.clone(), Priority::Maintenance)
                .await?;
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(job) = versions.queue.job(&task).await? else {
                    return Ok(());
                };
                match job.status {
                    JobStatus::Success => return Ok(()),
                    JobStatus::Failure => bail!(job.error.unwrap_or_default()),
                    _ => {}
                }
            }
        }
        BuiltinTask::Snapshot => bail!("there is no Elasticsearch here"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn followed(spec: serde_json::Value, last: &str) -> Followed {
        let mut all = json!({"task": "sweep"});
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        Followed::new(&serde_json::from_value(all).unwrap(), last.parse().unwrap()).unwrap()
    }

    fn start(at: &str, stops: bool) -> Due {
        let at = at.parse().unwrap();
        Due::Start { at, stops }
    }

    #[test]
    fn of_times_that_have_passed_the_last_one_counts() {
        let mut own = followed(json!({"schedule": "*/10 * * * *"}), "2026-01-01T00:00:00Z");
        let due = |own: &mut Followed, now: &str, active| own.due(now.parse().unwrap(), active);
        assert_eq!(due(&mut own, "2026-01-01T00:09:59Z", false), Due::Nothing);
        assert_eq!(
            due(&mut own, "2026-01-01T00:10:00Z", false),
            start("2026-01-01T00:10:00Z", false)
        );
        assert_eq!(due(&mut own, "2026-01-01T00:10:01Z", false), Due::Nothing);
        // A lid that was shut over night.
        assert_eq!(
            due(&mut own, "2026-01-02T07:05:00Z", false),
            start("2026-01-02T07:00:00Z", false)
        );
        assert_eq!(due(&mut own, "2026-01-02T07:06:00Z", false), Due::Nothing);
    }

    #[test]
    fn a_run_that_goes_on_is_waited_for_replaced_or_left() {
        let at = "2026-01-01T00:01:00Z";
        let spec = |policy: &str| json!({"schedule": "* * * * *", "concurrencyPolicy": policy});
        for (policy, wanted) in [
            ("Allow", start(at, false)),
            ("Replace", start(at, true)),
            ("Forbid", Due::Nothing),
        ] {
            let mut own = followed(spec(policy), "2026-01-01T00:00:00Z");
            assert_eq!(own.due(at.parse().unwrap(), true), wanted, "{policy}");
        }
        // Once it has ended, what it held up begins.
        let mut own = followed(spec("Forbid"), "2026-01-01T00:00:00Z");
        assert_eq!(own.due(at.parse().unwrap(), true), Due::Nothing);
        let later = "2026-01-01T00:01:40Z".parse().unwrap();
        assert_eq!(own.due(later, false), start(at, false));
    }

    #[test]
    fn what_is_later_than_its_deadline_is_left_out() {
        let spec = json!({"schedule": "0 3 * * *", "startingDeadlineSeconds": 600});
        let mut own = followed(spec, "2026-01-01T03:00:00Z");
        let due = |own: &mut Followed, now: &str| own.due(now.parse().unwrap(), false);
        let missed = Due::Late("2026-01-02T03:00:00Z".parse().unwrap());
        assert_eq!(due(&mut own, "2026-01-02T03:10:01Z"), missed);
        assert_eq!(due(&mut own, "2026-01-02T03:10:02Z"), Due::Nothing);
        assert_eq!(
            due(&mut own, "2026-01-03T03:09:00Z"),
            start("2026-01-03T03:00:00Z", false)
        );
    }

    /// What Kubernetes does when clocks change: the hour that is left out starts nothing, the one that
    /// comes twice starts twice.
    #[test]
    fn clocks_that_change_do_what_they_do_in_kubernetes() {
        let spec = json!({"schedule": "30 2 * * *", "timeZone": "Europe/Zurich"});
        let starts = |from: &str, days: i64| -> Vec<String> {
            let mut own = followed(spec.clone(), from);
            let from: Timestamp = from.parse().unwrap();
            let steps = (1..=days * 24 * 60).map(|minute| from + SignedDuration::from_mins(minute));
            steps
                .filter_map(|now| match own.due(now, false) {
                    Due::Start { at, .. } => Some(at.to_string()),
                    _ => None,
                })
                .collect()
        };
        assert_eq!(
            starts("2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            starts("2026-10-24T00:00:00Z", 2),
            [
                "2026-10-24T00:30:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z"
            ]
        );
    }
}
