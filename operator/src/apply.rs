//! Objects into the cluster: server-side apply with one field manager, in order, and then what is
//! wanted no more goes. What is as it was applied is not written again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use rand::RngCore;
use serde_json::{Value, json};
use thiserror::Error;

use crate::child::{Child, ChildObject};
use crate::names::{APPLIED, MANAGER};
use crate::object::{ChildKind, Mode, Object};
use crate::plan::Problem;
use crate::world::{World, child_api};

/// Bytes of a signing key that is made.
const KEY: usize = 32;

#[derive(Debug, Error)]
pub enum ApplyError {
    #[error("cannot write {kind} '{name}': {error}")]
    Write {
        kind: &'static str,
        name: String,
        error: kube::Error,
    },
}

/// What a pass came to.
#[derive(Debug, Default)]
pub struct Applied {
    pub writes: usize,
    pub problems: Vec<Problem>,
}

/// How an object was when it was last known to be as applied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    hash: String,
    state: String,
}

#[derive(Default)]
pub struct Applier {
    marks: Mutex<HashMap<String, Mark>>,
    pub writes: AtomicU64,
}

/// What changes when somebody changes an object: its generation, and where there is none, its
/// version.
fn state(child: &Child) -> String {
    match child.generation {
        Some(generation) => format!("g{generation}"),
        None => format!("v{}", child.resource_version),
    }
}

impl Applier {
    /// Applies `objects`, children of the object with the uid `owner`; `children` are those that
    /// there are, and `prunes` says of each that is not wanted whether it may go.
    pub async fn apply(
        &self,
        world: &World,
        namespace: &str,
        owner: &str,
        objects: &[Object],
        children: &BTreeMap<(ChildKind, String), Arc<Child>>,
        prunes: impl Fn(ChildKind, &Child) -> bool,
    ) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        for object in objects {
            if object.mode == Mode::Keep {
                continue;
            }
            let live = world.children.get(object.kind, namespace, &object.name);
            if let Some(live) = &live
                && !live.is_owned_by(owner)
            {
                applied.problems.push(taken(object));
                continue;
            }
            if self
                .is_current(world, namespace, object, live.as_deref())
                .await
            {
                continue;
            }
            applied.writes += 1;
            self.writes.fetch_add(1, Ordering::Relaxed);
            match self
                .write(world, namespace, owner, object, live.as_deref())
                .await
            {
                Ok(true) => {}
                Ok(false) => applied.problems.push(taken(object)),
                Err(error) => {
                    return Err(ApplyError::Write {
                        kind: object.kind.as_str(),
                        name: object.name.clone(),
                        error,
                    });
                }
            }
        }
        // Pods that are replaced just now still mount what they had.
        let rolls = applied.writes > 0;
        for ((kind, name), child) in children {
            let goes = is_unwanted(objects, *kind, child, owner) && prunes(*kind, child);
            if !goes || (rolls && *kind == ChildKind::ConfigMap) {
                continue;
            }
            applied.writes += 1;
            self.writes.fetch_add(1, Ordering::Relaxed);
            let api = child_api(&world.client, Some(namespace), *kind);
            let parameters = DeleteParams::background().preconditions(Preconditions {
                uid: Some(child.uid.to_string()),
                resource_version: None,
            });
            match api.delete(name, &parameters).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => {
                    return Err(ApplyError::Write {
                        kind: kind.as_str(),
                        name: name.clone(),
                        error,
                    });
                }
            }
        }
        Ok(applied)
    }

    /// Whether nothing has to be written. One that is seen for the first time since this process
    /// began is read and compared: it may have been changed while nobody watched.
    async fn is_current(
        &self,
        world: &World,
        namespace: &str,
        object: &Object,
        live: Option<&Child>,
    ) -> bool {
        let Some(live) = live else { return false };
        if object.mode == Mode::Create {
            return true;
        }
        let hash = object.hash();
        if live.annotation(APPLIED) != Some(&hash) {
            return false;
        }
        let uid = &*live.uid;
        let mark = Mark {
            hash,
            state: state(live),
        };
        if self.marks.lock().get(uid) == Some(&mark) {
            return true;
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(world.client.clone(), namespace, &object.kind.resource());
        let whole = match api.get(&object.name).await {
            Ok(whole) => serde_json::to_value(whole).unwrap_or_default(),
            Err(_) => return false,
        };
        let mut wanted = object.body.clone();
        if object.scaled {
            remove(&mut wanted, "/spec", "replicas");
        }
        let current = contains(&whole, &wanted);
        if current {
            self.marks.lock().insert(uid.to_owned(), mark);
        }
        current
    }

    /// Returns false when the name is somebody else's.
    async fn write(
        &self,
        world: &World,
        namespace: &str,
        owner: &str,
        object: &Object,
        live: Option<&Child>,
    ) -> Result<bool, kube::Error> {
        let api = child_api(&world.client, Some(namespace), object.kind);
        let mut body = to_write(object, live.and_then(|live| live.spec.replicas));
        let written = match object.mode {
            Mode::Create => {
                if object.kind == ChildKind::Secret {
                    let mut key = [0_u8; KEY];
                    rand::rng().fill_bytes(&mut key);
                    body["data"] = json!({"key": k8s_openapi::ByteString(key.to_vec())});
                }
                let parameters = PostParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PostParams::default()
                };
                let api: Api<DynamicObject> =
                    Api::namespaced_with(world.client.clone(), namespace, &object.kind.resource());
                let body: DynamicObject =
                    serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
                match api.create(&parameters, &body).await {
                    Ok(made) => ChildObject {
                        metadata: made.metadata,
                        ..ChildObject::default()
                    },
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                        let api = child_api(&world.client, Some(namespace), object.kind);
                        return Ok(api.get(&object.name).await?.is_owned_by(owner));
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => {
                // What is there and not known to be ours is not taken by force.
                let mut parameters = PatchParams::apply(MANAGER);
                parameters.force = live.is_some();
                match api
                    .patch(&object.name, &parameters, &Patch::Apply(&body))
                    .await
                {
                    Err(kube::Error::Api(status)) if status.code == 409 && live.is_none() => {
                        let there = api.get(&object.name).await?;
                        if !there.is_owned_by(owner) {
                            return Ok(false);
                        }
                        let parameters = PatchParams::apply(MANAGER).force();
                        api.patch(&object.name, &parameters, &Patch::Apply(&body))
                            .await?
                    }
                    written => written?,
                }
            }
        };
        let written = world.learn(object.kind, written);
        let mark = Mark {
            hash: object.hash(),
            state: state(&written),
        };
        self.marks.lock().insert(written.uid.to_string(), mark);
        Ok(true)
    }
}

/// What is sent to the API server; `replicas` are those that an autoscaler has come to.
pub fn to_write(object: &Object, replicas: Option<i32>) -> Value {
    let mut body = object.to_apply();
    if object.scaled
        && let Some(replicas) = replicas.filter(|own| *own > 0)
    {
        body["spec"]["replicas"] = json!(replicas);
    }
    body
}

/// Whether a child of `owner` is none of `objects` any more. Secrets are kept, whatever is wanted.
pub fn is_unwanted(objects: &[Object], kind: ChildKind, child: &Child, owner: &str) -> bool {
    let wanted = objects
        .iter()
        .any(|object| object.kind == kind && object.name == *child.name);
    !wanted && kind != ChildKind::Secret && is_controlled_by(child, owner) && !child.leaves
}

/// A name that is somebody else's.
pub fn taken(object: &Object) -> Problem {
    Problem {
        reason: "NameTaken",
        message: format!(
            "{} '{}' exists and is not this resource's; rename one of them",
            object.kind.as_str(),
            object.name
        ),
    }
}

fn is_controlled_by(child: &Child, uid: &str) -> bool {
    let mut owners = child.owners.iter();
    owners.any(|owner| owner.controls && &*owner.uid == uid)
}

fn remove(value: &mut Value, at: &str, name: &str) {
    if let Some(object) = value.pointer_mut(at).and_then(Value::as_object_mut) {
        object.remove(name);
    }
}

/// Whether everything of `wanted` is in `live`: what the API server added does not count, and a
/// quantity may be written otherwise.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| match live.get(name) {
                Some(own) => contains(own, value),
                None => is_empty(value),
            })
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(a, b)| contains(a, b))
        }
        (Value::String(live), Value::String(wanted)) => {
            live == wanted || quantity(live).is_some_and(|number| Some(number) == quantity(wanted))
        }
        _ => live == wanted,
    }
}

/// The API server leaves out what is empty, false or zero by its types.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A Kubernetes quantity in thousandths.
fn quantity(text: &str) -> Option<i128> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction: String = format!("{fraction:0<3}").chars().take(3).collect();
    let thousandths = whole.parse::<i128>().ok()? * 1000 + fraction.parse::<i128>().ok()?;
    let factor: i128 = match unit {
        "" => 1,
        "m" => return Some(thousandths / 1000),
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    Some(thousandths * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_adds_is_no_drift() {
        let wanted =
            json!({"spec": {"cpu": "0.5", "memory": "1024Mi", "list": [{"a": 1}], "empty": []}});
        let live = json!({"spec": {"cpu": "500m", "memory": "1Gi", "list": [{"a": 1, "default": true}]}, "status": {}});
        assert!(contains(&live, &wanted));
        for drifted in [
            json!({"spec": {"cpu": "0.6", "memory": "1Gi", "list": [{"a": 1}]}}),
            json!({"spec": {"cpu": "500m", "memory": "1Gi", "list": [{"a": 2}]}}),
            json!({"spec": {"cpu": "500m", "memory": "1Gi", "list": [{"a": 1}, {"b": 1}]}}),
            json!({"spec": {"memory": "1Gi", "list": [{"a": 1}]}}),
        ] {
            assert!(!contains(&drifted, &wanted), "{drifted}");
        }
    }
}
