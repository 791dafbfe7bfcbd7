//! The reconcile against an API server that fails: whichever call it is, what is left is mended by
//! the next process; and what is as it should be is not written again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;

use std::collections::BTreeSet;
use std::sync::Arc;

use artifactdb_operator::instance;
use artifactdb_operator::operator::Operator;
use artifactdb_operator::render::Images;
use artifactdb_operator::world::World;
use fake::{ApiServer, Fault};
use serde_json::{Value, json};

/// An instance with most kinds of children. Nobody answers at its engine, which is part of the tests:
/// the rest goes on.
fn cluster() -> ApiServer {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = ApiServer::default();
    let secret = |name: &str, keys: &[&str]| {
        let data: serde_json::Map<String, Value> = keys
            .iter()
            .map(|key| ((*key).to_owned(), json!("eA==")))
            .collect();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    };
    server.put("secrets", secret("storage", &["accessKey", "secretKey"]));
    server.put("artifactdbs", instance_object());
    server.put(
        "artifactschemas",
        json!({
            "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactSchema",
            "metadata": {"name": "table-v1"},
            "spec": {"type": "table", "version": "v1", "schema": {"properties": {"title": {"type": "string"}}}},
        }),
    );
    server
}

fn instance_object() -> Value {
    json!({
        "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactDB",
        "metadata": {"name": "typical"},
        "spec": {
            "deletionPolicy": "Delete",
            "storage": [{"alias": "main", "bucket": "some-bucket", "credentialsSecretRef": {"name": "storage"}}],
            "elasticsearch": {"urls": ["http://127.0.0.1:9"]},
            "redis": {"url": "redis://127.0.0.1:9"},
            "api": {"autoscaling": {"min": 1, "max": 3}},
            "ingress": {"host": "data.example.org"},
        },
    })
}

/// One process: it sees everything, reconciles every instance once, and dies.
async fn process(server: &ApiServer) -> Result<(), String> {
    let client = server.client();
    let (world, _queues) = World::watch(client.clone(), None);
    world.ready().await;
    let operator = Operator::new(world.clone(), client, Images::of_release(), "test");
    let operator = Arc::new(operator);
    let mut outcome = Ok(());
    for guard in world.instances.state() {
        let done = instance::reconcile(guard, operator.clone()).await;
        outcome = outcome.and(done.map(|_| ()).map_err(|error| error.to_string()));
    }
    outcome
}

/// Processes, one after the other, until one has nothing to write. Returns how many there were.
async fn settle(server: &ApiServer) -> usize {
    for number in 1..10 {
        server.begin(None);
        process(server).await.unwrap();
        if server.writes().is_empty() {
            return number;
        }
    }
    panic!("it never settles: {:?}", server.writes());
}

#[tokio::test]
async fn whichever_call_fails_the_end_is_the_same() {
    let server = cluster();
    server.begin(None);
    process(&server).await.unwrap();
    let calls = server.writes().len();
    settle(&server).await;
    let wanted = server.state();
    let kinds: BTreeSet<&str> = wanted.keys().map(|key| &*key.0).collect();
    assert!(calls >= 15 && kinds.len() >= 12, "{calls} {kinds:?}");
    let mut tried = tokio::task::JoinSet::new();
    for fault in (1..=calls).flat_map(|number| [Fault::Before(number), Fault::After(number)]) {
        let wanted = wanted.clone();
        tried.spawn(async move {
            let server = cluster();
            server.begin(Some(fault));
            let broken = process(&server).await;
            assert!(server.failed() && broken.is_err(), "{fault:?}: {broken:?}");
            settle(&server).await;
            assert_eq!(server.state(), wanted, "{fault:?}");
        });
    }
    while let Some(one) = tried.join_next().await {
        one.unwrap();
    }
    println!("{calls} calls, each failed before and after it was done");
}

#[tokio::test]
async fn nothing_is_written_that_is_as_it_should_be() {
    let server = cluster();
    assert!(settle(&server).await <= 3);
    // What somebody changed while no process watched is put back, and nothing else is written.
    let mut service = server.get("services", "typical");
    service["spec"]["selector"] = json!({"app": "other"});
    server.put("services", service);
    server.begin(None);
    process(&server).await.unwrap();
    let writes = server.writes();
    assert_eq!(
        writes,
        ["PATCH /api/v1/namespaces/default/services/typical"]
    );
    let selector = &server.get("services", "typical")["spec"]["selector"];
    assert_eq!(selector["app.kubernetes.io/component"], "api");
    // What an autoscaler decided stays.
    let mut deployment = server.get("deployments", "typical-api");
    deployment["spec"]["replicas"] = json!(3);
    server.put("deployments", deployment);
    server.begin(None);
    process(&server).await.unwrap();
    assert!(
        server.writes().iter().all(|own| own.ends_with("/status")),
        "{:?}",
        server.writes()
    );
    let mut instance = instance_object();
    instance["metadata"]["finalizers"] = json!(["artifactdb.io/index"]);
    instance["spec"]["description"] = json!("another");
    instance["status"] = server.get("artifactdbs", "typical")["status"].clone();
    server.put("artifactdbs", instance);
    settle(&server).await;
    assert_eq!(
        server.get("deployments", "typical-api")["spec"]["replicas"],
        3
    );
}

#[tokio::test]
async fn one_that_cannot_be_read_stalls_nothing() {
    let server = cluster();
    let mut broken = instance_object();
    broken["metadata"]["name"] = json!("broken");
    broken["spec"]["storage"] = json!("a text");
    server.put("artifactdbs", broken);
    process(&server).await.unwrap();
    let told = server.get("artifactdbs", "broken")["status"]["conditions"].clone();
    assert_eq!(told[0]["reason"], "Undecodable");
    assert!(
        told[0]["message"].as_str().unwrap().contains("a text"),
        "{told}"
    );
    assert!(server.get("deployments", "typical-api").is_object());
    assert!(server.get("deployments", "broken-api").is_null());
}

/// Which index it had cannot be known; what others wait for is theirs.
#[tokio::test]
async fn one_that_cannot_be_read_can_be_deleted() {
    let server = cluster();
    let mut broken = instance_object();
    broken["metadata"]["name"] = json!("broken");
    broken["metadata"]["finalizers"] = json!(["example.org/theirs", "artifactdb.io/index"]);
    broken["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    broken["spec"]["storage"] = json!("a text");
    server.put("artifactdbs", broken);
    process(&server).await.unwrap();
    let left = &server.get("artifactdbs", "broken")["metadata"]["finalizers"];
    assert_eq!(*left, json!(["example.org/theirs"]));
}

#[tokio::test]
async fn what_is_no_longer_wanted_goes() {
    let server = cluster();
    settle(&server).await;
    let mut instance = server.get("artifactdbs", "typical");
    instance["spec"].as_object_mut().unwrap().remove("ingress");
    instance["spec"]["api"] = json!({"replicas": 1});
    instance["spec"]["networkPolicy"] = json!({"enabled": false});
    server.put("artifactdbs", instance);
    settle(&server).await;
    for (plural, name) in [
        ("ingresses", "typical"),
        ("horizontalpodautoscalers", "typical-api"),
        ("networkpolicies", "typical-api"),
        ("networkpolicies", "typical-indexer"),
    ] {
        assert!(server.get(plural, name).is_null(), "{plural} {name}");
    }
    assert_eq!(
        server.get("deployments", "typical-api")["spec"]["replicas"],
        1
    );
    // The key that was made once is there still.
    assert!(server.get("secrets", "typical-signing")["data"]["key"].is_string());
}

/// The watch tells of a CronJob of ours as an echo of the write, which is passed over: the write itself
/// has to wake the plugin that waits for it.
#[tokio::test]
async fn who_waits_for_a_cron_job_is_woken_by_its_write() {
    let server = cluster();
    let plugin = json!({
        "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactPlugin",
        "metadata": {"name": "waits"},
        "spec": {"image": "registry.example.org/plugin:1"},
    });
    server.put("artifactplugins", plugin);
    let client = server.client();
    let (world, mut queues) = World::watch(client.clone(), None);
    world.ready().await;
    while queues.plugins.try_recv().is_ok() {}
    let operator = Operator::new(world.clone(), client, Images::of_release(), "test");
    let operator = Arc::new(operator);
    for guard in world.instances.state() {
        instance::reconcile(guard, operator.clone()).await.unwrap();
    }
    assert!(server.get("cronjobs", "typical-plugin-waits").is_object());
    let woken = queues.plugins.try_recv().unwrap();
    assert_eq!(woken.name, "waits");
}
