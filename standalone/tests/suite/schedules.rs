//! Built-in tasks that `serve` runs by the clock.

use std::time::{Duration, Instant};

use crate::harness::{QUICKSTART, Server};

/// Schedules of the quickstart, every minute.
fn scheduled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut text = std::fs::read_to_string(QUICKSTART).unwrap();
    for task in [
        "reindex",
        "sweep",
        "purge-stale",
        "sync-permissions",
        "snapshot",
    ] {
        text.push_str(&format!(
            "---\napiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchedule\nmetadata: {{name: by-clock-{task}}}\nspec: {{schedule: '* * * * *', task: {task}}}\n"
        ));
    }
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    folder
}

async fn until(server: &Server, wanted: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    while !wanted(&server.log()) {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_tasks_run_by_the_clock_and_what_was_missed_is_made_up_for() {
    let folder = scheduled();
    let mut server = Server::with(folder.path()).await;
    assert!(
        server.log().contains("snapshots are Elasticsearch's"),
        "{}",
        server.log()
    );
    // As if this had not run for an hour: what was due meanwhile is done at once, and once.
    server.terminate();
    let file = server.data.join("schedules.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut known: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).unwrap();
    assert_eq!(known.len(), 4, "{text}");
    let past = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    known
        .values_mut()
        .for_each(|last| *last = past.to_string().into());
    std::fs::write(&file, serde_json::to_vec(&known).unwrap()).unwrap();
    server.restart().await;
    let done = |log: &str, task: &str| {
        let lines = log
            .lines()
            .filter(|line| line.contains(&format!("by-clock-{task}")));
        lines.filter(|line| line.contains("done")).count()
    };
    let tasks = ["reindex", "sweep", "purge-stale", "sync-permissions"];
    until(&server, |log| tasks.iter().all(|task| done(log, task) >= 1)).await;
    // Reindexing tells of its end, as everywhere.
    let (_, page) = server.get("/events?stage=all-indexed").await;
    assert_eq!(page["count"], 1, "{page}");
    let starts = server.log().matches("starting").count();
    assert!((4..=8).contains(&starts), "{}", server.log());
}
