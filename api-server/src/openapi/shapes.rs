//! What bodies and answers look like. Described and never made: handlers answer with what they have,
//! and `tests/schemathesis` holds their answers, and what they refuse, to this.

#![allow(dead_code, reason = "described and never made")]

use std::collections::BTreeMap;

use artifactdb_core::{event, permissions};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A refusal, as every one looks.
#[derive(ToSchema)]
pub struct Refusal {
    /// `error`, or `forbidden` for a 403.
    status: String,
    /// Why, for people.
    reason: String,
    /// By which the log knows the request.
    request_id: String,
}

/// Any object, such as a metadata document.
#[derive(ToSchema)]
pub struct Document {
    #[serde(flatten)]
    members: BTreeMap<String, Value>,
}

#[derive(ToSchema)]
pub struct Page {
    results: Vec<Document>,
    /// Documents of this page.
    count: u64,
    /// Documents of all pages.
    total: u64,
    /// Path of the next page; absent on the last.
    #[schema(nullable = false)]
    next: Option<String>,
}

/// The answer to `terms`, or to `max` and `cardinality`.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Aggregation {
    Terms(Buckets),
    Value(Number),
}

#[derive(ToSchema)]
pub struct Buckets {
    doc_count_error_upper_bound: u64,
    /// Documents in values that are not shown.
    sum_other_doc_count: u64,
    buckets: Vec<Bucket>,
}

#[derive(ToSchema)]
pub struct Bucket {
    key: Value,
    doc_count: u64,
}

#[derive(ToSchema)]
pub struct Number {
    #[schema(required)]
    value: Option<f64>,
}

/// The file to upload: its name, or more of it.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum File {
    Name(String),
    Checked(CheckedFile),
}

#[derive(ToSchema)]
pub struct CheckedFile {
    filename: String,
    /// Absent: nothing, where `size` is given.
    #[schema(nullable = false)]
    check: Option<Check>,
    #[schema(nullable = false)]
    value: Option<CheckValue>,
    /// In bytes. Large files are answered with URLs for their parts.
    size: Option<u64>,
}

/// `simple`: the store takes no other bytes. `md5`: a link where the project has an equal file.
/// `link`: a link to a file that the caller may read.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    Simple,
    Md5,
    Link,
}

#[derive(ToSchema)]
pub struct CheckValue {
    /// In hexadecimal. For `simple` and `md5`.
    #[schema(nullable = false, pattern = "^[0-9a-fA-F]{32}$")]
    md5sum: Option<String>,
    /// Of the metadata, which holds the MD5. For `md5`.
    #[schema(nullable = false)]
    field: Option<String>,
    /// For `link`.
    #[schema(nullable = false)]
    artifactdb_id: Option<String>,
}

#[derive(ToSchema)]
pub enum UploadMode {
    #[serde(rename = "s3-presigned-url")]
    PresignedUrl,
    #[serde(rename = "sts-credentials")]
    StsCredentials,
}

#[derive(ToSchema)]
pub struct UploadBody {
    filenames: Vec<File>,
    mode: Option<UploadMode>,
    /// Until when it will be complete: a date, or a period such as `in 2 hours`. A day by default.
    completed_by: Option<String>,
    /// When the version goes again; absent: never.
    expires_in: Option<String>,
}

/// Where to put the files. Maps of URLs, or arrays when a file has the check `simple`.
#[derive(ToSchema)]
pub struct Begun {
    project_id: String,
    version: String,
    revision: String,
    presigned_urls: Urls,
    sts: Session,
    links: Urls,
    complete_before: String,
    completion_url: String,
    abort_url: String,
    #[schema(nullable = false)]
    purge_job_id: Option<String>,
    expires_in: Option<String>,
    expires_job_id: Option<String>,
    /// Files that come in parts.
    #[schema(nullable = false)]
    multipart: Option<Vec<InParts>>,
}

#[derive(ToSchema)]
#[serde(untagged)]
pub enum Urls {
    ByName(BTreeMap<String, String>),
    List(Vec<FileUrl>),
}

#[derive(ToSchema)]
pub struct FileUrl {
    filename: String,
    url: String,
    /// To be sent as Content-MD5.
    md5sum: Option<String>,
}

#[derive(ToSchema)]
pub struct InParts {
    filename: String,
    /// In bytes; the last part may be smaller.
    part_size: u64,
    part_urls: Vec<String>,
    completion_url: String,
    abort_url: String,
}

/// Session credentials; empty where none were asked for.
#[derive(ToSchema)]
pub struct Session {
    #[schema(nullable = false)]
    credentials: Option<Credentials>,
    #[schema(nullable = false)]
    session_name: Option<String>,
    #[schema(nullable = false)]
    expiration: Option<String>,
    #[schema(nullable = false)]
    bucket: Option<String>,
    #[schema(nullable = false)]
    prefix: Option<String>,
}

#[derive(ToSchema)]
pub struct Credentials {
    aws_access_key_id: String,
    aws_secret_access_key: String,
    aws_session_token: String,
}

#[derive(ToSchema)]
pub struct Aborted {
    project_id: String,
    version: String,
    #[schema(required)]
    cancel_purge_job_id: Option<String>,
    #[schema(required)]
    cancel_expires_job_id: Option<String>,
    unlocked: bool,
}

/// Work that goes on.
#[derive(ToSchema)]
pub struct Accepted {
    job_id: String,
    path: String,
    /// Absolute behind a proxy that says how it is reached.
    job_url: String,
    status: String,
}

#[derive(ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    Pending,
    Started,
    Retry,
    Success,
    Failure,
}

#[derive(ToSchema)]
pub struct Job {
    status: JobStatus,
    result: Value,
    /// Why it failed, or is tried again.
    traceback: Option<String>,
    #[schema(nullable = false)]
    children: Option<Vec<Value>>,
    date_done: Option<String>,
    /// Absent for an unknown id.
    #[schema(nullable = false)]
    task_id: Option<String>,
}

#[derive(ToSchema)]
pub struct Cancelled {
    job_id: String,
    cancelled: bool,
}

pub struct Access;

impl PartialSchema for Access {
    fn schema() -> RefOr<Schema> {
        words(permissions::Access::ALL.map(permissions::Access::as_str))
    }
}

impl ToSchema for Access {}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Global,
    Project,
    Version,
}

#[derive(ToSchema)]
pub struct Permissions {
    scope: Scope,
    owners: Vec<String>,
    viewers: Vec<String>,
    read_access: Access,
    write_access: Access,
}

/// A list, or a text with commas.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Names {
    List(Vec<String>),
    Text(String),
}

/// Members that are not given stay as they are.
#[derive(ToSchema)]
pub struct PermissionsBody {
    scope: Option<Scope>,
    owners: Option<Names>,
    viewers: Option<Names>,
    read_access: Option<Access>,
    write_access: Option<Access>,
}

/// One value of `agg_field`, by the field's name.
pub type Aggregated = BTreeMap<String, String>;

#[derive(ToSchema)]
pub struct Projects {
    results: Vec<ProjectVersions>,
    count: u64,
    total: u64,
    /// Path of the next page; absent on the last.
    #[schema(nullable = false)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub struct ProjectVersions {
    project_id: String,
    aggs: Vec<Aggregated>,
}

#[derive(ToSchema)]
pub struct Versions {
    project_id: String,
    aggs: Vec<Aggregated>,
    total: u64,
    #[schema(nullable = false)]
    latest: Option<Aggregated>,
}

#[derive(ToSchema)]
pub struct VersionReport {
    /// `ok` or `error`.
    status: String,
    #[schema(nullable = false)]
    permissions: Option<Permissions>,
    /// What is wrong.
    #[schema(nullable = false)]
    anomalies: Option<Vec<String>>,
    /// What to do.
    #[schema(nullable = false)]
    actions: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub struct LockBody {
    stage: String,
    /// For people.
    info: Option<String>,
}

#[derive(ToSchema)]
pub struct Lock {
    stage: String,
    /// For people. Absent for callers who may not read the project.
    #[schema(required = false)]
    info: Value,
    #[schema(nullable = false)]
    created: Option<String>,
    #[schema(nullable = false)]
    expires: Option<String>,
    #[schema(nullable = false)]
    owner: Option<String>,
}

#[derive(ToSchema)]
pub struct Locked {
    /// `locked` or `unlocked`.
    status: String,
    lock: Lock,
    #[schema(nullable = false)]
    locks: Option<Vec<Lock>>,
}

#[derive(ToSchema)]
pub struct LockedProjects {
    locked: Vec<String>,
}

#[derive(ToSchema)]
pub struct Valid {
    status: String,
}

#[derive(ToSchema)]
pub struct Parent {
    #[serde(rename = "type")]
    kind: String,
    gprn: String,
}

#[derive(ToSchema)]
pub struct Allowed {
    allowed: bool,
}

#[derive(ToSchema)]
pub struct GprnsBody {
    #[schema(max_items = 1000)]
    gprns: Vec<String>,
}

#[derive(ToSchema)]
pub struct GprnsAllowed {
    /// Whether all of them are.
    status: bool,
    gprns: Vec<GprnAllowed>,
}

#[derive(ToSchema)]
pub struct GprnAllowed {
    gprn: String,
    allowed: bool,
}

#[derive(ToSchema)]
pub struct Children {
    #[schema(nullable = false)]
    children: Option<Vec<String>>,
    /// There are more.
    #[schema(nullable = false)]
    partial_results: Option<bool>,
    /// Of the type `doc`: where it is read.
    #[schema(nullable = false)]
    doc: Option<String>,
}

#[derive(ToSchema)]
pub struct Location {
    s3_url: String,
    s3_arn: String,
}

#[derive(ToSchema)]
pub struct LinkLocation {
    key: String,
    location: Location,
}

#[derive(ToSchema)]
pub struct Located {
    s3_url: String,
    s3_arn: String,
    #[schema(required)]
    links: Option<Vec<LinkLocation>>,
    #[schema(nullable = false)]
    partial_results: Option<bool>,
    #[schema(required)]
    region: Option<String>,
}

#[derive(ToSchema)]
pub struct Sequence {
    prefix: String,
    default: bool,
    test: bool,
    provisioned_pools: Vec<Pool>,
    restricted_pools: Vec<Pool>,
    /// A number, or why there is none.
    current_seq_id: Value,
}

#[derive(ToSchema)]
pub struct Pool {
    pool_id: u64,
    pool_type: String,
    pool_status: String,
    lower_limit: u64,
    upper_limit: u64,
    #[schema(required)]
    created_at: Option<String>,
}

#[derive(ToSchema)]
pub struct SequenceAt {
    prefix: String,
    current_seq_id: Value,
}

#[derive(ToSchema)]
pub struct CurrentVersion {
    project_id: String,
    #[schema(required)]
    current_version: Option<u64>,
}

/// The types, or a checksum of all schemas.
#[derive(ToSchema)]
pub struct SchemaTypes {
    #[schema(nullable = false)]
    document_types: Option<Vec<SchemaType>>,
    #[schema(nullable = false)]
    checksum: Option<String>,
}

#[derive(ToSchema)]
pub struct SchemaType {
    name: String,
    url: String,
}

#[derive(ToSchema)]
pub struct SchemaVersions {
    document_type: String,
    versions: Vec<SchemaVersion>,
}

#[derive(ToSchema)]
pub struct SchemaVersion {
    version: String,
    url: String,
}

#[derive(ToSchema)]
pub struct ValidateBody {
    #[schema(min_items = 1)]
    docs: Vec<Document>,
}

#[derive(ToSchema)]
pub struct Done {
    status: String,
    #[schema(nullable = false)]
    message: Option<String>,
}

#[derive(ToSchema)]
pub struct BuildBody {
    /// Absent: every project.
    #[schema(nullable = false, max_items = 50)]
    project_ids: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub struct IndexStatus {
    aliases: AliasStatus,
    config: IndexClients,
    models: ModelStatus,
}

#[derive(ToSchema)]
pub struct AliasStatus {
    synced: bool,
    clients: BTreeMap<String, Alias>,
}

#[derive(ToSchema)]
pub struct Alias {
    alias: String,
    #[schema(required)]
    index: Option<String>,
    #[schema(required)]
    target: Option<String>,
    /// The index that is being filled.
    #[schema(required)]
    building: Option<String>,
    /// `synced` or `missing`.
    status: String,
}

#[derive(ToSchema)]
pub struct IndexClients {
    backend: Vec<String>,
    frontend: Vec<String>,
}

#[derive(ToSchema)]
pub struct ModelStatus {
    /// For each client a JSON Patch to what the schemas want, or null where none is needed.
    diffs: BTreeMap<String, Value>,
    synced: bool,
}

#[derive(ToSchema)]
pub struct AllIndexSettings {
    indices: IndexSettingsByState,
    total: u64,
}

#[derive(ToSchema)]
pub struct IndexSettingsByState {
    /// Null where there is none.
    active: BTreeMap<String, Value>,
    inactive: BTreeMap<String, Vec<IndexSettings>>,
}

#[derive(ToSchema)]
pub struct IndexSettings {
    name: String,
    settings: Value,
}

#[derive(ToSchema)]
pub struct Deleted {
    deleted: Vec<String>,
}

#[derive(ToSchema)]
pub struct ModelSync {
    synced: bool,
    #[serde(rename = "remaining-diffs")]
    remaining_diffs: Vec<Value>,
    /// `dry-run` or `ok`.
    status: String,
}

#[derive(ToSchema)]
pub struct Snapshots {
    count: u64,
    snapshots: Vec<Document>,
}

#[derive(ToSchema)]
pub struct SnapshotDeleted {
    snapshot: String,
    status: String,
    result: Value,
}

#[derive(ToSchema)]
pub struct Tasks {
    updated: Option<String>,
    #[schema(required)]
    gprn: Option<String>,
    tasks: Vec<OfferedTask>,
}

#[derive(ToSchema)]
pub struct OfferedTask {
    name: String,
    core: bool,
    mandatory: bool,
    callable_info: CallableInfo,
}

#[derive(ToSchema)]
pub struct CallableInfo {
    named_params: Vec<String>,
    docs: String,
}

#[derive(ToSchema)]
pub struct Plugins {
    updated: Option<String>,
    #[schema(required)]
    gprn: Option<String>,
    repositories: Vec<Value>,
    plugins: Vec<Plugin>,
}

#[derive(ToSchema)]
pub struct Plugin {
    name: String,
    /// The events that start it.
    on: Vec<EventStage>,
    /// Projects whose events count; none: all.
    projects: Vec<String>,
    /// Projects whose events never count.
    excluded_projects: Vec<String>,
    access: PluginAccess,
    #[schema(required)]
    last_run: Option<PluginRun>,
}

/// Projects that the plugin's token reads and writes, whatever their permissions say.
#[derive(ToSchema)]
pub struct PluginAccess {
    read: Vec<String>,
    write: Vec<String>,
}

/// A run that has ended.
#[derive(ToSchema)]
pub struct PluginRun {
    job: String,
    /// Id of the event that started it.
    #[schema(required)]
    event: Option<String>,
    #[schema(required)]
    started: Option<String>,
    #[schema(required)]
    finished: Option<String>,
    #[schema(required)]
    succeeded: Option<bool>,
    #[schema(required)]
    exit_code: Option<i32>,
    #[schema(required)]
    log: Option<String>,
}

#[derive(ToSchema)]
pub struct RunBody {
    name: String,
    params: Option<Document>,
}

#[derive(ToSchema)]
pub struct TaskLog {
    time: String,
    logs: Vec<String>,
}

#[derive(ToSchema)]
pub struct Maintenance {
    /// `re-indexing`, or null.
    #[schema(required)]
    state: Option<String>,
    requests: Vec<MaintenanceRequest>,
    started_at: Option<String>,
    stage: Option<String>,
    owner: Option<String>,
    info: Option<String>,
}

#[derive(ToSchema)]
pub struct MaintenanceBody {
    name: MaintenanceOperation,
    args: Option<Vec<Value>>,
    kwargs: Option<Document>,
}

#[derive(ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MaintenanceOperation {
    ReIndex,
    RestartDeployments,
    WaitDeployments,
    Restart,
    Wait,
    ScaleDeployment,
}

#[derive(ToSchema)]
pub struct MaintenanceRequest {
    name: String,
    args: Vec<Value>,
    kwargs: Document,
    #[schema(required)]
    owner: Option<String>,
    created: String,
}

/// The oldest request, or all of them.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum TakenRequests {
    Oldest(MaintenanceRequest),
    All(Vec<MaintenanceRequest>),
}

#[derive(ToSchema)]
pub struct Redirection {
    id: String,
    location: String,
}

#[derive(ToSchema)]
pub struct Instance {
    name: String,
    version: String,
    env: String,
    description: String,
    artifactdb: String,
    doc: String,
    swagger: String,
    sequences: Vec<KnownSequence>,
    auth: Document,
    storage: Document,
}

#[derive(ToSchema)]
pub struct KnownSequence {
    prefix: String,
    default: bool,
    test: bool,
}

#[derive(ToSchema)]
pub struct Health {
    status: BTreeMap<String, String>,
    stats: Document,
}

/// By the alias of a client.
#[derive(ToSchema)]
pub struct ModelSyncs {
    #[serde(flatten)]
    clients: BTreeMap<String, ModelSync>,
}

/// By alias.
#[derive(ToSchema)]
pub struct SchemaClients {
    #[serde(flatten)]
    clients: BTreeMap<String, SchemaClient>,
}

#[derive(ToSchema)]
pub struct SchemaClient {
    kind: String,
    base_uri: String,
    /// Schemas that it has.
    count: u64,
}

/// By the kind of task.
#[derive(ToSchema)]
pub struct TaskLogs {
    #[serde(flatten)]
    tasks: BTreeMap<String, Vec<TaskLog>>,
}

#[derive(ToSchema)]
pub struct Events {
    results: Vec<Event>,
    count: u64,
    /// Path of the next page; absent on the last.
    #[schema(nullable = false)]
    next: Option<String>,
}

#[derive(ToSchema)]
pub struct Event {
    /// The same however often the event is told.
    id: String,
    stage: EventStage,
    time: String,
    /// Null: the whole instance.
    #[schema(required)]
    project_id: Option<String>,
    #[schema(required)]
    version: Option<String>,
    message: Document,
    use_schema: bool,
}

/// The stages, which are core's.
pub struct EventStage;

impl PartialSchema for EventStage {
    fn schema() -> RefOr<Schema> {
        words(event::EventStage::ALL.map(event::EventStage::as_str))
    }
}

impl ToSchema for EventStage {}

fn words<const N: usize>(words: [&'static str; N]) -> RefOr<Schema> {
    let words = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words));
    words.into()
}
