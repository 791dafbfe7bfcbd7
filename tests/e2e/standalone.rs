//! The trial: one apply, one pod, a volume.

use std::time::Duration;

use artifactdb_e2e::{Space, eventually};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

#[tokio::test]
async fn a_standalone_instance_serves_and_keeps_its_data() {
    let space = Space::new("standalone").await;
    // Where the cluster makes volumes by itself this one is not needed.
    let volumes: Api<PersistentVolume> = Api::all(space.client.clone());
    let _ = volumes.delete("e2e-trial", &DeleteParams::default()).await;
    let path = std::env::temp_dir().join(format!("artifactdb-e2e-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    let _ = std::process::Command::new("chmod")
        .arg("0777")
        .arg(&path)
        .status();
    let volume = json!({
        "metadata": {"name": "e2e-trial"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": space.name, "name": "data-trial-0"},
            "hostPath": {"path": path},
        },
    });
    let volume = serde_json::from_value(volume).unwrap();
    eventually("a volume", Duration::from_secs(30), || async {
        let made = volumes.create(&PostParams::default(), &volume).await;
        made.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;

    let schedule = "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchedule\nmetadata: {name: each-minute}\nspec: {schedule: \"* * * * *\", task: sweep}\n";
    space.apply(schedule).await;
    space.apply(&space.sample("standalone")).await;
    space.wait("adb/trial", "condition=Ready", 180).await;
    let ask = [
        "exec",
        "trial-0",
        "--",
        "/artifactdb",
        "token",
        "--data",
        "/data",
        "--user",
        "ann",
        "--role",
        "admin",
    ];
    let token = space.kubectl(&ask, "").await.unwrap().trim().to_owned();
    let mut instance = space.instance("trial").await;
    instance.token = token;
    let (status, about) = instance.get("/").await.unwrap();
    assert_eq!(
        (status, &about["description"]),
        (200, &json!("A trial")),
        "{about}"
    );
    let count = || instance.count("text:keep");
    assert_eq!(count().await, Ok(0));
    let note = json!({"$schema": "note/v1.json", "path": "n.txt", "text": "keep this"});
    let files = vec![
        ("n.txt".to_owned(), b"note".to_vec()),
        ("n.txt.json".to_owned(), note.to_string().into_bytes()),
    ];
    instance.upload("notes", "1", &files).await;
    assert_eq!(count().await, Ok(1));

    space.delete("Pod", "trial-0").await;
    eventually(
        "the data is there again",
        Duration::from_secs(180),
        || async {
            match count().await {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await;
    space.wait("adb/trial", "condition=Ready", 180).await;
    // It follows its schedules by itself.
    space
        .wait("adbschedule/each-minute", "condition=Ready", 30)
        .await;
    eventually(
        "the clock has started it",
        Duration::from_secs(90),
        || async {
            let log = space.kubectl(&["logs", "trial-0"], "").await?;
            let done = log
                .lines()
                .any(|line| line.contains("each-minute") && line.contains("done"));
            done.then_some(()).ok_or(log)
        },
    )
    .await;
    space.end().await;
    let _ = volumes.delete("e2e-trial", &DeleteParams::default()).await;
    let _ = std::fs::remove_dir_all(path);
}
