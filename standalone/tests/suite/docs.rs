//! The pages of `docs/`: every example runs as it is written and answers as it is written, and every
//! route has its place.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Server, md5_hex};

/// What differs each time.
const ANY: &str = "…";

fn pages() -> Vec<(String, String)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let mut pages: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|own| own == "md"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    pages.sort();
    pages
}

struct Example {
    script: String,
    /// The kind of the answer and the answer, where one is given.
    answer: Option<(String, String)>,
}

/// The fenced blocks of a page: scripts, and what follows each.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for (place, block) in page.split("```").enumerate() {
        let Some((kind, text)) = block.split_once('\n').filter(|_| place % 2 == 1) else {
            continue;
        };
        match (kind, examples.last_mut()) {
            // Of a cluster: the end-to-end tests run them.
            ("bash", _) => {}
            ("sh", _) => examples.push(Example {
                script: text.to_owned(),
                answer: None,
            }),
            ("json" | "text", Some(last)) if last.answer.is_none() => {
                last.answer = Some((kind.to_owned(), text.to_owned()));
            }
            other => panic!("a block of '{}' without a script", other.0),
        }
    }
    examples
}

/// Whether an answer is as it is written: `…` is any value, and as a member any further ones.
fn fits(wanted: &Value, got: &Value) -> bool {
    match (wanted, got) {
        (Value::String(text), _) if text == ANY => true,
        (Value::Object(wanted), Value::Object(got)) => {
            let open = wanted.contains_key(ANY);
            let known = wanted.iter().filter(|(name, _)| *name != ANY);
            known
                .clone()
                .all(|(name, value)| got.get(name).is_some_and(|own| fits(value, own)))
                && (open || got.len() == known.count())
        }
        (Value::Array(wanted), Value::Array(got)) => {
            wanted.len() == got.len() && wanted.iter().zip(got).all(|(a, b)| fits(a, b))
        }
        _ => wanted == got,
    }
}

fn fits_line(wanted: &str, got: &str) -> bool {
    match wanted.split_once(ANY) {
        None => wanted == got,
        Some((before, after)) => {
            got.len() >= before.len() + after.len()
                && got.starts_with(before)
                && got.ends_with(after)
        }
    }
}

fn check(kind: &str, wanted: &str, got: &str) -> bool {
    if kind == "json" {
        let wanted =
            serde_json::from_str(wanted).unwrap_or_else(|error| panic!("{error}: {wanted}"));
        return serde_json::from_str(got).is_ok_and(|got| fits(&wanted, &got));
    }
    let (wanted, got): (Vec<&str>, Vec<&str>) = (
        wanted.trim_end().lines().collect(),
        got.trim_end().lines().collect(),
    );
    wanted.len() == got.len() && wanted.iter().zip(&got).all(|(a, b)| fits_line(a, b))
}

/// What the examples talk of: two versions of one file, the second a link to the first.
async fn penguins() -> Server {
    let server = Server::start().await;
    let content = b"x,y\n1,2\n3,4\n";
    let metadata = json!({
        "$schema": "table/v1.json", "path": "dream.csv", "md5sum": md5_hex(content),
        "title": "Adelie penguins of Dream island", "rows": 2,
        "columns": [{"name": "x", "type": "number"}, {"name": "y", "type": "number"}],
    });
    let files = vec![
        ("dream.csv".to_owned(), content.to_vec()),
        (
            "dream.csv.json".to_owned(),
            metadata.to_string().into_bytes(),
        ),
    ];
    let public = json!({"read_access": "public"});
    for version in ["1", "2"] {
        server.upload("penguins", version, &files, &public).await;
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_answers_as_it_is_written() {
    let mut wrong = String::new();
    let own = PathBuf::from(env!("CARGO_BIN_EXE_artifactdb"));
    let path = format!(
        "{}:{}",
        own.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    for (name, page) in pages() {
        let examples = examples(&page);
        if examples.is_empty() {
            continue;
        }
        let server = penguins().await;
        let folder = tempfile::tempdir().unwrap();
        let mut script = String::from(
            "set -uo pipefail\njson() { sed -n \"s/.*\\\"$1\\\":\\\"\\([^\\\"]*\\)\\\".*/\\1/p\"; echo; }\n",
        );
        for (number, example) in examples.iter().enumerate() {
            // In one shell: later examples use what earlier ones learned.
            writeln!(script, "{{\n{}\n}} > out.{number}", example.script).unwrap();
        }
        let ran = Command::new("timeout")
            .args(["60", "bash", "-c", &script])
            .current_dir(folder.path())
            .env("CLONE", concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .env("PATH", &path)
            .env("URL", &server.url)
            .env("TOKEN", &server.token)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_ne!(
            ran.status.code(),
            Some(124),
            "{name} does not end: {errors}"
        );
        for (number, example) in examples.iter().enumerate() {
            let file = folder.path().join(format!("out.{number}"));
            let got = std::fs::read_to_string(file).unwrap_or_default();
            if let Some((kind, wanted)) = &example.answer
                && !check(kind, wanted, &got)
            {
                writeln!(wrong, "docs/{name}.md:\n{}{got}\n", example.script).unwrap();
            }
        }
        if !errors.is_empty() {
            writeln!(wrong, "docs/{name}.md: {errors}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_route_has_its_place() {
    let described = artifactdb_api::openapi_json();
    let pages = pages();
    let mut missing = Vec::new();
    for (path, operations) in described["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let told = pages.iter().any(|(_, page)| {
                let headings = || page.lines().filter(|line| line.starts_with("### "));
                let named = |line: &str| line.contains(&format!("{path}`"));
                headings().any(named) && headings().any(|line| line.contains(&format!("`{method}")))
            });
            if !told {
                missing.push(format!("{method} {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
