//! What shall be, from what is wanted and what is there. Pure: the same observation gives the same
//! plan, and no input makes it fail; what cannot be is a refusal or a problem, told in the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_core::config::{InstanceConfig, PluginsConfig, SchemaItem, SchemasConfig};
use artifactdb_core::search::elasticsearch::{Standing, TemplateStanding};
use artifactdb_core::timestamp::parse_period;
use artifactdb_crds::resolve::Assembled;
use artifactdb_crds::schedule::BuiltinTask;
use artifactdb_crds::{ArtifactDB, ArtifactPlugin, ArtifactSchedule};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::names::{MAPPING, SCHEMAS, cron_job, short_hash};
use crate::object::ChildKind;
use crate::references::references;

/// Digits of the hashes in names.
const DIGITS: usize = 10;
/// Pods that fill an index together, at the most.
const SHARDS_MAX: u32 = 8;
/// Bytes of the schemas of one ConfigMap, where it is not a single schema: none comes near 1 MiB.
const CHUNK: usize = 700 * 1024;
/// Bytes of one schema at the most: it has to fit into a ConfigMap.
const SCHEMA_MAX: usize = 900 * 1024;

/// A Secret that is referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSeen {
    pub resource_version: String,
    pub keys: Vec<String>,
}

/// One storage's part of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSeen {
    pub alias: String,
    pub template: TemplateStanding,
    pub live: Option<LiveSeen>,
    pub building: Option<LiveSeen>,
    pub documents: Option<u64>,
    pub built: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSeen {
    pub name: String,
    pub ours: bool,
    pub mapping_hash: String,
    pub standing: Standing,
}

/// What a rehearsal found: whether the stored metadata fits schemas that would replace others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    pub checked: u64,
    pub failed: u64,
    /// Some of those that failed, with why.
    #[serde(default)]
    pub samples: Vec<String>,
}

/// Everything that a plan of an instance depends on.
#[derive(Debug, Clone)]
pub struct Observed {
    pub instance: Arc<ArtifactDB>,
    pub assembled: Assembled,
    /// By name; absent: there is none.
    pub secrets: BTreeMap<String, SecretSeen>,
    pub children: BTreeMap<(ChildKind, String), Arc<Child>>,
    /// Those that select it.
    pub plugins: Vec<ArtifactPlugin>,
    pub schedules: Vec<ArtifactSchedule>,
    /// By storage, the default one first; or why the engine cannot be asked.
    pub engine: Result<Vec<IndexSeen>, String>,
    /// The rehearsal of the mapping that is wanted, once its Job has ended.
    pub rehearsal: Option<Rehearsal>,
    /// What the Jobs of the mapping that is wanted failed by.
    pub job_failure: Option<String>,
    /// What is wrong with the definitions of our own kinds.
    pub definitions: Vec<String>,
    /// By what plugins' tokens are known; or why that cannot be found out.
    pub tokens: Result<Arc<TokenKeys>, String>,
}

/// Who signs the tokens of service accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenKeys {
    pub issuer: String,
    /// JSON Web Keys.
    pub keys: Vec<serde_json::Value>,
}

/// Why something is not as it was wanted, for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

/// The schemas that pods work by.
#[derive(Debug, Clone, PartialEq)]
pub enum Served {
    /// Those that are wanted.
    Wanted,
    /// Those from before: the index does not fit what is wanted yet.
    Former {
        hash: String,
        config_maps: Vec<String>,
    },
}

/// A change in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    PutTemplate,
    AddFields {
        index: String,
    },
    /// Make the index that the workers fill and make live.
    BeginBuild,
}

/// Where the index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexState {
    /// There is no engine: it is in the pod.
    Embedded,
    Current,
    /// There is none yet: workers fill the first one.
    First,
    /// It is checked whether what is stored fits.
    Rehearsing,
    /// Some of it does not, and nobody has said to go on.
    Waiting(Rehearsal),
    Building,
    Failed(String),
    /// Another owner's index has our name.
    Foreign(String),
    Away(String),
}

/// A Job that is about a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexJob {
    Rehearse,
    Reindex { shards: u32, allow_failed: bool },
}

#[derive(Debug, Clone, PartialEq)]
pub struct IndexPlan {
    pub state: IndexState,
    /// By the place of the storage, in order.
    pub steps: Vec<(usize, Step)>,
    pub job: Option<IndexJob>,
    pub mapping_hash: String,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub instance: Arc<ArtifactDB>,
    /// Without schemas.
    pub config: InstanceConfig,
    /// The ones that are wanted.
    pub schemas: Vec<SchemaItem>,
    /// The same as JSON lists, for a ConfigMap each: none is larger than `CHUNK`.
    pub schema_chunks: Vec<String>,
    pub schemas_hash: String,
    pub served: Served,
    pub index: IndexPlan,
    /// Changes with the Secrets that pods mount.
    pub secrets_hash: String,
    pub plugins: Vec<ArtifactPlugin>,
    /// Those that can run, with what they run.
    pub schedules: Vec<(ArtifactSchedule, Runs)>,
    /// Whether a key for signing has to be made.
    pub makes_signing_key: bool,
    /// Names of ConfigMaps of ours that pods still mount.
    pub mounted: Vec<String>,
    pub paused: bool,
    /// What is wrong and does not keep the rest from going on.
    pub problems: Vec<Problem>,
}

/// What a schedule runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Runs {
    /// The indexer, with these arguments.
    Task(Vec<String>),
    Plugin(Box<ArtifactPlugin>),
    /// The task, in the process of a standalone instance.
    Embedded,
}

/// What a schedule runs on an instance that has these plugins, or why it cannot run.
pub fn runs(
    schedule: &ArtifactSchedule,
    instance: &ArtifactDB,
    plugins: &[ArtifactPlugin],
    now: jiff::Timestamp,
) -> Result<Runs, Problem> {
    let spec = &schedule.spec;
    let refuse = |reason, message: String| Problem { reason, message };
    artifactdb_crds::cron::next(&spec.schedule, spec.time_zone.as_deref(), now).map_err(
        |problem| {
            refuse(
                "InvalidSchedule",
                format!("field 'spec.schedule': {problem}"),
            )
        },
    )?;
    if instance.spec.standalone.is_some() {
        let text = match (&spec.plugin, spec.task) {
            (Some(_), _) => "a standalone instance runs no plugins",
            (None, Some(BuiltinTask::Snapshot)) => {
                "a standalone instance has no Elasticsearch to take a snapshot of"
            }
            _ => return Ok(Runs::Embedded),
        };
        return Err(refuse("NotSupported", text.to_owned()));
    }
    match (&spec.plugin, spec.task) {
        (Some(reference), None) => plugins
            .iter()
            .find(|own| own.name_any() == reference.name)
            .map(|own| Runs::Plugin(Box::new(own.clone())))
            .ok_or_else(|| {
                let name = &reference.name;
                let text = format!(
                    "field 'spec.plugin.name': no ArtifactPlugin '{name}' serves the instance '{}'",
                    instance.name_any()
                );
                refuse("PluginMissing", text)
            }),
        (None, Some(BuiltinTask::Reindex)) => Ok(Runs::Task(vec!["reindex".to_owned()])),
        (None, Some(BuiltinTask::Sweep)) => Ok(Runs::Task(vec!["sweep".to_owned()])),
        (None, Some(BuiltinTask::PurgeStale)) => {
            Ok(Runs::Task(crate::render::purge_stale(instance)))
        }
        (None, Some(BuiltinTask::Snapshot)) => match &instance.spec.snapshots {
            Some(own) => Ok(Runs::Task(vec![
                "snapshot".to_owned(),
                "--repository".to_owned(),
                own.repository.clone(),
            ])),
            None => Err(refuse(
                "NotSupported",
                format!(
                    "the instance '{}' names no repository in 'spec.snapshots'",
                    instance.name_any()
                ),
            )),
        },
        (None, Some(BuiltinTask::SyncPermissions)) => {
            Ok(Runs::Task(vec!["sync-permissions".to_owned()]))
        }
        _ => Err(refuse(
            "InvalidSpec",
            "field 'spec.plugin': set plugin or task, one of them".to_owned(),
        )),
    }
}

/// What comes of an observation.
#[derive(Debug, Clone)]
pub enum Outcome {
    Planned(Box<Plan>),
    /// Nothing is changed until somebody mends this.
    Refused(Vec<Problem>),
}

/// Decides. Everything that may be wrong with the input is told at once.
pub fn plan(observed: &Observed) -> Outcome {
    let instance = &observed.instance;
    let spec = &instance.spec;
    let mut refused: Vec<Problem> = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    problems.extend(observed.definitions.iter().map(|message| Problem {
        reason: "DefinitionOutdated",
        message: message.clone(),
    }));
    for refusal in &observed.assembled.refusals {
        match refusal.kind {
            "ArtifactDB" => refused.push(Problem {
                reason: "InvalidSpec",
                message: refusal.problem.clone(),
            }),
            _ => problems.push(Problem {
                reason: "SchemaRefused",
                message: format!("ArtifactSchema '{}': {}", refusal.name, refusal.problem),
            }),
        }
    }
    for conflict in &observed.assembled.schemas.conflicts {
        problems.push(Problem {
            reason: "SchemaConflict",
            message: conflict.to_string(),
        });
    }
    refused.extend(check_durations(instance));
    for (field, own) in [
        ("spec.api.podTemplate", &spec.api.pod_template),
        ("spec.indexer.podTemplate", &spec.indexer.pod_template),
    ] {
        let misfit = own.as_ref().and_then(crate::render::misfit);
        refused.extend(misfit.map(|problem| Problem {
            reason: "InvalidSpec",
            message: format!("field '{field}': {problem}"),
        }));
    }
    let mut secrets = String::new();
    for reference in references(spec) {
        match observed.secrets.get(&reference.name) {
            None => refused.push(Problem {
                reason: "SecretMissing",
                message: format!(
                    "field '{}': there is no Secret '{}' in this namespace",
                    reference.field, reference.name
                ),
            }),
            Some(seen) => {
                refused.extend(reference.problem(&seen.keys).map(|message| Problem {
                    reason: "SecretKeyMissing",
                    message,
                }));
                secrets.push_str(&format!("{}={};", reference.name, seen.resource_version));
            }
        }
    }
    let Some(mut config) = observed.assembled.config.clone() else {
        return Outcome::Refused(refused);
    };
    if !refused.is_empty() {
        return Outcome::Refused(refused);
    }
    let mapping_hash = observed.assembled.schemas.mapping_hash.clone();
    let items = std::mem::take(&mut config.schemas.items);
    let (schemas, large): (Vec<_>, Vec<_>) = items
        .into_iter()
        .partition(|item| item.schema.to_string().len() <= SCHEMA_MAX);
    problems.extend(large.iter().map(|item| Problem {
        reason: "SchemaRefused",
        message: format!(
            "schema '{}' is larger than {} KiB and is left out",
            item.name(),
            SCHEMA_MAX / 1024
        ),
    }));
    let schema_chunks = chunks(&schemas);
    let schemas_hash = short_hash(&schema_chunks.concat(), DIGITS);
    let index = index_plan(observed, mapping_hash);
    let served = served(observed, &schemas_hash, &index.state);
    let plugins = plugins(observed, &mut problems);
    config.plugins = plugin_tokens(observed, &plugins, &mut problems);
    Outcome::Planned(Box::new(Plan {
        instance: instance.clone(),
        makes_signing_key: spec.auth.presign_key_secret_ref.is_none() && spec.standalone.is_none(),
        config,
        schemas,
        schema_chunks,
        schemas_hash,
        served,
        index,
        schedules: observed
            .schedules
            .iter()
            .filter_map(|own| {
                let runs = runs(
                    own,
                    instance,
                    &observed.plugins,
                    jiff::Timestamp::UNIX_EPOCH,
                );
                Some((own.clone(), runs.ok()?))
            })
            .collect(),
        plugins,
        secrets_hash: short_hash(&secrets, DIGITS),
        mounted: mounted(observed),
        paused: spec.paused,
        problems,
    }))
}

fn chunks(schemas: &[SchemaItem]) -> Vec<String> {
    let mut chunks = vec![String::from("[")];
    for schema in schemas {
        let text = serde_json::to_string(schema).unwrap_or_default();
        match chunks.last_mut() {
            Some(last) if last.len() == 1 || last.len() + text.len() < CHUNK => {
                if last.len() > 1 {
                    last.push(',');
                }
                last.push_str(&text);
            }
            _ => chunks.push(format!("[{text}")),
        }
    }
    for chunk in &mut chunks {
        chunk.push(']');
    }
    chunks
}

/// The plugins that can be rendered; of the others is told what is wrong.
fn plugins(observed: &Observed, problems: &mut Vec<Problem>) -> Vec<ArtifactPlugin> {
    let fits = |own: &&ArtifactPlugin| {
        let misfit = own
            .spec
            .pod_template
            .as_ref()
            .and_then(crate::render::misfit);
        problems.extend(misfit.iter().map(|problem| Problem {
            reason: "PluginRefused",
            message: format!(
                "ArtifactPlugin '{}': field 'spec.podTemplate': {problem}",
                own.name_any()
            ),
        }));
        misfit.is_none()
    };
    match observed.instance.spec.standalone {
        // Their own status says so.
        Some(_) => Vec::new(),
        None => observed.plugins.iter().filter(fits).cloned().collect(),
    }
}

/// What the API knows of plugins: by what tokens they come, and what those are good for.
fn plugin_tokens(
    observed: &Observed,
    plugins: &[ArtifactPlugin],
    problems: &mut Vec<Problem>,
) -> PluginsConfig {
    if plugins.is_empty() {
        return PluginsConfig::default();
    }
    let keys = match &observed.tokens {
        Ok(keys) => keys.clone(),
        Err(problem) => {
            problems.push(Problem {
                reason: "TokensUnknown",
                message: format!(
                    "plugins' tokens cannot be verified: {problem}; the operator's account needs the ClusterRole system:service-account-issuer-discovery"
                ),
            });
            Arc::default()
        }
    };
    let instance = observed.instance.name_any();
    let namespace = observed.instance.namespace().unwrap_or_default();
    let items = plugins.iter().map(|own| {
        let account = cron_job(&instance, "plugin", &own.name_any());
        own.config(format!("system:serviceaccount:{namespace}:{account}"))
    });
    PluginsConfig {
        issuer: keys.issuer.clone(),
        audience: audience(&namespace, &instance),
        keys: keys.keys.clone(),
        items: items.collect(),
    }
}

/// What the tokens of an instance's plugins are for.
pub fn audience(namespace: &str, instance: &str) -> String {
    format!("artifactdb/{namespace}/{instance}")
}

fn check_durations(instance: &ArtifactDB) -> Option<Problem> {
    let stale = instance.spec.retention.stale_after.as_ref()?;
    parse_period(stale).is_none().then(|| Problem {
        reason: "InvalidSpec",
        message: format!(
            "field 'spec.retention.staleAfter': '{stale}' is no duration such as '12h' or '14d'"
        ),
    })
}

fn index_plan(observed: &Observed, mapping_hash: String) -> IndexPlan {
    let spec = &observed.instance.spec;
    let mut plan = IndexPlan {
        state: IndexState::Current,
        steps: Vec::new(),
        job: None,
        mapping_hash,
    };
    if spec.standalone.is_some() {
        plan.state = IndexState::Embedded;
        return plan;
    }
    let seen = match &observed.engine {
        Ok(seen) => seen,
        Err(reason) => {
            plan.state = IndexState::Away(reason.clone());
            return plan;
        }
    };
    let foreign = seen.iter().find_map(|own| match &own.live {
        Some(live) if !live.ours => Some(format!(
            "the index '{}' behind the alias '{}' belongs to somebody else; delete it, give this instance another name, or set spec.adoptExisting",
            live.name, own.alias
        )),
        _ if own.template == TemplateStanding::Foreign => Some(format!(
            "the index template '{}' belongs to somebody else; delete it, give this instance another name, or set spec.adoptExisting",
            own.alias
        )),
        _ => None,
    });
    if let Some(message) = foreign
        && !spec.adopt_existing
    {
        plan.state = IndexState::Foreign(message);
        return plan;
    }
    let mut outdated = false;
    let mut missing = false;
    for (place, own) in seen.iter().enumerate() {
        if own.template != TemplateStanding::Current {
            plan.steps.push((place, Step::PutTemplate));
        }
        match &own.live {
            None => {
                missing = true;
                if own.building.is_none() {
                    plan.steps.push((place, Step::BeginBuild));
                }
            }
            // An index that is taken over tells nothing of how it was made.
            Some(live) if !live.ours => outdated = true,
            Some(live) => match live.standing {
                Standing::Current => {}
                Standing::Extended => plan.steps.push((
                    place,
                    Step::AddFields {
                        index: live.name.clone(),
                    },
                )),
                Standing::Outdated | Standing::Missing => outdated = true,
            },
        }
    }
    if missing {
        plan.state = IndexState::First;
    }
    if outdated {
        rebuild(observed, &mut plan);
    }
    plan
}

/// The live index does not fit: rehearse, and then fill another one.
fn rebuild(observed: &Observed, plan: &mut IndexPlan) {
    let spec = &observed.instance.spec;
    let promoted = spec.promote.as_deref() == Some(&*plan.mapping_hash)
        || spec
            .promote
            .as_ref()
            .is_some_and(|hash| hash.len() >= DIGITS && plan.mapping_hash.starts_with(hash));
    let reindex = |allow_failed| IndexJob::Reindex {
        shards: spec.indexer.replicas.unwrap_or(1).clamp(1, SHARDS_MAX),
        allow_failed,
    };
    if let Some(failure) = &observed.job_failure {
        plan.state = IndexState::Failed(failure.clone());
        // What failed stays to be looked at; once somebody deletes it, it is tried again.
        plan.job = Some(match &observed.rehearsal {
            None => IndexJob::Rehearse,
            Some(_) => reindex(promoted),
        });
        return;
    }
    match &observed.rehearsal {
        None => {
            plan.state = IndexState::Rehearsing;
            plan.job = Some(IndexJob::Rehearse);
        }
        Some(found) if found.failed > 0 && !promoted => {
            plan.state = IndexState::Waiting(found.clone());
        }
        Some(found) => {
            plan.state = IndexState::Building;
            plan.job = Some(reindex(found.failed > 0));
        }
    }
}

fn served(observed: &Observed, wanted: &str, state: &IndexState) -> Served {
    let api = (
        ChildKind::Deployment,
        format!("{}-api", observed.instance.name_any()),
    );
    let api = observed
        .children
        .get(&api)
        .and_then(|child| child.annotation(SCHEMAS));
    let Some(former) = api.filter(|former| *former != wanted) else {
        return Served::Wanted;
    };
    let holds = matches!(
        state,
        IndexState::Rehearsing
            | IndexState::Waiting(_)
            | IndexState::Building
            | IndexState::Failed(_)
            | IndexState::Away(_)
    );
    let config_maps: Vec<String> = observed
        .children
        .iter()
        .filter(|((kind, _), child)| {
            *kind == ChildKind::ConfigMap && child.annotation(SCHEMAS) == Some(former)
        })
        .map(|((_, name), _)| name.clone())
        .collect();
    match holds && !config_maps.is_empty() {
        true => Served::Former {
            hash: former.to_owned(),
            config_maps,
        },
        // There is nothing left to go on with.
        false => Served::Wanted,
    }
}

/// ConfigMaps that a rollout has not let go of yet: all of them while one is under way.
fn mounted(observed: &Observed) -> Vec<String> {
    let rolling = observed
        .children
        .iter()
        .any(|((kind, _), child)| *kind == ChildKind::Deployment && !rolled_out(child));
    observed
        .children
        .keys()
        .filter(|(kind, _)| rolling && *kind == ChildKind::ConfigMap)
        .map(|(_, name)| name.clone())
        .collect()
}

/// Whether every pod of a Deployment is made from its template as it is now, and is available.
pub fn rolled_out(child: &Child) -> bool {
    let wanted = child.spec.replicas.unwrap_or(1);
    let status = child.status();
    status.observed_generation >= child.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.replicas.unwrap_or(0) <= wanted
        && status.available_replicas.unwrap_or(0) >= wanted
}

impl Plan {
    pub fn name(&self) -> String {
        self.instance.name_any()
    }

    pub fn namespace(&self) -> String {
        self.instance.namespace().unwrap_or_default()
    }

    pub fn uid(&self) -> String {
        self.instance.uid().unwrap_or_default()
    }

    /// The first digits of the mapping's hash, which names its Jobs.
    pub fn mapping_digits(&self) -> &str {
        self.index.mapping_hash.get(..DIGITS).unwrap_or_default()
    }

    /// The configuration as pods read it: schemas come beside it.
    pub fn instance_json(&self) -> String {
        let config = InstanceConfig {
            schemas: SchemasConfig {
                items: Vec::new(),
                ..self.config.schemas.clone()
            },
            ..self.config.clone()
        };
        serde_json::to_string_pretty(&config).unwrap_or_default()
    }

    /// Hash of what `instance_json` says.
    pub fn config_hash(&self) -> String {
        short_hash(&self.instance_json(), DIGITS)
    }
}

/// The Job of a mapping, by what it does.
pub fn job_name(instance: &str, job: &IndexJob, digits: &str) -> String {
    let verb = match job {
        IndexJob::Rehearse => "rehearse",
        IndexJob::Reindex { .. } => "reindex",
    };
    format!("{instance}-{verb}-{digits}")
}

/// Whether a Job of ours is about this mapping.
pub fn is_about(child: &Child, mapping_hash: &str) -> bool {
    child
        .annotation(MAPPING)
        .is_some_and(|digits| !digits.is_empty() && mapping_hash.starts_with(digits))
}
