//! An instance in one pod: `artifactdb serve` with a volume, for trials.

use artifactdb_crds::ArtifactDB;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::network::{PORT, STORE_PORT};
use super::{
    Rendering, container_security, merge, pod_security, probe, resources, selector, template,
};
use crate::names::SCHEMAS;
use crate::object::{ChildKind, Object};
use crate::plan::Runs;

const RESOURCES: &str = "/etc/artifactdb/resources";
const DATA: &str = "/data";
/// Size of the volume where nothing is said.
const SIZE: &str = "10Gi";

impl Rendering<'_> {
    pub(super) fn standalone(&self) -> Vec<Object> {
        let files = self.resource_files();
        let name = self.name(&format!(
            "resources-{}",
            crate::names::short_hash(&files.to_string(), 10)
        ));
        let body = json!({"immutable": true, "data": files});
        let mut config = self.object(ChildKind::ConfigMap, name.clone(), "config", body);
        config.body["metadata"]["annotations"][SCHEMAS] = json!(self.plan.schemas_hash);
        vec![config, self.stateful_set(&name)]
    }

    /// The resources as `serve` reads them: the instance, its schemas inline, and the schedules of built-in
    /// tasks.
    fn resource_files(&self) -> Value {
        let own: &ArtifactDB = &self.plan.instance;
        let instance = json!({
            "apiVersion": artifactdb_crds::API_VERSION,
            "kind": "ArtifactDB",
            "metadata": {"name": self.plan.name(), "namespace": self.plan.namespace()},
            "spec": own.spec,
        });
        let mut files = serde_json::Map::new();
        files.insert("0000-instance.yaml".to_owned(), json!(instance.to_string()));
        for (place, schema) in self.plan.schemas.iter().enumerate() {
            let resource = json!({
                "apiVersion": artifactdb_crds::API_VERSION,
                "kind": "ArtifactSchema",
                "metadata": {"name": format!("schema-{place}")},
                "spec": {"type": schema.kind, "version": schema.version, "schema": schema.schema},
            });
            files.insert(
                format!("{:04}.yaml", place + 1),
                json!(resource.to_string()),
            );
        }
        for (schedule, runs) in &self.plan.schedules {
            if *runs != Runs::Embedded {
                continue;
            }
            let name = schedule.name_any();
            let mut spec = json!(schedule.spec);
            // Which instances it is for was found out here.
            spec["instances"] = Value::Null;
            let resource = json!({
                "apiVersion": artifactdb_crds::API_VERSION,
                "kind": "ArtifactSchedule",
                "metadata": {"name": name},
                "spec": spec,
            });
            files.insert(format!("schedule-{name}.yaml"), json!(resource.to_string()));
        }
        Value::Object(files)
    }

    fn stateful_set(&self, config: &str) -> Object {
        let spec = &self.plan.instance.spec;
        let image = spec
            .image
            .as_ref()
            .unwrap_or(&self.context.images.standalone);
        let mut container = json!({
            "name": "api",
            "image": image,
            "command": [
                "/artifactdb", "serve", RESOURCES,
                "--data", DATA,
                "--listen", format!("0.0.0.0:{PORT}"),
                "--s3-listen", format!("0.0.0.0:{STORE_PORT}"),
                "--s3-url", format!(
                    "http://{}.{}.svc:{STORE_PORT}", self.plan.name(), self.plan.namespace()
                ),
            ],
            "ports": [
                {"name": "http", "containerPort": PORT, "protocol": "TCP"},
                {"name": "s3", "containerPort": STORE_PORT, "protocol": "TCP"},
            ],
            "startupProbe": probe("/livez", 1, 120),
            "livenessProbe": probe("/livez", 10, 3),
            "readinessProbe": probe("/readyz", 5, 2),
            "volumeMounts": [
                {"name": "data", "mountPath": DATA},
                {"name": "resources", "mountPath": RESOURCES, "readOnly": true},
            ],
            "resources": resources(spec.api.resources.as_ref(), "100m", "128Mi", "1Gi"),
            "securityContext": container_security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        if let Some(policy) = &self.context.images.pull_policy {
            container["imagePullPolicy"] = json!(policy);
        }
        let ours = json!({
            "metadata": {"labels": self.labels("api")},
            "spec": {
                "serviceAccountName": self.name(""),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 40,
                "restartPolicy": "Always",
                "securityContext": pod_security(),
                "containers": [container],
                "volumes": [{"name": "resources", "configMap": {"name": config}}],
            },
        });
        let mut pod = ours.clone();
        if let Some(theirs) = &spec.api.pod_template {
            merge(&mut pod, theirs);
            template::own(&mut pod, &ours, "api");
        }
        let own = spec.standalone.as_ref();
        let size = own.and_then(|own| own.storage.clone());
        let mut claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size.unwrap_or_else(|| SIZE.to_owned())}},
        });
        if let Some(class) = own.and_then(|own| own.storage_class_name.as_ref()) {
            claim["storageClassName"] = json!(class);
        }
        let body = json!({"spec": {
            "serviceName": self.name(""),
            "replicas": i32::from(!spec.suspend),
            "selector": {"matchLabels": selector(&self.plan.name(), "api")},
            "template": pod,
            "volumeClaimTemplates": [{
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data"},
                "spec": claim,
            }],
        }});
        self.object(ChildKind::StatefulSet, self.name(""), "api", body)
    }
}
