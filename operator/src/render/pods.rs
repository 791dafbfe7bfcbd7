//! The API and the workers: Deployments, what scales them and what keeps some of them up.

use artifactdb_crds::instance::Autoscaling;
use serde_json::{Value, json};

use super::network::PORT;
use super::{
    Rendering, container_security, merge, pod_security, probe, resources, selector, template,
};
use crate::names::{MAPPING, SCHEMAS, SECRETS};
use crate::object::{ChildKind, Object};
use crate::plan::Served;
use crate::references::references;

/// Where pods find what they read.
const CONFIG: &str = "/etc/artifactdb/config";
const SCHEMAS_FOLDER: &str = "/etc/artifactdb/schemas";
const SECRETS_FOLDER: &str = "/etc/artifactdb/secrets";
/// Where the API finds what became of plugins' runs.
const RUNS_FOLDER: &str = "/etc/artifactdb/runs";
/// Seconds for which a pod that ends is still sent requests by proxies that do not know yet.
const DRAIN: u32 = 5;
/// Seconds that a pod has to end in.
const GRACE: u32 = 40;

impl Rendering<'_> {
    pub(super) fn pods(&self) -> Vec<Object> {
        let spec = &self.plan.instance.spec;
        let mut objects = vec![
            self.deployment(
                "api",
                self.api_template(),
                match spec.suspend {
                    true => Some(0),
                    false => spec.api.replicas.or(Some(2)),
                },
                spec.api.autoscaling.as_ref().filter(|_| !spec.suspend),
            ),
            self.deployment(
                "indexer",
                self.indexer_template(),
                spec.indexer.replicas.or(Some(1)),
                spec.indexer.autoscaling.as_ref(),
            ),
            self.disruption_budget(),
        ];
        if let Some(scaling) = spec.api.autoscaling.as_ref().filter(|_| !spec.suspend) {
            objects.push(self.autoscaler("api", scaling));
        }
        if let Some(scaling) = &spec.indexer.autoscaling {
            objects.push(self.autoscaler("indexer", scaling));
        }
        objects
    }

    pub(super) fn deployment(
        &self,
        component: &str,
        template: Value,
        replicas: Option<u32>,
        scaling: Option<&Autoscaling>,
    ) -> Object {
        let mut body = json!({"spec": {
            "selector": {"matchLabels": selector(&self.plan.name(), component)},
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 600,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": template,
        }});
        match scaling {
            // The number to begin with; from then on the autoscaler's (`apply`).
            Some(scaling) => body["spec"]["replicas"] = json!(scaling.min),
            None => body["spec"]["replicas"] = json!(replicas),
        }
        let mut object = self.object(ChildKind::Deployment, self.name(component), component, body);
        object.scaled = scaling.is_some();
        let served = match &self.plan.served {
            Served::Wanted => &self.plan.schemas_hash,
            Served::Former { hash, .. } => hash,
        };
        object.body["metadata"]["annotations"][SCHEMAS] = json!(served);
        object
    }

    fn autoscaler(&self, component: &str, scaling: &Autoscaling) -> Object {
        let metric = |name: &str, use_of: u32| {
            json!({"type": "Resource", "resource": {"name": name, "target": {
                "type": "Utilization", "averageUtilization": use_of,
            }}})
        };
        let mut metrics = Vec::new();
        if let Some(cpu) = scaling.cpu {
            metrics.push(metric("cpu", cpu));
        }
        if let Some(memory) = scaling.memory {
            metrics.push(metric("memory", memory));
        }
        if metrics.is_empty() {
            metrics.push(metric("cpu", 80));
        }
        let name = self.name(component);
        let body = json!({"spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max,
            "metrics": metrics,
        }});
        self.object(ChildKind::HorizontalPodAutoscaler, name, component, body)
    }

    fn disruption_budget(&self) -> Object {
        let body = json!({"spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(&self.plan.name(), "api")},
        }});
        self.object(
            ChildKind::PodDisruptionBudget,
            self.name("api"),
            "api",
            body,
        )
    }

    fn api_template(&self) -> Value {
        let spec = &self.plan.instance.spec;
        let image = spec.image.as_ref().unwrap_or(&self.context.images.api);
        let mut container = self.container("api", image, &["/artifactdb-api"]);
        container["ports"] = json!([{"name": "http", "containerPort": PORT, "protocol": "TCP"}]);
        container["startupProbe"] = probe("/livez", 1, 60);
        container["livenessProbe"] = probe("/livez", 10, 3);
        container["readinessProbe"] = probe("/readyz", 5, 2);
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": DRAIN}}});
        container["resources"] = resources(spec.api.resources.as_ref(), "50m", "64Mi", "256Mi");
        let runs = !self.plan.plugins.is_empty();
        if let (true, Some(mounts)) = (runs, container["volumeMounts"].as_array_mut()) {
            mounts.push(json!({"name": "runs", "mountPath": RUNS_FOLDER, "readOnly": true}));
        }
        let mut template = self.pod("api", container, &self.served_schemas());
        if let (true, Some(volumes)) = (runs, template["spec"]["volumes"].as_array_mut()) {
            let source = json!({"name": self.runs_name(), "optional": true});
            volumes.push(json!({"name": "runs", "configMap": source}));
        }
        self.with_theirs(template, spec.api.pod_template.as_ref(), "api")
    }

    fn indexer_template(&self) -> Value {
        let spec = &self.plan.instance.spec;
        let concurrency = spec.indexer.concurrency.unwrap_or(2).to_string();
        let command = [
            "/artifactdb-indexer",
            "worker",
            "--concurrency",
            &concurrency,
            "--sweep-every",
            "60",
        ];
        let mut container = self.container("indexer", self.indexer_image(), &command);
        container["resources"] = resources(spec.indexer.resources.as_ref(), "50m", "64Mi", "256Mi");
        let template = self.pod("indexer", container, &self.served_schemas());
        self.with_theirs(template, spec.indexer.pod_template.as_ref(), "indexer")
    }

    /// A pod of the indexer's image that is no worker, with what people want of those.
    pub(super) fn beside_workers(&self, template: Value, container: &str) -> Value {
        let theirs = self.plan.instance.spec.indexer.pod_template.as_ref();
        let theirs = theirs.map(|own| template::lent(own, "indexer", container));
        self.with_theirs(template, theirs.as_ref(), container)
    }

    pub(super) fn indexer_image(&self) -> &str {
        let spec = &self.plan.instance.spec;
        spec.image.as_ref().unwrap_or(&self.context.images.indexer)
    }

    fn with_theirs(&self, ours: Value, theirs: Option<&Value>, container: &str) -> Value {
        let Some(theirs) = theirs else { return ours };
        let mut merged = ours.clone();
        merge(&mut merged, theirs);
        template::own(&mut merged, &ours, container);
        merged
    }

    pub(super) fn container(&self, name: &str, image: &str, command: &[&str]) -> Value {
        let mut container = json!({
            "name": name,
            "image": image,
            "command": command,
            "env": [
                {"name": "ARTIFACTDB_CONFIG", "value": format!("{CONFIG}/instance.json")},
                {"name": "ARTIFACTDB_SCHEMAS", "value": SCHEMAS_FOLDER},
                {"name": "ARTIFACTDB_SECRETS", "value": SECRETS_FOLDER},
                {"name": "ARTIFACTDB_LOG_JSON", "value": "true"},
            ],
            "volumeMounts": [
                {"name": "config", "mountPath": CONFIG, "readOnly": true},
                {"name": "schemas", "mountPath": SCHEMAS_FOLDER, "readOnly": true},
                {"name": "secrets", "mountPath": SECRETS_FOLDER, "readOnly": true},
            ],
            "securityContext": container_security(),
            // What a container fails by is in its status, where people and the operator look.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        if let Some(policy) = &self.context.images.pull_policy {
            container["imagePullPolicy"] = json!(policy);
        }
        container
    }

    /// A pod of the API or the indexer, with what both read. `schemas` are names of ConfigMaps.
    pub(super) fn pod(&self, component: &str, container: Value, schemas: &[String]) -> Value {
        let schemas: Vec<Value> = schemas
            .iter()
            .map(|name| json!({"configMap": {"name": name}}))
            .collect();
        json!({
            "metadata": {
                "labels": self.labels(component),
                "annotations": {SECRETS: self.plan.secrets_hash},
            },
            "spec": {
                "serviceAccountName": self.name(""),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": GRACE,
                "restartPolicy": "Always",
                "securityContext": pod_security(),
                "containers": [container],
                "topologySpreadConstraints": [{
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": selector(&self.plan.name(), component)},
                }],
                "volumes": [
                    {"name": "config", "configMap": {"name": self.config_name()}},
                    {"name": "schemas", "projected": {"sources": schemas}},
                    {"name": "secrets", "projected": {"sources": self.secrets(), "defaultMode": 288}},
                ],
            },
        })
    }

    /// Every Secret that the spec refers to, as the files that `core::connect` reads.
    fn secrets(&self) -> Vec<Value> {
        let mut sources: Vec<Value> = references(&self.plan.instance.spec)
            .flat_map(|reference| {
                // A key that may be absent is a source of its own.
                let optional = !reference.any.is_empty();
                let name = reference.name.clone();
                reference
                    .items
                    .into_iter()
                    .map(move |item| {
                        json!({"secret": {
                            "name": name,
                            "items": [{"key": item.key, "path": item.path}],
                            "optional": optional,
                        }})
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        if self.plan.makes_signing_key {
            sources.push(json!({"secret": {
                "name": self.signing_secret(),
                "items": [{"key": "key", "path": "signing/key"}],
            }}));
        }
        sources
    }

    /// The mark of a Job that is about a mapping.
    pub(super) fn about_mapping(&self, object: &mut Object) {
        object.body["metadata"]["annotations"][MAPPING] = json!(self.plan.mapping_digits());
    }
}
