//! The command line, as people and scripts use it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{QUICKSTART, Server};

fn run(server: Option<&Server>, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_artifactdb"));
    command
        .args(arguments)
        .env_remove("ARTIFACTDB_URL")
        .env_remove("ARTIFACTDB_TOKEN");
    if let Some(server) = server {
        command
            .env("ARTIFACTDB_URL", &server.url)
            .env("ARTIFACTDB_TOKEN", &server.token);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

/// The platform that this is built on: only its packages are at hand.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--filter-platform",
            &host(),
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .unwrap();
    let file = folder.path().join("metadata.json");
    std::fs::write(&file, metadata.stdout).unwrap();
    let (code, text, error) = run(
        None,
        &["sample", out, "--cargo-metadata", file.to_str().unwrap()],
    );
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("10 tables"), "{text}");
    for (project, version) in [
        ("penguins", "1"),
        ("penguins", "2"),
        ("packages", "1"),
        ("packages", "2"),
    ] {
        let source = format!("{out}/{project}/{version}");
        let (code, text, error) = run(
            Some(&server),
            &[
                "upload",
                &source,
                "--project",
                project,
                "--version",
                version,
                "--json",
            ],
        );
        assert_eq!(code, 0, "{error}");
        let summary: Value = serde_json::from_str(&text).unwrap();
        let linked = summary["linked"].as_u64().unwrap();
        assert_eq!(
            linked > 0,
            version == "2",
            "the second version links: {summary}"
        );
        assert!(error.is_empty(), "nothing but JSON: {error}");
    }
    let (code, text, _) = run(
        Some(&server),
        &["search", "species:Adelie AND island:Dream", "--latest"],
    );
    assert_eq!(
        (code, text.as_str()),
        (
            0,
            "penguins:adelie/dream.csv@2  Adelie penguins of Dream island\n"
        )
    );
    let (_, text, _) = run(
        Some(&server),
        &[
            "search",
            "description:asynchronous AND license:*MIT*",
            "--latest",
            "--json",
            "--limit",
            "500",
        ],
    );
    let found: Value = serde_json::from_str(&text).unwrap();
    assert!(found["count"].as_u64().unwrap() > 3, "{found}");
    let target = folder.path().join("dream.csv");
    let (code, ..) = run(
        Some(&server),
        &[
            "get",
            "penguins:adelie/dream.csv@latest",
            "-o",
            target.to_str().unwrap(),
        ],
    );
    assert_eq!(code, 0);
    assert!(
        std::fs::read_to_string(&target)
            .unwrap()
            .starts_with("species,island,")
    );
    let (_, text, _) = run(Some(&server), &["get", "penguins:adelie/dream.csv@1"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&document["rows"], &document["island"]),
        (&56.into(), &"Dream".into())
    );
    assert_eq!(
        run(Some(&server), &["projects"]).1,
        "packages  1 2\npenguins  1 2\n"
    );
    assert_eq!(
        run(Some(&server), &["versions", "penguins"]).1,
        "1\n2  (latest)\n"
    );
    let (code, text, _) = run(
        Some(&server),
        &[
            "permissions",
            "set",
            "penguins",
            "--read",
            "viewers",
            "--viewer",
            "bob",
            "--json",
        ],
    );
    assert_eq!(code, 0);
    let set: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&set["viewers"], &set["read_access"]),
        (&serde_json::json!(["bob"]), &"viewers".into())
    );
    let (_, total, _) = run(
        Some(&server),
        &["search", "*", "--token", "", "--json", "--limit", "1"],
    );
    let seen: Value = serde_json::from_str(&total).unwrap();
    assert_eq!(
        seen["results"][0]["_extra"]["project_id"], "packages",
        "penguins are hidden now"
    );

    // Exit codes.
    assert_eq!(run(Some(&server), &["get", "penguins:none@1"]).0, 3);
    assert_eq!(run(Some(&server), &["search", "("]).0, 5);
    assert_eq!(
        run(
            Some(&server),
            &[
                "upload",
                &format!("{out}/penguins/1"),
                "--project",
                "penguins",
                "--version",
                "1"
            ]
        )
        .0,
        5
    );
    assert_eq!(
        run(
            Some(&server),
            &[
                "upload",
                &format!("{out}/penguins/1"),
                "--project",
                "x",
                "--version",
                "1",
                "--token",
                ""
            ]
        )
        .0,
        4
    );
    assert_eq!(
        run(
            Some(&server),
            &["search", "*", "--url", "http://127.0.0.1:1"]
        )
        .0,
        7
    );
    assert_eq!(
        run(
            Some(&server),
            &["upload", "/nowhere", "--project", "x", "--version", "1"]
        )
        .0,
        1
    );
    assert_eq!(run(Some(&server), &["upload"]).0, 2);
    assert_eq!(
        run(None, &["token", "--data", "/nowhere", "--user", "x"]).0,
        1
    );
    let (code, help, _) = run(None, &["--help"]);
    assert!(code == 0 && help.contains("Exit codes"));
}

/// The README's own commands, as they stand there.
#[test]
fn the_readme_tour() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let readme = std::fs::read_to_string(format!("{root}/README.md")).unwrap();
    let blocks: Vec<&str> = readme
        .split("```sh tour\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 6);
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(format!("{root}/config"), folder.path().join("config")).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_artifactdb"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let script = format!(
        "set -euo pipefail\ntrap 'kill %1 2>/dev/null || true' EXIT\n{}",
        blocks.join("\n")
    );
    let output = Command::new("timeout")
        .args(["60", "bash", "-c", &script])
        .current_dir(folder.path())
        .env("PATH", path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(
        text.matches("x,y\n1,2\n").count(),
        2,
        "both downloads: {text}"
    );
    assert!(text.contains(r#""_extra":{"id":"tour:a.csv@1"}"#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_is_aborted() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        std::fs::write(folder.path().join(format!("{number}.bin")), vec![1; 20_000]).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_artifactdb"))
        .args([
            "upload",
            folder.path().to_str().unwrap(),
            "--project",
            "P",
            "--version",
            "1",
        ])
        .env("ARTIFACTDB_URL", &server.url)
        .env("ARTIFACTDB_TOKEN", &server.token)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Once the server knows of the upload, Ctrl-C.
    while server.get("/projects/P/lock").await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The lock goes once the files are deleted; then the version can be uploaded.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while server.get("/projects/P/lock").await.0 == 200 {
        assert!(std::time::Instant::now() < deadline, "still locked");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(server.begin("P", "1", &[], &server.token).await.0, 200);
}

#[test]
fn wrong_resources_are_refused_with_file_document_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let instance = "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactDB\nmetadata: {name: x}\nspec: {standalone: {}}\n";
    let schema = |spec: &str| {
        format!(
            "{instance}---\napiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchema\nmetadata: {{name: s}}\nspec: {spec}\n"
        )
    };
    for (content, wanted) in [
        ("not: [yaml".to_owned(), "not YAML"),
        (
            "a: 1\n".to_owned(),
            "document 1: it has no 'apiVersion' and 'kind'",
        ),
        (
            "apiVersion: v1\nkind: Secret\n".to_owned(),
            "no resource of",
        ),
        (
            instance.replace("v1alpha1", "v9"),
            "apiVersion 'artifactdb.io/v9' is not known",
        ),
        (
            instance.replace("ArtifactDB\n", "ArtifactBD\n"),
            "kind 'ArtifactBD' is not known",
        ),
        (
            instance.replace("{name: x}", "{}"),
            "field 'metadata.name' is missing",
        ),
        (
            instance.replace("{name: x}", "{name: X_y}"),
            "field 'metadata.name'",
        ),
        (
            instance.replace("{standalone: {}}", "{}"),
            "field 'spec.storage': name at least one storage",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, api: {replicas: many}}",
            ),
            "field 'spec.api.replicas'",
        ),
        (
            instance.replace("{standalone: {}}", "{standalone: {}, apii: {}}"),
            "field 'spec.apii' is not known",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, api: {rateLimit: {requestsPerSecond: 0}}}",
            ),
            "field 'spec.api.rateLimit'",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, retention: {events: 10m}}",
            ),
            "field 'spec.retention.events'",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, sequences: [{prefix: P, format: '{prefix}'}]}",
            ),
            "must name seq_id once",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, sequences: [{prefix: P}, {prefix: P}]}",
            ),
            "two sequences have the prefix 'P'",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, sequences: [{prefix: P, pools: [{type: provisioned, from: 9, to: 1}]}]}",
            ),
            "begins after its end",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, auth: {groups: {urlTemplate: 'http://x/'}}}",
            ),
            "field 'spec.auth.groups.urlTemplate'",
        ),
        (
            instance.replace(
                "{standalone: {}}",
                "{standalone: {}, auth: {groups: {urlTemplate: 'http://x/{user}', cacheTtl: soon}}}",
            ),
            "field 'spec.auth.groups.cacheTtl'",
        ),
        (
            format!("{instance}---\n{instance}"),
            "exactly one instance is needed, and there are 2",
        ),
        (
            schema("{type: t, version: v1}"),
            "document 2: ArtifactSchema 's': field 'spec.schema'",
        ),
        (
            schema("{type: 'a/b', version: v1, schema: {}}"),
            "field 'spec.type'",
        ),
        (
            schema("{type: t, version: v1, schemaRef: {configMap: c, key: k}}"),
            "field 'spec.schemaRef'",
        ),
        (
            format!(
                "{instance}---\napiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchedule\nmetadata: {{name: s}}\nspec: {{schedule: '* * *', task: sweep}}\n"
            ),
            "five fields are needed",
        ),
        (
            format!(
                "{instance}---\napiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchedule\nmetadata: {{name: s}}\nspec: {{schedule: '* * * * *', task: dance}}\n"
            ),
            "field 'spec.task'",
        ),
        (
            format!(
                "{instance}---\napiVersion: artifactdb.io/v1alpha1\nkind: ArtifactPlugin\nmetadata: {{name: p}}\nspec: {{on: [exploded], image: i}}\n"
            ),
            "field 'spec.on[0]'",
        ),
    ] {
        let file = folder.path().join("wrong.yaml");
        std::fs::write(&file, &content).unwrap();
        let data = folder.path().join("data");
        let (code, _, error) = run(
            None,
            &[
                "serve",
                file.to_str().unwrap(),
                "--data",
                data.to_str().unwrap(),
                "--listen",
                "127.0.0.1:0",
            ],
        );
        assert_eq!(code, 1, "{content}");
        assert!(error.contains(wanted), "{wanted}\n{error}");
        assert!(
            error.contains("wrong.yaml") || wanted.contains("no resource"),
            "{error}"
        );
        assert!(!data.exists(), "nothing is made for what is refused");
    }
    assert_eq!(run(None, &["serve", "/nowhere.yaml"]).0, 1);
    assert!(Path::new(QUICKSTART).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_has_one_process_and_one_instance() {
    let server = Server::start().await;
    let data = server.data.to_str().unwrap().to_owned();
    let (code, _, error) = run(
        None,
        &[
            "serve",
            QUICKSTART,
            "--data",
            &data,
            "--listen",
            "127.0.0.1:0",
        ],
    );
    assert_eq!(code, 1);
    assert!(error.contains("in use by another process"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.yaml");
    std::fs::write(&other, "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactDB\nmetadata: {name: other}\nspec: {standalone: {}}\n").unwrap();
    let (code, _, error) = run(
        None,
        &[
            "serve",
            other.to_str().unwrap(),
            "--data",
            &data,
            "--listen",
            "127.0.0.1:0",
        ],
    );
    assert_eq!(code, 1);
    assert!(
        error.contains("belongs to the instance 'quickstart'"),
        "{error}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(server.data.join("secrets.json"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "secrets are their owner's alone");
    assert!(server.pid() > 0);
}

#[test]
fn resources_are_rendered_as_documents() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/samples");
    let typical = format!("{samples}/typical.yaml");
    let (code, text, error) = run(None, &["render", &typical, "--namespace", "team"]);
    assert_eq!(code, 0, "{error}");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let deployments: Vec<&str> = documents
        .iter()
        .filter(|own| own["kind"] == "Deployment")
        .filter_map(|own| own["metadata"]["name"].as_str())
        .collect();
    assert_eq!(deployments, ["typical-api", "typical-indexer"]);
    let template = documents.last().unwrap();
    assert_eq!(
        template["index_patterns"],
        serde_json::json!(["artifactdb_team_typical_*"])
    );
    let fields = &template["template"]["mappings"]["properties"];
    assert_eq!(fields["title"]["type"], "text", "{template}");

    let (code, text, _) = run(None, &["render", &typical, "--kubernetes-only"]);
    assert_eq!(code, 0);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert!(documents.iter().all(|own| own["kind"].is_string()));
    let namespaces = documents.iter().map(|own| &own["metadata"]["namespace"]);
    assert!(namespaces.into_iter().all(|own| own == "default"));

    let (code, text, error) = run(None, &["render", &format!("{samples}/refused.yaml")]);
    assert_eq!((code, &*text), (1, ""));
    assert!(error.contains("would be refused:"), "{error}");
}

#[test]
fn a_difference_needs_a_cluster() {
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../config/samples/smallest.yaml"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_artifactdb"));
    command.args(["render", sample, "--diff"]);
    let output = command.env("KUBECONFIG", "/nonexistent").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("set KUBECONFIG"), "{error}");
}
