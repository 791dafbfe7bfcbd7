//! The shape of the workspace: which crate may know which (ARCHITECTURE.md).

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--no-deps",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn arrows_point_one_way() {
    let allowed = |name: &str| -> BTreeSet<&str> {
        match name {
            "artifactdb-core" => [].into(),
            "artifactdb-crds" | "artifactdb-api" | "artifactdb-indexer" => {
                ["artifactdb-core"].into()
            }
            "artifactdb-operator" => ["artifactdb-core", "artifactdb-crds"].into(),
            // Black box: what it knows it knows from outside.
            "artifactdb-e2e" => [].into(),
            "artifactdb" => [
                "artifactdb-core",
                "artifactdb-crds",
                "artifactdb-api",
                "artifactdb-indexer",
                "artifactdb-operator",
            ]
            .into(),
            other => panic!("'{other}' is not in the plan of ARCHITECTURE.md"),
        }
    };
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let allowed = allowed(name);
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let ours = other.starts_with("artifactdb");
            assert!(
                !ours || allowed.contains(other),
                "{name} must not know {other}"
            );
        }
    }
}

#[test]
fn the_pure_half_of_core_imports_no_door() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/src");
    let pure = [
        "config.rs",
        "document.rs",
        "gprn.rs",
        "id.rs",
        "keys.rs",
        "mapping/mod.rs",
        "mapping/compile.rs",
        "mapping/check.rs",
        "parts.rs",
        "permissions.rs",
        "query/mod.rs",
        "query/parser.rs",
        "state.rs",
        "timestamp.rs",
        "upload.rs",
    ];
    for file in pure {
        let text = std::fs::read_to_string(format!("{root}/{file}")).unwrap();
        for door in [
            "crate::store",
            "crate::lease",
            "crate::queue",
            "crate::search",
            "crate::clock",
            "crate::versions",
            "tokio::",
            "std::fs",
            "Timestamp::now",
        ] {
            assert!(!text.contains(door), "{file} must not use {door}");
        }
    }
}

#[test]
fn every_route_is_described() {
    // The table of routes and the description are written apart; this holds them together.
    let source = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../api-server/src/lib.rs"
    ))
    .unwrap();
    let flat: String = source.split_whitespace().collect();
    let routes: Vec<&str> = flat
        .split(".route(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(routes.len() > 25);
    let openapi = artifactdb_api::openapi_json();
    let paths = openapi["paths"].as_object().unwrap();
    for route in routes {
        let described = match route {
            "/openapi.json" => continue,
            "/files/{*id}" => vec!["/files/{id}", "/files/{id}/metadata"],
            "/gprn/{*name}" => vec![
                "/gprn/{gprn}/validate",
                "/gprn/{gprn}/locate",
                "/gprn/{gprn}/children",
                "/gprn/{gprn}/parents",
                "/gprn/{gprn}/permissions",
            ],
            "/link/{*pair}" => vec!["/link/{source}/to/{target}"],
            other => vec![other],
        };
        for path in described {
            assert!(paths.contains_key(path), "{path} is not described");
        }
    }
}
