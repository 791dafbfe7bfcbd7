//! The definitions as they are shipped: current, documented, and structural.

#![allow(clippy::unwrap_used)]

use artifactdb_crds::{ArtifactDB, ArtifactPlugin, ArtifactSchedule, ArtifactSchema};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn definitions() -> Vec<(String, Value, String)> {
    artifactdb_crds::definitions()
        .iter()
        .map(|definition| {
            let value = serde_json::to_value(definition).unwrap();
            let yaml = artifactdb_crds::to_yaml(definition).unwrap();
            (definition.spec.names.plural.clone(), value, yaml)
        })
        .collect()
}

#[test]
fn the_files_beside_the_sources_are_current() {
    for (plural, _, yaml) in definitions() {
        let path = format!("{}/{plural}.yaml", env!("CARGO_MANIFEST_DIR"));
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shipped == yaml, "{path} is stale: run `make crds`");
    }
}

#[test]
fn every_field_has_a_description() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let at = format!("{path}.{name}");
                if property["description"]
                    .as_str()
                    .unwrap_or_default()
                    .is_empty()
                {
                    missing.push(at.clone());
                }
                walk(&at, property, missing);
            }
        }
        for nested in ["items", "additionalProperties"] {
            if schema[nested].is_object() {
                walk(&format!("{path}[]"), &schema[nested], missing);
            }
        }
    }
    for (plural, value, _) in definitions() {
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut missing = Vec::new();
        for part in ["spec", "status"] {
            walk(part, &schema["properties"][part], &mut missing);
        }
        assert!(missing.is_empty(), "{plural}: {missing:?}");
    }
}

/// What the API server refuses in a structural schema.
#[test]
fn schemas_are_structural() {
    fn walk(path: &str, schema: &Value) {
        match schema {
            Value::Object(map) => {
                assert!(!map.contains_key("$ref"), "{path} has a $ref");
                let closed = map.get("additionalProperties") == Some(&Value::Bool(false));
                assert!(!closed, "{path} forbids unknown fields");
                for (name, value) in map {
                    walk(&format!("{path}.{name}"), value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(path, item)),
            _ => {}
        }
    }
    for (plural, value, _) in definitions() {
        walk(&plural, &value["spec"]["versions"][0]["schema"]);
    }
}

#[test]
fn names_columns_and_subresources() {
    let summary: Vec<Value> = definitions()
        .into_iter()
        .map(|(_, value, _)| {
            let version = &value["spec"]["versions"][0];
            let columns: Vec<Value> = version["additionalPrinterColumns"]
                .as_array()
                .unwrap()
                .iter()
                .map(|column| column["name"].clone())
                .collect();
            serde_json::json!({
                "names": value["spec"]["names"],
                "group": value["spec"]["group"],
                "scope": value["spec"]["scope"],
                "version": version["name"],
                "columns": columns,
                "subresources": version["subresources"],
                "rules": version["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"],
            })
        })
        .collect();
    insta::assert_yaml_snapshot!("summary", summary);
}

#[test]
fn samples_resolve_to_their_goldens() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/samples");
    let mut seen = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let set = artifactdb_crds::read::read(&[path]).unwrap();
        let resolved = match artifactdb_crds::resolve::resolve(&set) {
            Ok(resolved) => resolved,
            Err(refusals) => {
                let texts: Vec<String> = refusals
                    .into_iter()
                    .map(|refusal| {
                        format!("{} '{}': {}", refusal.kind, refusal.name, refusal.problem)
                    })
                    .collect();
                insta::assert_json_snapshot!(format!("{name}-refusals"), texts);
                continue;
            }
        };
        let (mapping, refused) = resolved.config.mapping();
        assert!(refused.is_empty(), "{refused:?}");
        insta::assert_json_snapshot!(format!("{name}-config"), resolved.config);
        insta::assert_json_snapshot!(format!("{name}-mapping"), mapping.to_json());
        seen += 1;
    }
    assert!(seen > 0);
}

/// Anything that a schema lets through, each optional field there or not.
fn any_of(schema: &Value) -> BoxedStrategy<Value> {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return prop_oneof![
            Just(json!({})),
            Just(json!({"any": [{"thing": 1}], "$ref": "no"}))
        ]
        .boxed();
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<Value> = values
            .iter()
            .filter(|own| !own.is_null())
            .cloned()
            .collect();
        return proptest::sample::select(values).boxed();
    }
    match schema["type"].as_str() {
        Some("object") if schema["properties"].is_object() => {
            let fields = schema["properties"].as_object().unwrap();
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, own)| {
                    let names = schema["required"].as_array().into_iter().flatten();
                    let required = names.into_iter().any(|own| own == name);
                    let chance = if required { 0.999_999_999 } else { 0.6 };
                    let name = name.clone();
                    proptest::option::weighted(chance, any_of(own))
                        .prop_map(move |own| own.map(|own| (name.clone(), own)))
                })
                .collect();
            fields
                .prop_map(|all| {
                    all.into_iter()
                        .flatten()
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                })
                .boxed()
        }
        Some("object") => {
            let values = match schema["additionalProperties"].is_object() {
                true => any_of(&schema["additionalProperties"]),
                false => Just(json!("x")).boxed(),
            };
            proptest::collection::btree_map("[a-z]{1,5}", values, 0..3)
                .prop_map(|all| all.into_iter().collect::<serde_json::Map<_, _>>().into())
                .boxed()
        }
        Some("array") => proptest::collection::vec(any_of(&schema["items"]), 0..3)
            .prop_map(Value::from)
            .boxed(),
        Some("integer") => {
            let bound = |name: &str| schema[name].as_f64();
            let (least, most) = (bound("minimum").unwrap_or(0.0), bound("maximum"));
            let most = most.unwrap_or(1000.0);
            (least as i64..=most as i64).prop_map(Value::from).boxed()
        }
        Some("number") => (0..100_i32)
            .prop_map(|own| json!(f64::from(own) / 4.0))
            .boxed(),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("string") if schema["format"] == "date-time" => {
            Just(json!("2026-01-02T03:04:05Z")).boxed()
        }
        Some("string") => "[a-z0-9]{1,8}".prop_map(Value::from).boxed(),
        _ => prop_oneof![Just(json!(1)), Just(json!("x"))].boxed(),
    }
}

/// What the API server keeps of a value: fields that the schema does not know are dropped.
fn pruned(schema: &Value, value: &Value) -> Value {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return value.clone();
    }
    match value {
        Value::Object(members) => members
            .iter()
            .filter_map(|(name, own)| {
                let known = schema["properties"].get(name);
                let known = known.or_else(|| {
                    let more = &schema["additionalProperties"];
                    more.is_object().then_some(more)
                });
                Some((name.clone(), pruned(known?, own)))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items
            .iter()
            .map(|own| pruned(&schema["items"], own))
            .collect(),
        other => other.clone(),
    }
}

/// `wanted` is `own` but for what is a default or empty and is left out.
fn is_told_by(wanted: &Value, own: &Value) -> Result<(), String> {
    match (wanted, own) {
        (Value::Object(wanted), Value::Object(own)) => {
            wanted
                .iter()
                .try_for_each(|(name, value)| match own.get(name) {
                    Some(own) => is_told_by(value, own).map_err(|at| format!("{name}.{at}")),
                    None if ["", "[]", "{}", "null", "false", "0"]
                        .contains(&&*value.to_string()) =>
                    {
                        Ok(())
                    }
                    None => Err(format!("{name} is lost: {value}")),
                })
        }
        (Value::Array(wanted), Value::Array(own)) if wanted.len() == own.len() => {
            let mut pairs = wanted.iter().zip(own);
            pairs.try_for_each(|(wanted, own)| is_told_by(wanted, own))
        }
        (Value::Number(wanted), Value::Number(own)) if wanted.as_f64() == own.as_f64() => Ok(()),
        _ if wanted == own => Ok(()),
        _ => Err(format!("{wanted} became {own}")),
    }
}

/// What the types write the API server keeps whole, and what it keeps the types read whole.
#[test]
fn nothing_is_lost_between_types_and_definitions() {
    fn hold<K: Serialize + DeserializeOwned>(plural: &str) {
        let all = definitions();
        let (_, definition, _) = all.iter().find(|own| own.0 == plural).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let parts = (
            any_of(&schema["properties"]["spec"]),
            any_of(&schema["properties"]["status"]),
        );
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        runner
            .run(&parts, |(spec, status)| {
                let given = json!({
                    "apiVersion": "artifactdb.io/v1alpha1", "kind": definition["spec"]["names"]["kind"],
                    "metadata": {"name": "x"}, "spec": spec, "status": status,
                });
                let typed: K = serde_json::from_value(given.clone())
                    .map_err(|error| TestCaseError::fail(format!("{error}: {given}")))?;
                let written = serde_json::to_value(&typed).unwrap();
                for part in ["spec", "status"] {
                    let schema = &schema["properties"][part];
                    let kept = pruned(schema, &written[part]);
                    is_told_by(&written[part], &kept).map_err(TestCaseError::fail)?;
                    is_told_by(&given[part], &written[part]).map_err(TestCaseError::fail)?;
                }
                Ok(())
            })
            .unwrap();
    }
    hold::<ArtifactDB>("artifactdbs");
    hold::<ArtifactSchema>("artifactschemas");
    hold::<ArtifactPlugin>("artifactplugins");
    hold::<ArtifactSchedule>("artifactschedules");
}
