//! Kinds of children, what is rendered of them, and what is seen of them in the cluster.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A kind of child, in the order in which children are applied: what others need first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    ServiceAccount,
    Role,
    RoleBinding,
    Secret,
    ConfigMap,
    NetworkPolicy,
    Service,
    Ingress,
    HttpRoute,
    ServiceMonitor,
    PodDisruptionBudget,
    CronJob,
    Job,
    StatefulSet,
    Deployment,
    HorizontalPodAutoscaler,
}

impl ChildKind {
    pub const ALL: [ChildKind; 16] = [
        ChildKind::ServiceAccount,
        ChildKind::Role,
        ChildKind::RoleBinding,
        ChildKind::Secret,
        ChildKind::ConfigMap,
        ChildKind::NetworkPolicy,
        ChildKind::Service,
        ChildKind::Ingress,
        ChildKind::HttpRoute,
        ChildKind::ServiceMonitor,
        ChildKind::PodDisruptionBudget,
        ChildKind::CronJob,
        ChildKind::Job,
        ChildKind::StatefulSet,
        ChildKind::Deployment,
        ChildKind::HorizontalPodAutoscaler,
    ];

    /// Group, version, kind and plural.
    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            ChildKind::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            ChildKind::Role => ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
            ChildKind::RoleBinding => (
                "rbac.authorization.k8s.io",
                "v1",
                "RoleBinding",
                "rolebindings",
            ),
            ChildKind::Secret => ("", "v1", "Secret", "secrets"),
            ChildKind::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            ChildKind::NetworkPolicy => (
                "networking.k8s.io",
                "v1",
                "NetworkPolicy",
                "networkpolicies",
            ),
            ChildKind::Service => ("", "v1", "Service", "services"),
            ChildKind::Ingress => ("networking.k8s.io", "v1", "Ingress", "ingresses"),
            ChildKind::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            ChildKind::ServiceMonitor => (
                "monitoring.coreos.com",
                "v1",
                "ServiceMonitor",
                "servicemonitors",
            ),
            ChildKind::PodDisruptionBudget => (
                "policy",
                "v1",
                "PodDisruptionBudget",
                "poddisruptionbudgets",
            ),
            ChildKind::CronJob => ("batch", "v1", "CronJob", "cronjobs"),
            ChildKind::Job => ("batch", "v1", "Job", "jobs"),
            ChildKind::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            ChildKind::Deployment => ("apps", "v1", "Deployment", "deployments"),
            ChildKind::HorizontalPodAutoscaler => (
                "autoscaling",
                "v2",
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
            ),
        }
    }

    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        let api_version = match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    pub fn as_str(self) -> &'static str {
        self.names().2
    }

    /// Kinds that other projects define: a cluster may not know them.
    pub fn is_optional(self) -> bool {
        matches!(self, ChildKind::HttpRoute | ChildKind::ServiceMonitor)
    }

    /// Kinds whose status or spec is looked at; of the others metadata is enough.
    pub fn is_seen_whole(self) -> bool {
        matches!(
            self,
            ChildKind::Deployment
                | ChildKind::StatefulSet
                | ChildKind::Job
                | ChildKind::CronJob
                | ChildKind::HorizontalPodAutoscaler
        )
    }

    /// Kinds that are watched without regard to labels: users' own are referred to by resources.
    pub fn is_referred_to(self) -> bool {
        matches!(self, ChildKind::Secret | ChildKind::ConfigMap)
    }
}

/// How a rendered object is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Kept as it is rendered.
    Apply,
    /// Made where it is not there, and then left alone: Jobs, and secrets with something random.
    Create,
    /// Left as it is, and not pruned.
    Keep,
}

/// A child as it shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub kind: ChildKind,
    pub name: String,
    pub mode: Mode,
    /// The number of replicas is somebody else's: an autoscaler's.
    pub scaled: bool,
    /// The whole object, with apiVersion, kind and metadata.
    pub body: Value,
}

/// A child as it is seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Child {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: ChildSpec,
    #[serde(default)]
    pub status: ChildStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// The parts of the statuses of Deployments, StatefulSets, Jobs and CronJobs that are read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ChildCondition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

impl Child {
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        let labels = self.metadata.labels.as_ref()?;
        labels.get(name).map(String::as_str)
    }

    /// Whether an object of that uid is among its owners.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        let owners = self.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.uid == uid)
    }

    pub fn condition(&self, kind: &str) -> Option<&ChildCondition> {
        self.status.conditions.iter().find(|own| own.kind == kind)
    }

    pub fn holds(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|own| own.status == "True")
    }
}

impl Resource for Child {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&dt.kind)
    }

    fn group(dt: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&dt.group)
    }

    fn version(dt: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&dt.version)
    }

    fn api_version(dt: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&dt.api_version)
    }

    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&dt.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
