//! The custom resources of ArtifactDB: group `artifactdb.io`, version `v1alpha1`.
//!
//! A file per kind (`instance`, `schema`, `plugin`, `schedule`), `common` for what they share,
//! `read` for files of them, and `resolve`, which turns a set of resources into an instance
//! configuration or says why it cannot. No Kubernetes client here.

pub mod common;
pub mod instance;
pub mod plugin;
pub mod read;
pub mod resolve;
pub mod schedule;
pub mod schema;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use instance::ArtifactDB;
pub use plugin::ArtifactPlugin;
pub use schedule::ArtifactSchedule;
pub use schema::ArtifactSchema;

pub const GROUP: &str = "artifactdb.io";
pub const API_VERSION: &str = "artifactdb.io/v1alpha1";

/// The definitions of all kinds, in the order in which they are best read.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        ArtifactDB::crd(),
        ArtifactSchema::crd(),
        ArtifactPlugin::crd(),
        ArtifactSchedule::crd(),
    ]
}

/// A definition as YAML, as it stands beside this crate's sources.
pub fn to_yaml(definition: &CustomResourceDefinition) -> Result<String, String> {
    // Through JSON, so that fields which are absent are left out and the order is stable.
    let value = serde_json::to_value(definition).map_err(|error| error.to_string())?;
    serde_saphyr::to_string(&value).map_err(|error| error.to_string())
}
