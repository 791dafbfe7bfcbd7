//! The runs of a plugin: which of those that wait may begin, what became of those that ended, and how
//! that is counted once. Pure; who writes is `plugin`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use artifactdb_crds::plugin::{ArtifactPluginStatus, Run};

use crate::child::Child;
use crate::names::{BEGUN, EVENT, INSTANCE};

/// Runs that events start at the same time, where nobody says how many.
const TOGETHER: u32 = 4;
/// Runs that the status tells of.
const TOLD: usize = 10;

/// Where a Job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is suspended until it may begin.
    Waiting,
    Running,
    Succeeded,
    Failed,
}

pub fn phase(job: &Child) -> Phase {
    if job.condition("Complete").is_some() {
        Phase::Succeeded
    } else if job.condition("Failed").is_some() {
        Phase::Failed
    } else if job.spec.suspend == Some(true) {
        Phase::Waiting
    } else {
        Phase::Running
    }
}

/// Jobs of one instance that may begin now, the oldest first. Those that a person or a schedule
/// starts count, too: they are not asked. One that has begun and is suspended is so by a person.
pub fn admitted<'a>(jobs: &'a [Arc<Child>], instance: &str, most: Option<u32>) -> Vec<&'a Child> {
    let own = |job: &&Arc<Child>| job.label(INSTANCE) == Some(instance) && !job.leaves;
    let running = jobs
        .iter()
        .filter(own)
        .filter(|job| phase(job) == Phase::Running);
    let most = usize::try_from(most.unwrap_or(TOGETHER)).unwrap_or(usize::MAX);
    let room = most.saturating_sub(running.count());
    let mut waiting: Vec<&Child> = jobs
        .iter()
        .filter(own)
        .filter(|job| phase(job) == Phase::Waiting && job.annotation(BEGUN).is_none())
        .map(|job| &**job)
        .collect();
    waiting.sort_by_key(|job| (job.created, job.name.clone()));
    waiting.truncate(room);
    waiting
}

/// Jobs that wait for an instance that the plugin does not serve, or that is gone.
pub fn orphaned<'a>(jobs: &'a [Arc<Child>], instances: &BTreeSet<String>) -> Vec<&'a Child> {
    jobs.iter()
        .filter(|job| {
            phase(job) == Phase::Waiting
                && !job.leaves
                && !job
                    .label(INSTANCE)
                    .is_some_and(|own| instances.contains(own))
        })
        .map(|job| &**job)
        .collect()
}

/// When a Job ended, in RFC 3339 and UTC: the later text is the later time.
pub fn ended(job: &Child) -> Option<&str> {
    match phase(job) {
        Phase::Succeeded => job.status().completion_time.as_deref(),
        Phase::Failed => job.condition("Failed")?.last_transition_time.as_deref(),
        Phase::Waiting | Phase::Running => None,
    }
}

/// What is known of a plugin's runs. It begins with what the status says, and is more exact than that
/// from then on: of runs that end together, the status alone does not tell which were counted.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub succeeded: i64,
    pub failed: i64,
    /// The end of the run that ended last.
    pub through: Option<String>,
    pub started: Option<String>,
    /// Newest first.
    pub last: Vec<Run>,
    /// By uid.
    counted: HashSet<Box<str>>,
}

impl Ledger {
    /// Goes on where a former process was, as its status tells.
    pub fn restored(status: &ArtifactPluginStatus, jobs: &[Arc<Child>]) -> Self {
        let through = status.counted_through.clone();
        let before =
            |job: &&Arc<Child>| ended(job).is_some_and(|at| Some(at) <= through.as_deref());
        Self {
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            started: status.last_run_time.clone(),
            last: status.last_runs.clone(),
            counted: jobs
                .iter()
                .filter(before)
                .map(|job| job.uid.clone())
                .collect(),
            through,
        }
    }

    /// Counts what ended since, and returns the runs that are now among the last, but for what has
    /// to be asked of their pods.
    pub fn count(&mut self, jobs: &[Arc<Child>]) -> Vec<Run> {
        let there: HashSet<&str> = jobs.iter().map(|job| &*job.uid).collect();
        self.counted.retain(|uid| there.contains(&**uid));
        let mut new: Vec<Run> = Vec::new();
        for job in jobs {
            self.started = self.started.take().max(job.status().start_time.clone());
            let Some(at) = ended(job) else { continue };
            if !self.counted.insert(job.uid.clone()) {
                continue;
            }
            let succeeded = phase(job) == Phase::Succeeded;
            match succeeded {
                true => self.succeeded = self.succeeded.saturating_add(1),
                false => self.failed = self.failed.saturating_add(1),
            }
            if self.through.as_deref() < Some(at) {
                self.through = Some(at.to_owned());
            }
            new.push(Run {
                job: job.name.to_string(),
                instance: job.label(INSTANCE).unwrap_or_default().to_owned(),
                event: job.annotation(EVENT).map(str::to_owned),
                started: job.status().start_time.clone(),
                finished: Some(at.to_owned()),
                succeeded: Some(succeeded),
                exit_code: None,
                log: None,
            });
        }
        self.last.extend(new.iter().cloned());
        self.last
            .sort_by(|a, b| b.finished.cmp(&a.finished).then_with(|| a.job.cmp(&b.job)));
        self.last.truncate(TOLD);
        new.retain(|run| self.last.contains(run));
        new
    }

    /// Takes in what was asked of the pods of runs that were new.
    pub fn learn(&mut self, runs: Vec<Run>) {
        for run in runs {
            if let Some(own) = self.last.iter_mut().find(|own| own.job == run.job) {
                *own = run;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::ChildObject;
    use crate::names::{MANAGED_BY, MANAGER};
    use serde_json::json;

    fn job(name: &str, instance: &str, suspended: bool, ended: Option<(&str, &str)>) -> Arc<Child> {
        let conditions: Vec<_> = ended
            .iter()
            .map(|(kind, at)| json!({"type": kind, "status": "True", "lastTransitionTime": at}))
            .collect();
        let done = ended
            .filter(|(kind, _)| *kind == "Complete")
            .map(|(_, at)| at);
        let child = json!({
            "metadata": {"name": name, "uid": name, "labels": {MANAGED_BY: MANAGER, INSTANCE: instance}},
            "spec": {"suspend": suspended},
            "status": {"conditions": conditions, "completionTime": done},
        });
        let child: ChildObject = serde_json::from_value(child).unwrap();
        Arc::new(child.into())
    }

    fn names(jobs: &[&Child]) -> Vec<String> {
        jobs.iter().map(|job| job.name.to_string()).collect()
    }

    #[test]
    fn no_more_begin_than_there_is_room_for() {
        let jobs = [
            job("r", "a", false, None),
            job("w2", "a", true, None),
            job("w1", "a", true, None),
            job("d", "a", false, Some(("Complete", "2026-01-01T00:00:01Z"))),
            job("x", "b", true, None),
        ];
        assert_eq!(names(&admitted(&jobs, "a", Some(2))), ["w1"]);
        assert_eq!(names(&admitted(&jobs, "a", None)), ["w1", "w2"]);
        assert!(admitted(&jobs, "a", Some(1)).is_empty());
        let begun = json!({
            "metadata": {
                "labels": {MANAGED_BY: MANAGER, INSTANCE: "a"}, "annotations": {BEGUN: "true"},
            },
            "spec": {"suspend": true},
        });
        let begun: ChildObject = serde_json::from_value(begun).unwrap();
        assert!(admitted(&[Arc::new(begun.into())], "a", None).is_empty());
        let served = BTreeSet::from(["a".to_owned()]);
        assert_eq!(names(&orphaned(&jobs, &served)), ["x"]);
    }

    #[test]
    fn a_run_is_counted_once_also_by_the_next_process() {
        let one = job(
            "one",
            "a",
            false,
            Some(("Complete", "2026-01-01T00:00:01Z")),
        );
        let two = job("two", "a", false, Some(("Failed", "2026-01-01T00:00:02Z")));
        let three = job(
            "three",
            "a",
            false,
            Some(("Complete", "2026-01-01T00:00:03Z")),
        );
        let mut ledger = Ledger::default();
        // The second is seen before the first.
        assert_eq!(ledger.count(std::slice::from_ref(&two)).len(), 1);
        assert_eq!(ledger.count(&[one.clone(), two.clone()]).len(), 1);
        assert!(ledger.count(&[one.clone(), two.clone()]).is_empty());
        assert_eq!((ledger.succeeded, ledger.failed), (1, 1));
        assert_eq!(ledger.last[0].job, "two");
        let status = ArtifactPluginStatus {
            succeeded: Some(ledger.succeeded),
            failed: Some(ledger.failed),
            counted_through: ledger.through.clone(),
            last_runs: ledger.last.clone(),
            ..ArtifactPluginStatus::default()
        };
        let jobs = [one, two, three];
        let mut next = Ledger::restored(&status, &jobs);
        assert_eq!(next.count(&jobs).len(), 1);
        assert_eq!((next.succeeded, next.failed), (2, 1));
        let order: Vec<&str> = next.last.iter().map(|run| &*run.job).collect();
        assert_eq!(order, ["three", "two", "one"]);
    }
}
