//! The dispatcher of events: what it reads, what it may do, and its pod.

use artifactdb_crds::ArtifactPlugin;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::plugins::by_hand;
use super::{Rendering, resources};
use crate::names::{SOURCE, job_prefix, short_hash};
use crate::object::{ChildKind, Object};
use crate::offline::NO_UID;

const COMPONENT: &str = "dispatcher";
const FOLDER: &str = "/etc/artifactdb/plugins";
/// Where it is, for whoever wants to look on.
const FILE: &str = "plugins.json";

impl Rendering<'_> {
    /// Nothing where no plugin could be started.
    pub(super) fn dispatcher(&self) -> Vec<Object> {
        if self.plan.plugins.is_empty() {
            return Vec::new();
        }
        let name = self.name(COMPONENT);
        let plugins: Vec<Value> = self
            .plan
            .plugins
            .iter()
            .map(|own| self.started(own))
            .collect();
        let text = json!(plugins).to_string();
        let config = format!("{name}-{}", short_hash(&text, 10));
        let body = json!({"immutable": true, "data": {FILE: text}});
        let group = "rbac.authorization.k8s.io";
        // To make Jobs, and nothing more: not to read one, and not to change one.
        let rules = json!([{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}]);
        let binding = json!({
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.plan.namespace()}],
        });
        let account = json!({"automountServiceAccountToken": false});
        let replicas = match self.plan.instance.spec.suspend {
            true => 0,
            false => 1,
        };
        let template = self.dispatcher_template(&name, &config);
        vec![
            self.object(ChildKind::ServiceAccount, name.clone(), COMPONENT, account),
            self.object(
                ChildKind::Role,
                name.clone(),
                COMPONENT,
                json!({"rules": rules}),
            ),
            self.object(ChildKind::RoleBinding, name, COMPONENT, binding),
            self.object(ChildKind::ConfigMap, config, COMPONENT, body),
            self.deployment(COMPONENT, template, Some(replicas), None),
        ]
    }

    /// A plugin as the dispatcher starts it (`PluginJob` of the indexer).
    fn started(&self, plugin: &ArtifactPlugin) -> Value {
        let name = plugin.name_any();
        let made = plugin.creation_timestamp();
        let mut job = self.plugin_job(plugin, &by_hand());
        job["apiVersion"] = json!("batch/v1");
        job["kind"] = json!("Job");
        job["metadata"]["namespace"] = json!(self.plan.namespace());
        job["metadata"]["annotations"] = json!({SOURCE: format!("plugin/{name}")});
        // It goes with its plugin.
        job["metadata"]["ownerReferences"] = json!([{
            "apiVersion": artifactdb_crds::API_VERSION,
            "kind": "ArtifactPlugin",
            "name": name,
            "uid": plugin.uid().unwrap_or_else(|| NO_UID.to_owned()),
        }]);
        // The operator lets it begin when there is room (`admit`).
        job["spec"]["suspend"] = json!(true);
        let interest = plugin.config(String::new()).interest;
        json!({
            "name": name,
            "prefix": job_prefix(&self.plan.name(), &name),
            "since": made.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            "interest": interest,
            "job": job,
        })
    }

    fn dispatcher_template(&self, account: &str, config: &str) -> Value {
        let command = ["/artifactdb-indexer", "dispatch"];
        let mut container = self.container(COMPONENT, self.indexer_image(), &command);
        // It keeps little, and huge pages would make thrice as much of that.
        if let Some(env) = container["env"].as_array_mut() {
            env.push(json!({"name": "MIMALLOC_ALLOW_THP", "value": "0"}));
        }
        let mount = json!({"name": "plugins", "mountPath": FOLDER, "readOnly": true});
        if let Some(mounts) = container["volumeMounts"].as_array_mut() {
            mounts.push(mount);
        }
        let pod = self.pod(COMPONENT, container, &self.served_schemas());
        let mut pod = self.beside_workers(pod, COMPONENT);
        let spec = &mut pod["spec"];
        spec["serviceAccountName"] = json!(account);
        spec["automountServiceAccountToken"] = json!(true);
        let containers = spec["containers"].as_array_mut().into_iter().flatten();
        // What workers need is much more.
        for own in containers.filter(|own| own["name"] == COMPONENT) {
            own["resources"] = resources(None, "10m", "32Mi", "128Mi");
        }
        if let Some(volumes) = spec["volumes"].as_array_mut() {
            volumes.push(json!({"name": "plugins", "configMap": {"name": config}}));
        }
        pod
    }
}
