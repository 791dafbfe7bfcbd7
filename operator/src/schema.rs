//! The controller of schemas: whether one can be used, whether another one stands against it, and
//! which instances index by it. It writes a status and nothing else: what a schema changes is done
//! by the controller of the instances.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::config::SchemaItem;
use artifactdb_core::mapping::{MappingError, Source, compile};
use artifactdb_crds::resolve::{schema_item, selects};
use artifactdb_crds::schema::{ArtifactSchemaStatus, IndexedBy};
use artifactdb_crds::{ArtifactDB, ArtifactSchema};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::gather::{age, inline};
use crate::operator::{Operator, ReconcileError, jittered};
use crate::status::{dated, stated};
use crate::tell::{RESYNC, undecodable};
use crate::world::{Guard, chosen_in, read, shared_in};

/// Instances named in a status, at the most.
const NAMED: usize = 100;
/// Between two looks at a schema that is as before: its instances change one by one.
const PACE: Duration = Duration::from_secs(5);

/// Looks at one schema beside the others of its namespace, and tells.
pub async fn reconcile(
    guard: Arc<Guard<ArtifactSchema>>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let own = match &guard.0 {
        Ok(own) => own,
        Err(invalid) => {
            return undecodable::<ArtifactSchema>(&operator, invalid, "Compiled").await;
        }
    };
    if own.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let world = &operator.world;
    let namespace = own.namespace().unwrap_or_default();
    let before = own.status.clone().unwrap_or_default();
    if before.observed_generation == own.metadata.generation
        && let Some(wait) = operator.pace(&own.uid().unwrap_or_default(), PACE)
    {
        return Ok(Action::requeue(wait));
    }
    let mut schemas = chosen_in(&world.schemas, &namespace, |_| true);
    age(&mut schemas);
    for schema in &mut schemas {
        inline(world, &operator.reading, &namespace, schema).await?;
    }
    let instances = shared_in(&world.instances, &namespace, |other| selects(other, own));
    let mut instances = read(&instances);
    instances.sort_by_cached_key(|other| other.name_any());
    let status = judge(own, &schemas, &instances, Timestamp::now());
    if status != before {
        let (old, new) = (&before.conditions, &status.conditions);
        operator.tell(own, &status, old, new).await?;
    }
    Ok(Action::requeue(jittered(RESYNC)))
}

/// The status of a schema among `schemas`, oldest first, and `instances`, by name. Pure.
pub fn judge(
    own: &ArtifactSchema,
    schemas: &[ArtifactSchema],
    instances: &[&ArtifactDB],
    now: Timestamp,
) -> ArtifactSchemaStatus {
    let before = own.status.clone().unwrap_or_default();
    let name = own.name_any();
    let origin = String::new();
    // With the body of a ConfigMap in its place.
    let inlined = schemas.iter().find(|other| other.name_any() == name);
    let item = schema_item(&origin, inlined.unwrap_or(own));
    let mut fields = None;
    let compiled = match &item {
        Err(refusal) => stated("Compiled", false, "Refused", &*refusal.problem),
        Ok(item) => match alone(item) {
            Ok(number) => {
                fields = i32::try_from(number).ok();
                stated("Compiled", true, "Compiled", format!("{number} fields"))
            }
            Err(error) => stated("Compiled", false, "Refused", error.to_string()),
        },
    };
    let mine: Vec<&ArtifactDB> = instances
        .iter()
        .copied()
        .filter(|other| selects(other, own))
        .collect();
    let against = match (&item, compiled.status) {
        (Ok(item), "True") => conflict(item, &name, schemas, &mine),
        _ => None,
    };
    let conflict = match &against {
        Some(message) => stated("Conflict", true, "Conflict", message),
        None => stated(
            "Conflict",
            false,
            "NoConflict",
            "no other schema stands against it",
        ),
    };
    let mut by: Vec<IndexedBy> = Vec::new();
    let mut behind = Vec::new();
    for instance in &mine {
        let index = instance
            .status
            .as_ref()
            .and_then(|status| status.index.as_ref());
        let hash = index.and_then(|index| index.mapping_hash.clone());
        let wanted = index.and_then(|index| index.wanted_hash.clone());
        if instance.spec.standalone.is_none() && (hash.is_none() || hash != wanted) {
            behind.push(instance.name_any());
        }
        if by.len() < NAMED {
            by.push(IndexedBy {
                name: instance.name_any(),
                mapping_hash: hash,
            });
        }
    }
    let indexed = if compiled.status != "True" || against.is_some() {
        stated("Indexed", false, "NotUsable", "it is in no mapping")
    } else if mine.is_empty() {
        stated(
            "Indexed",
            false,
            "NoInstance",
            "no instance is selected by it, or selects it",
        )
    } else if behind.is_empty() {
        stated(
            "Indexed",
            true,
            "Indexed",
            format!("{} instances index by it", mine.len()),
        )
    } else {
        behind.truncate(10);
        stated(
            "Indexed",
            false,
            "Pending",
            format!(
                "these instances do not index by it yet: {}",
                behind.join(", ")
            ),
        )
    };
    ArtifactSchemaStatus {
        conditions: dated(
            vec![compiled, conflict, indexed],
            &before.conditions,
            own.metadata.generation,
            now,
        ),
        observed_generation: own.metadata.generation,
        fields,
        instances: by,
    }
}

/// Fields that a schema has by itself.
fn alone(item: &SchemaItem) -> Result<usize, MappingError> {
    let base = compile(&[]).0;
    let name = item.name();
    let (mapping, mut refused) = compile(&[Source {
        name: &name,
        schema: &item.schema,
    }]);
    match refused.pop() {
        Some(error) => Err(error),
        None => Ok(mapping.fields().saturating_sub(base.fields())),
    }
}

/// What stands against a schema in any of its instances: one of the same name and version, or one
/// that wants a field differently. The older one wins.
fn conflict(
    item: &SchemaItem,
    name: &str,
    schemas: &[ArtifactSchema],
    instances: &[&ArtifactDB],
) -> Option<String> {
    let mut seen: HashSet<Vec<usize>> = HashSet::new();
    let wanted = item.name();
    for instance in instances {
        let chosen: Vec<usize> = schemas
            .iter()
            .enumerate()
            .filter(|(_, schema)| selects(instance, schema))
            .map(|(place, _)| place)
            .collect();
        // Most instances of a namespace have the same schemas.
        if !seen.insert(chosen.clone()) {
            continue;
        }
        let origin = String::new();
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        let mut items: Vec<(String, SchemaItem)> = Vec::new();
        for schema in chosen.iter().filter_map(|place| schemas.get(*place)) {
            let own = schema.name_any();
            let Ok(other) = schema_item(&origin, schema) else {
                continue;
            };
            if let Some(first) = known.get(&other.name()) {
                if own == name {
                    return Some(format!(
                        "'{wanted}' is already defined by the older ArtifactSchema '{first}'"
                    ));
                }
                continue;
            }
            known.insert(other.name(), own);
            items.push((other.name(), other));
        }
        let sources: Vec<Source<'_>> = items
            .iter()
            .map(|(name, item)| Source {
                name,
                schema: &item.schema,
            })
            .collect();
        let (_, refused) = compile(&sources);
        if let Some(error) = refused.iter().find(|error| error.schema() == wanted) {
            return Some(error.to_string());
        }
    }
    None
}
