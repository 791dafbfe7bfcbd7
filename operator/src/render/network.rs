//! How the API is reached, and by whom.

use serde_json::{Value, json};

use super::{Rendering, selector};
use crate::object::{ChildKind, Object};

/// Port of the containers.
pub(super) const PORT: u16 = 8000;
/// Port of a standalone instance's object store.
pub(super) const STORE_PORT: u16 = 9000;

impl Rendering<'_> {
    pub(super) fn network(&self) -> Vec<Object> {
        let spec = &self.plan.instance.spec;
        let mut objects = vec![self.service()];
        if spec.network_policy.enabled {
            objects.extend(self.network_policies());
        }
        if let Some(ingress) = &spec.ingress {
            let path = ingress.prefix.clone().unwrap_or_else(|| "/".to_owned());
            let backend = json!({"service": {"name": self.name(""), "port": {"name": "http"}}});
            let mut body = json!({"spec": {
                "rules": [{"host": ingress.host, "http": {"paths": [
                    {"path": path, "pathType": "Prefix", "backend": backend},
                ]}}],
            }});
            if let Some(class) = &ingress.class_name {
                body["spec"]["ingressClassName"] = json!(class);
            }
            if let Some(secret) = &ingress.tls_secret_name {
                body["spec"]["tls"] = json!([{"hosts": [ingress.host], "secretName": secret}]);
            }
            objects.push(self.object(ChildKind::Ingress, self.name(""), "api", body));
        }
        if let Some(gateway) = &spec.gateway
            && self.context.http_routes
        {
            let mut parent = json!({"name": gateway.parent_ref.name});
            if let Some(namespace) = &gateway.parent_ref.namespace {
                parent["namespace"] = json!(namespace);
            }
            if let Some(section) = &gateway.parent_ref.section_name {
                parent["sectionName"] = json!(section);
            }
            let body = json!({"spec": {
                "parentRefs": [parent],
                "hostnames": [gateway.hostname],
                "rules": [{"backendRefs": [{"name": self.name(""), "port": 80}]}],
            }});
            objects.push(self.object(ChildKind::HttpRoute, self.name(""), "api", body));
        }
        if spec.monitoring.service_monitor && self.context.service_monitors {
            let body = json!({"spec": {
                "selector": {"matchLabels": selector(&self.plan.name(), "api")},
                "endpoints": [{"port": "http", "path": "/metrics"}],
            }});
            objects.push(self.object(ChildKind::ServiceMonitor, self.name(""), "api", body));
        }
        objects
    }

    fn is_standalone(&self) -> bool {
        self.plan.instance.spec.standalone.is_some()
    }

    fn service(&self) -> Object {
        let mut ports =
            vec![json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"})];
        if self.is_standalone() {
            ports.push(json!({
                "name": "s3", "port": STORE_PORT, "targetPort": "s3", "protocol": "TCP",
            }));
        }
        let body = json!({"spec": {
            "type": "ClusterIP",
            "selector": selector(&self.plan.name(), "api"),
            "ports": ports,
        }});
        self.object(ChildKind::Service, self.name(""), "api", body)
    }

    /// The API takes requests from anywhere, on its port alone; nothing else of an instance takes any.
    fn network_policies(&self) -> Vec<Object> {
        let policy = |component: &str, ingress: Value| {
            let body = json!({"spec": {
                "podSelector": {"matchLabels": selector(&self.plan.name(), component)},
                "policyTypes": ["Ingress"],
                "ingress": ingress,
            }});
            self.object(
                ChildKind::NetworkPolicy,
                self.name(component),
                component,
                body,
            )
        };
        let mut ports = vec![json!({"port": "http", "protocol": "TCP"})];
        if self.is_standalone() {
            ports.push(json!({"port": "s3", "protocol": "TCP"}));
        }
        let mut policies = vec![policy("api", json!([{"ports": ports}]))];
        if !self.is_standalone() {
            policies.push(policy("indexer", json!([])));
            if !self.plan.plugins.is_empty() {
                policies.push(policy("dispatcher", json!([])));
                policies.push(policy("plugin", json!([])));
            }
        }
        policies
    }
}
