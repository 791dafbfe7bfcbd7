//! Whether the cluster's custom resource definitions know every field that this operator does: an
//! older one drops what it does not know, without a word.

use artifactdb_crds::definitions;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use serde_json::Value;

/// Names that are told of one definition.
const TOLD: usize = 3;

/// What is wrong with the definitions of a cluster, a text each; absent where they cannot be read,
/// as by an operator with a Role alone.
pub async fn outdated(client: &Client) -> Option<Vec<String>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut all = Vec::new();
    for ours in definitions() {
        let name = ours.metadata.name.clone().unwrap_or_default();
        let live = api.get(&name).await.ok()?;
        all.extend(problem(&name, &schema(&ours), &schema(&live)));
    }
    Some(all)
}

fn schema(definition: &CustomResourceDefinition) -> Value {
    let versions = &definition.spec.versions;
    let own = versions.iter().find(|own| own.name == "v1alpha1");
    let schema = own.and_then(|own| own.schema.as_ref()?.open_api_v3_schema.as_ref());
    serde_json::to_value(schema).unwrap_or_default()
}

fn problem(name: &str, ours: &Value, live: &Value) -> Option<String> {
    let mut lacking = Vec::new();
    lacks("", ours, live, &mut lacking);
    if lacking.is_empty() {
        return None;
    }
    let more = match lacking.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    lacking.truncate(TOLD);
    Some(format!(
        "the definition '{name}' in the cluster is older than the operator and drops {}{more}: apply the definitions of version {}",
        lacking.join(", "),
        env!("CARGO_PKG_VERSION"),
    ))
}

/// Collects the paths that `ours` knows and `live` does not.
fn lacks(at: &str, ours: &Value, live: &Value, lacking: &mut Vec<String>) {
    if live["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    for (name, own) in ours["properties"].as_object().into_iter().flatten() {
        let at = match at {
            "" => name.clone(),
            at => format!("{at}.{name}"),
        };
        match live["properties"].get(name) {
            Some(live) => lacks(&at, own, live, lacking),
            None => lacking.push(at),
        }
    }
    for (nested, sign) in [("items", "[]"), ("additionalProperties", ".*")] {
        if ours[nested].is_object() {
            lacks(
                &format!("{at}{sign}"),
                &ours[nested],
                &live[nested],
                lacking,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_older_definition_drops_is_named() {
        let leaf = json!({"type": "string"});
        let ours = json!({"properties": {"spec": {"properties": {
            "old": leaf, "new": leaf,
            "list": {"items": {"properties": {"deep": leaf}}},
            "free": {"x-kubernetes-preserve-unknown-fields": true},
        }}}});
        assert_eq!(problem("x", &ours, &ours), None);
        let live = json!({"properties": {"spec": {"properties": {
            "old": leaf, "gone": leaf, "list": {"items": {"properties": {}}},
            "free": {"x-kubernetes-preserve-unknown-fields": true},
        }}}});
        let told = problem("x", &ours, &live).unwrap();
        assert!(told.contains("drops spec.new, spec.list[].deep:"), "{told}");
        for definition in definitions() {
            let own = schema(&definition);
            assert!(own["properties"]["spec"].is_object());
            assert_eq!(problem("x", &own, &own), None);
        }
    }
}
