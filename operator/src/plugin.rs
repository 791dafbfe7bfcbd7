//! The controller of plugins: it tells which instances a plugin serves. Its CronJobs are children of
//! those instances, rendered with them.

use std::sync::Arc;
use std::time::Duration;

use artifactdb_crds::plugin::ArtifactPluginStatus;
use artifactdb_crds::{ArtifactDB, ArtifactPlugin};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::names::cron_job;
use crate::object::ChildKind;
use crate::operator::{Operator, ReconcileError, jittered};
use crate::status::{dated, stated};
use crate::tell::{RESYNC, undecodable};
use crate::world::{Guard, read, shared_in};

/// How long a new plugin may be without a status: what it waits for is mostly there by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells how one plugin is.
pub async fn reconcile(
    guard: Arc<Guard<ArtifactPlugin>>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let own = match &guard.0 {
        Ok(own) => own,
        Err(invalid) => return undecodable::<ArtifactPlugin>(&operator, invalid, "Ready").await,
    };
    if own.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = own.namespace().unwrap_or_default();
    let world = &operator.world;
    let instances = shared_in(&world.instances, &namespace, |other: &ArtifactDB| {
        let selector = own.spec.instances.as_ref();
        selector.is_none_or(|selector| selector.matches(other.labels()))
    });
    let mut instances = read(&instances);
    instances.sort_by_cached_key(|other| other.name_any());
    let waits: Vec<String> = instances
        .iter()
        .map(|other| other.name_any())
        .filter(|name| {
            let job = cron_job(name, "plugin", &own.name_any());
            world
                .children
                .get(ChildKind::CronJob, &namespace, &job)
                .is_none()
        })
        .collect();
    let before = own.status.clone().unwrap_or_default();
    let uid = own.uid().unwrap_or_default();
    if before.conditions.is_empty()
        && !waits.is_empty()
        && let Some(left) = operator.patience(&uid, PATIENCE)
    {
        return Ok(Action::requeue(left));
    }
    let ready = if instances.is_empty() {
        stated(
            "Ready",
            false,
            "NoInstance",
            "no instance of the namespace is selected",
        )
    } else if waits.is_empty() {
        let text = format!("it serves {} instances", instances.len());
        stated("Ready", true, "Ready", text)
    } else {
        let text = format!("waiting for these instances: {}", waits.join(", "));
        stated("Ready", false, "Pending", text)
    };
    let status = ArtifactPluginStatus {
        conditions: dated(
            vec![ready],
            &before.conditions,
            own.metadata.generation,
            Timestamp::now(),
        ),
        observed_generation: own.metadata.generation,
        ..before.clone()
    };
    if status != before {
        let (old, new) = (&before.conditions, &status.conditions);
        operator.tell(own, &status, old, new).await?;
    }
    Ok(Action::requeue(jittered(RESYNC)))
}
