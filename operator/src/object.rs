//! Kinds of children, and what is rendered of them. What is seen of them in the cluster is `child`'s.

use kube::core::ApiResource;
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
            ChildKind::Deployment | ChildKind::StatefulSet | ChildKind::Job | ChildKind::CronJob
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
