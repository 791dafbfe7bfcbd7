//! The custom resources of ArtifactDB: group `artifactdb.io`, version `v1alpha1`.
//!
//! A file per kind (`instance`, `schema`, `plugin`, `schedule`), `common` for what they share,
//! `read` for files of them, and `resolve`, which turns a set of resources into an instance
//! configuration or says why it cannot. `cron` reads schedules. No Kubernetes client here.

pub mod common;
pub mod cron;
pub mod instance;
pub mod plugin;
pub mod read;
pub mod resolve;
pub mod schedule;
pub mod schema;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

pub use instance::ArtifactDB;
pub use plugin::ArtifactPlugin;
pub use schedule::ArtifactSchedule;
pub use schema::ArtifactSchema;

pub const GROUP: &str = "artifactdb.io";
pub const API_VERSION: &str = "artifactdb.io/v1alpha1";

/// The definitions of all kinds, in the order in which they are best read.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [
        ArtifactDB::crd(),
        ArtifactSchema::crd(),
        ArtifactPlugin::crd(),
        ArtifactSchedule::crd(),
    ]
    .into_iter()
    .map(with_few_defaults)
    .collect()
}

/// Keeps the defaults that tell something: whatever else is absent stays absent in what people read
/// back, and API servers take no null for a default.
fn with_few_defaults(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(root) = schema.and_then(|own| own.open_api_v3_schema.as_mut()) {
            drop_defaults(root);
        }
    }
    definition
}

fn drop_defaults(schema: &mut JSONSchemaProps) {
    let telling = |value: &serde_json::Value| match value {
        serde_json::Value::Bool(value) => *value,
        serde_json::Value::String(text) => !text.is_empty(),
        serde_json::Value::Number(_) => true,
        _ => false,
    };
    if !schema.default.as_ref().is_some_and(|own| telling(&own.0)) {
        schema.default = None;
    }
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|all| all.values_mut())
    {
        drop_defaults(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        drop_defaults(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(more)) = &mut schema.additional_properties {
        drop_defaults(more);
    }
}

/// A definition as YAML, as it stands beside this crate's sources.
pub fn to_yaml(definition: &CustomResourceDefinition) -> Result<String, String> {
    // Through JSON, so that fields which are absent are left out and the order is stable.
    let value = serde_json::to_value(definition).map_err(|error| error.to_string())?;
    yaml(&value)
}

/// A value as YAML, members in their order.
pub fn yaml(value: &serde_json::Value) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}
