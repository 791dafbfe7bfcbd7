//! `ArtifactPlugin`: a container that reacts to an instance.

use artifactdb_core::event::EventStage;
use artifactdb_core::plugin::{Grants, Interest, PluginConfig, Projects};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::{Conditions, EnvVar, InstanceSelector, Resources, any_object, conditions};

/// A container that is run on events of an instance, on a schedule, or by hand.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "artifactdb.io",
    version = "v1alpha1",
    kind = "ArtifactPlugin",
    plural = "artifactplugins",
    namespaced,
    shortname = "adbplugin",
    category = "artifactdb",
    status = "ArtifactPluginStatus",
    derive = "PartialEq",
    doc = "A container that is run on events of an instance, on a schedule, or by hand.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Succeeded", type_ = "integer", json_path = ".status.succeeded"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "Last Run", type_ = "date", json_path = ".status.lastRunTime"),
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
pub struct ArtifactPluginSpec {
    /// Instances that it serves.
    #[serde(default)]
    pub instances: Option<InstanceSelector>,
    /// Image of the container.
    #[schemars(length(min = 1))]
    pub image: String,
    /// Entry point; absent: the image's.
    #[serde(default)]
    pub command: Vec<String>,
    /// Arguments; absent: the image's.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment, beside what every plugin gets.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Events that start it; none: only schedules and people do. In YAML write the field's name in
    /// quotes: a bare on is read as true.
    #[serde(default)]
    #[schemars(schema_with = "stages")]
    pub on: Vec<EventStage>,
    /// Projects whose events count, by name or by the beginning of a name as in `PRJ*`; none: all.
    #[serde(default)]
    pub projects: Vec<String>,
    /// Projects whose events never count, in the same way: those that it writes to, or it would start
    /// itself without end.
    #[serde(default)]
    pub excluded_projects: Vec<String>,
    /// What its token allows.
    #[serde(default)]
    pub access: PluginAccess,
    /// Compute.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// Longest run, such as `10m`; absent: an hour.
    #[serde(default)]
    #[schemars(regex(pattern = "^[0-9]+(s|m|h|d)$"))]
    pub timeout: Option<String>,
    /// How often a failed run is tried again; absent: 2.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10))]
    pub retries: Option<u32>,
    /// Runs that events start at the same time; absent: 4. Others wait.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub concurrency: Option<u32>,
    /// Merged into the pod template.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<Value>,
}

/// The stages of events (CONTRACT section 8.3), which are core's.
fn stages(_: &mut SchemaGenerator) -> Schema {
    let stages = EventStage::ALL.into_iter().filter(|own| own.is_awaited());
    let stages: Vec<&str> = stages.map(EventStage::as_str).collect();
    json_schema!({
        "type": "array",
        "items": {
            "type": "string",
            "description": "Something that happened to a version, a project or the whole instance.",
            "enum": stages,
        },
    })
}

/// What a plugin's token allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginAccess {
    /// Projects that it may read, whatever their permissions are, by name or by the beginning of a
    /// name as in `PRJ*`; `*` is all. What is public it reads anyway.
    #[serde(default)]
    pub read: Vec<String>,
    /// Projects that it may write and read, in the same way.
    #[serde(default)]
    pub write: Vec<String>,
}

impl ArtifactPlugin {
    /// The plugin as an instance knows it, by tokens with that `sub`.
    pub fn config(&self, subject: String) -> PluginConfig {
        let spec = &self.spec;
        PluginConfig {
            name: self.metadata.name.clone().unwrap_or_default(),
            subject,
            interest: Interest {
                on: spec.on.clone(),
                projects: Projects::new(spec.projects.clone()),
                excluded: Projects::new(spec.excluded_projects.clone()),
            },
            access: Grants {
                read: Projects::new(spec.access.read.clone()),
                write: Projects::new(spec.access.write.clone()),
            },
        }
    }
}

/// What the operator sees of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactPluginStatus {
    /// Ready, and Failing: whether the last run failed.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Conditions,
    /// Generation of the spec that was last acted on.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// Runs that succeeded.
    #[serde(default)]
    pub succeeded: Option<i64>,
    /// Runs that failed.
    #[serde(default)]
    pub failed: Option<i64>,
    /// When it last ran, in RFC 3339.
    #[serde(default)]
    pub last_run_time: Option<String>,
    /// When the run ended that was counted last, in RFC 3339.
    #[serde(default)]
    pub counted_through: Option<String>,
    /// The latest runs that ended, newest first.
    #[serde(default)]
    pub last_runs: Vec<Run>,
}

/// One run of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Name of the Job.
    pub job: String,
    /// Instance that it was for.
    #[serde(default)]
    pub instance: String,
    /// Id of the event that started it, where one did.
    #[serde(default)]
    pub event: Option<String>,
    /// When it started, in RFC 3339.
    #[serde(default)]
    pub started: Option<String>,
    /// When it ended, in RFC 3339; absent: it goes on.
    #[serde(default)]
    pub finished: Option<String>,
    /// Whether it succeeded; absent: it goes on.
    #[serde(default)]
    pub succeeded: Option<bool>,
    /// Exit code of the container.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The end of what it printed, or why it did not run.
    #[serde(default)]
    pub log: Option<String>,
}
