//! What is decided from what is seen: the way of an index from none to the next one, which schemas
//! pods work by meanwhile, and what the status says of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::Arc;

use artifactdb_core::search::elasticsearch::{Standing, TemplateStanding};
use artifactdb_crds::read::read;
use artifactdb_operator::child::{Child, ChildObject};
use artifactdb_operator::names::{COMPONENT, INSTANCE, MANAGED_BY, MANAGER, SCHEMAS};
use artifactdb_operator::object::ChildKind;
use artifactdb_operator::offline::observe;
use artifactdb_operator::plan::{
    IndexJob, IndexState, Observed, Outcome, Plan, Rehearsal, Served, Step, plan,
};
use artifactdb_operator::status::of_instance;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

fn sample(name: &str) -> Observed {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../config/samples")
        .join(format!("{name}.yaml"));
    observe(&read(&[path]).unwrap(), "default").remove(0)
}

fn planned(observed: &Observed) -> Plan {
    match plan(observed) {
        Outcome::Planned(plan) => *plan,
        Outcome::Refused(problems) => panic!("{problems:?}"),
    }
}

fn child(
    kind: ChildKind,
    name: &str,
    component: &str,
    more: Value,
) -> ((ChildKind, String), Arc<Child>) {
    let mut body = json!({
        "metadata": {
            "name": name, "namespace": "default", "generation": 1,
            "labels": {MANAGED_BY: MANAGER, INSTANCE: "typical", COMPONENT: component},
            "annotations": {SCHEMAS: "former"},
        },
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let child: ChildObject = serde_json::from_value(body).unwrap();
    ((kind, name.to_owned()), Arc::new(Child::from(child)))
}

/// Pods that work by schemas from before, all up.
fn running(observed: &mut Observed) {
    let up = json!({
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
    });
    observed.children.extend([
        child(ChildKind::Deployment, "typical-api", "api", up.clone()),
        child(ChildKind::Deployment, "typical-indexer", "indexer", up),
        child(
            ChildKind::ConfigMap,
            "typical-schemas-former-0",
            "config",
            json!({}),
        ),
    ]);
}

fn live(observed: &mut Observed, standing: Standing) {
    let seen = observed.engine.as_mut().unwrap();
    seen[0].live.as_mut().unwrap().standing = standing;
}

fn condition(observed: &Observed, kind: &str) -> (String, String, String) {
    let outcome = plan(observed);
    let now = Timestamp::UNIX_EPOCH;
    let status = of_instance(observed, &outcome, &observed.children, &[], now);
    let own = status
        .conditions
        .iter()
        .find(|own| own.type_ == kind)
        .unwrap();
    assert_eq!(
        own.observed_generation,
        observed.instance.metadata.generation
    );
    (own.status.clone(), own.reason.clone(), own.message.clone())
}

#[test]
fn the_first_index_is_begun_and_left_to_the_workers() {
    let mut observed = sample("typical");
    let seen = observed.engine.as_mut().unwrap();
    seen[0].live = None;
    seen[0].template = TemplateStanding::Missing;
    let plan = planned(&observed);
    assert_eq!(plan.index.state, IndexState::First);
    assert_eq!(
        plan.index.steps,
        [(0, Step::PutTemplate), (0, Step::BeginBuild)]
    );
    assert_eq!((plan.index.job, plan.served), (None, Served::Wanted));
    running(&mut observed);
    assert_eq!(condition(&observed, "Ready").1, "IndexBuilding");
}

#[test]
fn added_fields_go_in_place_and_pods_follow() {
    let mut observed = sample("typical");
    running(&mut observed);
    live(&mut observed, Standing::Extended);
    let plan = planned(&observed);
    assert!(matches!(
        plan.index.steps[..],
        [(0, Step::AddFields { .. })]
    ));
    assert_eq!((plan.index.job, plan.served), (None, Served::Wanted));
    assert_eq!(condition(&observed, "IndexCurrent").0, "True");
}

#[test]
fn a_new_mapping_is_rehearsed_and_built_while_pods_keep_what_they_have() {
    let mut observed = sample("typical");
    running(&mut observed);
    live(&mut observed, Standing::Outdated);
    let former = Served::Former {
        hash: "former".to_owned(),
        config_maps: vec!["typical-schemas-former-0".to_owned()],
    };
    let plan = planned(&observed);
    assert_eq!(plan.index.state, IndexState::Rehearsing);
    assert_eq!(plan.index.job, Some(IndexJob::Rehearse));
    assert_eq!(plan.served, former);
    assert_eq!(condition(&observed, "Ready").0, "True");

    observed.rehearsal = Some(Rehearsal {
        checked: 10,
        failed: 2,
        samples: vec!["P@1: wrong".to_owned()],
    });
    let plan = planned(&observed);
    assert_eq!((plan.index.job, plan.served), (None, former.clone()));
    let (_, reason, message) = condition(&observed, "IndexCurrent");
    assert_eq!(reason, "PromotionNeeded");
    assert!(
        message.starts_with("2 of 10") && message.contains("P@1: wrong"),
        "{message}"
    );

    // Only the word for this very mapping counts.
    let hash = plan.index.mapping_hash.clone();
    for (word, goes_on) in [
        ("", false),
        ("0123456789", false),
        (&hash[..5], false),
        (&hash[..], true),
    ] {
        Arc::make_mut(&mut observed.instance).spec.promote = Some(word.to_owned());
        let job = planned(&observed).index.job;
        let wanted = IndexJob::Reindex {
            shards: 1,
            allow_failed: true,
        };
        assert_eq!(job, goes_on.then_some(wanted), "{word}");
    }

    Arc::make_mut(&mut observed.instance).spec.promote = None;
    observed.rehearsal = Some(Rehearsal {
        checked: 10,
        ..Rehearsal::default()
    });
    let plan = planned(&observed);
    assert_eq!(
        plan.index.job,
        Some(IndexJob::Reindex {
            shards: 1,
            allow_failed: false
        })
    );
    assert_eq!(plan.served, former);

    observed.job_failure = Some("Job 'x' failed: boom".to_owned());
    assert_eq!(planned(&observed).served, former);
    let (status, reason, message) = condition(&observed, "Degraded");
    assert_eq!((&*status, &*reason), ("True", "ReindexFailed"));
    assert!(message.contains("boom"));
    assert_eq!(
        condition(&observed, "Ready").0,
        "True",
        "the live index answers on"
    );

    observed.job_failure = None;
    live(&mut observed, Standing::Current);
    assert_eq!(planned(&observed).served, Served::Wanted);
}

#[test]
fn an_engine_that_is_away_changes_no_pods() {
    let mut observed = sample("typical");
    running(&mut observed);
    observed.engine = Err("no answer".to_owned());
    let plan = planned(&observed);
    assert!(plan.index.steps.is_empty() && plan.index.job.is_none());
    assert!(matches!(plan.served, Served::Former { .. }));
    assert_eq!(
        condition(&observed, "Degraded").1,
        "ElasticsearchUnavailable"
    );
}

#[test]
fn what_is_somebody_elses_is_left_alone_unless_it_shall_be_adopted() {
    let mut observed = sample("typical");
    running(&mut observed);
    observed.engine.as_mut().unwrap()[0]
        .live
        .as_mut()
        .unwrap()
        .ours = false;
    let plan = planned(&observed);
    assert!(matches!(plan.index.state, IndexState::Foreign(_)));
    assert!(plan.index.steps.is_empty() && plan.index.job.is_none());
    assert_eq!(condition(&observed, "Ready").1, "IndexForeign");
    Arc::make_mut(&mut observed.instance).spec.adopt_existing = true;
    assert_eq!(planned(&observed).index.job, Some(IndexJob::Rehearse));
}

#[test]
fn what_is_missing_is_named_and_nothing_is_changed() {
    let mut observed = sample("typical");
    running(&mut observed);
    observed.secrets.remove("storage");
    let (_, reason, message) = condition(&observed, "Ready");
    assert_eq!(reason, "SecretMissing");
    assert!(message.contains("'storage'") && message.contains("credentialsSecretRef"));
    let Outcome::Refused(problems) = plan(&observed) else {
        panic!("it was planned");
    };
    assert_eq!(problems.len(), 1);
}

#[test]
fn a_status_is_the_same_when_nothing_changed() {
    let mut observed = sample("typical");
    running(&mut observed);
    let outcome = plan(&observed);
    let first = of_instance(
        &observed,
        &outcome,
        &observed.children,
        &[],
        Timestamp::UNIX_EPOCH,
    );
    Arc::make_mut(&mut observed.instance).status = Some(first.clone());
    let later: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let again = of_instance(&observed, &plan(&observed), &observed.children, &[], later);
    assert_eq!(again, first, "times move only with what they are of");
}

proptest! {
    /// Whatever is written into the free fields of a spec, there is a plan or a reason.
    #[test]
    fn every_spec_has_a_plan_or_a_reason(
        texts in prop::collection::vec(".{0,40}", 6),
        numbers in prop::collection::vec(any::<u32>(), 3),
        flags in prop::collection::vec(any::<bool>(), 3),
    ) {
        let mut observed = sample("typical");
        let spec = &mut Arc::make_mut(&mut observed.instance).spec;
        spec.environment = texts[0].clone();
        spec.promote = Some(texts[1].clone());
        spec.retention.stale_after = flags[0].then(|| texts[2].clone());
        spec.storage[0].alias = texts[3].clone();
        spec.image = Some(texts[4].clone());
        spec.indexer.replicas = Some(numbers[0]);
        let shapes = [
            json!({"spec": texts[5], "metadata": [numbers[1]]}),
            json!(texts[5]),
            json!({"spec": {"containers": [texts[5]]}}),
            json!({"spec": {"containers": [{"name": texts[5]}], "volumes": 7}}),
            json!({"spec": {"containers": [{"name": "api", "env": texts[5], "securityContext": 1}], "restartPolicy": {}}}),
            json!({"metadata": {"labels": {&texts[5]: texts[5]}}, "spec": {"securityContext": {"seccompProfile": []}}}),
            Value::Null,
        ];
        let shape = |number: u32| shapes[number as usize % shapes.len()].clone();
        spec.indexer.pod_template = Some(shape(numbers[1]));
        spec.api.pod_template = flags[1].then(|| shape(numbers[2]));
        spec.paused = flags[0];
        spec.suspend = flags[1];
        if flags[2] {
            live(&mut observed, Standing::Outdated);
        }
        match plan(&observed) {
            Outcome::Planned(plan) => {
                let context = artifactdb_operator::render::Context {
                    images: artifactdb_operator::render::Images::of_release(),
                    http_routes: true,
                    service_monitors: true,
                };
                prop_assert!(!artifactdb_operator::render::render(&plan, &context).is_empty());
            }
            Outcome::Refused(problems) => {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|own| !own.message.is_empty()));
            }
        }
    }
}
