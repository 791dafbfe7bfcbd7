//! What applying files would change, shown before anybody applies them.

use std::time::Duration;

use artifactdb_e2e::{Space, eventually, variable};

async fn difference(space: &Space, text: &str) -> (Option<i32>, String, String) {
    let file = std::env::temp_dir().join(format!("{}.yaml", space.name));
    std::fs::write(&file, text).unwrap();
    let output = tokio::process::Command::new(variable("ARTIFACTDB_E2E_CLI"))
        .args(["render", "--diff", "--namespace", &space.name])
        .arg(&file)
        .output()
        .await
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn a_difference_is_shown_and_nothing_is_changed() {
    let space = Space::new("render").await;
    let sample = space.sample("typical");
    // An engine that is busy with other tests is not waited for, and not compared.
    let text = eventually("the engine answers", Duration::from_secs(120), || async {
        let (code, text, error) = difference(&space, &sample).await;
        assert_eq!(code, Some(1), "{error}");
        match text.contains("in Elasticsearch: write the index template") {
            true => Ok(text),
            false => Err(error),
        }
    })
    .await;
    assert!(text.contains("+++ wanted/Deployment/typical-api"), "{text}");
    assert!(space.list("Deployment", "").await.is_empty());

    space.apply(&sample).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    let (code, text, error) = difference(&space, &sample).await;
    assert_eq!((code, &*text), (Some(0), ""), "{error}");

    let changed = sample.replace("replicas: 2", "replicas: 3").replace(
        "island: {type: string}",
        "island: {type: string}\n      beach: {type: string}",
    );
    assert_ne!(changed, sample);
    let (code, text, error) = difference(&space, &changed).await;
    assert_eq!(code, Some(1), "{error}");
    for line in [
        "--- live/Deployment/typical-api",
        "-  replicas: 2",
        "+  replicas: 3",
        "--- /dev/null",
        "in Elasticsearch: add fields to the index",
    ] {
        assert!(
            text.lines().any(|own| own.starts_with(line)),
            "{line}: {text}"
        );
    }
    assert!(!text.contains("\n+data:\n+  key"), "{text}");
    let own = space.get("Deployment", "typical-api").await;
    assert_eq!(own["metadata"]["generation"], 1);

    let (code, text, _) = difference(&space, &space.sample("refused")).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("would be refused"), "{text}");
    space.end().await;
}
