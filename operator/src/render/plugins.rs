//! Plugins and schedules of an instance as CronJobs. A plugin's starts nothing by itself: the event
//! dispatcher (`dispatcher`), a schedule and a person (`kubectl create job --from=cronjob/…`) start
//! its Jobs. Its pods bring a token of an account of their own, which the cluster makes for each pod
//! and the API believes for what `spec.access` says.

use artifactdb_core::plugin::variable;
use artifactdb_core::timestamp::parse_period;
use artifactdb_crds::plugin::{ArtifactPluginSpec, Run};
use artifactdb_crds::schedule::ArtifactScheduleSpec;
use artifactdb_crds::{ArtifactPlugin, ArtifactSchedule};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::index::NEVER;
use super::{Rendering, container_security, merge, pod_security, resources, template};
use crate::names::{PLUGIN, SOURCE, cron_job};
use crate::object::{ChildKind, Object};
use crate::plan::{Runs, audience};

/// Seconds that a finished Job stays: as long an event that is read again finds it.
const KEPT: u32 = 3600;
/// Seconds that a run may take, where nobody says.
const LONGEST: i64 = 3600;
/// Where a plugin finds its token, and seconds that one is good for: as short as Kubernetes allows.
/// It is made anew in time, and ends soon after the pod does.
const TOKEN_FOLDER: &str = "/var/run/secrets/artifactdb";
const TOKEN_LIFE: u32 = 600;

impl Rendering<'_> {
    pub(super) fn plugins(&self) -> Vec<Object> {
        let plan = self.plan;
        let mut objects: Vec<Object> = plan
            .plugins
            .iter()
            .flat_map(|plugin| [self.account(plugin), self.plugin(plugin)])
            .collect();
        objects.extend(self.runs());
        let schedules = plan.schedules.iter();
        objects.extend(schedules.filter_map(|(schedule, runs)| self.schedule(schedule, runs)));
        objects
    }

    fn account(&self, plugin: &ArtifactPlugin) -> Object {
        let name = cron_job(&self.plan.name(), "plugin", &plugin.name_any());
        let body = json!({"automountServiceAccountToken": false});
        self.object(ChildKind::ServiceAccount, name, "plugin", body)
    }

    pub(super) fn runs_name(&self) -> String {
        self.name("runs")
    }

    /// What became of the last runs, for the API to show: it has no right to ask Kubernetes.
    fn runs(&self) -> Option<Object> {
        let plan = self.plan;
        if plan.plugins.is_empty() {
            return None;
        }
        let own = plan.name();
        let mut data = Map::new();
        for plugin in &plan.plugins {
            let status = plugin.status.iter();
            let runs: Vec<&Run> = status
                .flat_map(|status| &status.last_runs)
                .filter(|run| run.instance == own && run.finished.is_some())
                .collect();
            data.insert(plugin.name_any(), json!(json!(runs).to_string()));
        }
        let body = json!({"data": data});
        Some(self.object(ChildKind::ConfigMap, self.runs_name(), "plugin", body))
    }

    fn plugin(&self, plugin: &ArtifactPlugin) -> Object {
        let body = json!({"spec": {
            "schedule": NEVER,
            "suspend": true,
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": self.plugin_job(plugin, &by_hand()),
        }});
        self.cron_job("plugin", &plugin.name_any(), body)
    }

    fn cron_job(&self, kind: &str, name: &str, body: Value) -> Object {
        let own = cron_job(&self.plan.name(), kind, name);
        let mut object = self.object(ChildKind::CronJob, own, kind, body);
        object.body["metadata"]["annotations"][SOURCE] = json!(format!("{kind}/{name}"));
        object
    }

    fn schedule(&self, schedule: &ArtifactSchedule, runs: &Runs) -> Option<Object> {
        let spec: &ArtifactScheduleSpec = &schedule.spec;
        let template = match runs {
            // It is among the files that the instance reads.
            Runs::Embedded => return None,
            Runs::Plugin(plugin) => {
                let reference = spec.plugin.as_ref();
                let params = reference.map(|own| own.params.clone()).unwrap_or_default();
                let said = json!({"schedule": schedule.name_any(), "params": params});
                self.plugin_job(plugin, &event("scheduled", said))
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
        Some(self.cron_job("schedule", &schedule.name_any(), body))
    }

    /// The Job of a plugin, with the event that it is given where one is known already.
    pub(super) fn plugin_job(&self, plugin: &ArtifactPlugin, event: &Value) -> Value {
        let spec: &ArtifactPluginSpec = &plugin.spec;
        let name = plugin.name_any();
        let url = format!("http://{}.{}.svc", self.plan.name(), self.plan.namespace());
        let mut env = vec![
            json!({"name": "ARTIFACTDB_URL", "value": url}),
            json!({"name": "ARTIFACTDB_INSTANCE", "value": self.plan.name()}),
            json!({"name": "ARTIFACTDB_PLUGIN", "value": name}),
            json!({"name": "ARTIFACTDB_TOKEN_FILE", "value": format!("{TOKEN_FOLDER}/token")}),
            json!({"name": "ARTIFACTDB_EVENT", "value": variable(&event.to_string())}),
        ];
        for own in &spec.env {
            env.retain(|other| other["name"] != *own.name);
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
            "volumeMounts": [
                {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": true},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        });
        if let Some(policy) = &self.context.images.pull_policy {
            container["imagePullPolicy"] = json!(policy);
        }
        if !spec.command.is_empty() {
            container["command"] = json!(spec.command);
        }
        if !spec.args.is_empty() {
            container["args"] = json!(spec.args);
        }
        let mut labels = self.labels("plugin");
        labels[PLUGIN] = json!(name);
        let ours = json!({
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": cron_job(&self.plan.name(), "plugin", &name),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "restartPolicy": "Never",
                "securityContext": pod_security(),
                "containers": [container],
                "volumes": [
                    {"name": "token", "projected": {"defaultMode": 0o444, "sources": [
                        {"serviceAccountToken": {
                            "audience": audience(&self.plan.namespace(), &self.plan.name()),
                            "expirationSeconds": TOKEN_LIFE,
                            "path": "token",
                        }},
                    ]}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            },
        });
        let mut pod = ours.clone();
        if let Some(theirs) = &spec.pod_template {
            merge(&mut pod, theirs);
            template::own(&mut pod, &ours, "plugin");
        }
        let period = spec.timeout.as_deref().and_then(parse_period);
        json!({
            "metadata": {"labels": labels},
            "spec": {
                "backoffLimit": spec.retries.unwrap_or(2),
                "activeDeadlineSeconds": period.map_or(LONGEST, |period| period.as_secs()),
                "ttlSecondsAfterFinished": KEPT,
                "template": pod,
            },
        })
    }
}

/// What a plugin is told that no event starts.
fn event(stage: &str, message: Value) -> Value {
    json!({
        "stage": stage, "project_id": null, "version": null, "message": message, "use_schema": false,
    })
}

/// What one is told that a person starts.
pub(super) fn by_hand() -> Value {
    event("requested", json!({"params": {}}))
}
