//! The controller of instances: gather → plan → render → apply → status.

use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::timestamp::parse_period;
use artifactdb_crds::ArtifactDB;
use artifactdb_crds::instance::{ArtifactDBStatus, DeletionPolicy};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use serde_json::json;

use crate::engine;
use crate::gather::{access, gather};
use crate::names::{CLEANUP_TIMEOUT, FINALIZER, MANAGER};
use crate::object::ChildKind;
use crate::operator::{Operator, ReconcileError, jittered};
use crate::plan::{IndexState, Outcome, plan};
use crate::render::{may_go, render};
use crate::status::{dated, of_instance, stated, transitions};
use crate::tell::undecodable;
use crate::world::{Guard, World, child_api};

/// Between two looks at an instance where nothing happens.
const RESYNC: Duration = Duration::from_secs(60);
/// The same while an index is built: at first, and later a tenth of how long that takes.
const BUILDING: Duration = Duration::from_secs(2);
/// The same while the engine is away.
const AWAY: Duration = Duration::from_secs(10);
/// How long an engine that is away keeps an instance from being deleted, where nobody says.
const CLEANUP: u64 = 3600;
/// Between two looks at what is being deleted.
const DELETING: Duration = Duration::from_secs(1);

/// Brings one instance closer to what its resource says.
pub async fn reconcile(
    guard: Arc<Guard<ArtifactDB>>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let instance = match &guard.0 {
        Ok(instance) => Arc::new(instance.clone()),
        Err(invalid) => return unreadable(&operator, invalid).await,
    };
    if instance.metadata.deletion_timestamp.is_some() {
        return delete(&operator, &instance).await;
    }
    let keeps = instance.spec.deletion_policy == DeletionPolicy::Delete
        && instance.spec.standalone.is_none();
    set_finalizer(&operator, &instance, keeps).await?;

    let world = &operator.world;
    let gathered = gather(world, &operator.reading, instance.clone()).await?;
    let mut observed = gathered.observed;
    let mut outcome = plan(&observed);
    let namespace = instance.namespace().unwrap_or_default();
    let uid = instance.uid().unwrap_or_default();
    let mut unapplied = Vec::new();
    let mut next = RESYNC;
    if let Outcome::Planned(planned) = &outcome
        && !planned.paused
        && !planned.index.steps.is_empty()
    {
        match engine::take(&gathered.parts, &planned.index.steps).await {
            // What was done is seen at once, and not at the next look.
            Ok(()) => {
                let engines = &operator.reading.engines;
                observed.engine = engines
                    .look(&planned.config, &gathered.access, &gathered.parts)
                    .await
                    .map_err(|error| error.to_string());
            }
            Err(error) => observed.engine = Err(error.to_string()),
        }
        outcome = plan(&observed);
    }
    if let Outcome::Planned(planned) = &outcome {
        next = match planned.index.state {
            IndexState::First if !works(world, &namespace, &instance.name_any()) => RESYNC,
            IndexState::First | IndexState::Rehearsing | IndexState::Building => {
                building_pause(&instance, Timestamp::now())
            }
            IndexState::Away(_) => AWAY,
            _ => RESYNC,
        };
        if !planned.paused {
            let objects = render(planned, &operator.context());
            let hash = planned.index.mapping_hash.clone();
            let applied = operator
                .applier
                .apply(
                    world,
                    &namespace,
                    &uid,
                    &objects,
                    &observed.children,
                    |kind, child| may_go(kind, child, &hash),
                )
                .await?;
            unapplied = applied.problems;
            if applied.writes > 0 {
                // Something may be left to prune once it is rolled out.
                next = next.min(BUILDING * 5);
            }
        }
    }
    let children = world.children.of(&namespace, &instance.name_any());
    let status = of_instance(&observed, &outcome, &children, &unapplied, Timestamp::now());
    operator.tell_instance(&instance, status).await?;
    Ok(Action::requeue(jittered(next)))
}

/// Whether there is a worker. That one comes is told by its Deployment.
fn works(world: &World, namespace: &str, name: &str) -> bool {
    let deployment = format!("{name}-indexer");
    let own = world
        .children
        .get(ChildKind::Deployment, namespace, &deployment);
    own.is_some_and(|own| own.status().available_replicas.unwrap_or(0) > 0)
}

/// What takes seconds is seen within seconds, and what takes hours costs little.
fn building_pause(instance: &ArtifactDB, now: Timestamp) -> Duration {
    let conditions = instance.status.iter().flat_map(|own| &own.conditions);
    let since = conditions
        .filter(|own| own.type_ == "IndexCurrent" && own.status == "False")
        .map(|own| now.as_second() - own.last_transition_time.0.as_second())
        .next();
    let lasted = u64::try_from(since.unwrap_or(0)).unwrap_or(0);
    Duration::from_secs(lasted / 10).clamp(BUILDING, RESYNC)
}

/// A resource that the API server took under another definition: it is told, and holds up no other.
async fn unreadable(
    operator: &Operator,
    invalid: &InvalidObject,
) -> Result<Action, ReconcileError> {
    let meta = &invalid.metadata;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    let api: Api<ArtifactDB> = Api::namespaced(operator.world.client.clone(), &namespace);
    if meta.deletion_timestamp.is_some() {
        // Which index it had cannot be known. What others wait for is theirs.
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.retain(|own| own != FINALIZER);
        let patch = json!({"metadata": {
            "finalizers": finalizers,
            "resourceVersion": meta.resource_version,
        }});
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        return Ok(Action::await_change());
    }
    undecodable::<ArtifactDB>(operator, invalid, "Ready").await
}

async fn set_finalizer(
    operator: &Operator,
    instance: &ArtifactDB,
    wanted: bool,
) -> Result<(), ReconcileError> {
    let mut finalizers = instance.finalizers().to_vec();
    let has = finalizers.iter().any(|own| own == FINALIZER);
    if has == wanted {
        return Ok(());
    }
    match wanted {
        true => finalizers.push(FINALIZER.to_owned()),
        false => finalizers.retain(|own| own != FINALIZER),
    }
    let namespace = instance.namespace().unwrap_or_default();
    let api: Api<ArtifactDB> = Api::namespaced(operator.world.client.clone(), &namespace);
    // With the version, so that nobody else's finalizer is lost.
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": instance.resource_version(),
    }});
    api.patch_metadata(
        &instance.name_any(),
        &PatchParams::default(),
        &Patch::Merge(&patch),
    )
    .await?;
    Ok(())
}

/// Workers first, then the index, then the resource; children go with it. Objects in storage stay.
async fn delete(operator: &Operator, instance: &ArtifactDB) -> Result<Action, ReconcileError> {
    if !instance.finalizers().iter().any(|own| own == FINALIZER) {
        return Ok(Action::await_change());
    }
    let namespace = instance.namespace().unwrap_or_default();
    let uid = instance.uid().unwrap_or_default();
    let world = &operator.world;
    if instance.spec.deletion_policy == DeletionPolicy::Delete {
        // Whoever still writes would make the index anew.
        let mut remain = false;
        for ((kind, name), child) in world.children.of(&namespace, &instance.name_any()) {
            let works = matches!(
                kind,
                ChildKind::Deployment | ChildKind::Job | ChildKind::CronJob
            );
            if !works || (kind != ChildKind::Job && !child.is_owned_by(&uid)) {
                continue;
            }
            remain = true;
            if !child.leaves {
                let api = child_api(&world.client, Some(&namespace), kind);
                match api.delete(&name, &DeleteParams::foreground()).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if remain {
            return Ok(Action::requeue(DELETING));
        }
        if let Err(error) = delete_index(operator, instance).await {
            return give_up_or_wait(operator, instance, &error.to_string()).await;
        }
    }
    set_finalizer(operator, instance, false).await?;
    Ok(Action::await_change())
}

async fn delete_index(operator: &Operator, instance: &ArtifactDB) -> Result<(), ReconcileError> {
    let namespace = instance.namespace().unwrap_or_default();
    let access = access(
        &operator.world,
        &operator.reading,
        &namespace,
        &instance.spec,
    )
    .await?;
    let origin = String::new();
    let assembled = artifactdb_crds::resolve::assemble(&origin, instance, std::iter::empty());
    // One that was never valid has no index.
    let Some(config) = assembled.config else {
        return Ok(());
    };
    let parts = operator
        .reading
        .engines
        .of(&config, &assembled.schemas.mapping, &access)?;
    engine::delete(&parts).await?;
    Ok(())
}

async fn give_up_or_wait(
    operator: &Operator,
    instance: &ArtifactDB,
    problem: &str,
) -> Result<Action, ReconcileError> {
    let patience = instance
        .annotations()
        .get(CLEANUP_TIMEOUT)
        .and_then(|text| parse_period(text))
        .and_then(|period| u64::try_from(period.as_secs()).ok())
        .unwrap_or(CLEANUP);
    let since = instance
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(0, |time| Timestamp::now().as_second() - time.0.as_second());
    if u64::try_from(since).unwrap_or(0) >= patience {
        operator
            .event(
                instance,
                "IndexAbandoned",
                &format!("the index could not be deleted within {patience} s and stays: {problem}"),
                true,
            )
            .await;
        set_finalizer(operator, instance, false).await?;
        return Ok(Action::await_change());
    }
    let message = format!(
        "the index cannot be deleted: {problem}; given up after {patience} s, or at once with the annotation {CLEANUP_TIMEOUT}: 0s"
    );
    let before = instance.status.clone().unwrap_or_default();
    let conditions = dated(
        vec![
            stated("Ready", false, "Deleting", "the instance is being deleted"),
            stated("Degraded", true, "CleanupFailed", &*message),
        ],
        &before.conditions,
        instance.metadata.generation,
        Timestamp::now(),
    );
    let status = ArtifactDBStatus {
        conditions,
        ..before
    };
    operator.tell_instance(instance, status).await?;
    Ok(Action::requeue(jittered(AWAY / 2)))
}

impl Operator {
    /// Writes the status where it differs, and tells what changed as Events.
    async fn tell_instance(
        &self,
        instance: &ArtifactDB,
        status: ArtifactDBStatus,
    ) -> Result<(), ReconcileError> {
        let known = self.known_status(instance);
        let before = known.unwrap_or_default();
        if before == status {
            return Ok(());
        }
        let namespace = instance.namespace().unwrap_or_default();
        let api: Api<ArtifactDB> = Api::namespaced(self.world.client.clone(), &namespace);
        let patch = json!({"status": status});
        let written = api
            .patch_status(
                &instance.name_any(),
                &PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                },
                &Patch::Merge(&patch),
            )
            .await?;
        self.wrote();
        for (reason, message, bad) in transitions(&before.conditions, &status.conditions) {
            self.event(instance, &reason, &message, bad).await;
        }
        self.learn_status(&written);
        Ok(())
    }
}
