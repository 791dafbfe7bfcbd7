//! Load makes pods, and its end takes them away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use artifactdb_e2e::{Space, eventually, table};
use serde_json::json;

#[tokio::test]
async fn load_makes_pods() {
    let space = Space::new("scaling").await;
    space.apply(&space.sample("typical")).await;
    let scaling = json!({"spec": {"api": {
        "autoscaling": {"min": 1, "max": 3, "cpu": 50},
        "resources": {"requests": {"cpu": "50m"}},
    }}});
    space.patch("ArtifactDB", "typical", scaling).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    let instance = space.instance("typical").await;
    instance
        .upload("load", "1", &table("a.csv", "1", "load"))
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (instance, stop) = (instance.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let _ = instance.count("title:load").await;
                }
            })
        })
        .collect();
    let begun = Instant::now();
    eventually("more than one pod", Duration::from_secs(150), || async {
        let own = space.get("Deployment", "typical-api").await;
        match own["status"]["availableReplicas"].as_u64() {
            Some(pods) if pods > 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    println!("scaled up after {:.0} s", begun.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for one in load {
        one.await.unwrap();
    }
    // A change meanwhile leaves the number to the autoscaler.
    let before = space.get("Deployment", "typical-api").await["spec"]["replicas"].clone();
    space
        .patch(
            "ArtifactDB",
            "typical",
            json!({"spec": {"description": "another"}}),
        )
        .await;
    eventually("it rolls", Duration::from_secs(60), || async {
        let own = space.get("Deployment", "typical-api").await;
        match own["status"]["observedGeneration"].as_u64() > Some(1)
            && own["status"]["updatedReplicas"].as_u64() > Some(0)
        {
            true => Ok(()),
            false => Err(own["status"].to_string()),
        }
    })
    .await;
    let after = space.get("Deployment", "typical-api").await["spec"]["replicas"].clone();
    assert!(
        after == before || after.as_u64() < before.as_u64(),
        "{before} {after}"
    );
    space.end().await;
}
