//! Types that several kinds use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// One key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in it.
    pub key: String,
}

/// A Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: String,
}

/// Which instances a resource belongs to, by their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSelector {
    /// Labels that an instance must have. Empty or absent: every instance of the namespace.
    #[serde(default)]
    pub match_labels: std::collections::BTreeMap<String, String>,
}

impl InstanceSelector {
    pub fn matches(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// Amounts of compute, as in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the container is promised, by name (`cpu`, `memory`).
    #[serde(default)]
    pub requests: std::collections::BTreeMap<String, String>,
    /// What the container may use at the most.
    #[serde(default)]
    pub limits: std::collections::BTreeMap<String, String>,
}

/// A variable of a container's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name of the variable.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: Option<String>,
    /// Take the value from a Secret instead.
    #[serde(default)]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A schema for a field that may hold any object.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// A schema for conditions, which are a map by their type (KEP-1623).
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "description": "What is stated, in CamelCase."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "observedGeneration": {"type": "integer", "format": "int64", "description": "The generation of the spec that this speaks of."},
                "reason": {"type": "string", "description": "Why, as one CamelCase word for machines."},
                "message": {"type": "string", "description": "Why, for people, and what to do about it."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When the status last changed."},
            },
        },
    })
}

/// Re-exported so that kinds name one type.
pub type Conditions = Vec<Condition>;
