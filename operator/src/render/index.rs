//! Jobs on the index: those that a new mapping needs, and those that people start.

use artifactdb_crds::ArtifactDB;
use serde_json::{Value, json};

use super::{Rendering, resources};
use crate::object::{ChildKind, Mode, Object};
use crate::plan::{IndexJob, is_about, job_name};

/// Never: a person or a schedule starts what hangs on this.
pub(super) const NEVER: &str = "0 0 1 1 *";
/// Seconds that a finished Job stays.
const KEPT: u32 = 3600;

impl Rendering<'_> {
    pub(super) fn index(&self) -> Vec<Object> {
        let mut objects = self.tasks();
        objects.extend(self.index_job());
        objects
    }

    /// The built-in tasks, as CronJobs that start nothing by themselves:
    /// `kubectl create job --from=cronjob/<instance>-<task>` does.
    fn tasks(&self) -> Vec<Object> {
        let spec = &self.plan.instance.spec;
        let mut tasks: Vec<(&str, Vec<String>, &str, bool)> = vec![
            ("reindex", vec!["reindex".to_owned()], NEVER, true),
            ("sweep", vec!["sweep".to_owned()], NEVER, true),
            ("purge-stale", purge_stale(&self.plan.instance), NEVER, true),
        ];
        if let Some(snapshots) = &spec.snapshots {
            let command = vec![
                "snapshot".to_owned(),
                "--repository".to_owned(),
                snapshots.repository.clone(),
            ];
            let schedule = snapshots.schedule.as_deref();
            let suspended = schedule.is_none() || spec.suspend;
            tasks.push(("snapshot", command, schedule.unwrap_or(NEVER), suspended));
        }
        tasks
            .into_iter()
            .map(|(task, arguments, schedule, suspended)| {
                let mut command = vec!["/artifactdb-indexer"];
                command.extend(arguments.iter().map(String::as_str));
                let body = json!({"spec": {
                    "schedule": schedule,
                    "suspend": suspended,
                    "concurrencyPolicy": "Forbid",
                    "successfulJobsHistoryLimit": 3,
                    "failedJobsHistoryLimit": 3,
                    "jobTemplate": self.task_job(task, &command),
                }});
                self.object(ChildKind::CronJob, self.name(task), task, body)
            })
            .collect()
    }

    /// The Job of a built-in task.
    pub(super) fn task_job(&self, component: &str, command: &[&str]) -> Value {
        json!({
            "metadata": {"labels": self.labels(component)},
            "spec": {
                "backoffLimit": 2,
                "ttlSecondsAfterFinished": 86_400,
                "template": self.job_template(component, command, &self.served_schemas()),
            },
        })
    }

    /// A pod of the indexer that ends. `schemas` are names of ConfigMaps.
    fn job_template(&self, component: &str, command: &[&str], schemas: &[String]) -> Value {
        let spec = &self.plan.instance.spec;
        let mut container = self.container("indexer", self.indexer_image(), command);
        container["resources"] = resources(spec.indexer.resources.as_ref(), "50m", "64Mi", "256Mi");
        let mut template = self.pod(component, container, schemas);
        template["spec"]["restartPolicy"] = json!("Never");
        self.beside_workers(template, "indexer")
    }

    /// The Job that the wanted mapping needs now; and what is left of an earlier one for the same
    /// mapping, which has work to do after the switch.
    fn index_job(&self) -> Option<Object> {
        let plan = self.plan;
        let Some(job) = &plan.index.job else {
            return None;
        };
        let name = job_name(&plan.name(), job, plan.mapping_digits());
        let shards;
        let (component, command, parallel, completions) = match job {
            IndexJob::Rehearse => (
                "rehearse",
                vec![
                    "/artifactdb-indexer",
                    "rehearse",
                    "--result",
                    "/dev/termination-log",
                ],
                1,
                1,
            ),
            IndexJob::Reindex {
                shards: of,
                allow_failed,
            } => {
                shards = format!("$(JOB_COMPLETION_INDEX)/{of}");
                let mut command = vec!["/artifactdb-indexer", "reindex", "--shard", &*shards];
                if *allow_failed {
                    command.push("--allow-failed");
                }
                ("reindex", command, *of, *of)
            }
        };
        let body = json!({"spec": {
            "completionMode": "Indexed",
            "completions": completions,
            "parallelism": parallel,
            "backoffLimitPerIndex": 4,
            "maxFailedIndexes": 0,
            "ttlSecondsAfterFinished": KEPT,
            "template": self.job_template(component, &command, &self.wanted_schemas()),
        }});
        let mut object = self.object(ChildKind::Job, name, component, body);
        object.mode = Mode::Create;
        self.about_mapping(&mut object);
        Some(object)
    }
}

/// The command that deletes what is marked for long enough.
pub fn purge_stale(instance: &ArtifactDB) -> Vec<String> {
    let mut command = vec!["purge-stale".to_owned()];
    if let Some(age) = &instance.spec.retention.stale_after {
        command.extend(["--older-than".to_owned(), age.clone()]);
    }
    command
}

/// Whether a child that is not rendered may go. A Job does once it is about a mapping that nobody
/// wants any more; one about the wanted mapping ends by itself, and its time to live takes it away.
pub fn may_go(kind: ChildKind, child: &crate::child::Child, mapping_hash: &str) -> bool {
    if kind != ChildKind::Job {
        return true;
    }
    child.annotation(crate::names::MAPPING).is_some() && !is_about(child, mapping_hash)
}
