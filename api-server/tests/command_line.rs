//! The binary's command line: what it teaches, and what it says when it cannot start.

#![allow(clippy::unwrap_used)]

use std::process::Command;

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_artifactdb-api"))
        .args(arguments)
        .env_remove("AWS_ACCESS_KEY_ID")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn help_teaches() {
    let (ok, text) = run(&["--help"]);
    assert!(ok);
    for word in ["--config", "--secrets", "signing/key", "Example:"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let folder = std::env::temp_dir().join(format!("artifactdb-api-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("signing")).unwrap();
    let config = folder.join("instance.json");
    let (config, secrets) = (config.to_str().unwrap(), folder.to_str().unwrap());
    let start = || run(&["--config", config, "--secrets", secrets]);
    let (ok, text) = start();
    assert!(!ok && text.contains("cannot read"), "{text}");
    std::fs::write(config, r#"{"name": "a", "namespace": "b", "colour": 1}"#).unwrap();
    let (ok, text) = start();
    assert!(!ok && text.contains("colour"), "{text}");
    std::fs::write(config, r#"{"name": "a", "namespace": "b"}"#).unwrap();
    let (ok, text) = start();
    assert!(!ok && text.contains("signing/key"), "{text}");
    std::fs::write(folder.join("signing/key"), []).unwrap();
    let (ok, text) = start();
    assert!(!ok && text.contains("holds 0 bytes"), "{text}");
    std::fs::write(folder.join("signing/key"), [7; 32]).unwrap();
    let (ok, text) = start();
    assert!(!ok && text.contains("names no storage"), "{text}");
    let storage = r#"{"name": "a", "namespace": "b", "storage": [{"alias": "x", "bucket": "y"}]}"#;
    std::fs::write(config, storage).unwrap();
    let (ok, text) = start();
    assert!(!ok && text.contains("storage/x/accessKey"), "{text}");
    std::fs::remove_dir_all(folder).unwrap();
}
