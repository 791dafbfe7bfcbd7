//! What pods read: configuration, schemas, and the key that signs. No pod here.

use serde_json::{Map, json};

use super::Rendering;
use crate::names::SCHEMAS;
use crate::object::{ChildKind, Mode, Object};
use crate::plan::Served;

impl Rendering<'_> {
    pub(super) fn config(&self) -> Vec<Object> {
        let mut objects = vec![self.object(
            ChildKind::ServiceAccount,
            self.name(""),
            "config",
            json!({"automountServiceAccountToken": false}),
        )];
        if self.plan.makes_signing_key {
            objects.push(self.signing_key());
        }
        if self.plan.instance.spec.standalone.is_none() {
            objects.push(self.instance_config());
            objects.extend(self.schemas());
        }
        // What pods of a rollout still mount is let go of once they are gone.
        for name in &self.plan.mounted {
            if !objects
                .iter()
                .any(|own| own.kind == ChildKind::ConfigMap && own.name == *name)
            {
                objects.push(self.kept(name));
            }
        }
        objects
    }

    fn kept(&self, name: &str) -> Object {
        Object {
            mode: Mode::Keep,
            ..self.object(ChildKind::ConfigMap, name.to_owned(), "config", json!({}))
        }
    }

    pub(super) fn signing_secret(&self) -> String {
        self.name("signing")
    }

    /// Its content is random and made when it is created (`apply`).
    fn signing_key(&self) -> Object {
        let body = json!({"type": "Opaque"});
        Object {
            mode: Mode::Create,
            ..self.object(ChildKind::Secret, self.signing_secret(), "config", body)
        }
    }

    pub(super) fn config_name(&self) -> String {
        self.name(&format!("config-{}", self.plan.config_hash()))
    }

    /// Named after its content: a rollout that fails leaves the pods from before with what they had.
    fn instance_config(&self) -> Object {
        let body = json!({
            "immutable": true,
            "data": {"instance.json": self.plan.instance_json()},
        });
        self.object(ChildKind::ConfigMap, self.config_name(), "config", body)
    }

    /// The names of the ConfigMaps that hold the schemas that pods work by.
    pub(super) fn served_schemas(&self) -> Vec<String> {
        match &self.plan.served {
            Served::Wanted => self.wanted_schemas(),
            Served::Former { config_maps, .. } => config_maps.clone(),
        }
    }

    pub(super) fn wanted_schemas(&self) -> Vec<String> {
        (0..self.plan.schema_chunks.len())
            .map(|place| self.schemas_name(place))
            .collect()
    }

    fn schemas_name(&self, place: usize) -> String {
        self.name(&format!("schemas-{}-{place}", self.plan.schemas_hash))
    }

    fn schemas(&self) -> Vec<Object> {
        let mut objects: Vec<Object> = self
            .plan
            .schema_chunks
            .iter()
            .enumerate()
            .map(|(place, chunk)| {
                let mut data = Map::new();
                data.insert(format!("{place:04}.json"), json!(chunk));
                let mut object = self.object(
                    ChildKind::ConfigMap,
                    self.schemas_name(place),
                    "config",
                    json!({"immutable": true, "data": data}),
                );
                object.body["metadata"]["annotations"][SCHEMAS] = json!(self.plan.schemas_hash);
                object
            })
            .collect();
        if let Served::Former { config_maps, .. } = &self.plan.served {
            objects.extend(config_maps.iter().map(|name| self.kept(name)));
        }
        objects
    }
}
