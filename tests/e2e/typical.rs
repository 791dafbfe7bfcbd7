//! From `kubectl apply` to a file that is found and downloaded; and what changes of the resource do.

use std::time::{Duration, Instant};

use artifactdb_e2e::{Space, eventually, names, table};
use serde_json::json;

#[tokio::test]
async fn a_typical_instance_is_ready_within_a_minute_and_serves() {
    let space = Space::new("typical").await;
    let begun = Instant::now();
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    println!(
        "ready {:.1} s after the apply",
        begun.elapsed().as_secs_f64()
    );

    let instance = space.instance("typical").await;
    let files = table("adelie/dream.csv", "a,b\n1,2\n", "Penguins of Dream island");
    instance.upload("penguins", "1", &files).await;
    assert_eq!(instance.count("title:dream").await, Ok(1));
    let content = instance.download("penguins:adelie/dream.csv@1").await;
    assert_eq!(content, b"a,b\n1,2\n");

    // It reads well, and every condition speaks of this generation.
    let shown = space.kubectl(&["get", "adb"], "").await.unwrap();
    assert!(
        shown.contains("READY") && shown.contains(&format!("http://typical.{}.svc", space.name)),
        "{shown}"
    );
    let told = space.get("ArtifactDB", "typical").await;
    for condition in told["status"]["conditions"].as_array().unwrap() {
        assert_eq!(
            condition["observedGeneration"],
            told["metadata"]["generation"]
        );
    }
    eventually("the count is told", Duration::from_secs(75), || async {
        let told = space.get("ArtifactDB", "typical").await;
        match told["status"]["index"]["documents"].as_u64() {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let explained = space
        .kubectl(&["explain", "adb.spec.storage.bucket"], "")
        .await
        .unwrap();
    assert!(explained.contains("Name of the bucket"), "{explained}");
    space.end().await;
}

#[tokio::test]
async fn changes_roll_the_right_pods_and_only_those() {
    let space = Space::new("changes").await;
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    let revision = |component: &'static str| {
        let space = &space;
        async move {
            let own = space
                .get("Deployment", &format!("typical-{component}"))
                .await;
            own["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone()
        }
    };
    assert_eq!(
        (revision("api").await, revision("indexer").await),
        (json!("1"), json!("1"))
    );

    // The scale subresource.
    space
        .kubectl(&["scale", "adb/typical", "--replicas=3"], "")
        .await
        .unwrap();
    eventually("three pods", Duration::from_secs(60), || async {
        let own = space.get("Deployment", "typical-api").await;
        match own["status"]["availableReplicas"].as_u64() {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let path = format!(
        "/apis/artifactdb.io/v1alpha1/namespaces/{}/artifactdbs/typical/scale",
        space.name
    );
    let scale = space.kubectl(&["get", "--raw", &path], "").await.unwrap();
    assert!(scale.contains("\"replicas\":3"), "{scale}");
    assert_eq!(revision("api").await, json!("1"), "scaling rolls nothing");

    // One component's own.
    space
        .patch(
            "ArtifactDB",
            "typical",
            json!({"spec": {"indexer": {"concurrency": 3}}}),
        )
        .await;
    eventually("the workers roll", Duration::from_secs(60), || async {
        match revision("indexer").await {
            own if own == json!("2") => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    assert_eq!(revision("api").await, json!("1"));

    // A Secret that both mount.
    let keys = space.get("Secret", "tokens").await;
    assert!(keys["data"].is_object());
    space
        .secret("tokens", &[("keys.json", "{\"keys\": []}")])
        .await;
    eventually("both roll", Duration::from_secs(60), || async {
        match (revision("api").await, revision("indexer").await) {
            (api, indexer) if api == json!("2") && indexer == json!("3") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    space.wait("adb/typical", "condition=Ready", 90).await;

    // Paused: nothing follows until it is not.
    space
        .patch(
            "ArtifactDB",
            "typical",
            json!({"spec": {"paused": true, "indexer": {"concurrency": 4}}}),
        )
        .await;
    space
        .until(
            "ArtifactDB",
            "typical",
            "Progressing",
            ("False", "Paused"),
            Duration::from_secs(20),
        )
        .await;
    assert_eq!(revision("indexer").await, json!("3"));
    space
        .patch("ArtifactDB", "typical", json!({"spec": {"paused": false}}))
        .await;
    eventually("it follows", Duration::from_secs(60), || async {
        match revision("indexer").await {
            own if own == json!("4") => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;

    // Suspended: no API pods.
    space
        .patch("ArtifactDB", "typical", json!({"spec": {"suspend": true}}))
        .await;
    space
        .until(
            "ArtifactDB",
            "typical",
            "Ready",
            ("False", "Suspended"),
            Duration::from_secs(30),
        )
        .await;
    eventually("no pods", Duration::from_secs(60), || async {
        let pods = space.list("Pod", "app.kubernetes.io/component=api").await;
        match pods.is_empty() {
            true => Ok(()),
            false => Err(format!("{:?}", names(&pods))),
        }
    })
    .await;
    space
        .patch("ArtifactDB", "typical", json!({"spec": {"suspend": false}}))
        .await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    space.end().await;
}

#[tokio::test]
async fn drift_is_put_back_and_children_go_with_the_instance() {
    let space = Space::new("drift").await;
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    // Somebody's hand on a child, and a child that is gone.
    space
        .patch(
            "Service",
            "typical",
            json!({"spec": {"selector": {"app.kubernetes.io/component": "indexer"}}}),
        )
        .await;
    space
        .patch(
            "PodDisruptionBudget",
            "typical-api",
            json!({"spec": {"maxUnavailable": 2}}),
        )
        .await;
    space.delete("NetworkPolicy", "typical-api").await;
    eventually("drift is put back", Duration::from_secs(30), || async {
        let service = space.get("Service", "typical").await;
        let budget = space.get("PodDisruptionBudget", "typical-api").await;
        let policy = space.get("NetworkPolicy", "typical-api").await;
        let component = &service["spec"]["selector"]["app.kubernetes.io/component"];
        match component == "api" && budget["spec"]["maxUnavailable"] == 1 && !policy.is_null() {
            true => Ok(()),
            false => Err(format!("{component} {budget} {policy}")),
        }
    })
    .await;

    // The index stays by default.
    let index = format!(
        "{}/artifactdb_{}_typical",
        artifactdb_e2e::variable("ARTIFACTDB_TEST_ES"),
        space.name
    );
    space.delete("ArtifactDB", "typical").await;
    eventually("everything goes", Duration::from_secs(90), || async {
        let mut left = Vec::new();
        for kind in ["Deployment", "Service", "CronJob", "NetworkPolicy", "Pod"] {
            let own = space.list(kind, "app.kubernetes.io/instance=typical").await;
            left.extend(names(&own).into_iter().map(|own| format!("{kind} {own}")));
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(left.join(", ")),
        }
    })
    .await;
    assert_eq!(reqwest::get(&index).await.unwrap().status(), 200);

    // The same name finds its documents again; with the policy Delete its index goes with it.
    let deletes =
        space
            .sample("typical")
            .replacen("spec:\n", "spec:\n  deletionPolicy: Delete\n", 1);
    space.apply(&deletes).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    space
        .kubectl(&["delete", "adb/typical", "--timeout=90s"], "")
        .await
        .unwrap();
    assert_eq!(reqwest::get(&index).await.unwrap().status(), 404);
    space.end().await;
}

#[tokio::test]
async fn an_instance_is_deleted_although_elasticsearch_is_away() {
    let space = Space::new("away").await;
    let text = space
        .sample("typical")
        .replacen("spec:\n", "spec:\n  deletionPolicy: Delete\n", 1)
        .replace(
            &artifactdb_e2e::variable("ARTIFACTDB_TEST_ES"),
            "http://127.0.0.1:9",
        );
    space.apply(&text).await;
    space
        .until(
            "ArtifactDB",
            "typical",
            "Degraded",
            ("True", "ElasticsearchUnavailable"),
            Duration::from_secs(60),
        )
        .await;
    let deleting = space
        .kubectl(&["delete", "adb/typical", "--wait=false"], "")
        .await;
    deleting.unwrap();
    let message = space
        .until(
            "ArtifactDB",
            "typical",
            "Degraded",
            ("True", "CleanupFailed"),
            Duration::from_secs(120),
        )
        .await;
    assert!(
        message.contains("artifactdb.io/cleanup-timeout"),
        "{message}"
    );
    space
        .kubectl(
            &[
                "annotate",
                "adb/typical",
                "artifactdb.io/cleanup-timeout=0s",
            ],
            "",
        )
        .await
        .unwrap();
    space.wait("adb/typical", "delete", 60).await;
    space.end().await;
}
