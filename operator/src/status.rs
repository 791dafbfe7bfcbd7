//! What the cluster and the engine look like, as the status of an instance (KEP-1623). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_crds::ArtifactDB;
use artifactdb_crds::instance::{ArtifactDBStatus, IndexStatus, RehearsalStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use crate::child::Child;
use crate::names::{COMPONENT, INSTANCE, NAME};
use crate::object::ChildKind;
use crate::plan::{IndexState, Observed, Outcome, Plan, Problem, rolled_out};

/// A condition before it has a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

pub fn stated(
    kind: &'static str,
    holds: bool,
    reason: impl Into<String>,
    message: impl Into<String>,
) -> Stated {
    Stated {
        kind,
        status: if holds { "True" } else { "False" },
        reason: reason.into(),
        message: message.into(),
    }
}

/// Puts times on conditions: the one from before where the status is the same.
pub fn dated(
    stated: Vec<Stated>,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    stated
        .into_iter()
        .map(|own| {
            let same = before
                .iter()
                .find(|other| other.type_ == own.kind && other.status == own.status);
            Condition {
                type_: own.kind.to_owned(),
                status: own.status.to_owned(),
                reason: own.reason,
                message: own.message,
                observed_generation: generation,
                last_transition_time: same
                    .map_or(Time(now), |other| other.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Reasons of what is on its way.
const UNDER_WAY: [&str; 4] = ["RollingOut", "IndexBuilding", "Reindexing", "Pending"];

/// What changed between two sets of conditions, for Events: reason, message, whether it is bad. That
/// something new is on its way, or that nothing is wrong with it, is no news.
pub fn transitions(before: &[Condition], after: &[Condition]) -> Vec<(String, String, bool)> {
    after
        .iter()
        .filter_map(|own| {
            let former = before.iter().find(|other| other.type_ == own.type_);
            if former.is_some_and(|old| old.status == own.status && old.reason == own.reason) {
                return None;
            }
            // Of these a True is the bad news.
            let turned = ["Degraded", "Conflict", "Failing"].contains(&&*own.type_);
            let bad = turned == (own.status == "True")
                && own.type_ != "Progressing"
                && !UNDER_WAY.contains(&&*own.reason);
            let news = bad || former.is_some() || (!turned && own.status == "True");
            let news = news && !(former.is_none() && UNDER_WAY.contains(&&*own.reason));
            news.then(|| (own.reason.clone(), own.message.clone(), bad))
        })
        .collect()
}

/// The status of an instance. `children` are those after the plan was applied; `unapplied` is what
/// applying came upon.
pub fn of_instance(
    observed: &Observed,
    outcome: &Outcome,
    children: &BTreeMap<(ChildKind, String), Arc<Child>>,
    unapplied: &[Problem],
    now: Timestamp,
) -> ArtifactDBStatus {
    let instance = &observed.instance;
    let before = instance.status.clone().unwrap_or_default();
    let generation = instance.metadata.generation;
    let (stated, index, url) = match outcome {
        Outcome::Refused(problems) => (
            refused(problems, &before),
            before.index.clone(),
            before.url.clone(),
        ),
        Outcome::Planned(plan) => {
            let conditions = planned(plan, children, unapplied);
            (
                conditions,
                index_status(observed, plan, &before),
                Some(url(plan)),
            )
        }
    };
    let api = workload(instance, children);
    ArtifactDBStatus {
        conditions: dated(stated, &before.conditions, generation, now),
        observed_generation: generation,
        url,
        index,
        replicas: Some(api.map_or(0, |child| child.status().replicas.unwrap_or(0))),
        selector: Some(format!(
            "{NAME}=artifactdb,{INSTANCE}={},{COMPONENT}=api",
            instance.name_any()
        )),
    }
}

fn workload<'a>(
    instance: &ArtifactDB,
    children: &'a BTreeMap<(ChildKind, String), Arc<Child>>,
) -> Option<&'a Arc<Child>> {
    let name = instance.name_any();
    let key = match instance.spec.standalone {
        Some(_) => (ChildKind::StatefulSet, name),
        None => (ChildKind::Deployment, format!("{name}-api")),
    };
    children.get(&key)
}

/// Nothing was changed; what runs goes on running.
fn refused(problems: &[Problem], before: &ArtifactDBStatus) -> Vec<Stated> {
    let reason = problems.first().map_or("Refused", |own| own.reason);
    let message = joined(problems);
    let mut all = vec![
        stated("Ready", false, reason, &*message),
        stated(
            "Progressing",
            false,
            reason,
            "waiting for the above to be mended",
        ),
        stated("Degraded", true, reason, &*message),
    ];
    all.extend(
        before
            .conditions
            .iter()
            .filter(|own| own.type_ == "IndexCurrent")
            .map(|own| {
                stated(
                    "IndexCurrent",
                    own.status == "True",
                    &own.reason,
                    &own.message,
                )
            }),
    );
    all
}

fn joined(problems: &[Problem]) -> String {
    let mut texts: Vec<&str> = problems.iter().map(|own| &*own.message).collect();
    texts.dedup();
    texts.join("; ")
}

fn planned(
    plan: &Plan,
    children: &BTreeMap<(ChildKind, String), Arc<Child>>,
    unapplied: &[Problem],
) -> Vec<Stated> {
    let index = index_condition(&plan.index.state);
    let instance = &plan.instance;
    let mut waits: Vec<String> = Vec::new();
    let mut failing: Vec<Problem> = Vec::new();
    let workloads = children
        .iter()
        .filter(|((kind, _), _)| matches!(kind, ChildKind::Deployment | ChildKind::StatefulSet));
    let mut seen = 0;
    for ((kind, name), child) in workloads {
        seen += 1;
        if !rolled_out(child) {
            let wanted = child.spec.replicas.unwrap_or(1);
            let available = child.status().available_replicas.unwrap_or(0);
            let updated = child.status().updated_replicas.unwrap_or(0);
            waits.push(format!(
                "{} '{name}': {updated} of {wanted} pods are up to date, {available} available",
                kind.as_str()
            ));
        }
        if let Some(own) = child.condition("Progressing") {
            failing.push(Problem {
                reason: "RolloutFailed",
                message: format!("{} '{name}': {}", kind.as_str(), own.message),
            });
        }
        if let Some(own) = child.condition("ReplicaFailure") {
            failing.push(Problem {
                reason: "PodsRefused",
                message: format!("{} '{name}': {}", kind.as_str(), own.message),
            });
        }
    }
    let ready = if plan.paused {
        // It says what holds; `paused` is told by Progressing.
        match waits.is_empty() && seen > 0 {
            true => stated("Ready", true, "Ready", "the API answers"),
            false => stated("Ready", false, "Paused", waits.join("; ")),
        }
    } else if instance.spec.suspend {
        stated(
            "Ready",
            false,
            "Suspended",
            "spec.suspend is set: there are no API pods",
        )
    } else if let Some(problem) = unapplied.first() {
        stated("Ready", false, problem.reason, joined(unapplied))
    } else if seen == 0 || !waits.is_empty() {
        stated("Ready", false, "RollingOut", waits.join("; "))
    } else {
        match &plan.index.state {
            IndexState::First => stated("Ready", false, "IndexBuilding", &*index.message),
            IndexState::Foreign(message) => stated("Ready", false, "IndexForeign", message),
            IndexState::Away(message) => {
                stated("Ready", false, "ElasticsearchUnavailable", message)
            }
            _ => stated(
                "Ready",
                true,
                "Ready",
                "the API answers and versions are indexed",
            ),
        }
    };
    let progressing = if plan.paused {
        stated(
            "Progressing",
            false,
            "Paused",
            "spec.paused is set: nothing is changed until it is not",
        )
    } else if !waits.is_empty() {
        stated("Progressing", true, "RollingOut", waits.join("; "))
    } else if matches!(
        plan.index.state,
        IndexState::First | IndexState::Building | IndexState::Rehearsing
    ) {
        stated("Progressing", true, index.reason.clone(), &*index.message)
    } else {
        stated(
            "Progressing",
            false,
            "Complete",
            "everything is as the spec wants it",
        )
    };
    let mut bad = plan.problems.clone();
    bad.extend(unapplied.iter().cloned());
    bad.extend(failing);
    match &plan.index.state {
        IndexState::Away(message) => bad.push(Problem {
            reason: "ElasticsearchUnavailable",
            message: message.clone(),
        }),
        IndexState::Foreign(message) => bad.push(Problem {
            reason: "IndexForeign",
            message: message.clone(),
        }),
        IndexState::Failed(message) => bad.push(Problem {
            reason: "ReindexFailed",
            message: message.clone(),
        }),
        _ => {}
    }
    let degraded = match bad.first() {
        Some(first) => stated("Degraded", true, first.reason, joined(&bad)),
        None => stated("Degraded", false, "AsExpected", "nothing is wrong"),
    };
    vec![ready, progressing, degraded, index]
}

fn index_condition(state: &IndexState) -> Stated {
    let not = |reason: &str, message: String| stated("IndexCurrent", false, reason, message);
    match state {
        IndexState::Embedded => stated(
            "IndexCurrent",
            true,
            "Embedded",
            "the index is in the pod and follows the schemas",
        ),
        IndexState::Current => stated(
            "IndexCurrent",
            true,
            "Current",
            "the live index has the mapping of the schemas",
        ),
        IndexState::First => not(
            "IndexBuilding",
            "the workers fill the first index from the storage".to_owned(),
        ),
        IndexState::Rehearsing => not(
            "Rehearsing",
            "the mapping changes in a way that needs a new index; it is checked whether what is stored fits".to_owned(),
        ),
        IndexState::Waiting(found) => not(
            "PromotionNeeded",
            format!(
                "{} of {} documents do not fit the schemas and would be missing: {}; mend the schemas, or set spec.promote to status.index.wantedHash",
                found.failed,
                found.checked,
                found.samples.join(", ")
            ),
        ),
        IndexState::Building => not(
            "Reindexing",
            "a new index is built beside the live one, which answers until then".to_owned(),
        ),
        IndexState::Failed(message) => not(
            "ReindexFailed",
            format!("{message}; the live index answers on. Delete the Job to try again"),
        ),
        IndexState::Foreign(message) => not("IndexForeign", message.clone()),
        IndexState::Away(message) => not("ElasticsearchUnavailable", message.clone()),
    }
}

fn index_status(
    observed: &Observed,
    plan: &Plan,
    before: &ArtifactDBStatus,
) -> Option<IndexStatus> {
    let seen = match &observed.engine {
        Ok(seen) => seen.first()?,
        // What was known last is still the best that is known.
        Err(_) => return before.index.clone(),
    };
    let building = seen.building.as_ref().map(|own| own.name.clone());
    let progress = match (&building, seen.documents, seen.built) {
        (Some(_), Some(documents), Some(built)) if documents > 0 => {
            Some(format!("{}%", (built * 100 / documents).min(100)))
        }
        (Some(_), ..) => Some("0%".to_owned()),
        (None, ..) => None,
    };
    let sum = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Some(IndexStatus {
        alias: Some(seen.alias.clone()),
        current: seen.live.as_ref().map(|own| own.name.clone()),
        building,
        mapping_hash: seen.live.as_ref().map(|own| {
            match observed.instance.spec.adopt_existing && !own.ours {
                true => String::new(),
                false => own.mapping_hash.clone(),
            }
        }),
        wanted_hash: Some(plan.index.mapping_hash.clone()),
        documents: seen.documents.map(sum),
        progress,
        rehearsal: observed.rehearsal.as_ref().map(|own| RehearsalStatus {
            mapping_hash: plan.index.mapping_hash.clone(),
            checked: sum(own.checked),
            failed: sum(own.failed),
            samples: own.samples.clone(),
        }),
    })
}

/// Where people reach the API.
fn url(plan: &Plan) -> String {
    let spec = &plan.instance.spec;
    if let Some(ingress) = &spec.ingress {
        let scheme = match ingress.tls_secret_name {
            Some(_) => "https",
            None => "http",
        };
        let prefix = ingress.prefix.as_deref().unwrap_or_default();
        return format!(
            "{scheme}://{}{}",
            ingress.host,
            prefix.trim_end_matches('/')
        );
    }
    if let Some(gateway) = &spec.gateway {
        return format!("https://{}", gateway.hostname);
    }
    format!("http://{}.{}.svc", plan.name(), plan.namespace())
}
