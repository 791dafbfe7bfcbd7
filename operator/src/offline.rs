//! What would be observed of resources in files, where there is no cluster: every Secret is there
//! with the keys that it must have, nothing runs yet, and the engine has the index that is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_core::search::elasticsearch::{Standing, TemplateStanding};
use artifactdb_crds::ArtifactDB;
use artifactdb_crds::common::InstanceSelector;
use artifactdb_crds::read::{Origin, ResourceSet};
use artifactdb_crds::resolve::assemble;

use crate::plan::{IndexSeen, LiveSeen, Observed, SecretSeen, TokenKeys};
use crate::references::references;

/// The uid of what no API server has seen.
pub const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

/// One observation for each instance of a set, in order. `namespace` is for those that name none.
pub fn observe(set: &ResourceSet, namespace: &str) -> Vec<Observed> {
    set.instances
        .iter()
        .map(|(origin, instance)| observe_one(origin, instance, set, namespace))
        .collect()
}

fn observe_one(
    origin: &Origin,
    instance: &ArtifactDB,
    set: &ResourceSet,
    namespace: &str,
) -> Observed {
    let mut instance = instance.clone();
    let meta = &mut instance.metadata;
    meta.namespace.get_or_insert_with(|| namespace.to_owned());
    meta.uid.get_or_insert_with(|| NO_UID.to_owned());
    meta.generation.get_or_insert(1);
    let assembled = assemble(
        origin,
        &instance,
        set.schemas.iter().map(|(origin, own)| (origin, own)),
    );
    let mut secrets: BTreeMap<String, SecretSeen> = BTreeMap::new();
    for reference in references(&instance.spec) {
        let seen = secrets.entry(reference.name).or_insert(SecretSeen {
            resource_version: "0".to_owned(),
            keys: Vec::new(),
        });
        let items = reference.items.into_iter().map(|item| item.key);
        seen.keys
            .extend(items.chain(reference.any.into_iter().flatten()));
    }
    let engine = assembled.config.iter().flat_map(|config| {
        let hash = assembled.schemas.mapping_hash.clone();
        let storages = config.by_storage().unwrap_or_default();
        storages.into_iter().map(move |own| {
            let alias = format!("artifactdb_{}", own.instance_id().replace('/', "_"));
            IndexSeen {
                template: TemplateStanding::Current,
                live: Some(LiveSeen {
                    name: format!("{alias}_000001"),
                    ours: true,
                    mapping_hash: hash.clone(),
                    standing: Standing::Current,
                }),
                building: None,
                documents: Some(0),
                built: None,
                alias,
            }
        })
    });
    let labels = instance.metadata.labels.clone().unwrap_or_default();
    let mine = |selector: &Option<InstanceSelector>| {
        selector.as_ref().is_none_or(|own| own.matches(&labels))
    };
    let plugins = set.plugins.iter().map(|(_, own)| own);
    let schedules = set.schedules.iter().map(|(_, own)| own);
    Observed {
        plugins: plugins
            .filter(|own| mine(&own.spec.instances))
            .cloned()
            .collect(),
        schedules: schedules
            .filter(|own| mine(&own.spec.instances))
            .cloned()
            .collect(),
        engine: Ok(engine.collect()),
        instance: Arc::new(instance),
        assembled,
        secrets,
        children: BTreeMap::new(),
        rehearsal: None,
        job_failure: None,
        definitions: Vec::new(),
        tokens: Ok(Arc::new(TokenKeys {
            issuer: "https://kubernetes.default.svc".to_owned(),
            keys: Vec::new(),
        })),
    }
}
