//! The controller of plugins: it lets the Jobs begin that events made, as many as may run together,
//! and tells what became of them. A plugin's CronJobs are children of the instances that it serves,
//! rendered with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use artifactdb_crds::plugin::{ArtifactPluginStatus, Run};
use artifactdb_crds::{ArtifactDB, ArtifactPlugin};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use serde_json::json;

use crate::child::Child;
use crate::names::{BEGUN, MANAGER, cron_job};
use crate::object::ChildKind;
use crate::operator::{Operator, ReconcileError, jittered};
use crate::plan::rolled_out;
use crate::runs::{Ledger, Phase, admitted, orphaned, phase};
use crate::status::{Stated, dated, stated};
use crate::tell::{RESYNC, undecodable};
use crate::world::{Guard, World, child_api, read, shared_in};

/// How long a new plugin may be without a status: what it waits for is mostly there by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, while an instance that it serves has none either: many are new at once, and this one is
/// told of when its turn has come.
const LONG_PATIENCE: Duration = Duration::from_secs(120);
/// Between two writes of what runs have come to.
const TELLING: Duration = Duration::from_secs(3);
/// Between two looks while runs wait for an API that is not up.
const WAITING: Duration = Duration::from_secs(2);
/// Plugins whose runs are remembered.
const REMEMBERED: usize = 1000;
/// The end of what a run printed: lines and bytes at the most.
const LOG_LINES: i64 = 20;
const LOG_MAX: usize = 1024;

/// Brings the runs of one plugin on, and tells how it is.
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
    let unable = instances
        .iter()
        .filter(|own| own.spec.standalone.is_some())
        .count();
    instances.retain(|own| own.spec.standalone.is_none());
    let jobs = world.children.runs_of(&namespace, &own.name_any());
    let waits_for_api = admit(world, own, &instances, &jobs).await?;

    let uid = own.uid().unwrap_or_default();
    let before = own.status.clone().unwrap_or_default();
    let ready = ready(world, own, &instances, unable);
    let limit = match instances.iter().any(|own| own.status.is_none()) {
        true => LONG_PATIENCE,
        false => PATIENCE,
    };
    if before.conditions.is_empty()
        && ready.reason == "Pending"
        && let Some(left) = operator.patience(&uid, limit)
    {
        return Ok(Action::requeue(left.min(PATIENCE)));
    }
    // Runs that end together are told together.
    let changes = before.observed_generation != own.metadata.generation
        || before.conditions.first().map(|own| &*own.reason) != Some(&*ready.reason);
    if let Some(left) = operator.pace(&format!("{uid} told"), TELLING)
        && !changes
    {
        return Ok(Action::requeue(left));
    }
    let known = operator.ledgers.lock().get(&uid).cloned();
    let mut ledger = known.unwrap_or_else(|| Ledger::restored(&before, &jobs));
    let mut ended = ledger.count(&jobs);
    for run in &mut ended {
        ask(world, &namespace, run).await?;
    }
    ledger.learn(ended);
    let status = ArtifactPluginStatus {
        conditions: dated(
            vec![ready, failing(&ledger)],
            &before.conditions,
            own.metadata.generation,
            Timestamp::now(),
        ),
        observed_generation: own.metadata.generation,
        succeeded: Some(ledger.succeeded),
        failed: Some(ledger.failed),
        last_run_time: ledger.started.clone(),
        counted_through: ledger.through.clone(),
        last_runs: ledger.last.clone(),
    };
    if status != before {
        let (old, new) = (&before.conditions, &status.conditions);
        operator.tell(own, &status, old, new).await?;
    }
    // Counted is what was told.
    let mut ledgers = operator.ledgers.lock();
    if ledgers.len() >= REMEMBERED {
        // Plugins that are gone are among them; the others' statuses say what is needed.
        ledgers.clear();
    }
    ledgers.insert(uid, ledger);
    drop(ledgers);
    Ok(Action::requeue(match waits_for_api {
        true => WAITING,
        false => jittered(RESYNC),
    }))
}

/// Lets Jobs begin where there is room and an API that they can ask; those that nobody waits for any
/// more are deleted. Returns whether some wait for the API.
async fn admit(
    world: &World,
    own: &ArtifactPlugin,
    instances: &[&ArtifactDB],
    jobs: &[Arc<Child>],
) -> Result<bool, ReconcileError> {
    if !jobs.iter().any(|job| phase(job) == Phase::Waiting) {
        return Ok(false);
    }
    let namespace = own.namespace().unwrap_or_default();
    let api = child_api(&world.client, Some(&namespace), ChildKind::Job);
    let mut waits = false;
    for instance in instances {
        let instance = instance.name_any();
        let begin = admitted(jobs, &instance, own.spec.concurrency);
        if begin.is_empty() {
            continue;
        }
        let deployment = format!("{instance}-api");
        let serving = world
            .children
            .get(ChildKind::Deployment, &namespace, &deployment);
        // What a Job may do is known to the pods that were made with its plugin.
        let serves =
            |child: &Child| rolled_out(child) && child.status().available_replicas.unwrap_or(0) > 0;
        if !serving.is_some_and(|child| serves(&child)) {
            waits = true;
            continue;
        }
        for job in begin {
            let patch = json!({
                "metadata": {"uid": job.uid, "annotations": {BEGUN: "true"}},
                "spec": {"suspend": false},
            });
            let parameters = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            match api
                .patch(&job.name, &parameters, &Patch::Merge(&patch))
                .await
            {
                Ok(begun) => {
                    world.children.learn(ChildKind::Job, begun);
                }
                // It is gone, or another one has its name.
                Err(kube::Error::Api(status)) if [404, 409, 422].contains(&status.code) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let served: BTreeSet<String> = instances.iter().map(|own| own.name_any()).collect();
    for job in orphaned(jobs, &served) {
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: Some(job.uid.to_string()),
            resource_version: None,
        });
        match api.delete(&job.name, &parameters).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(waits)
}

fn ready(world: &World, own: &ArtifactPlugin, instances: &[&ArtifactDB], unable: usize) -> Stated {
    let namespace = own.namespace().unwrap_or_default();
    let misfit = own
        .spec
        .pod_template
        .as_ref()
        .and_then(crate::render::misfit);
    if let Some(problem) = misfit {
        let text = format!("field 'spec.podTemplate': {problem}");
        return stated("Ready", false, "InvalidSpec", text);
    }
    let waits: Vec<String> = instances
        .iter()
        .map(|other| other.name_any())
        .filter(|name| {
            let job = cron_job(name, "plugin", &own.name_any());
            let there = world.children.get(ChildKind::CronJob, &namespace, &job);
            there.is_none()
        })
        .collect();
    match (instances.len(), unable) {
        (0, 0) => stated(
            "Ready",
            false,
            "NoInstance",
            "no instance of the namespace is selected",
        ),
        (0, _) => stated(
            "Ready",
            false,
            "NotSupported",
            "a standalone instance runs no plugins, and no other one is selected",
        ),
        _ if waits.is_empty() => {
            let text = format!("it serves {} instances", instances.len());
            stated("Ready", true, "Ready", text)
        }
        _ => {
            let text = format!("waiting for these instances: {}", waits.join(", "));
            stated("Ready", false, "Pending", text)
        }
    }
}

fn failing(ledger: &Ledger) -> Stated {
    match ledger.last.first() {
        Some(run) if run.succeeded == Some(false) => {
            let code = run.exit_code.map(|code| format!(" with exit code {code}"));
            let line = run.log.iter().filter_map(|log| log.trim().lines().last());
            let line = line.map(|line| format!(": {line}")).next();
            let text = format!(
                "Job '{}' failed{}{}",
                run.job,
                code.unwrap_or_default(),
                line.unwrap_or_default()
            );
            stated("Failing", true, "RunFailed", text)
        }
        Some(_) => stated("Failing", false, "AsExpected", "the last run succeeded"),
        None => stated("Failing", false, "NoRun", "it has not run yet"),
    }
}

/// Asks the pod of a run how it ended and what it printed.
async fn ask(world: &World, namespace: &str, run: &mut Run) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
    let selector = format!("batch.kubernetes.io/job-name={}", run.job);
    let pods = api.list(&ListParams::default().labels(&selector)).await?;
    let mut ended: Vec<_> = pods
        .items
        .into_iter()
        .filter_map(|pod| {
            let name = pod.name_any();
            let status = pod.status?;
            let why = status.message.clone().or(status.reason.clone());
            let container = status.container_statuses.unwrap_or_default().into_iter();
            let end = container.into_iter().find_map(|own| own.state?.terminated);
            Some((name, why, end))
        })
        .collect();
    ended.sort_by_key(|(.., end)| {
        let at = end.as_ref().and_then(|own| own.finished_at.as_ref());
        at.map(|time| time.0)
    });
    let Some((pod, why, end)) = ended.pop() else {
        // One that took too long has lost its pods.
        run.log = (run.succeeded == Some(false)).then(|| {
            "there is no pod of it left: it took longer than it may, or was deleted".to_owned()
        });
        return Ok(());
    };
    run.exit_code = end.as_ref().map(|own| own.exit_code);
    let parameters = LogParams {
        container: Some("plugin".to_owned()),
        tail_lines: Some(LOG_LINES),
        ..LogParams::default()
    };
    // What cannot be read any more is nobody's failure.
    let printed = api.logs(&pod, &parameters).await.ok();
    let printed = printed.filter(|own| !own.trim().is_empty());
    let failed = run.succeeded == Some(false);
    let told = end.and_then(|own| own.message.or(own.reason.filter(|_| failed)));
    run.log = printed.or(told).or(why).map(|text| tail(&text));
    Ok(())
}

/// The last bytes of a text, from the beginning of a line where there is one.
fn tail(text: &str) -> String {
    let text = text.trim_end();
    let start = text.len().saturating_sub(LOG_MAX);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at));
    let tail = &text[start.unwrap_or(text.len())..];
    match (tail.len() < text.len(), tail.split_once('\n')) {
        (true, Some((_, whole))) => whole.to_owned(),
        _ => tail.to_owned(),
    }
}
