//! `ArtifactDB`: one instance.

use std::collections::BTreeMap;

use artifactdb_core::permissions::Access;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::{Conditions, Resources, SecretKeyRef, SecretRef, any_object, conditions};

/// An ArtifactDB instance: a REST API on versioned projects in object storage, and the workers
/// that index them.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "artifactdb.io",
    version = "v1alpha1",
    kind = "ArtifactDB",
    plural = "artifactdbs",
    namespaced,
    shortname = "adb",
    category = "artifactdb",
    status = "ArtifactDBStatus",
    derive = "PartialEq",
    doc = "An ArtifactDB instance: a REST API on versioned projects in object storage, and the workers that index them.",
    scale(
        spec_replicas_path = ".spec.api.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Documents", type_ = "integer", json_path = ".status.index.documents"),
    printcolumn(name = "Index", type_ = "string", json_path = ".status.index.current"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 40").message("the name of an instance has at most 40 characters: the names of its parts are made from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.standalone) || (has(self.storage) && size(self.storage) > 0)").message("name at least one storage, or set standalone"),
    validation = Rule::new("has(self.standalone) || has(self.elasticsearch)").message("elasticsearch is required unless standalone is set"),
    validation = Rule::new("has(self.standalone) || has(self.redis)").message("redis is required unless standalone is set"),
    validation = Rule::new("!(has(self.ingress) && has(self.gateway))").message("set ingress or gateway, not both"),
    validation = Rule::new("!has(self.storage) || self.storage.all(s, self.storage.exists_one(t, t.alias == s.alias))").message("storage aliases must be unique")
)]
pub struct ArtifactDBSpec {
    /// Deployment stage that GPRNs name, such as `dev`; empty or `prd` is production.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub environment: String,
    /// One line for people, shown at the API's root.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub description: String,
    /// Names of this instance in the GPRN space; absent: its documents carry none.
    #[serde(default)]
    pub gprn: Option<Gprn>,
    /// Image of the API and indexer; absent: the operator's own release.
    #[serde(default)]
    pub image: Option<String>,
    /// Leave everything as it is, for maintenance. Deletion still works.
    #[serde(default)]
    pub paused: bool,
    /// Scale the API to nothing and suspend schedules; data stays.
    #[serde(default)]
    pub suspend: bool,
    /// What becomes of the index when the instance is deleted. Objects in storage always stay.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Take over indices of this name in Elasticsearch that another owner made.
    #[serde(default)]
    pub adopt_existing: bool,
    /// Let a breaking mapping that was rehearsed go live: the mapping hash to promote.
    #[serde(default)]
    pub promote: Option<String>,
    /// Buckets that hold the data; the first is the default.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub storage: Vec<Storage>,
    /// Choose a storage by a request header.
    #[serde(default)]
    pub storage_switch: Option<StorageSwitch>,
    /// The search engine.
    #[serde(default)]
    pub elasticsearch: Option<Elasticsearch>,
    /// Leases, task queue and shared caches.
    #[serde(default)]
    pub redis: Option<Redis>,
    /// Who callers are.
    #[serde(default)]
    pub auth: Auth,
    /// What callers may do where nobody said otherwise.
    #[serde(default)]
    pub permissions: PermissionRules,
    /// Schemas of the metadata.
    #[serde(default)]
    pub schemas: Schemas,
    /// Sources of project identifiers.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub sequences: Vec<Sequence>,
    /// The API server's pods.
    #[serde(default)]
    pub api: Api,
    /// The indexing workers' pods.
    #[serde(default)]
    pub indexer: IndexerPods,
    /// Publish the API by an Ingress.
    #[serde(default)]
    pub ingress: Option<Ingress>,
    /// Publish the API by a Gateway's HTTPRoute.
    #[serde(default)]
    pub gateway: Option<Gateway>,
    /// Who may reach the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    /// Metrics collection.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// Whether versions may change.
    #[serde(default)]
    pub versions: VersionRules,
    /// How long unfinished and marked data stays.
    #[serde(default)]
    pub retention: Retention,
    /// Snapshots of the index.
    #[serde(default)]
    pub snapshots: Option<Snapshots>,
    /// Run everything in one pod with a volume, instead of external storage, Redis and
    /// Elasticsearch: for trials.
    #[serde(default)]
    pub standalone: Option<Standalone>,
}

/// What becomes of the index when the instance is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Index, template and aliases stay.
    #[default]
    Retain,
    /// Index, template and aliases are deleted.
    Delete,
}

/// The service part of GPRNs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gprn {
    /// Name of the service.
    #[schemars(regex(pattern = "^[^:]+$"))]
    pub service: String,
    /// The third segment, usually empty.
    #[serde(default)]
    pub placeholder: String,
}

/// One bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Name by which other parts of the spec speak of it.
    #[schemars(length(min = 1, max = 63))]
    pub alias: String,
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// `http(s)://host[:port]`; absent: AWS.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == '' || self.startsWith('http://') || self.startsWith('https://')").message("the endpoint is an http or https URL"))]
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    #[serde(default)]
    pub region: Option<String>,
    /// Put the bucket into the path and not before the host.
    #[serde(default)]
    pub path_style: bool,
    /// Secret with `accessKey` and `secretKey`; absent: the pod's role.
    #[serde(default)]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Session credentials for callers.
    #[serde(default)]
    pub sts: Option<Sts>,
    /// Seconds that presigned URLs live where nothing else says so.
    #[serde(default)]
    #[schemars(range(min = 10, max = 604_800))]
    pub presigned_url_expiry: Option<u32>,
    /// Pin object versions in manifests; absent: as the bucket is found.
    #[serde(default)]
    pub version_pinning: Option<bool>,
}

/// Session credentials for callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sts {
    /// Role that is assumed, restricted to one version.
    pub role_arn: String,
}

/// Choosing a storage by a request header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSwitch {
    /// Name of the header.
    pub header: String,
    /// Values of the header and the alias that each chooses.
    pub contexts: BTreeMap<String, String>,
}

/// The search engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Elasticsearch {
    /// Addresses of its nodes.
    #[schemars(length(min = 1, max = 16))]
    pub urls: Vec<String>,
    /// Secret with `username` and `password`, or `apiKey`.
    #[serde(default)]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Certificate authority of its nodes.
    #[serde(default)]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// Primary shards of an index.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    pub shards: Option<u32>,
    /// Copies of each shard.
    #[serde(default)]
    #[schemars(range(min = 0, max = 8))]
    pub replicas: Option<u32>,
    /// Former indices that are kept after a switch.
    #[serde(default)]
    #[schemars(range(min = 0, max = 20))]
    pub retained_indices: Option<u32>,
    /// Results of one page at the most.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_results: Option<u32>,
}

/// Leases, task queue and shared caches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlSecretRef)").message("set url or urlSecretRef, one of them"))]
pub struct Redis {
    /// `redis(s)://host[:port][/db]`, without a password.
    #[serde(default)]
    pub url: Option<String>,
    /// The same from a Secret, with a password.
    #[serde(default)]
    pub url_secret_ref: Option<SecretKeyRef>,
    /// Certificate authority of the server.
    #[serde(default)]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// Who callers are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// False: every caller is anonymous.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The identity provider.
    #[serde(default)]
    pub oidc: Option<Oidc>,
    /// Client ids (`azp`) whose tokens are accepted beside the provider's own.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub known_clients: Vec<String>,
    /// JSON Web Keys that verify tokens without a provider.
    #[serde(default)]
    pub static_keys_secret_ref: Option<SecretKeyRef>,
    /// Key that signs completion and abort URLs, cursors and job ids.
    #[serde(default)]
    pub presign_key_secret_ref: Option<SecretKeyRef>,
    /// Key by which automation acts as an administrator.
    #[serde(default)]
    pub service_key_secret_ref: Option<SecretKeyRef>,
    /// Groups that count as their members in permission lists.
    #[serde(default)]
    pub groups: Option<Groups>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: true,
            oidc: None,
            known_clients: Vec::new(),
            static_keys_secret_ref: None,
            presign_key_secret_ref: None,
            service_key_secret_ref: None,
            groups: None,
        }
    }
}

fn yes() -> bool {
    true
}

/// An OpenID Connect provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Oidc {
    /// URL of the discovery document of the main issuer.
    #[serde(default)]
    pub well_known_primary: Option<String>,
    /// Discovery documents of other issuers.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub well_known_secondary: Vec<String>,
    /// This instance's client id; its roles are read from tokens.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Audience that tokens must name, where set.
    #[serde(default)]
    pub audience: Option<String>,
}

/// Groups that count as their members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Groups {
    /// URL that lists the groups of `{user}`.
    pub url_template: String,
    /// How long an answer is believed, such as `1h`.
    #[serde(default)]
    pub cache_ttl: Option<String>,
}

/// What callers may do where nobody said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermissionRules {
    /// Refuse versions for which no permissions resolve.
    #[serde(default)]
    pub mandatory: bool,
    /// Members of a permission set that its writer leaves open.
    #[serde(default)]
    pub default: DefaultPermissions,
}

/// Members of a permission set that its writer leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefaultPermissions {
    /// Who owns; absent: the uploader.
    #[serde(default)]
    pub owners: Option<Vec<String>>,
    /// Who may read beside the owners.
    #[serde(default)]
    pub viewers: Option<Vec<String>>,
    /// Who may read.
    #[serde(default)]
    pub read_access: Option<AccessName>,
    /// Who may write.
    #[serde(default)]
    pub write_access: Option<AccessName>,
}

/// Who an action is open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessName {
    /// Anyone.
    Public,
    /// Anyone with a valid token.
    Authenticated,
    /// Owners and viewers.
    Viewers,
    /// Owners.
    Owners,
    /// Administrators alone.
    None,
}

impl From<AccessName> for Access {
    fn from(name: AccessName) -> Self {
        match name {
            AccessName::Public => Access::Public,
            AccessName::Authenticated => Access::Authenticated,
            AccessName::Viewers => Access::Viewers,
            AccessName::Owners => Access::Owners,
            AccessName::None => Access::None,
        }
    }
}

/// Schemas of the metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schemas {
    /// Labels that an ArtifactSchema must have; absent: every one that selects this instance.
    #[serde(default)]
    pub selector: Option<BTreeMap<String, String>>,
    /// Refuse documents that break the schema they name.
    #[serde(default)]
    pub validate_documents: bool,
    /// Refuse documents that name no schema.
    #[serde(default)]
    pub reject_without_schema: bool,
}

/// A source of project identifiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sequence {
    /// Text before the number, such as `PRJ`.
    #[schemars(regex(pattern = "^[A-Za-z][A-Za-z0-9-]{0,31}$"))]
    pub prefix: String,
    /// Template of an identifier, such as `{prefix}-{seq_id:06}`; absent: the prefix and nine digits.
    #[serde(default)]
    pub format: Option<String>,
    /// Used when a caller names no prefix.
    #[serde(default)]
    pub default: bool,
    /// For tests; may be emptied.
    #[serde(default)]
    pub test: bool,
    /// Ranges that are given out, and ranges that are not; without any of the former, 1 to 999999999.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub pools: Vec<Pool>,
}

/// A range of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from <= self.to").message("from must not be greater than to"))]
pub struct Pool {
    /// Whether numbers are taken from it.
    #[serde(rename = "type")]
    pub kind: PoolType,
    /// First number.
    #[schemars(range(min = 1))]
    pub from: u64,
    /// Last number.
    #[schemars(range(min = 1))]
    pub to: u64,
}

/// Whether numbers are taken from a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolType {
    /// Numbers are given out from it.
    Provisioned,
    /// Numbers in it are never given out.
    Restricted,
}

/// Scaling by load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.min <= self.max").message("min must not be greater than max"))]
pub struct Autoscaling {
    /// Fewest pods.
    #[schemars(range(min = 1, max = 1000))]
    pub min: u32,
    /// Most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max: u32,
    /// Mean use of the requested CPU to aim at, in percent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub cpu: Option<u32>,
    /// Mean use of the requested memory to aim at, in percent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub memory: Option<u32>,
}

/// The API server's pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// How many; 2 where nothing is said. Ignored while autoscaling is set.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,
    /// Scaling by load.
    #[serde(default)]
    pub autoscaling: Option<Autoscaling>,
    /// Requests of other sites that browsers may send.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// How often one caller may ask, of each pod.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// Requests that each pod answers at a time, 1000 where nothing is said; more get a 503 at once.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_concurrent_requests: Option<u32>,
    /// Compute of each.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// Merged into the pod template; what the operator must own stays its own.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<Value>,
}

/// What browsers are told about requests of other sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Such as `https://example.org`; absent: any.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub allow_origins: Vec<String>,
    /// Absent: any.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub allow_methods: Vec<String>,
    /// Absent: any.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub allow_headers: Vec<String>,
}

/// How often one caller may ask: a user, or an address of whoever brings no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// In the long run.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: u32,
    /// At once; absent: as many as in a second.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// The indexing workers' pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexerPods {
    /// How many; 1 where nothing is said. Ignored while autoscaling is set.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,
    /// Scaling by load.
    #[serde(default)]
    pub autoscaling: Option<Autoscaling>,
    /// Tasks of one pod at a time.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: Option<u32>,
    /// Compute of each.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// Merged into the pod template. Where pods run and with what holds for Jobs on the index and the
    /// dispatcher of events, too.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<Value>,
}

/// Publishing by an Ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Host name.
    pub host: String,
    /// Path before the API's own, which is taken off.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Class of the Ingress; absent: the cluster's default.
    #[serde(default)]
    pub class_name: Option<String>,
    /// Secret with the certificate.
    #[serde(default)]
    pub tls_secret_name: Option<String>,
}

/// Publishing by a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// The Gateway.
    pub parent_ref: ParentRef,
    /// Host name.
    pub hostname: String,
}

/// A Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Its name.
    pub name: String,
    /// Its namespace; absent: the instance's.
    #[serde(default)]
    pub namespace: Option<String>,
    /// One of its listeners.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// Who may reach the pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Whether a policy is made.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Metrics collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Whether a ServiceMonitor is made, where the cluster knows that kind.
    #[serde(default)]
    pub service_monitor: bool,
}

/// Whether versions may change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionRules {
    /// A completed version may be replaced by a new upload.
    #[serde(default)]
    pub mutable: bool,
}

/// How long unfinished and marked data stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Age at which data that is marked for deletion goes, such as `14d`.
    #[serde(default)]
    pub stale_after: Option<String>,
    /// Whether uploads that were never completed are deleted. For now they are, whatever stands here.
    #[serde(default)]
    pub purge_not_completed: Option<bool>,
    /// How long events stay in the log, such as `12h`; `7d` by default.
    #[serde(default)]
    pub events: Option<String>,
}

/// Snapshots of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshots {
    /// Repository in Elasticsearch.
    pub repository: String,
    /// When, in five fields.
    #[serde(default)]
    pub schedule: Option<String>,
}

/// Everything in one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standalone {
    /// Size of the volume, such as `10Gi`.
    #[serde(default)]
    pub storage: Option<String>,
    /// Class of the volume; absent: the cluster's default.
    #[serde(default)]
    pub storage_class_name: Option<String>,
}

/// What the operator sees of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactDBStatus {
    /// Ready, Progressing, Degraded and IndexCurrent.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Conditions,
    /// Generation of the spec that was last acted on.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// Where the API answers.
    #[serde(default)]
    pub url: Option<String>,
    /// The search index.
    #[serde(default)]
    pub index: Option<IndexStatus>,
    /// API pods.
    #[serde(default)]
    pub replicas: Option<i32>,
    /// Labels of the API pods, as the scale subresource wants them.
    #[serde(default)]
    pub selector: Option<String>,
}

/// The search index of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexStatus {
    /// Alias that is searched.
    #[serde(default)]
    pub alias: Option<String>,
    /// Index behind it.
    #[serde(default)]
    pub current: Option<String>,
    /// Index that is being built beside it.
    #[serde(default)]
    pub building: Option<String>,
    /// Hash of the mapping that it has.
    #[serde(default)]
    pub mapping_hash: Option<String>,
    /// Hash of the mapping that the schemas want; what `spec.promote` is set to.
    #[serde(default)]
    pub wanted_hash: Option<String>,
    /// Documents in it.
    #[serde(default)]
    pub documents: Option<i64>,
    /// How far the build is, such as `42%`.
    #[serde(default)]
    pub progress: Option<String>,
    /// Whether what is stored fits the mapping that is wanted, where that replaces the live one.
    #[serde(default)]
    pub rehearsal: Option<RehearsalStatus>,
}

/// A check of all stored metadata against a mapping that is not live yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalStatus {
    /// Hash of that mapping.
    pub mapping_hash: String,
    /// Documents that were checked.
    pub checked: i64,
    /// Documents that do not fit.
    pub failed: i64,
    /// Some of those, with why.
    #[serde(default)]
    pub samples: Vec<String>,
}
