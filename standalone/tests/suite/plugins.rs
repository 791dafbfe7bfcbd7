//! Plugins on a laptop: what the API says of them, and their commands run for their authors, with
//! tokens that reach as far as the resource says.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{QUICKSTART, Server, table};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/plugins");

/// The quickstart with the plugins of the examples beside it, and one more.
fn resources(more: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &str| std::fs::copy(from, folder.path().join(to)).unwrap();
    copy(Path::new(QUICKSTART), "instance.yaml");
    for name in ["checksum-audit", "catalogue"] {
        let file = format!("{EXAMPLES}/{name}/plugin.yaml");
        copy(Path::new(&file), &format!("{name}.yaml"));
    }
    std::fs::write(folder.path().join("more.yaml"), more).unwrap();
    folder
}

const NOSY: &str = r#"
apiVersion: artifactdb.io/v1alpha1
kind: ArtifactPlugin
metadata: {name: nosy}
spec:
  image: nosy:1
  command: [sh, -c]
  args: ['for P in given other; do curl -s -o /dev/null -w "%{http_code} " -H "Authorization: Bearer $(cat "$ARTIFACTDB_TOKEN_FILE")" "$ARTIFACTDB_URL/projects/$P/versions"; done; curl -s -H "Authorization: Bearer $(cat "$ARTIFACTDB_TOKEN_FILE")" "$ARTIFACTDB_URL/search?q=title:hidden&fields=_extra.project_id"; exit 9']
  env:
    - {name: MODE, value: nosy}
  access: {read: [given]}
"#;

struct Plugins {
    server: Server,
    folder: TempDir,
}

impl Plugins {
    async fn start(more: &str) -> Self {
        let folder = resources(more);
        let server = Server::with(folder.path()).await;
        Self { server, folder }
    }

    fn run(&self, plugin: &str, event: Option<&Value>, command: &[&str]) -> Output {
        let mut run = Command::new(env!("CARGO_BIN_EXE_artifactdb"));
        run.args(["plugin", "run", plugin, "--file"])
            .arg(self.folder.path())
            .arg("--data")
            .arg(&self.server.data)
            .env("ARTIFACTDB_URL", &self.server.url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(event) = event {
            let file = self.folder.path().join("event.txt");
            std::fs::write(&file, event.to_string()).unwrap();
            run.arg("--event").arg(&file);
        }
        if !command.is_empty() {
            run.arg("--").args(command);
        }
        run.output().unwrap()
    }
}

fn text(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(error)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn both_examples_do_what_they_say() {
    let plugins = Plugins::start("").await;
    let server = &plugins.server;
    let owners = json!({"read_access": "owners"});
    let public = json!({"read_access": "public"});
    server
        .upload("secret", "1", &table("a.csv", "1", "hidden", 1), &owners)
        .await;
    server
        .upload("open", "1", &table("a.csv", "1", "shown", 1), &public)
        .await;
    let (_, page) = server.get("/events?stage=indexed&project=secret").await;
    let event = &page["results"][0];

    let audit = format!("{EXAMPLES}/checksum-audit/audit.sh");
    let output = plugins.run("checksum-audit", Some(event), &[&audit]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("1 files checked, 0 differ"),
        "{}",
        text(&output)
    );
    let query = "audited_project:secret AND files_checked:1";
    assert_eq!(server.ids(query, &server.token).await.len(), 1);
    // Told again, it does not report again.
    let output = plugins.run("checksum-audit", Some(event), &[&audit]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(server.ids(query, &server.token).await.len(), 1);
    // A report says that there is such a project, and only those who may know of it read it.
    assert_eq!(server.ids(query, "").await.len(), 0);

    let script = format!("{EXAMPLES}/catalogue/catalogue.py");
    let output = plugins.run("catalogue", None, &[&script]);
    assert!(output.status.success(), "{}", text(&output));
    let listed = server.ids("projects_listed:1", "").await;
    assert_eq!(listed.len(), 1, "only what is public is listed");
    let (status, content) = server.download(&listed[0], "").await;
    let content: Value = serde_json::from_slice(&content).unwrap();
    assert_eq!(
        (status.as_u16(), &content["project"]),
        (200, &json!("open"))
    );
    let output = plugins.run("catalogue", None, &[&script]);
    assert!(
        text(&output).contains("nothing changed"),
        "{}",
        text(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_changed_are_found() {
    let plugins = Plugins::start("").await;
    let server = &plugins.server;
    let public = json!({"read_access": "public"});
    // The metadata gives the sum of other bytes.
    let mut files = table("a.csv", "as it was", "changed", 1);
    files[0].1 = b"as it is".to_vec();
    server.upload("open", "1", &files, &public).await;
    let params =
        json!({"stage": "requested", "message": {"params": {"project": "open", "version": "1"}}});
    let audit = format!("{EXAMPLES}/checksum-audit/audit.sh");
    let output = plugins.run("checksum-audit", Some(&params), &[&audit]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let found = server
        .ids("files_that_differ:\"open:a.csv@1\"", &server.token)
        .await;
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_reaches_what_it_was_given() {
    let plugins = Plugins::start(NOSY).await;
    let server = &plugins.server;
    let owners = json!({"read_access": "owners"});
    for project in ["given", "other"] {
        server
            .upload(project, "1", &table("a.csv", "1", "hidden", 1), &owners)
            .await;
    }
    let output = plugins.run("nosy", None, &[]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output));
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let (codes, found) = said.split_at(8);
    assert_eq!(codes, "200 404 ");
    let found: Value = serde_json::from_str(found).unwrap();
    assert_eq!(found["total"], 1, "{found}");
    assert_eq!(found["results"][0]["_extra"]["project_id"], "given");

    // It may not write, not even what it reads, and is no administrator.
    let token = |script: &str| plugins.run("nosy", None, &["sh", "-c", script]);
    let ask = |path: &str, more: &str| {
        token(&format!(
            r#"test "$MODE" = nosy; curl -s -o /dev/null -w '%{{http_code}}' {more} -H "Authorization: Bearer $(cat "$ARTIFACTDB_TOKEN_FILE")" "$ARTIFACTDB_URL{path}""#
        ))
    };
    for (path, more, wanted) in [
        (
            "/projects/given/version/2/upload",
            "-d '{\"filenames\": [\"a.txt\"]}'",
            "403",
        ),
        ("/events", "", "403"),
        ("/plugins", "", "403"),
        ("/files/given:a.csv@1", "", "302"),
        ("/files/other:a.csv@1", "", "404"),
    ] {
        let output = ask(path, more);
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_here_is_said() {
    let plugins = Plugins::start("").await;
    let server = &plugins.server;
    let log = server.log();
    for said in [
        "`artifactdb plugin run checksum-audit` runs its command here",
        "it does nothing without a cluster",
    ] {
        assert!(log.contains(said), "{log}");
    }
    let (_, known) = server.get("/plugins").await;
    let names: Vec<&str> = known["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| own["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["catalogue", "checksum-audit"]);
    assert_eq!(known["plugins"][1]["on"], json!(["indexed"]));
    let (_, tasks) = server.get("/tasks").await;
    let tasks = tasks["tasks"].as_array().unwrap();
    assert!(tasks.iter().any(|own| own["name"] == "plugin:catalogue"));
    let body = json!({"name": "plugin:catalogue"});
    let (status, answer) = server
        .call(Method::PUT, "/task/run", &server.token, Some(body))
        .await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer["reason"]
            .as_str()
            .unwrap()
            .contains("artifactdb plugin run catalogue")
    );

    for (arguments, wanted) in [
        (("nothing", vec!["true"]), "no ArtifactPlugin 'nothing'"),
        (("catalogue", vec![]), "give it after --"),
        (
            ("catalogue", vec!["/nowhere/at/all"]),
            "cannot start the plugin's command",
        ),
    ] {
        let (name, command) = arguments;
        let output = plugins.run(name, None, &command);
        assert_eq!(output.status.code(), Some(125), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
    let output = plugins.run("catalogue", Some(&json!({"x": 1})), &["true"]);
    assert!(
        text(&output).contains("has no 'stage'"),
        "{}",
        text(&output)
    );
}
