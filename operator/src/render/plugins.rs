//! Plugins and schedules of an instance as CronJobs. A plugin's starts nothing by itself: the event
//! dispatcher, a schedule and a person (`kubectl create job --from=cronjob/…`) start its Jobs.

use artifactdb_core::timestamp::parse_period;
use artifactdb_crds::plugin::ArtifactPluginSpec;
use artifactdb_crds::schedule::ArtifactScheduleSpec;
use artifactdb_crds::{ArtifactPlugin, ArtifactSchedule};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::index::NEVER;
use super::{Rendering, container_security, merge, pod_security, resources, template};
use crate::names::{SOURCE, cron_job};
use crate::object::{ChildKind, Object};
use crate::plan::Runs;

/// Seconds that a finished Job stays.
const KEPT: u32 = 86_400;

impl Rendering<'_> {
    pub(super) fn plugins(&self) -> Vec<Object> {
        let plan = self.plan;
        let mut objects: Vec<Object> = plan
            .plugins
            .iter()
            .map(|plugin| self.plugin(plugin))
            .collect();
        let schedules = plan.schedules.iter();
        objects.extend(schedules.map(|(schedule, runs)| self.schedule(schedule, runs)));
        objects
    }

    fn plugin(&self, plugin: &ArtifactPlugin) -> Object {
        let body = json!({"spec": {
            "schedule": NEVER,
            "suspend": true,
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": self.plugin_job(plugin, None),
        }});
        self.cron_job("plugin", &plugin.name_any(), body)
    }

    fn cron_job(&self, kind: &str, name: &str, body: Value) -> Object {
        let own = cron_job(&self.plan.name(), kind, name);
        let mut object = self.object(ChildKind::CronJob, own, kind, body);
        object.body["metadata"]["annotations"][SOURCE] = json!(format!("{kind}/{name}"));
        object
    }

    fn schedule(&self, schedule: &ArtifactSchedule, runs: &Runs) -> Object {
        let spec: &ArtifactScheduleSpec = &schedule.spec;
        let template = match runs {
            Runs::Plugin(plugin) => {
                let reference = spec.plugin.as_ref();
                let params = reference.map(|own| own.params.clone()).unwrap_or_default();
                let event = json!({
                    "event": "scheduled", "schedule": schedule.name_any(), "params": params,
                });
                self.plugin_job(plugin, Some(event))
            }
            Runs::Task(arguments) => {
                let mut command = vec!["/artifactdb-indexer"];
                command.extend(arguments.iter().map(String::as_str));
                self.task_job("schedule", &command)
            }
        };
        let mut body = json!({"spec": {
            "schedule": spec.schedule,
            "suspend": spec.suspend || self.plan.instance.spec.suspend,
            "concurrencyPolicy": spec.concurrency_policy,
            "successfulJobsHistoryLimit": spec.successful_jobs_history_limit.unwrap_or(3),
            "failedJobsHistoryLimit": spec.failed_jobs_history_limit.unwrap_or(3),
            "jobTemplate": template,
        }});
        if let Some(zone) = &spec.time_zone {
            body["spec"]["timeZone"] = json!(zone);
        }
        if let Some(seconds) = spec.starting_deadline_seconds {
            body["spec"]["startingDeadlineSeconds"] = json!(seconds);
        }
        self.cron_job("schedule", &schedule.name_any(), body)
    }

    /// The Job of a plugin, with the event that it is given where one is known already.
    fn plugin_job(&self, plugin: &ArtifactPlugin, event: Option<Value>) -> Value {
        let spec: &ArtifactPluginSpec = &plugin.spec;
        let mut env = vec![
            json!({"name": "ARTIFACTDB_URL", "value": format!(
                "http://{}.{}.svc", self.plan.name(), self.plan.namespace()
            )}),
            json!({"name": "ARTIFACTDB_INSTANCE", "value": self.plan.name()}),
        ];
        if let Some(event) = event {
            env.push(json!({"name": "ARTIFACTDB_EVENT", "value": event.to_string()}));
        }
        for own in &spec.env {
            env.push(match &own.secret_key_ref {
                Some(reference) => json!({"name": own.name, "valueFrom": {"secretKeyRef": {
                    "name": reference.name, "key": reference.key,
                }}}),
                None => json!({"name": own.name, "value": own.value.clone().unwrap_or_default()}),
            });
        }
        let mut container = json!({
            "name": "plugin",
            "image": spec.image,
            "env": env,
            "resources": resources(spec.resources.as_ref(), "50m", "64Mi", "512Mi"),
            "securityContext": container_security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        if !spec.command.is_empty() {
            container["command"] = json!(spec.command);
        }
        if !spec.args.is_empty() {
            container["args"] = json!(spec.args);
        }
        let ours = json!({
            "metadata": {"labels": self.labels("plugin")},
            "spec": {
                "serviceAccountName": self.name(""),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "restartPolicy": "Never",
                "securityContext": pod_security(),
                "containers": [container],
            },
        });
        let mut pod = ours.clone();
        if let Some(theirs) = &spec.pod_template {
            merge(&mut pod, theirs);
            template::own(&mut pod, &ours, "plugin");
        }
        let mut job = json!({
            "backoffLimit": spec.retries.unwrap_or(2),
            "ttlSecondsAfterFinished": KEPT,
            "template": pod,
        });
        if let Some(period) = spec.timeout.as_deref().and_then(parse_period) {
            job["activeDeadlineSeconds"] = json!(period.as_secs());
        }
        json!({"metadata": {"labels": self.labels("plugin")}, "spec": job})
    }
}
