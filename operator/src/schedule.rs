//! The controller of schedules: it tells whether one can run, when it did and when it will. Its
//! CronJobs are children of the instances, rendered with them.

use std::sync::Arc;

use artifactdb_crds::cron;
use artifactdb_crds::schedule::ArtifactScheduleStatus;
use artifactdb_crds::{ArtifactDB, ArtifactPlugin, ArtifactSchedule};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::names::cron_job;
use crate::object::ChildKind;
use crate::operator::{Operator, ReconcileError, jittered};
use crate::plan::{Runs, runs};
use crate::status::{dated, stated};
use crate::tell::{RESYNC, undecodable};
use crate::world::{Guard, chosen_in, read, shared_in};

/// Tells how one schedule is.
pub async fn reconcile(
    guard: Arc<Guard<ArtifactSchedule>>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let own = match &guard.0 {
        Ok(own) => own,
        Err(invalid) => return undecodable::<ArtifactSchedule>(&operator, invalid, "Ready").await,
    };
    if own.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = own.namespace().unwrap_or_default();
    let world = &operator.world;
    let now = Timestamp::now();
    let instances = shared_in(&world.instances, &namespace, |other: &ArtifactDB| {
        let selector = own.spec.instances.as_ref();
        selector.is_none_or(|selector| selector.matches(other.labels()))
    });
    let mut instances = read(&instances);
    instances.sort_by_cached_key(|other| other.name_any());
    let mut problem = None;
    let mut waits = Vec::new();
    let mut last: Option<String> = None;
    for instance in &instances {
        let plugins = chosen_in(&world.plugins, &namespace, |plugin: &ArtifactPlugin| {
            let selector = plugin.spec.instances.as_ref();
            selector.is_none_or(|selector| selector.matches(instance.labels()))
        });
        match runs(own, instance, &plugins, now) {
            Err(own) => {
                problem.get_or_insert(own);
                continue;
            }
            // The instance follows it in its own process, and tells of runs in its log.
            Ok(Runs::Embedded) => continue,
            Ok(_) => {}
        }
        let name = cron_job(&instance.name_any(), "schedule", &own.name_any());
        match world.children.get(ChildKind::CronJob, &namespace, &name) {
            // RFC 3339 in UTC: the later text is the later time.
            Some(child) => last = last.max(child.status().last_schedule_time.clone()),
            None => waits.push(instance.name_any()),
        }
    }
    let next = cron::next(&own.spec.schedule, own.spec.time_zone.as_deref(), now);
    let ready = if let Some(problem) = &problem {
        stated("Ready", false, problem.reason, &*problem.message)
    } else if let Err(problem) = &next {
        let text = format!("field 'spec.schedule': {problem}");
        stated("Ready", false, "InvalidSchedule", text)
    } else if instances.is_empty() {
        stated(
            "Ready",
            false,
            "NoInstance",
            "no instance of the namespace is selected",
        )
    } else if !waits.is_empty() {
        let text = format!("waiting for these instances: {}", waits.join(", "));
        stated("Ready", false, "Pending", text)
    } else if own.spec.suspend {
        stated(
            "Ready",
            true,
            "Suspended",
            "spec.suspend is set: nothing is started",
        )
    } else {
        stated(
            "Ready",
            true,
            "Ready",
            format!("it runs on {} instances", instances.len()),
        )
    };
    let runs_next = !own.spec.suspend && ready.status == "True";
    let before = own.status.clone().unwrap_or_default();
    let status = ArtifactScheduleStatus {
        conditions: dated(
            vec![ready],
            &before.conditions,
            own.metadata.generation,
            now,
        ),
        observed_generation: own.metadata.generation,
        last_run_time: last.or_else(|| before.last_run_time.clone()),
        next_run_time: match &next {
            Ok(at) if runs_next => Some(at.to_string()),
            _ => None,
        },
    };
    if status != before {
        let (old, new) = (&before.conditions, &status.conditions);
        operator.tell(own, &status, old, new).await?;
    }
    // What is told of the next run is over when it comes.
    let over = next
        .ok()
        .map(|at| at.duration_since(now) + SignedDuration::from_secs(2));
    let pause = over
        .and_then(|over| over.try_into().ok())
        .map_or(RESYNC, |over: std::time::Duration| over.min(RESYNC));
    Ok(Action::requeue(jittered(pause)))
}
