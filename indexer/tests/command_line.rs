//! The binary's command line: what it teaches.

#![allow(clippy::unwrap_used)]

use std::process::Command;

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_artifactdb-indexer"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn help_teaches() {
    let (ok, text) = run(&["--help"]);
    assert!(ok);
    for word in ["worker", "reindex", "sweep", "dead-letters", "snapshot"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (ok, text) = run(&["reindex", "--help"]);
    assert!(ok && text.contains("--shard 0/4"), "{text}");
}

#[test]
fn a_wrong_shard_is_refused_with_the_right_form() {
    for wrong in ["4/4", "x", "1", "-1/2", "0/0"] {
        let (ok, text) = run(&["reindex", &format!("--shard={wrong}")]);
        assert!(!ok && text.contains("such as 0/4"), "{wrong}: {text}");
    }
}
