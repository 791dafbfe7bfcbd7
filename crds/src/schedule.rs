//! `ArtifactSchedule`: a plugin or a built-in task, run by the clock.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Conditions, InstanceSelector, conditions};

/// A plugin or a built-in task, run by the clock.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "artifactdb.io",
    version = "v1alpha1",
    kind = "ArtifactSchedule",
    plural = "artifactschedules",
    namespaced,
    shortname = "adbschedule",
    category = "artifactdb",
    status = "ArtifactScheduleStatus",
    derive = "PartialEq",
    doc = "A plugin or a built-in task, run by the clock.",
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Time Zone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last Run", type_ = "date", json_path = ".status.lastRunTime"),
    printcolumn(name = "Next Run", type_ = "string", json_path = ".status.nextRunTime"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.plugin) != has(self.task)").message("set plugin or task, one of them"))]
pub struct ArtifactScheduleSpec {
    /// Instances that it is for.
    #[serde(default)]
    pub instances: Option<InstanceSelector>,
    /// When, in the five fields of cron.
    #[x_kube(validation = Rule::new("self.startsWith('@') || size(self.trim().split(' ').filter(f, f != '')) == 5").message("a schedule has five fields: minute, hour, day of month, month, day of week"))]
    #[schemars(length(min = 1, max = 256))]
    pub schedule: String,
    /// Time zone that the schedule is read in, such as `Europe/Zurich`; absent: UTC.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Start nothing for now.
    #[serde(default)]
    pub suspend: bool,
    /// What happens when a run is due while another goes on.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Seconds after which a missed start is given up.
    #[serde(default)]
    #[schemars(range(min = 10))]
    pub starting_deadline_seconds: Option<i64>,
    /// Succeeded runs that are kept.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub successful_jobs_history_limit: Option<i32>,
    /// Failed runs that are kept.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub failed_jobs_history_limit: Option<i32>,
    /// A plugin to run.
    #[serde(default)]
    pub plugin: Option<PluginRef>,
    /// A built-in task to run.
    #[serde(default)]
    pub task: Option<BuiltinTask>,
}

/// What happens when a run is due while another goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// Both run.
    Allow,
    /// The new one is left out.
    #[default]
    Forbid,
    /// The old one is stopped.
    Replace,
}

/// A plugin and what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginRef {
    /// Name of the ArtifactPlugin.
    pub name: String,
    /// Parameters, which the plugin finds in its event.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
}

/// A built-in task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltinTask {
    /// Fill a new index from storage and switch to it.
    Reindex,
    /// Repair what was left undone, and expire what is due.
    Sweep,
    /// Take a snapshot of the index.
    Snapshot,
    /// Delete objects that are marked for deletion.
    PurgeStale,
    /// Hold the permissions of all documents to those in storage, for changes past the API.
    SyncPermissions,
}

/// What the operator sees of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactScheduleStatus {
    /// Ready.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Conditions,
    /// Generation of the spec that was last acted on.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// When it last ran, in RFC 3339.
    #[serde(default)]
    pub last_run_time: Option<String>,
    /// When it runs next, in RFC 3339.
    #[serde(default)]
    pub next_run_time: Option<String>,
}
