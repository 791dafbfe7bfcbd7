//! Plugins and schedules: what starts them, what they reach, and what is told of their runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use artifactdb_e2e::{Instance, Space, eventually, names, table};
use reqwest::Method;
use serde_json::{Value, json};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/plugins");
/// An image with sh, curl and jq.
const TOOLS: &str = concat!("artifactdb/checksum-audit:", env!("CARGO_PKG_VERSION"));

/// The resources of an example, with the image that the tests have.
fn example(name: &str) -> String {
    let text = std::fs::read_to_string(format!("{EXAMPLES}/{name}/plugin.yaml")).unwrap();
    text.replace(
        &format!("image: {name}:latest"),
        &format!("image: artifactdb/{name}:{}", env!("CARGO_PKG_VERSION")),
    )
}

/// A plugin that runs a script.
pub(crate) fn scripted(name: &str, more: &Value, script: &str) -> String {
    let mut spec = json!({
        "image": TOOLS, "command": ["/bin/sh", "-c"], "args": [script], "timeout": "5m", "retries": 0,
    });
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let resource = json!({
        "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactPlugin",
        "metadata": {"name": name}, "spec": spec,
    });
    resource.to_string()
}

/// The last run that a plugin's status tells of.
async fn last_run(space: &Space, plugin: &str) -> Value {
    let what = format!("the plugin {plugin} has run");
    eventually(&what, Duration::from_secs(90), || async {
        let own = space.get("ArtifactPlugin", plugin).await;
        match &own["status"]["lastRuns"][0] {
            Value::Null => Err(own["status"].to_string()),
            run => Ok(run.clone()),
        }
    })
    .await
}

async fn found(instance: &Instance, query: &str, limit: u64) {
    let what = format!("'{query}' finds something");
    eventually(&what, Duration::from_secs(limit), || async {
        match instance.count(query).await? {
            0 => Err("nothing".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn plugins_react_to_what_happens() {
    let space = Space::new("react").await;
    space.apply(&space.sample("typical")).await;
    space.apply(&example("checksum-audit")).await;
    // Not at night: now.
    let schedule = example("catalogue").replace("15 2 * * *", "* * * * *");
    space.apply(&schedule).await;
    let ask = r#"curl -s -o /tmp/answer -w '%{http_code} ' -H "Authorization: Bearer $(cat $ARTIFACTDB_TOKEN_FILE)" $ARTIFACTDB_URL/projects/secret/versions; jq -r .status /tmp/answer"#;
    for (name, more, script) in [
        (
            "breaks",
            json!({"on": ["indexed"], "projects": ["open"]}),
            "echo it broke; exit 7",
        ),
        (
            "nosy",
            json!({"on": ["indexed"], "projects": ["sec*"]}),
            ask,
        ),
        (
            "trusted",
            json!({"on": ["indexed"], "projects": ["sec*"], "access": {"read": ["secret"]}}),
            ask,
        ),
    ] {
        space.apply(&scripted(name, &more, script)).await;
    }
    for plugin in ["checksum-audit", "catalogue", "breaks", "nosy", "trusted"] {
        space
            .wait(&format!("adbplugin/{plugin}"), "condition=Ready", 60)
            .await;
    }
    space.wait("adb/typical", "condition=Ready", 90).await;
    let instance = space.instance("typical").await;
    let files = table("a.csv", "a,b\n1,2\n", "audited");
    instance.upload("open", "1", &files).await;
    let private = json!({"read_access": "owners", "owners": ["bob"]});
    instance
        .complete_as("secret", "1", &files, &private)
        .await
        .unwrap();

    // The shell's reports can be found, of what is private, too: its access says so.
    for project in ["open", "secret"] {
        found(&instance, &format!("audited_project:{project}"), 120).await;
    }
    eventually("its log is kept", Duration::from_secs(30), || async {
        let own = space.get("ArtifactPlugin", "checksum-audit").await;
        let runs = own["status"]["lastRuns"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let audited = |project: &str| {
            let line = format!("{project}/1: 1 files checked, 0 differ");
            runs.iter().any(|run| {
                let log = run["log"].as_str().unwrap_or_default();
                run["exitCode"] == 0 && run["succeeded"] == true && log.contains(&line)
            })
        };
        match audited("open") && audited("secret") {
            true => Ok(()),
            false => Err(json!(runs).to_string()),
        }
    })
    .await;

    // What a plugin was not given is not there for it.
    let run = last_run(&space, "nosy").await;
    assert_eq!(run["log"], "404 error", "{run}");
    let run = last_run(&space, "trusted").await;
    assert_eq!(run["log"], "200 null", "{run}");

    // One that fails says so, and everything else goes on.
    let message = space
        .until(
            "ArtifactPlugin",
            "breaks",
            "Failing",
            ("True", "RunFailed"),
            Duration::from_secs(60),
        )
        .await;
    assert!(message.contains("exit code 7: it broke"), "{message}");
    let own = space.get("ArtifactPlugin", "breaks").await;
    assert_eq!(own["status"]["failed"], 1, "{own}");
    let (status, reason, _) = space.condition("ArtifactDB", "typical", "Ready").await;
    assert_eq!((&*status, &*reason), ("True", "Ready"));

    // The clock starts the other.
    found(&instance, "projects_listed:1", 120).await;
    let (_, page) = instance
        .get("/search?q=projects_listed:1&fields=_extra.uploader_name")
        .await
        .unwrap();
    assert_eq!(
        page["results"][0]["_extra"]["uploader_name"],
        "plugin:catalogue"
    );

    // The API shows them, and starts one for a person.
    let (_, plugins) = instance.get("/plugins").await.unwrap();
    let known: Vec<&str> = plugins["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|own| own["name"].as_str())
        .collect();
    assert_eq!(
        known,
        ["breaks", "catalogue", "checksum-audit", "nosy", "trusted"]
    );
    let body = json!({
        "name": "plugin:checksum-audit", "params": {"project": "open", "version": "1"},
    });
    let (status, accepted) = instance
        .call(Method::PUT, "/task/run", Some(&body))
        .await
        .unwrap();
    assert_eq!(status, 202, "{accepted}");
    let job = accepted["path"].as_str().unwrap();
    // The files of a pod follow their ConfigMap within two minutes.
    eventually("its job has ended", Duration::from_secs(150), || async {
        let (_, record) = instance.get(job).await?;
        match record["status"].as_str() {
            Some("SUCCESS") => Ok(()),
            _ => Err(record.to_string()),
        }
    })
    .await;
    let (_, logs) = instance.get("/tasks/logs").await.unwrap();
    assert!(
        logs["plugin:breaks"][0]["logs"][0]
            .as_str()
            .is_some_and(|line| line.contains("it broke")),
        "{logs}"
    );

    // Of its own reports it was not told, of what came after them it was.
    let jobs = space
        .list("Job", "artifactdb.io/plugin=checksum-audit")
        .await;
    let told = |project: &str| {
        let told = format!("\"project_id\":\"{project}\"");
        jobs.iter()
            .any(|job| job.to_string().replace('\\', "").contains(&told))
    };
    assert!(told("catalogue") && !told("checksum-reports"), "{jobs:?}");

    // The dispatcher may make Jobs, and nothing more.
    let account = format!(
        "--as=system:serviceaccount:{}:typical-dispatcher",
        space.name
    );
    for (verb, what, may) in [
        ("create", "jobs.batch", true),
        ("list", "jobs.batch", false),
        ("delete", "jobs.batch", false),
        ("get", "secrets", false),
        ("create", "pods", false),
    ] {
        // It fails where the answer is no.
        let said = space
            .kubectl(&["auth", "can-i", verb, what, &account], "")
            .await;
        assert_eq!(said.is_ok(), may, "{verb} {what}: {said:?}");
    }

    // What is deleted takes its Jobs along.
    space.delete("ArtifactPlugin", "breaks").await;
    eventually("its Jobs go", Duration::from_secs(30), || async {
        let jobs = space.list("Job", "artifactdb.io/plugin=breaks").await;
        match jobs.is_empty() {
            true => Ok(()),
            false => Err(format!("{:?}", names(&jobs))),
        }
    })
    .await;
    space.end().await;
}

/// Runs what is to be typed in a cluster, with this node for a registry.
fn typed(space: &Space, folder: &Path, script: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let prelude = format!(
        r#"
set -euo pipefail
docker() {{ if [ "$1" = build ]; then {root}/tests/e2e/node.sh image . "$3" localhost/tools:1; fi; }}
kubectl() {{ "$ARTIFACTDB_E2E_KUBECTL" --namespace {} "$@"; }}
INSTANCE=typical
"#,
        space.name
    );
    let output = Command::new("bash")
        .args(["-c", &format!("{prelude}\n{script}")])
        .current_dir(folder)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_page_for_newcomers_does_what_it_says() {
    if std::env::var("ARTIFACTDB_E2E_LOCAL").is_err() {
        println!("NOT RUN: it needs a node that this machine gives images to");
        return;
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plugins.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks: Vec<(&str, &str)> = page
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.split_once('\n'))
        .collect();
    let space = Space::new("page").await;
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    let folder = std::env::temp_dir().join(&space.name);
    std::fs::create_dir_all(&folder).unwrap();
    // The files, which the first block writes.
    let (kind, files) = blocks[0];
    assert_eq!(kind, "sh");
    typed(&space, &folder, files);
    let mut cluster = blocks.iter().filter(|(kind, _)| *kind == "bash");
    let mut next = || cluster.next().unwrap().1;
    typed(&space, &folder, next());
    space.wait("adb/typical", "condition=Ready", 90).await;
    let instance = space.instance("typical").await;
    instance
        .upload("open", "1", &table("a.csv", "a,b\n1,2\n", "counted"))
        .await;
    let shows = next();
    eventually("its log is shown", Duration::from_secs(60), || async {
        match typed(&space, &folder, shows) {
            log if log.trim() == "open:a.csv@1: 2 lines" => Ok(()),
            log => Err(log),
        }
    })
    .await;
    typed(&space, &folder, next());
    assert_eq!(
        space.get("Job", "by-hand").await["metadata"]["name"],
        "by-hand"
    );
    std::fs::remove_dir_all(&folder).unwrap();
    space.end().await;
}

#[tokio::test]
async fn plugins_and_schedules_become_cron_jobs() {
    let space = Space::new("plugins").await;
    space.apply(&space.sample("typical")).await;
    let plugin = "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactPlugin\nmetadata: {name: shows-version}\nspec:\n  image: artifactdb/artifactdb:0.1.0\n  args: [--version]\n  timeout: 1m\n";
    let schedule = |name: &str, what: &str| {
        format!(
            "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchedule\nmetadata: {{name: {name}}}\nspec:\n{what}"
        )
    };
    space.apply(plugin).await;
    space
        .apply(&schedule(
            "each-minute",
            "  schedule: \"* * * * *\"\n  task: sweep\n",
        ))
        .await;
    space
        .apply(&schedule(
            "wrong-hour",
            "  schedule: \"0 25 * * *\"\n  task: sweep\n",
        ))
        .await;
    space
        .apply(&schedule(
            "no-plugin",
            "  schedule: \"0 1 * * *\"\n  plugin: {name: nowhere}\n",
        ))
        .await;
    space
        .wait("adbplugin/shows-version", "condition=Ready", 30)
        .await;
    space
        .wait("adbschedule/each-minute", "condition=Ready", 30)
        .await;
    let limit = Duration::from_secs(30);
    space
        .until(
            "ArtifactSchedule",
            "wrong-hour",
            "Ready",
            ("False", "InvalidSchedule"),
            limit,
        )
        .await;
    space
        .until(
            "ArtifactSchedule",
            "no-plugin",
            "Ready",
            ("False", "PluginMissing"),
            limit,
        )
        .await;
    space.wait("adb/typical", "condition=Ready", 60).await;

    // A person starts a plugin, and a built-in task.
    for (job, from) in [
        ("by-hand", "cronjob/typical-plugin-shows-version"),
        ("sweep-by-hand", "cronjob/typical-sweep"),
        ("reindex-by-hand", "cronjob/typical-reindex"),
    ] {
        let from = format!("--from={from}");
        space
            .kubectl(&["create", "job", job, &from], "")
            .await
            .unwrap();
        space
            .wait(&format!("job/{job}"), "condition=Complete", 60)
            .await;
    }
    let log = space.kubectl(&["logs", "job/by-hand"], "").await.unwrap();
    assert!(log.starts_with("artifactdb 0."), "{log}");

    // The clock starts another.
    eventually("a run by the clock", Duration::from_secs(90), || async {
        let own = space.get("ArtifactSchedule", "each-minute").await;
        let status = &own["status"];
        match status["lastRunTime"].is_string() && status["nextRunTime"].is_string() {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .await;

    // What is deleted takes its CronJobs along.
    space.delete("ArtifactPlugin", "shows-version").await;
    eventually("it goes", limit, || async {
        let own = space.get("CronJob", "typical-plugin-shows-version").await;
        match own.is_null() {
            true => Ok(()),
            false => Err("it is there".to_owned()),
        }
    })
    .await;
    space.end().await;
}
