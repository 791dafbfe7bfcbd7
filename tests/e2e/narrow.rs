//! The operator in one namespace, with a Role and no ClusterRole.

use artifactdb_e2e::Space;

const INSTALL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../config/install-namespaced"
);

#[tokio::test]
async fn a_role_is_enough_for_one_namespace() {
    let space = Space::new("narrow").await;
    let wide = |replicas: &'static str| {
        let space = &space;
        async move {
            let scale = [
                "-n",
                "artifactdb-system",
                "scale",
                "deployment/artifactdb-operator",
                replicas,
            ];
            space.kubectl(&scale, "").await.unwrap();
        }
    };
    wide("--replicas=0").await;
    let text = space.kubectl(&["kustomize", INSTALL], "").await.unwrap();
    assert!(!text.contains("kind: Cluster"), "{text}");
    let own = format!("namespace: {}", space.name);
    space
        .apply(&text.replace("namespace: artifactdb", &own))
        .await;
    space
        .wait("deployment/artifactdb-operator", "condition=Available", 60)
        .await;
    space.apply(&space.sample("smallest")).await;
    space.wait("adb/smallest", "condition=Ready", 60).await;
    let instance = space.instance("smallest").await;
    // It knows none of the tests' keys: whoever asks is anonymous.
    let about = instance.http.get(&instance.url).send().await.unwrap();
    let log = space
        .kubectl(&["logs", "deployment/artifactdb-operator"], "")
        .await
        .unwrap();
    wide("--replicas=1").await;
    assert_eq!(about.status(), 200);
    assert!(!log.contains("forbidden"), "{log}");
    space.end().await;
}
