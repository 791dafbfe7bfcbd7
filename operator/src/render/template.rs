//! A user's pod template over ours: what they say is kept, lists of named things are merged by name,
//! and what the operator must own stays its own.

use serde_json::{Map, Value};

/// Merges `theirs` into `ours` as a strategic merge patch would (sig-api-machinery): objects member
/// by member, lists of containers, volumes and variables by their key, other lists whole. A null
/// removes.
pub fn merge(ours: &mut Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => merge_objects(ours, theirs),
        // `misfit` has told it; what we have is better than what cannot be.
        (Value::Object(_) | Value::Array(_), theirs)
            if !theirs.is_object() && !theirs.is_array() => {}
        (Value::Object(_), Value::Array(_)) | (Value::Array(_), Value::Object(_)) => {}
        (ours, theirs) => *ours = theirs.clone(),
    }
}

fn merge_objects(ours: &mut Map<String, Value>, theirs: &Map<String, Value>) {
    for (name, value) in theirs {
        if value.is_null() {
            ours.remove(name);
            continue;
        }
        match (ours.get_mut(name), merge_key(name)) {
            (Some(Value::Array(own)), Some(key)) if value.is_array() => {
                for item in value.as_array().into_iter().flatten() {
                    let same = own
                        .iter_mut()
                        .find(|other| other.get(key).is_some() && other.get(key) == item.get(key));
                    match same {
                        Some(other) => merge(other, item),
                        None => own.push(item.clone()),
                    }
                }
            }
            (Some(own), _) => merge(own, value),
            (None, _) => {
                ours.insert(name.clone(), value.clone());
            }
        }
    }
}

/// What of a pod template cannot be merged: the first part of it that is of the wrong shape.
pub fn misfit(theirs: &Value) -> Option<String> {
    let object = |at: &str| match theirs.pointer(at) {
        None | Some(Value::Object(_) | Value::Null) => None,
        Some(_) => Some(format!(
            "'{}' is no object",
            at.trim_start_matches('/').replace('/', ".")
        )),
    };
    if !theirs.is_object() {
        return Some("it is no object".to_owned());
    }
    if let Some(problem) = [
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/spec",
        "/spec/securityContext",
    ]
    .iter()
    .find_map(|at| object(at))
    {
        return Some(problem);
    }
    let lists = ["containers", "initContainers", "volumes"];
    lists.iter().find_map(|list| {
        let items = theirs.pointer(&format!("/spec/{list}"))?;
        let named = |item: &Value| item["name"].is_string();
        let fits = items.as_array().is_some_and(|own| own.iter().all(named));
        (!fits).then(|| format!("'spec.{list}' is no list of things with names"))
    })
}

/// What names an item of a list, for lists that are merged.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        "hostAliases" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        _ => None,
    }
}

/// What of a template for pods with `container` holds for another pod of the same image, whose one
/// container is called `other`: where it runs, and with what. Other containers would keep a Job from
/// ending, and probes ask what does not answer there.
pub fn lent(theirs: &Value, container: &str, other: &str) -> Value {
    let mut lent = theirs.clone();
    let containers = lent.pointer_mut("/spec/containers");
    let Some(containers) = containers.and_then(Value::as_array_mut) else {
        return lent;
    };
    containers.retain(|own| own["name"] == container);
    for own in containers.iter_mut().filter_map(Value::as_object_mut) {
        for name in [
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            own.remove(name);
        }
        own.insert("name".to_owned(), Value::from(other));
    }
    lent
}

/// Puts back what must be ours: the labels that selectors look for, and restricted Pod Security.
/// `container` is the name of our own container.
pub fn own(template: &mut Value, ours: &Value, container: &str) {
    if let (Some(labels), Some(fixed)) = (
        template
            .pointer_mut("/metadata/labels")
            .and_then(Value::as_object_mut),
        ours.pointer("/metadata/labels").and_then(Value::as_object),
    ) {
        labels.extend(fixed.clone());
    }
    let at = |template: &Value| {
        template
            .pointer("/spec/containers")
            .and_then(Value::as_array)
            .and_then(|all| all.iter().position(|own| own["name"] == container))
    };
    if let (Some(theirs), Some(fixed)) = (at(template), at(ours)) {
        let fixed = ours["spec"]["containers"][fixed].clone();
        let theirs = &mut template["spec"]["containers"][theirs];
        for name in ["command", "args", "ports", "securityContext"] {
            if let Some(value) = fixed.get(name) {
                theirs[name] = value.clone();
            }
        }
    }
    template["spec"]["securityContext"]["runAsNonRoot"] = Value::Bool(true);
    template["spec"]["securityContext"]["seccompProfile"] =
        ours["spec"]["securityContext"]["seccompProfile"].clone();
    template["spec"]["restartPolicy"] = ours["spec"]["restartPolicy"].clone();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_things_are_merged_and_others_replaced() {
        let mut ours = json!({
            "metadata": {"labels": {"app": "ours"}},
            "spec": {
                "restartPolicy": "Always",
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "api", "args": ["x"], "env": [{"name": "A", "value": "1"}]}],
            },
        });
        let before = ours.clone();
        let theirs = json!({
            "metadata": {"labels": {"app": "theirs", "team": "t"}},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": false, "runAsUser": 5},
                "tolerations": [{"key": "k"}],
                "containers": [
                    {"name": "api", "args": ["y"], "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
                    {"name": "sidecar", "image": "s"},
                ],
            },
        });
        merge(&mut ours, &theirs);
        own(&mut ours, &before, "api");
        assert_eq!(
            ours,
            json!({
                "metadata": {"labels": {"app": "ours", "team": "t"}},
                "spec": {
                    "restartPolicy": "Always",
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 5},
                    "containers": [
                        {"name": "api", "args": ["x"], "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
                        {"name": "sidecar", "image": "s"},
                    ],
                    "tolerations": [{"key": "k"}],
                },
            })
        );
    }

    #[test]
    fn what_is_lent_ends_and_answers_no_probe() {
        let theirs = json!({
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "nodeSelector": {"disk": "fast"},
                "containers": [
                    {"name": "indexer", "env": [{"name": "A", "value": "1"}], "livenessProbe": {}},
                    {"name": "sidecar", "image": "x"},
                ],
            },
        });
        let wanted = json!({
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "nodeSelector": {"disk": "fast"},
                "containers": [{"name": "other", "env": [{"name": "A", "value": "1"}]}],
            },
        });
        assert_eq!(lent(&theirs, "indexer", "other"), wanted);
        assert_eq!(lent(&json!({}), "indexer", "other"), json!({}));
    }
}
