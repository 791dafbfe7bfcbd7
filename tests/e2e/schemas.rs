//! Schemas come, stand against each other, and replace each other, while searches go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use artifactdb_e2e::{Instance, Space, eventually, table};
use serde_json::json;

/// Searches twenty times a second until told to stop: none may fail or come back short.
async fn search_on(instance: Instance, least: u64, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>) {
    let mut running = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let instance = instance.clone();
        running.push(tokio::spawn(async move {
            let found = instance.count("path:*csv").await;
            assert!(
                found.as_ref().is_ok_and(|found| *found >= least),
                "{found:?} of {least}"
            );
        }));
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for one in running {
        one.await.unwrap();
    }
}

fn schema(name: &str, kind: &str, version: &str, properties: &str) -> String {
    format!(
        "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchema\nmetadata: {{name: {name}}}\nspec:\n  type: {kind}\n  version: {version}\n  schema:\n    type: object\n    properties:\n      $schema: {{type: string}}\n      path: {{type: string}}\n{properties}"
    )
}

#[tokio::test]
async fn schemas_reach_the_index_while_searches_go_on() {
    let space = Space::new("schemas").await;
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    space
        .wait("adbschema/table-v1", "condition=Indexed", 30)
        .await;
    let instance = space.instance("typical").await;
    for version in 1..=5 {
        let mut files = Vec::new();
        for number in 0..20 {
            files.extend(table(
                &format!("t{number}.csv"),
                &format!("{version} {number}"),
                "one of many",
            ));
        }
        instance
            .upload("tables", &version.to_string(), &files)
            .await;
    }
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let searching = tokio::spawn(search_on(
        instance.clone(),
        100,
        stop.clone(),
        asked.clone(),
    ));

    // A new one: its fields are there, and its documents go up.
    let added = schema("image-v1", "image", "v1", "      width: {type: integer}\n");
    space.apply(&added).await;
    space
        .wait("adbschema/image-v1", "condition=Indexed", 60)
        .await;
    space.wait("adb/typical", "condition=Ready", 90).await;
    space
        .wait(
            "adb/typical",
            "jsonpath={.status.conditions[?(@.type==\"Progressing\")].status}=False",
            90,
        )
        .await;
    let image = json!({"$schema": "image/v1.json", "path": "i.png", "width": 640});
    let files = vec![
        ("i.png".to_owned(), b"png".to_vec()),
        ("i.png.json".to_owned(), image.to_string().into_bytes()),
    ];
    instance.upload("images", "1", &files).await;
    assert_eq!(instance.count("width:640").await, Ok(1));

    // One that wants a field otherwise is refused, and named with the one that it is against.
    space
        .apply(&schema(
            "sound-v1",
            "sound",
            "v1",
            "      width: {type: boolean}\n",
        ))
        .await;
    let limit = Duration::from_secs(30);
    let message = space
        .until(
            "ArtifactSchema",
            "sound-v1",
            "Conflict",
            ("True", ""),
            limit,
        )
        .await;
    assert!(
        message.contains("sound/v1.json") && message.contains("image/v1.json"),
        "{message}"
    );
    let message = space
        .until(
            "ArtifactDB",
            "typical",
            "Degraded",
            ("True", "SchemaConflict"),
            limit,
        )
        .await;
    assert!(message.contains("sound/v1.json"), "{message}");
    space.wait("adb/typical", "condition=Ready", 60).await;
    space.delete("ArtifactSchema", "sound-v1").await;
    space
        .until("ArtifactDB", "typical", "Degraded", ("False", ""), limit)
        .await;

    // A breaking one, to which what is stored fits: rehearsed, and then built beside the live one.
    let before = space.get("ArtifactDB", "typical").await["status"]["index"]["current"].clone();
    space
        .apply(&schema(
            "image-v1",
            "image",
            "v1",
            "      width: {type: number}\n",
        ))
        .await;
    eventually("a new index is live", Duration::from_secs(120), || async {
        let told = space.get("ArtifactDB", "typical").await;
        let current = &told["status"]["index"]["current"];
        match *current != before && told["status"]["index"]["building"].is_null() {
            true => Ok(()),
            false => Err(told["status"].to_string()),
        }
    })
    .await;
    let jobs = space
        .list("Job", "app.kubernetes.io/component=reindex")
        .await;
    eventually("its Job ends", Duration::from_secs(60), || async {
        let jobs = space
            .list("Job", "app.kubernetes.io/component=reindex")
            .await;
        match jobs
            .iter()
            .all(|own| own["status"]["succeeded"].as_u64().is_some())
        {
            true => Ok(()),
            false => Err(format!("{jobs:?}")),
        }
    })
    .await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    space
        .until(
            "ArtifactDB",
            "typical",
            "IndexCurrent",
            ("True", "Current"),
            limit,
        )
        .await;
    assert_eq!(instance.count("width:640").await, Ok(1));

    // A breaking one that something stored does not fit waits for a word.
    space
        .apply(&schema(
            "image-v1",
            "image",
            "v1",
            "      width: {type: boolean}\n",
        ))
        .await;
    let message = space
        .until(
            "ArtifactDB",
            "typical",
            "IndexCurrent",
            ("False", "PromotionNeeded"),
            Duration::from_secs(90),
        )
        .await;
    assert!(message.starts_with("1 of 101 documents"), "{message}");
    assert!(
        message.contains("images@1") && message.contains("width"),
        "{message}"
    );
    space.wait("adb/typical", "condition=Ready", 30).await;
    let told = space.get("ArtifactDB", "typical").await;
    let hash = told["status"]["index"]["wantedHash"]
        .as_str()
        .unwrap()
        .to_owned();
    space
        .patch("ArtifactDB", "typical", json!({"spec": {"promote": hash}}))
        .await;
    space
        .until(
            "ArtifactDB",
            "typical",
            "IndexCurrent",
            ("True", "Current"),
            Duration::from_secs(120),
        )
        .await;
    space.wait("adb/typical", "condition=Ready", 90).await;

    let begun = Instant::now();
    stop.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    println!(
        "{} searches, none failed or short (the last ones took {:?})",
        asked.load(Ordering::Relaxed),
        begun.elapsed()
    );
    assert_eq!(instance.count("path:*csv").await, Ok(100));
    assert_eq!(instance.count("_extra.project_id:images").await, Ok(0));
    space.end().await;
}
