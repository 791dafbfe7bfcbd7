//! What every sample is rendered to, held to files, and held to what Kubernetes' own types know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use artifactdb_crds::read::read;
use artifactdb_operator::names::COMPONENT;
use artifactdb_operator::object::{ChildKind, Object};
use artifactdb_operator::offline::observe;
use artifactdb_operator::plan::{Outcome, plan};
use artifactdb_operator::render::{Context, Images, render};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn samples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    assert!(all.len() >= 5);
    all
}

fn context() -> Context {
    let of = |name: &str| format!("artifactdb/{name}:test");
    Context {
        images: Images {
            api: of("artifactdb-api"),
            indexer: of("artifactdb-indexer"),
            standalone: of("artifactdb"),
            pull_policy: None,
        },
        http_routes: true,
        service_monitors: true,
    }
}

fn rendered(path: &Path) -> Result<Vec<Object>, Value> {
    let set = read(&[path.to_owned()]).unwrap();
    let observed = observe(&set, "default");
    match plan(&observed[0]) {
        Outcome::Planned(plan) => Ok(render(&plan, &context())),
        Outcome::Refused(problems) => Err(problems
            .iter()
            .map(|own| json!({"reason": own.reason, "message": own.message}))
            .collect()),
    }
}

#[test]
fn samples_are_rendered_as_their_goldens() {
    for path in samples() {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let shown = match rendered(&path) {
            Ok(objects) => objects.iter().map(Object::to_apply).collect(),
            Err(problems) => problems,
        };
        insta::assert_yaml_snapshot!(name, shown);
    }
}

fn round_trip<K: Serialize + DeserializeOwned>(value: &Value) -> Value {
    let typed: K = serde_json::from_value(value.clone()).unwrap_or_else(|error| {
        panic!("{error}: {value:#}");
    });
    serde_json::to_value(typed).unwrap()
}

/// Removes what the types leave out: empty lists and maps.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), without_empty(value)))
            .filter(|(_, value)| !matches!(value, Value::Object(own) if own.is_empty()))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

fn sorted(value: &Value) -> Value {
    let mut value = value.clone();
    value.sort_all_objects();
    value
}

/// A misspelt field would be dropped without a word.
#[test]
fn everything_rendered_is_what_kubernetes_knows() {
    for path in samples() {
        for object in rendered(&path).unwrap_or_default() {
            let body = object.to_apply();
            let again = match object.kind {
                ChildKind::ServiceAccount => round_trip::<ServiceAccount>(&body),
                ChildKind::Secret => round_trip::<Secret>(&body),
                ChildKind::ConfigMap => round_trip::<ConfigMap>(&body),
                ChildKind::NetworkPolicy => round_trip::<NetworkPolicy>(&body),
                ChildKind::Service => round_trip::<Service>(&body),
                ChildKind::Ingress => round_trip::<Ingress>(&body),
                ChildKind::PodDisruptionBudget => round_trip::<PodDisruptionBudget>(&body),
                ChildKind::CronJob => round_trip::<CronJob>(&body),
                ChildKind::Job => round_trip::<Job>(&body),
                ChildKind::StatefulSet => round_trip::<StatefulSet>(&body),
                ChildKind::Deployment => round_trip::<Deployment>(&body),
                ChildKind::HorizontalPodAutoscaler => round_trip::<HorizontalPodAutoscaler>(&body),
                ChildKind::Role => round_trip::<Role>(&body),
                ChildKind::RoleBinding => round_trip::<RoleBinding>(&body),
                ChildKind::HttpRoute | ChildKind::ServiceMonitor => body.clone(),
            };
            assert_eq!(
                sorted(&without_empty(&again)),
                sorted(&without_empty(&body)),
                "{} {}",
                object.kind.as_str(),
                object.name
            );
        }
    }
}

/// Restricted Pod Security (kubernetes.io/docs/concepts/security/pod-security-standards).
#[test]
fn every_pod_is_restricted() {
    let mut pods = 0;
    for path in samples() {
        for object in rendered(&path).unwrap_or_default() {
            let body = &object.body;
            let spec = match object.kind {
                ChildKind::Deployment | ChildKind::StatefulSet | ChildKind::Job => {
                    &body["spec"]["template"]["spec"]
                }
                ChildKind::CronJob => &body["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                _ => continue,
            };
            pods += 1;
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
            assert_eq!(
                spec["securityContext"]["seccompProfile"]["type"],
                "RuntimeDefault"
            );
            // The dispatcher alone asks Kubernetes for something.
            let asks = body["metadata"]["labels"][COMPONENT] == "dispatcher";
            assert_eq!(spec["automountServiceAccountToken"], asks);
            for container in spec["containers"].as_array().unwrap() {
                let own = &container["securityContext"];
                assert_eq!(own["allowPrivilegeEscalation"], false);
                assert_eq!(own["readOnlyRootFilesystem"], true);
                assert_eq!(own["capabilities"]["drop"], json!(["ALL"]));
            }
        }
    }
    assert!(pods > 10);
}

/// What is secret is referred to and never copied.
#[test]
fn no_config_map_has_a_secret() {
    for path in samples() {
        for object in rendered(&path).unwrap_or_default() {
            if object.kind == ChildKind::ConfigMap {
                let text = object.body.to_string();
                assert!(
                    !text.contains("password") && !text.contains("secretKey\""),
                    "{text}"
                );
            }
        }
    }
}
