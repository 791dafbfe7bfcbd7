//! The definitions as they are shipped: current, documented, and structural.

#![allow(clippy::unwrap_used)]

use serde_json::Value;

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
