//! A plan as the objects that it means, in the order in which they are applied. Pure, and it cannot
//! fail: what could not be rendered never became a plan.

mod config;
mod dispatcher;
mod index;
mod network;
mod plugins;
mod pods;
mod standalone;
mod template;

use std::collections::BTreeMap;

use artifactdb_crds::common::Resources;
use serde_json::{Value, json};

pub use index::{may_go, purge_stale};
pub use template::{merge, misfit};

use crate::names::{APPLIED, COMPONENT, INSTANCE, MANAGED_BY, MANAGER, NAME};
use crate::object::{ChildKind, Mode, Object};
use crate::plan::Plan;

/// The images of this release, for instances that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub api: String,
    pub indexer: String,
    pub standalone: String,
    /// `imagePullPolicy` of every container; absent: as Kubernetes chooses.
    pub pull_policy: Option<String>,
}

impl Images {
    /// Those that are published with this version.
    pub fn of_release() -> Self {
        let of = |name: &str| format!("artifactdb/{name}:{}", env!("CARGO_PKG_VERSION"));
        Self {
            api: of("artifactdb-api"),
            indexer: of("artifactdb-indexer"),
            standalone: of("artifactdb"),
            pull_policy: None,
        }
    }
}

/// What rendering depends on beside the plan.
#[derive(Debug, Clone)]
pub struct Context {
    pub images: Images,
    /// Whether the cluster has HTTPRoutes.
    pub http_routes: bool,
    /// Whether the cluster has ServiceMonitors.
    pub service_monitors: bool,
}

/// All children of an instance.
pub fn render(plan: &Plan, context: &Context) -> Vec<Object> {
    let own = Rendering { plan, context };
    let mut objects = Vec::new();
    objects.extend(own.config());
    objects.extend(own.network());
    if plan.instance.spec.standalone.is_some() {
        objects.extend(own.standalone());
    } else {
        objects.extend(own.index());
        objects.extend(own.pods());
        objects.extend(own.plugins());
        objects.extend(own.dispatcher());
    }
    objects.sort_by_key(|object| object.kind);
    objects
}

struct Rendering<'a> {
    plan: &'a Plan,
    context: &'a Context,
}

impl Rendering<'_> {
    fn name(&self, ending: &str) -> String {
        let name = self.plan.name();
        match ending {
            "" => name,
            ending => format!("{name}-{ending}"),
        }
    }

    fn labels(&self, component: &str) -> Value {
        labels(&self.plan.name(), component)
    }

    /// An object that is applied. `rest` is everything beside apiVersion, kind and metadata.
    fn object(&self, kind: ChildKind, name: String, component: &str, rest: Value) -> Object {
        let owner = json!({
            "apiVersion": artifactdb_crds::API_VERSION,
            "kind": "ArtifactDB",
            "name": self.plan.name(),
            "uid": self.plan.uid(),
            "controller": true,
            "blockOwnerDeletion": true,
        });
        object(
            kind,
            &name,
            &self.plan.namespace(),
            self.labels(component),
            owner,
            rest,
        )
    }
}

/// An object with the metadata that all have.
pub fn object(
    kind: ChildKind,
    name: &str,
    namespace: &str,
    labels: Value,
    owner: Value,
    rest: Value,
) -> Object {
    let resource = kind.resource();
    let mut body = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {},
            "ownerReferences": [owner],
        },
    });
    if let (Value::Object(body), Value::Object(rest)) = (&mut body, rest) {
        for (name, value) in rest {
            match (body.get_mut(&name), value) {
                // More annotations.
                (Some(Value::Object(meta)), Value::Object(more)) => meta.extend(more),
                (_, value) => {
                    body.insert(name, value);
                }
            }
        }
    }
    Object {
        kind,
        name: name.to_owned(),
        mode: Mode::Apply,
        scaled: false,
        body,
    }
}

/// The labels of everything that belongs to an instance.
pub fn labels(instance: &str, component: &str) -> Value {
    json!({
        NAME: "artifactdb",
        INSTANCE: instance,
        COMPONENT: component,
        MANAGED_BY: MANAGER,
        "app.kubernetes.io/part-of": "artifactdb",
    })
}

/// The labels that pods are chosen by; they never change.
pub fn selector(instance: &str, component: &str) -> Value {
    json!({NAME: "artifactdb", INSTANCE: instance, COMPONENT: component})
}

impl Object {
    /// Its hash, which is put on what is applied.
    pub fn hash(&self) -> String {
        crate::names::short_hash(&self.body.to_string(), 16)
    }

    /// What is sent: the body with its hash on it.
    pub fn to_apply(&self) -> Value {
        let mut body = self.body.clone();
        body["metadata"]["annotations"][APPLIED] = json!(self.hash());
        body
    }
}

/// Restricted Pod Security, for a pod.
pub fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Restricted Pod Security, for a container.
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Compute of a container: what the user says, over these defaults.
pub fn resources(own: Option<&Resources>, cpu: &str, memory: &str, most: &str) -> Value {
    let mut requests: BTreeMap<String, String> = BTreeMap::from([
        ("cpu".to_owned(), cpu.to_owned()),
        ("memory".to_owned(), memory.to_owned()),
    ]);
    let mut limits = BTreeMap::from([("memory".to_owned(), most.to_owned())]);
    if let Some(own) = own {
        requests.extend(own.requests.clone());
        limits.extend(own.limits.clone());
    }
    json!({"requests": requests, "limits": limits})
}

/// An HTTP probe of the API, each `period` seconds.
pub fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}
