//! Everything that a plan of an instance depends on, looked up: the caches first, and the API server
//! only for what no cache may hold (Secrets' keys, credentials of the engine, ConfigMaps of schemas,
//! the last words of a Job).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifactdb_core::search::elasticsearch::{Elasticsearch, EngineCredentials};
use artifactdb_crds::common::InstanceSelector;
use artifactdb_crds::instance::ArtifactDBSpec;
use artifactdb_crds::read::{Origin, ResourceSet};
use artifactdb_crds::resolve::{SchemaSet, assemble_with, selects};
use artifactdb_crds::{ArtifactDB, ArtifactPlugin, ArtifactSchedule, ArtifactSchema};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::child::Child;
use crate::engine::{Access, Engines};
use crate::names::{COMPONENT, INSTANCE, short_hash};
use crate::object::ChildKind;
use crate::plan::{Observed, Rehearsal, SecretSeen, TokenKeys, is_about};
use crate::references::references;
use crate::world::{World, chosen_in, each_in};

/// By uid, with the resource version that it was read at.
type ByVersion<T> = Mutex<HashMap<String, (String, T)>>;

/// How long the keys of the cluster's tokens are believed.
const TOKENS_LIFE: Duration = Duration::from_secs(300);
/// Objects that are remembered; beyond them all are read anew. Those that are gone are among them.
const REMEMBERED: usize = 10_000;

fn remember<T>(known: &ByVersion<T>, uid: String, read: (String, T)) {
    let mut known = known.lock();
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(uid, read);
}

/// What was read of Secrets and ConfigMaps, by uid and resource version: keys and schemas, and of a
/// Secret's values those alone by which the engine is reached.
#[derive(Default)]
pub struct Reading {
    keys: ByVersion<Vec<String>>,
    texts: ByVersion<Option<BTreeMap<String, String>>>,
    /// By the Secrets' versions: the one place, beside the connections, that holds credentials.
    accesses: ByVersion<Access>,
    /// Compiled, by the versions of the schemas.
    schemas: ByVersion<Arc<SchemaSet>>,
    pub engines: Engines,
    /// By what the cluster's own tokens are known, and when that was asked.
    tokens: Mutex<Option<(Instant, Arc<TokenKeys>)>>,
}

/// What was observed, and the parts of the engine that it was observed in.
pub struct Gathered {
    pub observed: Observed,
    pub parts: Vec<Elasticsearch>,
    /// How the engine was reached.
    pub access: Access,
}

/// Looks up everything for one instance. An engine that is away is part of what is observed; an API
/// server that is away is an error.
pub async fn gather(
    world: &World,
    reading: &Reading,
    instance: Arc<ArtifactDB>,
) -> Result<Gathered, kube::Error> {
    gather_with(world, reading, instance, &ResourceSet::default()).await
}

/// The same as if the resources of `files` had been applied.
pub async fn gather_with(
    world: &World,
    reading: &Reading,
    instance: Arc<ArtifactDB>,
    files: &ResourceSet,
) -> Result<Gathered, kube::Error> {
    let namespace = instance.namespace().unwrap_or_default();
    let name = instance.name_any();
    let schemas = schemas(world, reading, &instance, &namespace, files).await?;
    let assembled = assemble_with(&"", &instance, schemas);
    let secrets = secrets(world, reading, &namespace, &instance.spec).await?;
    let children = world.children.of(&namespace, &name);
    let labels = instance.labels();
    let mine = |selector: &Option<InstanceSelector>| {
        selector.as_ref().is_none_or(|own| own.matches(labels))
    };
    let chosen = |own: &ArtifactPlugin| {
        mine(&own.spec.instances) && own.metadata.deletion_timestamp.is_none()
    };
    let mut plugins = chosen_in(&world.plugins, &namespace, chosen);
    overlay(&mut plugins, &files.plugins, &namespace, chosen);
    let chosen = |own: &ArtifactSchedule| {
        mine(&own.spec.instances) && own.metadata.deletion_timestamp.is_none()
    };
    let mut schedules = chosen_in(&world.schedules, &namespace, chosen);
    overlay(&mut schedules, &files.schedules, &namespace, chosen);
    plugins.sort_by_cached_key(ResourceExt::name_any);
    schedules.sort_by_cached_key(ResourceExt::name_any);
    let tokens = match plugins.is_empty() {
        true => Ok(Arc::default()),
        false => token_keys(world, reading).await?,
    };
    let mut parts = Vec::new();
    let mut how = Access::default();
    let mut engine = Ok(Vec::new());
    let mut rehearsal = None;
    let mut job_failure = None;
    if let Some(config) = &assembled.config
        && instance.spec.standalone.is_none()
        && instance.spec.elasticsearch.is_some()
    {
        let access = access(world, reading, &namespace, &instance.spec).await?;
        engine = match reading
            .engines
            .of(config, &assembled.schemas.mapping, &access)
        {
            Ok(own) => {
                parts = own;
                reading.engines.look(config, &access, &parts).await
            }
            Err(error) => Err(error),
        }
        .map_err(|error| error.to_string());
        how = access;
        let mapping = &assembled.schemas.mapping_hash;
        (rehearsal, job_failure) = job_results(world, &instance, &children, mapping).await?;
    }
    Ok(Gathered {
        observed: Observed {
            instance,
            assembled,
            secrets,
            children,
            plugins,
            schedules,
            engine,
            rehearsal,
            job_failure,
            definitions: world.outdated_definitions(),
            tokens,
        },
        parts,
        access: how,
    })
}

/// The issuer of the cluster's tokens and its keys (OpenID Connect discovery; Kubernetes, "service
/// account issuer discovery"). What was known once is believed while the API server is away.
async fn token_keys(
    world: &World,
    reading: &Reading,
) -> Result<Result<Arc<TokenKeys>, String>, kube::Error> {
    let known = reading.tokens.lock().clone();
    if let Some((at, keys)) = &known
        && at.elapsed() < TOKENS_LIFE
    {
        return Ok(Ok(keys.clone()));
    }
    match ask_token_keys(&world.client).await {
        Ok(keys) => {
            // The same ones again: who compares finds no change.
            let keys = match known {
                Some((_, known)) if *known == keys => known,
                _ => Arc::new(keys),
            };
            *reading.tokens.lock() = Some((Instant::now(), keys.clone()));
            Ok(Ok(keys))
        }
        Err(error) => match (known, error) {
            (Some((_, keys)), _) => Ok(Ok(keys)),
            (None, kube::Error::Api(status)) => Ok(Err(status.message)),
            (None, error) => Err(error),
        },
    }
}

async fn ask_token_keys(client: &Client) -> Result<TokenKeys, kube::Error> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
    }
    #[derive(Deserialize)]
    struct Published {
        keys: Vec<Value>,
    }
    let get = |path: &str| {
        let request = http::Request::get(path).body(Vec::new());
        request.map_err(kube::Error::HttpError)
    };
    let discovery: Discovery = client
        .request(get("/.well-known/openid-configuration")?)
        .await?;
    let mut published: Published = client.request(get("/openid/v1/jwks")?).await?;
    // Servers that answer in turn may list them differently.
    published.keys.sort_by_key(|key| key["kid"].to_string());
    Ok(TokenKeys {
        issuer: discovery.issuer,
        keys: published.keys,
    })
}

/// The schemas of an instance, compiled. Most instances of a namespace have the same.
async fn schemas(
    world: &World,
    reading: &Reading,
    instance: &ArtifactDB,
    namespace: &str,
    files: &ResourceSet,
) -> Result<Arc<SchemaSet>, kube::Error> {
    let chosen = |own: &ArtifactSchema| selects(instance, own);
    let mut versions: Vec<String> = Vec::new();
    each_in(&world.schemas, namespace, |own: &ArtifactSchema| {
        if !chosen(own) {
            return;
        }
        let body = own.spec.schema_ref.as_ref().and_then(|reference| {
            let name = &reference.config_map;
            let seen = world.children.get(ChildKind::ConfigMap, namespace, name)?;
            Some(seen.resource_version.clone())
        });
        versions.push(format!(
            "{:?} {:?} {body:?}",
            own.uid(),
            own.resource_version()
        ));
    });
    versions.sort_unstable();
    let key = short_hash(&format!("{namespace} {versions:?}"), 64);
    let remembers = files.schemas.is_empty();
    if remembers && let Some((_, known)) = reading.schemas.lock().get(&key) {
        return Ok(known.clone());
    }
    let mut schemas = chosen_in(&world.schemas, namespace, chosen);
    overlay(&mut schemas, &files.schemas, namespace, chosen);
    age(&mut schemas);
    for schema in &mut schemas {
        inline(world, reading, namespace, schema).await?;
    }
    let set = Arc::new(SchemaSet::of(schemas.iter().map(|own| (&"", own))));
    if remembers {
        remember(&reading.schemas, key, (String::new(), set.clone()));
    }
    Ok(set)
}

/// Puts resources of files over those of the cluster: they replace what has their name, which keeps
/// its age.
fn overlay<K>(
    there: &mut Vec<K>,
    files: &[(Origin, K)],
    namespace: &str,
    chosen: impl Fn(&K) -> bool,
) where
    K: Resource<DynamicType = ()> + Clone,
{
    for (_, own) in files {
        let mut own = own.clone();
        let place = own.meta().namespace.as_deref().unwrap_or(namespace);
        if place != namespace {
            continue;
        }
        let name = own.name_any();
        let replaced = there.iter().position(|other| other.name_any() == name);
        let replaced = replaced.map(|at| there.remove(at));
        own.meta_mut().creation_timestamp = match replaced {
            Some(other) => other.creation_timestamp(),
            None => Some(Time(Timestamp::now())),
        };
        if chosen(&own) {
            there.push(own);
        }
    }
}

/// Sorts schemas as they were made: of two that differ on a field the older wins.
pub fn age(schemas: &mut [ArtifactSchema]) {
    schemas.sort_by_cached_key(|own| {
        let made = own.creation_timestamp().map(|time| time.0);
        (made, own.name_any())
    });
}

/// Puts the schema of a `schemaRef` into its place. One that cannot be found stays as it is, and is
/// refused with what is said here in its place.
pub async fn inline(
    world: &World,
    reading: &Reading,
    namespace: &str,
    schema: &mut ArtifactSchema,
) -> Result<(), kube::Error> {
    let Some(reference) = schema.spec.schema_ref.clone() else {
        return Ok(());
    };
    if schema.spec.schema.is_some() {
        return Ok(());
    }
    let Some(seen) = world
        .children
        .get(ChildKind::ConfigMap, namespace, &reference.config_map)
    else {
        return Ok(());
    };
    let uid = seen.uid.to_string();
    let version = seen.resource_version.to_string();
    let known = reading.texts.lock().get(&uid).cloned();
    let data = match known {
        Some((at, data)) if at == version => data,
        _ => {
            let api: Api<ConfigMap> = Api::namespaced(world.client.clone(), namespace);
            let data = api
                .get_opt(&reference.config_map)
                .await?
                .and_then(|own| own.data);
            remember(&reading.texts, uid, (version, data.clone()));
            data
        }
    };
    let text = data.and_then(|mut data| data.remove(&reference.key));
    if let Some(body) = text.and_then(|text| serde_json::from_str(&text).ok()) {
        schema.spec.schema = Some(body);
        schema.spec.schema_ref = None;
    }
    Ok(())
}

async fn secrets(
    world: &World,
    reading: &Reading,
    namespace: &str,
    spec: &ArtifactDBSpec,
) -> Result<BTreeMap<String, SecretSeen>, kube::Error> {
    let mut all = BTreeMap::new();
    for reference in references(spec) {
        if all.contains_key(&reference.name) {
            continue;
        }
        let Some(seen) = world
            .children
            .get(ChildKind::Secret, namespace, &reference.name)
        else {
            continue;
        };
        let uid = seen.uid.to_string();
        let version = seen.resource_version.to_string();
        let known = reading.keys.lock().get(&uid).cloned();
        let keys = match known {
            Some((at, keys)) if at == version => keys,
            _ => {
                let api: Api<Secret> = Api::namespaced(world.client.clone(), namespace);
                let Some(secret) = api.get_opt(&reference.name).await? else {
                    continue;
                };
                let keys: Vec<String> = secret.data.unwrap_or_default().into_keys().collect();
                remember(&reading.keys, uid, (version.clone(), keys.clone()));
                keys
            }
        };
        all.insert(
            reference.name,
            SecretSeen {
                resource_version: version,
                keys,
            },
        );
    }
    Ok(all)
}

/// How the engine is reached, by the Secrets that the spec refers to. They are read once they changed.
pub async fn access(
    world: &World,
    reading: &Reading,
    namespace: &str,
    spec: &ArtifactDBSpec,
) -> Result<Access, kube::Error> {
    let Some(engine) = &spec.elasticsearch else {
        return Ok(Access::default());
    };
    let (credentials, ca) = (&engine.credentials_secret_ref, &engine.ca_secret_ref);
    let names = [
        credentials.as_ref().map(|own| &own.name),
        ca.as_ref().map(|own| &own.name),
    ];
    let version: Vec<String> = names
        .into_iter()
        .flatten()
        .map(|name| {
            let seen = world.children.get(ChildKind::Secret, namespace, name);
            let seen = seen.map(|own| (own.uid.clone(), own.resource_version.clone()));
            format!("{name} {seen:?}")
        })
        .collect();
    let version = version.join(" ");
    let key = format!("{namespace} {version}");
    if let Some((_, known)) = reading.accesses.lock().get(&key) {
        return Ok(known.clone());
    }
    let mut access = Access {
        version,
        ..Access::default()
    };
    let api: Api<Secret> = Api::namespaced(world.client.clone(), namespace);
    if let Some(reference) = credentials
        && let Some(secret) = api.get_opt(&reference.name).await?
    {
        let text = |key: &str| -> Option<String> {
            let bytes = secret.data.as_ref()?.get(key)?.0.clone();
            Some(String::from_utf8(bytes).ok()?.trim_end().to_owned())
        };
        access.credentials = match (text("apiKey"), text("username"), text("password")) {
            (Some(key), ..) => Some(EngineCredentials::ApiKey(key)),
            (None, Some(username), Some(password)) => {
                Some(EngineCredentials::Basic { username, password })
            }
            _ => None,
        };
    }
    if let Some(reference) = ca
        && let Some(secret) = api.get_opt(&reference.name).await?
    {
        let data = secret.data.unwrap_or_default();
        access.ca = data.get(&reference.key).map(|bytes| bytes.0.clone());
    }
    remember(&reading.accesses, key, (String::new(), access.clone()));
    Ok(access)
}

/// What the Jobs of the wanted mapping have come to: the rehearsal, from the status once it is told
/// there, and what one of them failed by.
async fn job_results(
    world: &World,
    instance: &ArtifactDB,
    children: &BTreeMap<(ChildKind, String), Arc<Child>>,
    mapping: &str,
) -> Result<(Option<Rehearsal>, Option<String>), kube::Error> {
    let told = instance
        .status
        .as_ref()
        .and_then(|status| status.index.as_ref())
        .and_then(|index| index.rehearsal.as_ref())
        .filter(|own| own.mapping_hash == mapping);
    let mut rehearsal = told.map(|own| Rehearsal {
        checked: u64::try_from(own.checked).unwrap_or(0),
        failed: u64::try_from(own.failed).unwrap_or(0),
        samples: own.samples.clone(),
    });
    let mut failure = None;
    let jobs = children
        .iter()
        .filter(|((kind, _), child)| *kind == ChildKind::Job && is_about(child, mapping));
    for ((_, name), job) in jobs {
        let rehearses = job.label(COMPONENT) == Some("rehearse");
        if job.condition("Complete").is_some() && rehearses && rehearsal.is_none() {
            let words = last_words(world, instance, name).await?;
            rehearsal = words.and_then(|words| serde_json::from_str(words.trim()).ok());
            if rehearsal.is_none() {
                failure = Some(format!(
                    "Job '{name}' has ended, and its result cannot be read"
                ));
            }
        }
        if job.condition("Failed").is_some() {
            let words = last_words(world, instance, name).await?.unwrap_or_default();
            let line = words.trim().lines().last().unwrap_or_default().to_owned();
            failure = Some(format!("Job '{name}' failed: {line}"));
        }
    }
    Ok((rehearsal, failure))
}

/// The termination message of the pod of a Job that ended last.
async fn last_words(
    world: &World,
    instance: &ArtifactDB,
    job: &str,
) -> Result<Option<String>, kube::Error> {
    let namespace = instance.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let selector = format!(
        "batch.kubernetes.io/job-name={job},{INSTANCE}={}",
        instance.name_any()
    );
    let pods = api.list(&ListParams::default().labels(&selector)).await?;
    let mut ended: Vec<_> = pods
        .items
        .into_iter()
        .filter_map(|pod| {
            let statuses = pod.status?.container_statuses?;
            statuses.into_iter().find_map(|own| own.state?.terminated)
        })
        .collect();
    ended.sort_by_key(|own| own.finished_at.as_ref().map(|time| time.0));
    Ok(ended.pop().and_then(|own| own.message))
}
