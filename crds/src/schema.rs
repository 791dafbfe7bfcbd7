//! `ArtifactSchema`: the JSON Schema of one type and version of metadata.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::{Conditions, InstanceSelector, any_object, conditions};

/// A JSON Schema for one type of metadata, in one version.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "artifactdb.io",
    version = "v1alpha1",
    kind = "ArtifactSchema",
    plural = "artifactschemas",
    namespaced,
    shortname = "adbschema",
    category = "artifactdb",
    status = "ArtifactSchemaStatus",
    derive = "PartialEq",
    doc = "A JSON Schema for one type of metadata, in one version.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(
        name = "Compiled",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Compiled")].status"#
    ),
    printcolumn(name = "Fields", type_ = "integer", json_path = ".status.fields"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Compiled")].reason"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.schema) != has(self.schemaRef)").message("set schema or schemaRef, one of them"))]
pub struct ArtifactSchemaSpec {
    /// Name of the type, the part of `$schema` before the slash, such as `generic_file`.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"))]
    pub kind: String,
    /// Version of the type, such as `v1`.
    #[schemars(regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"))]
    pub version: String,
    /// Instances that know it.
    #[serde(default)]
    pub instances: Option<InstanceSelector>,
    /// Index that its documents go to. For now an instance has one, and whatever stands here means it.
    #[serde(default = "default_index")]
    pub index: String,
    /// The JSON Schema itself.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub schema: Option<Value>,
    /// The JSON Schema in a ConfigMap.
    #[serde(default)]
    pub schema_ref: Option<SchemaRef>,
}

fn default_index() -> String {
    "default".to_owned()
}

/// A JSON Schema in a ConfigMap of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchemaRef {
    /// Name of the ConfigMap.
    pub config_map: String,
    /// Key in it.
    pub key: String,
}

/// What the operator sees of a schema.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactSchemaStatus {
    /// Compiled, Conflict and Indexed.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Conditions,
    /// Generation of the spec that was last acted on.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// Fields that it brings to a mapping.
    #[serde(default)]
    pub fields: Option<i32>,
    /// Instances that index by it.
    #[serde(default)]
    pub instances: Vec<IndexedBy>,
}

/// An instance that indexes by a schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexedBy {
    /// Name of the instance.
    pub name: String,
    /// Mapping at which it does.
    #[serde(default)]
    pub mapping_hash: Option<String>,
}
