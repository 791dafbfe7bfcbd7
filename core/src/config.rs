//! The configuration of one instance: what the API, the indexer and `serve` start from.
//!
//! Pure data. `artifactdb-crds` resolves custom resources into it; secrets are referred to by the
//! name of a mounted file and never held.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::gprn::Gprn;
use crate::mapping::{self, Mapping, MappingError};
use crate::permissions::PermissionsPatch;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceConfig {
    pub name: String,
    pub namespace: String,
    #[serde(default)]
    pub environment: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub gprn: Option<GprnConfig>,
    #[serde(default)]
    pub storage: Vec<StorageConfig>,
    /// Absent: the engine is in this process.
    #[serde(default)]
    pub elasticsearch: Option<ElasticsearchConfig>,
    /// Absent: leases and tasks are in this process.
    #[serde(default)]
    pub redis: Option<RedisConfig>,
    #[serde(default)]
    pub auth: AuthConfig,
    #[serde(default)]
    pub permissions: PermissionsConfig,
    #[serde(default)]
    pub schemas: SchemasConfig,
    #[serde(default)]
    pub sequences: Vec<SequenceConfig>,
    #[serde(default)]
    pub versions: VersionsConfig,
    #[serde(default)]
    pub search: SearchConfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GprnConfig {
    pub service: String,
    #[serde(default)]
    pub placeholder: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageConfig {
    pub alias: String,
    pub bucket: String,
    /// Absent: AWS itself.
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default = "default_region")]
    pub region: String,
    #[serde(default)]
    pub path_style: bool,
    /// Whether object versions are pinned in manifests; absent: as the bucket is found.
    #[serde(default)]
    pub version_pinning: Option<bool>,
    /// Session credentials for callers; absent: there are none.
    #[serde(default)]
    pub sts: Option<StsConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StsConfig {
    /// The role that is assumed, restricted to one version.
    pub role_arn: String,
}

/// The search engine, and what the instance's indices are like. Credentials and the certificate
/// authority are mounted files (`connect`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ElasticsearchConfig {
    pub urls: Vec<String>,
    #[serde(default = "one")]
    pub shards: u32,
    #[serde(default = "one")]
    pub replicas: u32,
    /// Former indices that stay after a switch to a new one.
    #[serde(default = "one")]
    pub retained_indices: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RedisConfig {
    /// Absent: a mounted file holds it, with its password.
    pub url: Option<String>,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthConfig {
    /// False: every caller is anonymous.
    pub enabled: bool,
    pub client_id: String,
    /// Client ids (`azp`) whose tokens are accepted.
    pub known_clients: Vec<String>,
    pub well_known_primary: Option<String>,
    pub well_known_secondary: Vec<String>,
    pub audience: Option<String>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            client_id: "artifactdb".to_owned(),
            known_clients: Vec::new(),
            well_known_primary: None,
            well_known_secondary: Vec::new(),
            audience: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PermissionsConfig {
    pub default: PermissionsPatch,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SchemasConfig {
    /// Refuse documents that break the schema they name.
    pub validate_documents: bool,
    /// Refuse documents that name no schema.
    pub reject_without_schema: bool,
    /// Oldest first; the older wins a conflict.
    pub items: Vec<SchemaItem>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SchemaItem {
    /// `generic_file`
    #[serde(rename = "type")]
    pub kind: String,
    /// `v1`
    pub version: String,
    pub schema: Value,
}

impl SchemaItem {
    /// `generic_file/v1.json`, as `$schema` names it.
    pub fn name(&self) -> String {
        format!("{}/{}.json", self.kind, self.version)
    }

    pub fn title(&self) -> Option<&str> {
        self.schema.get("title").and_then(Value::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SequenceConfig {
    pub prefix: String,
    #[serde(default)]
    pub default: bool,
    #[serde(default)]
    pub test: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VersionsConfig {
    /// Whether a completed version may be replaced by a new upload.
    pub mutable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SearchConfig {
    /// Results of a page when the caller asks for no number.
    pub default_results: usize,
    /// Results of a page at the most.
    pub max_results: usize,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            default_results: 50,
            max_results: 500,
        }
    }
}

impl InstanceConfig {
    /// `<namespace>/<name>`: what tells instances apart that share servers.
    pub fn instance_id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The instance's own name in the GPRN space, without type and resource.
    pub fn own_gprn(&self) -> Option<Gprn> {
        self.gprn.as_ref().map(|gprn| Gprn {
            environment: self.environment.clone(),
            service: Some(gprn.service.clone()),
            placeholder: gprn.placeholder.clone(),
            type_id: None,
            resource_id: None,
        })
    }

    /// The mapping of all schemas, and those that had to be left out of it.
    pub fn mapping(&self) -> (Mapping, Vec<MappingError>) {
        let names: Vec<String> = self.schemas.items.iter().map(SchemaItem::name).collect();
        let sources: Vec<mapping::Source<'_>> = self
            .schemas
            .items
            .iter()
            .zip(&names)
            .map(|(item, name)| mapping::Source {
                name,
                schema: &item.schema,
            })
            .collect();
        mapping::compile(&sources)
    }

    /// The schema that a document's `$schema` names, with or without `.json`.
    pub fn schema(&self, name: &str) -> Option<&SchemaItem> {
        let (kind, version) = crate::document::schema_parts(name)?;
        let version = version.strip_suffix(".json").unwrap_or(version);
        self.schemas
            .items
            .iter()
            .find(|item| item.kind == kind && item.version == version)
    }
}
