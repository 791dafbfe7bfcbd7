//! What applying files would change in a cluster, found by the API server itself (dry run) and by the
//! operator's own caches. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use artifactdb_crds::ArtifactDB;
use artifactdb_crds::read::{Origin, ResourceSet};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use similar::TextDiff;
use thiserror::Error;

use crate::apply::{is_unwanted, taken, to_write};
use crate::gather::{Reading, gather_with};
use crate::names::MANAGER;
use crate::object::{ChildKind, Mode, Object};
use crate::offline::NO_UID;
use crate::plan::{Outcome, Problem, Step, plan};
use crate::render::{Context, Images, may_go, render};
use crate::world::{World, api};

/// How long the caches may take to fill.
const FILLED: Duration = Duration::from_secs(20);
/// Lines around a change.
const AROUND: usize = 3;

#[derive(Debug, Error)]
pub enum PreviewError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("cannot see {0}; are the definitions installed, and may you list them?")]
    Unseen(String),
    #[error("the API server refuses {kind} '{name}': {error}")]
    Refused {
        kind: &'static str,
        name: String,
        error: kube::Error,
    },
}

/// What would become of one instance.
#[derive(Debug)]
pub struct Preview {
    pub namespace: String,
    pub name: String,
    /// Unified diffs, an object each.
    pub changes: Vec<String>,
    /// What would be done in the engine.
    pub engine: Vec<String>,
    /// Why the engine could not be looked at.
    pub engine_away: Option<String>,
    /// Why the instance, or a part of it, would be refused.
    pub refused: Vec<Problem>,
}

/// One preview for each instance of `files`, in order. `namespace` is for those that name none.
pub async fn preview(
    client: &Client,
    files: &ResourceSet,
    namespace: &str,
    images: &Images,
) -> Result<Vec<Preview>, PreviewError> {
    let files = &ResourceSet {
        instances: as_stored(&files.instances)?,
        schemas: as_stored(&files.schemas)?,
        plugins: as_stored(&files.plugins)?,
        schedules: as_stored(&files.schedules)?,
    };
    let place = |own: &ArtifactDB| own.namespace().unwrap_or_else(|| namespace.to_owned());
    let places: BTreeSet<String> = files.instances.iter().map(|(_, own)| place(own)).collect();
    let mut worlds = BTreeMap::new();
    for place in places {
        let (world, _queues) = World::watch(client.clone(), Some(place.clone()));
        if tokio::time::timeout(FILLED, world.ready()).await.is_err() {
            let missing: Vec<String> = world.missing().into_iter().collect();
            return Err(PreviewError::Unseen(missing.join(", ")));
        }
        worlds.insert(place, world);
    }
    let reading = Reading::default();
    let mut all = Vec::with_capacity(files.instances.len());
    for (_, instance) in &files.instances {
        let Some(world) = worlds.get(&place(instance)) else {
            continue;
        };
        all.push(of_instance(world, &reading, instance, files, images).await?);
    }
    Ok(all)
}

async fn of_instance(
    world: &World,
    reading: &Reading,
    instance: &ArtifactDB,
    files: &ResourceSet,
    images: &Images,
) -> Result<Preview, PreviewError> {
    let namespace = world.namespace.clone().unwrap_or_default();
    let name = instance.name_any();
    let there = api::<ArtifactDB>(&world.client, Some(&namespace));
    let there = there.get_opt(&name).await?;
    let mut wanted = instance.clone();
    let meta = &mut wanted.metadata;
    meta.namespace = Some(namespace.clone());
    match there {
        Some(there) => {
            meta.uid = there.metadata.uid;
            meta.generation = there.metadata.generation;
            meta.creation_timestamp = there.metadata.creation_timestamp;
            wanted.status = there.status;
        }
        None => meta.uid = Some(NO_UID.to_owned()),
    }
    let uid = wanted.uid().unwrap_or_default();
    let gathered = gather_with(world, reading, Arc::new(wanted), files).await?;
    let observed = gathered.observed;
    let mut found = Preview {
        namespace: namespace.clone(),
        name,
        changes: Vec::new(),
        engine: Vec::new(),
        engine_away: observed.engine.as_ref().err().cloned(),
        refused: Vec::new(),
    };
    let planned = match plan(&observed) {
        Outcome::Planned(planned) => planned,
        Outcome::Refused(problems) => {
            found.refused = problems;
            return Ok(found);
        }
    };
    if found.engine_away.is_none() {
        for (place, step) in &planned.index.steps {
            let part = gathered.parts.get(*place);
            let template = part.map_or("", |own| own.index_template().0);
            found.engine.push(match step {
                Step::PutTemplate => format!("write the index template '{template}'"),
                Step::AddFields { index } => format!("add fields to the index '{index}'"),
                Step::BeginBuild => format!("make the first index behind the alias '{template}'"),
            });
        }
    }
    let context = Context {
        images: images.clone(),
        http_routes: world.knows(ChildKind::HttpRoute),
        service_monitors: world.knows(ChildKind::ServiceMonitor),
    };
    let objects = render(&planned, &context);
    for object in &objects {
        let live = world.children.get(object.kind, &namespace, &object.name);
        if live.is_some_and(|live| !live.is_owned_by(&uid)) {
            found.refused.push(taken(object));
            continue;
        }
        let change = of_object(world, &namespace, object).await?;
        found.changes.extend(change);
    }
    let hash = &planned.index.mapping_hash;
    for ((kind, child_name), child) in &observed.children {
        if is_unwanted(&objects, *kind, child, &uid) && may_go(*kind, child, hash) {
            let live = read(world, &namespace, *kind, child_name).await?;
            let text = unified(*kind, child_name, live.as_ref(), None);
            found.changes.extend(text);
        }
    }
    Ok(found)
}

async fn read(
    world: &World,
    namespace: &str,
    kind: ChildKind,
    name: &str,
) -> Result<Option<Value>, PreviewError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(world.client.clone(), namespace, &kind.resource());
    let live = api.get_opt(name).await?;
    Ok(live.map(|own| serde_json::to_value(own).unwrap_or_default()))
}

async fn of_object(
    world: &World,
    namespace: &str,
    object: &Object,
) -> Result<Option<String>, PreviewError> {
    if object.mode == Mode::Keep {
        return Ok(None);
    }
    let live = read(world, namespace, object.kind, &object.name).await?;
    if object.mode == Mode::Create {
        let made = live.is_none().then(|| object.to_apply());
        return Ok(made.and_then(|own| unified(object.kind, &object.name, None, Some(&own))));
    }
    let replicas = live
        .as_ref()
        .and_then(|live| live["spec"]["replicas"].as_i64());
    let body = to_write(object, replicas.and_then(|own| i32::try_from(own).ok()));
    let api: Api<DynamicObject> =
        Api::namespaced_with(world.client.clone(), namespace, &object.kind.resource());
    let parameters = PatchParams {
        dry_run: true,
        ..PatchParams::apply(MANAGER).force()
    };
    let applied = api
        .patch(&object.name, &parameters, &Patch::Apply(&body))
        .await
        .map_err(|error| PreviewError::Refused {
            kind: object.kind.as_str(),
            name: object.name.clone(),
            error,
        })?;
    let applied = serde_json::to_value(applied).unwrap_or_default();
    Ok(unified(
        object.kind,
        &object.name,
        live.as_ref(),
        Some(&applied),
    ))
}

/// The difference as text; none where there is none. Values of Secrets are nobody's to see.
fn unified(
    kind: ChildKind,
    name: &str,
    live: Option<&Value>,
    wanted: Option<&Value>,
) -> Option<String> {
    let text = |own: Option<&Value>| {
        own.map(|own| artifactdb_crds::yaml(&told(kind, own)).unwrap_or_default())
            .unwrap_or_default()
    };
    let (before, after) = (text(live), text(wanted));
    if before == after {
        return None;
    }
    let label = |own: Option<&Value>, side: &str| match own {
        Some(_) => format!("{side}/{}/{name}", kind.as_str()),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(&before, &after);
    let mut unified = diff.unified_diff();
    unified
        .context_radius(AROUND)
        .header(&label(live, "live"), &label(wanted, "wanted"));
    Some(unified.to_string())
}

/// Without what the API server keeps for itself.
fn told(kind: ChildKind, own: &Value) -> Value {
    let mut own = own.clone();
    if let Some(object) = own.as_object_mut() {
        object.remove("status");
        let resource = kind.resource();
        object.insert("apiVersion".to_owned(), json!(resource.api_version));
        object.insert("kind".to_owned(), json!(resource.kind));
        if kind == ChildKind::Secret {
            object.remove("data");
            object.remove("stringData");
        }
    }
    if let Some(meta) = own.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in [
            "managedFields",
            "resourceVersion",
            "uid",
            "generation",
            "creationTimestamp",
        ] {
            meta.remove(name);
        }
    }
    // Order is no difference.
    own.sort_all_objects();
    own
}

/// As the API server gives resources back: members of what has no schema come by name.
fn as_stored<K: Serialize + DeserializeOwned>(
    all: &[(Origin, K)],
) -> Result<Vec<(Origin, K)>, PreviewError> {
    let stored = |own: &K| -> Result<K, serde_json::Error> {
        let mut value = serde_json::to_value(own)?;
        value.sort_all_objects();
        serde_json::from_value(value)
    };
    all.iter()
        .map(|(origin, own)| {
            let own = stored(own).map_err(kube::Error::SerdeError)?;
            Ok((origin.clone(), own))
        })
        .collect()
}
