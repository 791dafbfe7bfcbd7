//! Children as they are seen: an object as the API server tells it, and what is kept of it. How one
//! shall be is `object`'s.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Serialize};

use crate::names::{
    APPLIED, BEGUN, COMPONENT, EVENT, INSTANCE, MANAGED_BY, MANAGER, MAPPING, PLUGIN, SCHEMAS,
    SOURCE,
};

/// Labels and annotations that decide something.
const LABELS: [&str; 3] = [INSTANCE, COMPONENT, PLUGIN];
const ANNOTATIONS: [&str; 6] = [APPLIED, SCHEMAS, MAPPING, SOURCE, EVENT, BEGUN];

/// An object as the API server tells it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ChildObject {
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
    pub start_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ChildCondition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<String>,
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
    pub message: String,
}

impl ChildCondition {
    /// Whether it says that something has ended, or that something is wrong; what is as ever decides
    /// nothing.
    fn tells(&self) -> bool {
        match &*self.kind {
            "Complete" | "Failed" | "ReplicaFailure" => self.status == "True",
            "Progressing" => self.status == "False",
            _ => false,
        }
    }
}

impl ChildObject {
    /// Whether an object of that uid is among its owners.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        let owners = self.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.uid == uid)
    }
}

impl Resource for ChildObject {
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

/// What is kept of a child: what decides something, and no more, as a cluster has many thousands.
/// Objects of others (Secrets and ConfigMaps that resources may refer to) have no labels, annotations
/// and owners here.
#[derive(Debug)]
pub struct Child {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    /// None: its kind has none.
    pub generation: Option<i64>,
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub leaves: bool,
    labels: Marks,
    annotations: Marks,
    pub owners: Box<[Owner]>,
    pub spec: ChildSpec,
    /// None: there is nothing in it.
    status: Option<Box<ChildStatus>>,
}

/// Names that are known here, and their values.
type Marks = Box<[(&'static str, Box<str>)]>;

#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub controls: bool,
}

fn kept(all: Option<BTreeMap<String, String>>, names: &[&'static str]) -> Marks {
    let mut all = all.unwrap_or_default();
    names
        .iter()
        .filter_map(|name| Some((*name, all.remove(*name)?.into_boxed_str())))
        .collect()
}

fn mark<'a>(marks: &'a Marks, name: &str) -> Option<&'a str> {
    let (_, value) = marks.iter().find(|(own, _)| *own == name)?;
    Some(value)
}

impl From<ChildObject> for Child {
    fn from(object: ChildObject) -> Self {
        let meta = object.metadata;
        let manager = meta.labels.as_ref().and_then(|own| own.get(MANAGED_BY));
        let is_own = manager.is_some_and(|own| own == MANAGER);
        let owner = |own: OwnerReference| Owner {
            kind: own.kind.into(),
            name: own.name.into(),
            uid: own.uid.into(),
            controls: own.controller == Some(true),
        };
        let mut status = object.status;
        status.conditions.retain(ChildCondition::tells);
        Self {
            name: meta.name.unwrap_or_default().into(),
            namespace: meta.namespace.unwrap_or_default().into(),
            uid: meta.uid.unwrap_or_default().into(),
            resource_version: meta.resource_version.unwrap_or_default().into(),
            generation: meta.generation,
            created: meta.creation_timestamp.map(|time| time.0),
            leaves: meta.deletion_timestamp.is_some(),
            labels: kept(meta.labels.filter(|_| is_own), &LABELS),
            annotations: kept(meta.annotations.filter(|_| is_own), &ANNOTATIONS),
            owners: meta
                .owner_references
                .filter(|_| is_own)
                .into_iter()
                .flatten()
                .map(owner)
                .collect(),
            spec: object.spec,
            status: (status != ChildStatus::default()).then(|| Box::new(status)),
        }
    }
}

impl Child {
    pub fn annotation(&self, name: &str) -> Option<&str> {
        mark(&self.annotations, name)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        mark(&self.labels, name)
    }

    pub fn status(&self) -> &ChildStatus {
        static NOTHING: ChildStatus = ChildStatus {
            observed_generation: None,
            replicas: None,
            updated_replicas: None,
            available_replicas: None,
            start_time: None,
            completion_time: None,
            conditions: Vec::new(),
            last_schedule_time: None,
        };
        self.status.as_deref().unwrap_or(&NOTHING)
    }

    /// Whether an object of that uid is among its owners.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| &*owner.uid == uid)
    }

    /// Whether it says that it has ended in that way, or that this is wrong with it
    /// (`ChildCondition::tells`).
    pub fn condition(&self, kind: &str) -> Option<&ChildCondition> {
        self.status().conditions.iter().find(|own| own.kind == kind)
    }

    /// Whether another state of the same object decides nothing else: most of what a watch tells is an
    /// echo of our own writes, or a field that nobody reads here. What has no generation is told apart
    /// by its version alone.
    pub fn is_same(&self, other: &Self) -> bool {
        self.uid == other.uid
            && (self.resource_version == other.resource_version
                || (self.generation.is_some() && self.face() == other.face()))
    }

    /// All of it that may change, but for its version.
    fn face(&self) -> impl PartialEq {
        (
            (self.generation, self.leaves),
            (&self.labels, &self.annotations, &self.owners),
            (&self.spec, &self.status),
        )
    }
}
