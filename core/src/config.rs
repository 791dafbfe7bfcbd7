//! The configuration of one instance: what the API, the indexer and `serve` start from.
//!
//! Pure data. `artifactdb-crds` resolves custom resources into it; secrets are referred to by the
//! name of a mounted file and never held.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::gprn::Gprn;
use crate::mapping::{self, Mapping, MappingError};
use crate::permissions::PermissionsPatch;
use crate::plugin::PluginConfig;

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
    /// The first is the default.
    #[serde(default)]
    pub storage: Vec<StorageConfig>,
    /// Absent: every request goes to the first storage.
    #[serde(default)]
    pub storage_switch: Option<StorageSwitchConfig>,
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
    #[serde(default, skip_serializing_if = "EventsConfig::is_default")]
    pub events: EventsConfig,
    #[serde(default, skip_serializing_if = "ApiConfig::is_default")]
    pub api: ApiConfig,
    #[serde(default, skip_serializing_if = "PluginsConfig::is_default")]
    pub plugins: PluginsConfig,
    /// The storage that this is the configuration of, unless that is the default.
    #[serde(skip)]
    pub beside: Option<String>,
}

/// The log of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EventsConfig {
    /// Seconds that an event stays in it.
    pub kept_seconds: u32,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            kept_seconds: 7 * 86_400,
        }
    }
}

impl EventsConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The plugins of an instance, and by what their tokens are known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginsConfig {
    /// What `iss` of their tokens is.
    pub issuer: String,
    /// What `aud` of their tokens holds.
    pub audience: String,
    /// The public keys that verify them, JSON Web Keys.
    pub keys: Vec<Value>,
    pub items: Vec<PluginConfig>,
}

impl PluginsConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How the API is reached, and how much of it callers may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Path that proxies leave before the API's own, such as `/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Absent: browsers are not told that other sites may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsConfig>,
    /// Of one caller; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitConfig>,
    /// Of all callers together; more are refused at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_requests: Option<u32>,
}

impl ApiConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What browsers are told about requests of other sites; `*` is any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CorsConfig {
    pub allow_origins: Vec<String>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitConfig {
    pub requests_per_second: u32,
    /// Requests that may come at once; absent: as many as in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A request header that chooses a storage (CONTRACT section 8, `storage.switch`). Each storage has
/// projects, permissions, leases, tasks and an index of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageSwitchConfig {
    pub header: String,
    /// Values of the header and the alias that each chooses.
    pub contexts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorageSwitchError {
    #[error("storage alias '{0}' is not made of 1 to 40 lower-case letters, digits and dashes")]
    Alias(String),
    #[error("value '{value}' chooses the storage '{alias}', which is not declared")]
    Unknown { value: String, alias: String },
    #[error("the storages '{0}' and '{1}' are one bucket")]
    OneBucket(String, String),
    #[error("'{0}' is no name of a header")]
    Header(String),
}

impl StorageSwitchConfig {
    /// Whether these storages can be chosen between.
    pub fn check(&self, storage: &[StorageConfig]) -> Result<(), StorageSwitchError> {
        let token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.header.is_empty() || !self.header.chars().all(token) {
            return Err(StorageSwitchError::Header(self.header.clone()));
        }
        for (place, own) in storage.iter().enumerate() {
            let same = |other: &&StorageConfig| {
                other.bucket == own.bucket && other.endpoint == own.endpoint
            };
            if let Some(other) = storage[..place].iter().find(same) {
                return Err(StorageSwitchError::OneBucket(
                    other.alias.clone(),
                    own.alias.clone(),
                ));
            }
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            // It becomes a part of names of indices and keys.
            if !(1..=40).contains(&own.alias.len()) || !own.alias.chars().all(plain) {
                return Err(StorageSwitchError::Alias(own.alias.clone()));
            }
        }
        for (value, alias) in &self.contexts {
            if !storage.iter().any(|own| own.alias == *alias) {
                return Err(StorageSwitchError::Unknown {
                    value: value.clone(),
                    alias: alias.clone(),
                });
            }
        }
        Ok(())
    }
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
    /// What presigned URLs name, where clients reach the store otherwise than this process does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
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
    /// A repository that the engine knows; absent: snapshots cannot be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_repository: Option<String>,
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
    /// Absent: users have no groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsConfig>,
}

/// A directory of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupsConfig {
    /// Answers with the groups of `{user}`.
    pub url_template: String,
    /// Seconds that an answer is believed.
    pub cache_seconds: u64,
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
            groups: None,
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
    /// Shared: a schema may be large, and be in many instances.
    pub schema: Arc<Value>,
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
    /// Absent: the prefix and nine digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    #[serde(default)]
    pub default: bool,
    #[serde(default)]
    pub test: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolConfig>,
}

/// A range of numbers, both ends in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolConfig {
    #[serde(rename = "type")]
    pub kind: PoolKind,
    pub from: u64,
    pub to: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// Numbers are given out from it.
    Provisioned,
    /// Numbers in it are never given out.
    Restricted,
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
    /// `<namespace>/<name>`, with `~<alias>` for a storage beside the default one: what tells
    /// instances apart that share servers. No resource of Kubernetes has a tilde in its name.
    pub fn instance_id(&self) -> String {
        let beside = self.beside.as_ref().map(|alias| format!("~{alias}"));
        let beside = beside.unwrap_or_default();
        format!("{}/{}{beside}", self.namespace, self.name)
    }

    /// Alias of the storage that this is the configuration of.
    pub fn storage_alias(&self) -> Option<&str> {
        self.storage.first().map(|storage| &*storage.alias)
    }

    /// The instance as it is on each storage that requests reach, the default one first: a storage
    /// is worked on by itself, with the others only named behind it.
    pub fn by_storage(&self) -> Result<Vec<InstanceConfig>, StorageSwitchError> {
        let mut all = vec![self.clone()];
        let Some(switch) = &self.storage_switch else {
            return Ok(all);
        };
        switch.check(&self.storage)?;
        for (place, storage) in self.storage.iter().enumerate().skip(1) {
            if !switch
                .contexts
                .values()
                .any(|alias| *alias == storage.alias)
            {
                continue;
            }
            let mut own = self.clone();
            own.storage.swap(0, place);
            own.beside = Some(storage.alias.clone());
            all.push(own);
        }
        Ok(all)
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
        mapping_of(&self.schemas.items)
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

/// The mapping of schemas, and those that had to be left out of it.
pub fn mapping_of(items: &[SchemaItem]) -> (Mapping, Vec<MappingError>) {
    let names: Vec<String> = items.iter().map(SchemaItem::name).collect();
    let sources: Vec<mapping::Source<'_>> = items
        .iter()
        .zip(&names)
        .map(|(item, name)| mapping::Source {
            name,
            schema: &item.schema,
        })
        .collect();
    mapping::compile(&sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(contexts: Value) -> InstanceConfig {
        let storage = |alias: &str| json!({"alias": alias, "bucket": format!("{alias}-bucket")});
        serde_json::from_value(json!({
            "name": "n", "namespace": "ns",
            "storage": [storage("a"), storage("b"), storage("c")],
            "storageSwitch": {"header": "X-Storage", "contexts": contexts},
        }))
        .unwrap()
    }

    #[test]
    fn each_storage_that_is_reached_is_an_instance_of_its_own() {
        let all = config(json!({"first": "a", "third": "c", "last": "c"}))
            .by_storage()
            .unwrap();
        let known: Vec<_> = all
            .iter()
            .map(|own| (own.instance_id(), own.storage_alias().unwrap()))
            .collect();
        assert_eq!(
            known,
            [("ns/n".to_owned(), "a"), ("ns/n~c".to_owned(), "c")]
        );
        let mut plain = config(json!({}));
        plain.storage_switch = None;
        assert_eq!(plain.by_storage().unwrap(), [plain.clone()]);
    }

    #[test]
    fn switches_that_cannot_be_are_refused() {
        let unknown = config(json!({"x": "nowhere"})).by_storage().unwrap_err();
        assert!(unknown.to_string().contains("'nowhere'"));
        for header in ["", "two words", "a:b", "ä"] {
            let mut wrong = config(json!({"x": "a"}));
            wrong.storage_switch.as_mut().unwrap().header = header.to_owned();
            assert!(matches!(
                wrong.by_storage(),
                Err(StorageSwitchError::Header(_))
            ));
        }
        for alias in ["", "B", "a_b", "a/b", &"a".repeat(41)] {
            let mut wrong = config(json!({"x": "a"}));
            wrong.storage[1].alias = alias.to_owned();
            assert!(matches!(
                wrong.by_storage(),
                Err(StorageSwitchError::Alias(_))
            ));
        }
        let mut same = config(json!({"x": "a"}));
        same.storage[2].bucket = same.storage[0].bucket.clone();
        assert!(matches!(
            same.by_storage(),
            Err(StorageSwitchError::OneBucket(..))
        ));
    }
}
