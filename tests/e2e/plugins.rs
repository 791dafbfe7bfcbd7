//! Plugins and schedules as CronJobs that a person, a clock or a dispatcher starts.

use std::time::Duration;

use artifactdb_e2e::{Space, eventually};

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
