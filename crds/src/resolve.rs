//! A set of resources turned into the configuration of one instance, or refused with the resource
//! and the field. Pure; the same rules as the CEL in the definitions, for whoever has no API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_core::config::{
    ApiConfig, AuthConfig, CorsConfig, ElasticsearchConfig, EventsConfig, GprnConfig, GroupsConfig,
    InstanceConfig, PermissionsConfig, PluginsConfig, PoolConfig, PoolKind, RateLimitConfig,
    RedisConfig, SchemaItem, SchemasConfig, SearchConfig, SequenceConfig, StorageConfig,
    StorageSwitchConfig, StsConfig, VersionsConfig,
};
use artifactdb_core::mapping::{Mapping, MappingError};
use artifactdb_core::permissions::PermissionsPatch;
use artifactdb_core::plugin::PluginConfig;
use artifactdb_core::sequence::Sequence;
use artifactdb_core::timestamp::parse_period;
use jiff::Timestamp;
use thiserror::Error;

use crate::cron;
use crate::instance::{ArtifactDB, ArtifactDBSpec, Groups, PoolType, Storage, StorageSwitch};
use crate::read::ResourceSet;
use crate::schema::ArtifactSchema;

/// Why a set of resources cannot become an instance.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{origin}: {kind} '{name}': {problem}")]
pub struct Refusal {
    pub origin: String,
    pub kind: &'static str,
    pub name: String,
    pub problem: String,
}

/// What can be said about a set beside its configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub config: InstanceConfig,
    /// Schemas that were left out of the mapping: an older one wants a field differently.
    pub conflicts: Vec<MappingError>,
}

/// What one instance and its schemas come to, whatever is wrong with some of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// Absent when the instance itself is refused.
    pub config: Option<InstanceConfig>,
    pub schemas: Arc<SchemaSet>,
    /// Of the instance and of schemas, which are left out.
    pub refusals: Vec<Refusal>,
}

/// The schemas of an instance, and of every other one that has the same.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaSet {
    pub items: Vec<SchemaItem>,
    pub mapping: Arc<Mapping>,
    pub mapping_hash: String,
    /// Schemas that were left out of the mapping: an older one wants a field differently.
    pub conflicts: Vec<MappingError>,
    /// Schemas that cannot be used.
    pub refusals: Vec<Refusal>,
}

const DEFAULT_CLIENT: &str = "artifactdb";
/// Seconds that the groups of a user are believed where nothing else says so.
const GROUPS_LIFE: u64 = 24 * 3600;

/// Resolves the only instance of `set`, with the schemas that select it. Refuses all when it must
/// refuse anything.
pub fn resolve(set: &ResourceSet) -> Result<Resolved, Vec<Refusal>> {
    let [(origin, instance)] = set.instances.as_slice() else {
        let found = set.instances.len();
        return Err(vec![Refusal {
            origin: set.instances.get(1).map_or_else(
                || "these files".to_owned(),
                |(origin, _)| origin.to_string(),
            ),
            kind: "ArtifactDB",
            name: set
                .instances
                .get(1)
                .and_then(|(_, instance)| instance.metadata.name.clone())
                .unwrap_or_default(),
            problem: format!("exactly one instance is needed, and there are {found}"),
        }]);
    };
    let schemas = set.schemas.iter().map(|(origin, own)| (origin, own));
    let mut assembled = assemble(origin, instance, schemas);
    check_others(set, &mut assembled.refusals);
    match assembled.config {
        Some(mut config) if assembled.refusals.is_empty() => Ok(Resolved {
            config: {
                config.plugins.items = plugins(set, instance);
                config
            },
            conflicts: assembled.schemas.conflicts.clone(),
        }),
        _ => Err(assembled.refusals),
    }
}

/// The plugins that select an instance, with their own names for what their tokens say.
fn plugins(set: &ResourceSet, instance: &ArtifactDB) -> Vec<PluginConfig> {
    let labels = instance.metadata.labels.clone().unwrap_or_default();
    let chosen = set.plugins.iter().filter(|(_, own)| {
        let selector = own.spec.instances.as_ref();
        selector.is_none_or(|selector| selector.matches(&labels))
    });
    let mut configs: Vec<PluginConfig> = chosen
        .map(|(_, own)| {
            let name = own.metadata.name.as_deref().unwrap_or_default();
            own.config(format!("plugin:{name}"))
        })
        .collect();
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    configs
}

/// Puts an instance and those of `schemas` that select it together; `schemas` come oldest first.
/// One that cannot be used is left out and told.
pub fn assemble<'a, O: std::fmt::Display + 'a>(
    origin: &O,
    instance: &ArtifactDB,
    schemas: impl Iterator<Item = (&'a O, &'a ArtifactSchema)>,
) -> Assembled {
    let chosen = schemas.filter(|(_, schema)| selects(instance, schema));
    assemble_with(origin, instance, Arc::new(SchemaSet::of(chosen)))
}

/// Puts an instance and its schemas together.
pub fn assemble_with(
    origin: &impl std::fmt::Display,
    instance: &ArtifactDB,
    schemas: Arc<SchemaSet>,
) -> Assembled {
    let mut refusals = Vec::new();
    let name = instance.metadata.name.clone().unwrap_or_default();
    check_instance(origin, &name, &instance.spec, &mut refusals);
    let refused = !refusals.is_empty();
    refusals.extend(schemas.refusals.iter().cloned());
    Assembled {
        config: (!refused).then(|| config(&name, instance, schemas.items.clone())),
        schemas,
        refusals,
    }
}

impl SchemaSet {
    /// `schemas` come oldest first: of two that cannot be together the older one is used.
    pub fn of<'a, O: std::fmt::Display + 'a>(
        schemas: impl Iterator<Item = (&'a O, &'a ArtifactSchema)>,
    ) -> Self {
        let mut refusals = Vec::new();
        let mut items: Vec<SchemaItem> = Vec::new();
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        for (origin, schema) in schemas {
            match schema_item(origin, schema) {
                Err(refusal) => refusals.push(refusal),
                Ok(item) => {
                    let own = schema.metadata.name.clone().unwrap_or_default();
                    if let Some(first) = known.get(&item.name()) {
                        refusals.push(Refusal {
                            origin: origin.to_string(),
                            kind: "ArtifactSchema",
                            name: own,
                            problem: format!(
                                "field 'spec.type': '{}' is already defined by ArtifactSchema '{first}'",
                                item.name()
                            ),
                        });
                        continue;
                    }
                    known.insert(item.name(), own);
                    items.push(item);
                }
            }
        }
        let (mapping, conflicts) = artifactdb_core::config::mapping_of(&items);
        Self {
            mapping_hash: mapping.hash(),
            mapping: Arc::new(mapping),
            items,
            conflicts,
            refusals,
        }
    }
}

/// Whether a schema belongs to an instance: each may choose the other by labels.
pub fn selects(instance: &ArtifactDB, schema: &ArtifactSchema) -> bool {
    let labels = instance.metadata.labels.clone().unwrap_or_default();
    let own = schema.metadata.labels.clone().unwrap_or_default();
    let wanted = instance.spec.schemas.selector.as_ref();
    let by_instance = wanted.is_none_or(|selector| {
        selector
            .iter()
            .all(|(name, value)| own.get(name) == Some(value))
    });
    let by_schema = schema
        .spec
        .instances
        .as_ref()
        .is_none_or(|selector| selector.matches(&labels));
    by_instance && by_schema
}

/// A schema as an instance uses it, or why it cannot.
pub fn schema_item(
    origin: &impl std::fmt::Display,
    schema: &ArtifactSchema,
) -> Result<SchemaItem, Refusal> {
    let refuse = |problem: String| Refusal {
        origin: origin.to_string(),
        kind: "ArtifactSchema",
        name: schema.metadata.name.clone().unwrap_or_default(),
        problem,
    };
    let spec = &schema.spec;
    let valid = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    if !valid(&spec.kind) {
        return Err(refuse(format!(
            "field 'spec.type': '{}' may hold letters, digits, '_', '.' and '-'",
            spec.kind
        )));
    }
    if !valid(&spec.version) {
        return Err(refuse(format!(
            "field 'spec.version': '{}' may hold letters, digits, '_', '.' and '-'",
            spec.version
        )));
    }
    let body = match (&spec.schema, &spec.schema_ref) {
        (Some(body), None) => Arc::new(body.clone()),
        (None, Some(reference)) => {
            return Err(refuse(format!(
                "field 'spec.schemaRef': there is no ConfigMap '{}' here with a JSON Schema in its key '{}'; without a cluster, put the schema into 'spec.schema'",
                reference.config_map, reference.key
            )));
        }
        _ => {
            return Err(refuse(
                "field 'spec.schema': set schema or schemaRef, one of them".to_owned(),
            ));
        }
    };
    if !body.is_object() {
        return Err(refuse("field 'spec.schema' is not an object".to_owned()));
    }
    Ok(SchemaItem {
        kind: spec.kind.clone(),
        version: spec.version.clone(),
        schema: body,
    })
}

fn check_instance(
    origin: &impl std::fmt::Display,
    name: &str,
    spec: &ArtifactDBSpec,
    refusals: &mut Vec<Refusal>,
) {
    let mut refuse = |problem: &str| {
        refusals.push(Refusal {
            origin: origin.to_string(),
            kind: "ArtifactDB",
            name: name.to_owned(),
            problem: problem.to_owned(),
        });
    };
    let dns_label = !name.is_empty()
        && name.len() <= 40
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !dns_label {
        refuse(
            "field 'metadata.name': at most 40 lower-case letters, digits and dashes, no dash at an end",
        );
    }
    if spec.standalone.is_none() {
        if spec.storage.is_empty() {
            refuse("field 'spec.storage': name at least one storage, or set standalone");
        }
        if spec.elasticsearch.is_none() {
            refuse("field 'spec.elasticsearch' is required unless standalone is set");
        }
        if spec.redis.is_none() {
            refuse("field 'spec.redis' is required unless standalone is set");
        }
    }
    if spec.ingress.is_some() && spec.gateway.is_some() {
        refuse("field 'spec.gateway': set ingress or gateway, not both");
    }
    let mut aliases: Vec<&str> = spec.storage.iter().map(|s| s.alias.as_str()).collect();
    aliases.sort_unstable();
    if aliases.windows(2).any(|pair| pair[0] == pair[1]) {
        refuse("field 'spec.storage': aliases must be unique");
    }
    let storages: Vec<StorageConfig> = spec.storage.iter().map(storage).collect();
    if let Some(switch) = spec.storage_switch.as_ref().map(storage_switch)
        && let Err(error) = switch.check(&storages)
    {
        refuse(&format!("field 'spec.storageSwitch': {error}"));
    }
    if let Some(gprn) = &spec.gprn
        && (gprn.service.is_empty() || gprn.service.contains(':'))
    {
        refuse("field 'spec.gprn.service' must not be empty or contain ':'");
    }
    if let Some(redis) = &spec.redis
        && redis.url.is_some() == redis.url_secret_ref.is_some()
    {
        refuse("field 'spec.redis': set url or urlSecretRef, one of them");
    }
    if let Some(groups) = &spec.auth.groups {
        let url = &groups.url_template;
        if !(url.starts_with("http://") || url.starts_with("https://")) || !url.contains("{user}") {
            refuse("field 'spec.auth.groups.urlTemplate' must be an http or https URL with {user}");
        }
        if let Some(life) = &groups.cache_ttl
            && parse_period(life).is_none()
        {
            refuse("field 'spec.auth.groups.cacheTtl' must be a period such as 30m, 12h or 1d");
        }
    }
    if let Some(limit) = &spec.api.rate_limit
        && (limit.requests_per_second == 0 || limit.burst == Some(0))
    {
        refuse("field 'spec.api.rateLimit': requestsPerSecond and burst must be 1 or more");
    }
    if let Some(life) = &spec.retention.events
        && events_life(life).is_none()
    {
        refuse(
            "field 'spec.retention.events' must be a period of an hour or more, such as 12h or 7d",
        );
    }
    if let Err(error) = Sequence::all(&sequences(spec)) {
        refuse(&format!("field 'spec.sequences': {error}"));
    }
    for scaling in [&spec.api.autoscaling, &spec.indexer.autoscaling]
        .into_iter()
        .flatten()
    {
        if scaling.min > scaling.max || scaling.min == 0 {
            refuse("field 'autoscaling': min is at least 1 and not greater than max");
        }
    }
}

/// Plugins and schedules do not enter the configuration; what is wrong with them is still said.
fn check_others(set: &ResourceSet, refusals: &mut Vec<Refusal>) {
    for (origin, schedule) in &set.schedules {
        let mut refuse = |problem: String| {
            refusals.push(Refusal {
                origin: origin.to_string(),
                kind: "ArtifactSchedule",
                name: schedule.metadata.name.clone().unwrap_or_default(),
                problem,
            });
        };
        let spec = &schedule.spec;
        if spec.plugin.is_some() == spec.task.is_some() {
            refuse("field 'spec.plugin': set plugin or task, one of them".to_owned());
        }
        if let Err(problem) =
            cron::next(&spec.schedule, spec.time_zone.as_deref(), Timestamp::now())
        {
            refuse(format!("field 'spec.schedule': {problem}"));
        }
        if let Some(plugin) = &spec.plugin {
            let known = set
                .plugins
                .iter()
                .any(|(_, own)| own.metadata.name.as_deref() == Some(&plugin.name));
            if !known {
                refuse(format!(
                    "field 'spec.plugin.name': there is no ArtifactPlugin '{}'",
                    plugin.name
                ));
            }
        }
    }
    for (origin, plugin) in &set.plugins {
        if plugin.spec.image.is_empty() {
            refusals.push(Refusal {
                origin: origin.to_string(),
                kind: "ArtifactPlugin",
                name: plugin.metadata.name.clone().unwrap_or_default(),
                problem: "field 'spec.image' must not be empty".to_owned(),
            });
        }
    }
}

/// Less than an hour would lose what a reader that was away for a while has not seen.
fn events_life(text: &str) -> Option<EventsConfig> {
    let seconds = parse_period(text)?.as_secs();
    let kept_seconds = u32::try_from(seconds).ok().filter(|own| *own >= 3600)?;
    Some(EventsConfig { kept_seconds })
}

fn config(name: &str, instance: &ArtifactDB, items: Vec<SchemaItem>) -> InstanceConfig {
    let spec = &instance.spec;
    let oidc = spec.auth.oidc.as_ref();
    let client_id = oidc
        .and_then(|oidc| oidc.client_id.clone())
        .unwrap_or_else(|| DEFAULT_CLIENT.to_owned());
    let mut known_clients = spec.auth.known_clients.clone();
    if !known_clients.contains(&client_id) {
        known_clients.insert(0, client_id.clone());
    }
    let default = &spec.permissions.default;
    let search = SearchConfig::default();
    InstanceConfig {
        name: name.to_owned(),
        namespace: instance
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        environment: spec.environment.clone(),
        description: spec.description.clone(),
        gprn: spec.gprn.as_ref().map(|gprn| GprnConfig {
            service: gprn.service.clone(),
            placeholder: gprn.placeholder.clone(),
        }),
        storage: spec.storage.iter().map(storage).collect(),
        storage_switch: spec.storage_switch.as_ref().map(storage_switch),
        beside: None,
        elasticsearch: spec.elasticsearch.as_ref().map(|own| ElasticsearchConfig {
            urls: own.urls.clone(),
            shards: own.shards.unwrap_or(1),
            replicas: own.replicas.unwrap_or(1),
            retained_indices: own.retained_indices.unwrap_or(1),
            snapshot_repository: spec.snapshots.as_ref().map(|own| own.repository.clone()),
        }),
        redis: spec.redis.as_ref().map(|own| RedisConfig {
            url: own.url.clone(),
        }),
        auth: AuthConfig {
            enabled: spec.auth.enabled,
            client_id,
            known_clients,
            well_known_primary: oidc.and_then(|oidc| oidc.well_known_primary.clone()),
            well_known_secondary: oidc
                .map(|oidc| oidc.well_known_secondary.clone())
                .unwrap_or_default(),
            audience: oidc.and_then(|oidc| oidc.audience.clone()),
            groups: spec.auth.groups.as_ref().map(groups),
        },
        permissions: PermissionsConfig {
            default: PermissionsPatch {
                scope: None,
                owners: default.owners.clone(),
                viewers: default.viewers.clone(),
                read_access: default.read_access.map(Into::into),
                write_access: default.write_access.map(Into::into),
            },
        },
        schemas: SchemasConfig {
            validate_documents: spec.schemas.validate_documents,
            reject_without_schema: spec.schemas.reject_without_schema,
            items,
        },
        sequences: sequences(spec),
        events: spec
            .retention
            .events
            .as_deref()
            .and_then(events_life)
            .unwrap_or_default(),
        api: api(spec),
        plugins: PluginsConfig::default(),
        versions: VersionsConfig {
            mutable: spec.versions.mutable,
        },
        search: SearchConfig {
            max_results: spec
                .elasticsearch
                .as_ref()
                .and_then(|elasticsearch| elasticsearch.max_results)
                .and_then(|results| usize::try_from(results).ok())
                .unwrap_or(search.max_results),
            ..search
        },
    }
}

fn api(spec: &ArtifactDBSpec) -> ApiConfig {
    let prefix = spec.ingress.as_ref().and_then(|own| own.prefix.as_deref());
    let prefix = prefix
        .map(|own| own.trim_matches('/'))
        .filter(|own| !own.is_empty());
    ApiConfig {
        prefix: prefix.map(|own| format!("/{own}")),
        cors: spec.api.cors.as_ref().map(|own| CorsConfig {
            allow_origins: own.allow_origins.clone(),
            allow_methods: own.allow_methods.clone(),
            allow_headers: own.allow_headers.clone(),
        }),
        rate_limit: spec.api.rate_limit.as_ref().map(|own| RateLimitConfig {
            requests_per_second: own.requests_per_second,
            burst: own.burst,
        }),
        max_concurrent_requests: spec.api.max_concurrent_requests,
    }
}

fn groups(own: &Groups) -> GroupsConfig {
    let life = own.cache_ttl.as_deref().and_then(parse_period);
    let life = life.and_then(|life| u64::try_from(life.as_secs()).ok());
    GroupsConfig {
        url_template: own.url_template.clone(),
        cache_seconds: life.unwrap_or(GROUPS_LIFE),
    }
}

fn sequences(spec: &ArtifactDBSpec) -> Vec<SequenceConfig> {
    let own = spec.sequences.iter().map(|sequence| SequenceConfig {
        prefix: sequence.prefix.clone(),
        format: sequence.format.clone(),
        default: sequence.default,
        test: sequence.test || sequence.prefix.starts_with("test-"),
        pools: sequence
            .pools
            .iter()
            .map(|pool| PoolConfig {
                kind: match pool.kind {
                    PoolType::Provisioned => PoolKind::Provisioned,
                    PoolType::Restricted => PoolKind::Restricted,
                },
                from: pool.from,
                to: pool.to,
            })
            .collect(),
    });
    own.collect()
}

fn storage_switch(switch: &StorageSwitch) -> StorageSwitchConfig {
    StorageSwitchConfig {
        header: switch.header.clone(),
        contexts: switch.contexts.clone(),
    }
}

fn storage(storage: &Storage) -> StorageConfig {
    StorageConfig {
        alias: storage.alias.clone(),
        bucket: storage.bucket.clone(),
        endpoint: storage.endpoint.clone(),
        public_endpoint: None,
        region: storage
            .region
            .clone()
            .unwrap_or_else(|| "us-east-1".to_owned()),
        path_style: storage.path_style,
        version_pinning: storage.version_pinning,
        sts: storage.sts.as_ref().map(|sts| StsConfig {
            role_arn: sts.role_arn.clone(),
        }),
    }
}
