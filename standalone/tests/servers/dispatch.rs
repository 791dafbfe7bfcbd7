//! Plugins on real servers: the dispatcher as a process that is killed, against a Kubernetes API that is
//! full, away, or loses its answers; and runs as the API shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use artifactdb_core::config::{InstanceConfig, PluginsConfig};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, QUICKSTART, Server, table};

const EVENTS: usize = 60;

/// The part of a Kubernetes API that makes Jobs.
#[derive(Clone, Default)]
struct Cluster {
    jobs: Arc<Mutex<BTreeMap<String, Value>>>,
    asked: Arc<AtomicUsize>,
}

fn refusal(code: u16, reason: &str, message: &str) -> (StatusCode, Json<Value>) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (StatusCode::from_u16(code).unwrap(), Json(status))
}

async fn create(
    State(cluster): State<Cluster>,
    Json(job): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let asked = cluster.asked.fetch_add(1, Ordering::SeqCst);
    match asked % 10 {
        3 => {
            return refusal(
                403,
                "Forbidden",
                "jobs.batch is forbidden: exceeded quota: jobs",
            );
        }
        5 => return refusal(429, "TooManyRequests", "later"),
        7 => return refusal(500, "InternalError", "etcdserver: leader changed"),
        _ => {}
    }
    let name = job["metadata"]["name"].as_str().unwrap().to_owned();
    let mut jobs = cluster.jobs.lock();
    if jobs.contains_key(&name) {
        return refusal(409, "AlreadyExists", "it is there");
    }
    jobs.insert(name, job.clone());
    match asked % 10 {
        // It is made, and nobody hears of it.
        9 => refusal(504, "Timeout", "the answer was lost"),
        _ => (StatusCode::CREATED, Json(job)),
    }
}

fn plugins(config: &mut InstanceConfig) {
    config.plugins = serde_json::from_value::<PluginsConfig>(json!({
        "issuer": "https://kubernetes.default.svc", "audience": "artifactdb/x",
        "items": [{"name": "p", "subject": "system:serviceaccount:x:p", "interest": {"on": ["completed"]}}],
    }))
    .unwrap();
}

/// What the operator gives a dispatcher: its plugins, and where Kubernetes is.
fn dispatcher(server: &Server, folder: &Path, api: &str) -> std::process::Command {
    let plugins = json!([{
        "name": "p", "prefix": "i-plugin-p", "since": "2020-01-01T00:00:00Z",
        "interest": {"on": ["completed"]},
        "job": {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"annotations": {}},
            "spec": {"suspend": true, "template": {"spec": {
                "containers": [{"name": "plugin", "image": "p:1", "env": []}],
            }}},
        },
    }]);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": api}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    let file = |name: &str, content: &Value| {
        let path = folder.join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path
    };
    let mut command = server.real().command("artifactdb-indexer");
    command
        .arg("dispatch")
        .arg("--plugins")
        .arg(file("plugins.json", &plugins))
        .env("KUBECONFIG", file("kubeconfig", &kubeconfig));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_killed_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::configured(Backend::Real, Path::new(QUICKSTART), plugins).await;
    let cluster = Cluster::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new()
        .route("/apis/batch/v1/namespaces/{namespace}/jobs", post(create))
        .with_state(cluster.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let command = dispatcher(&server, folder.path(), &api);
    let place = server.spawn(&command);
    let public = json!({"read_access": "public"});
    for number in 0..EVENTS {
        let version = number.to_string();
        let files = table("a.csv", &version, "dispatched", 1);
        server.upload("events", &version, &files, &public).await;
        if number % 10 == 9 {
            server.replace(place);
        }
    }
    let (_, page) = server.get("/events?stage=completed&size=500").await;
    let wanted: BTreeSet<String> = page["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| format!("i-plugin-p-{}", &own["id"].as_str().unwrap()[..16]))
        .collect();
    assert_eq!(wanted.len(), EVENTS);
    let begun = Instant::now();
    while cluster.jobs.lock().len() < EVENTS {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let made: BTreeSet<String> = cluster.jobs.lock().keys().cloned().collect();
    assert_eq!(made, wanted);
    // What was dispatched is not asked for again, once it is kept that it was.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = cluster.asked.load(Ordering::SeqCst);
    server.replace(place);
    let files = table("a.csv", "last", "dispatched", 1);
    server.upload("events", "last", &files, &public).await;
    let begun = Instant::now();
    while cluster.jobs.lock().len() <= EVENTS {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = cluster.asked.load(Ordering::SeqCst) - asked;
    assert!(again <= 5, "{again} Jobs were asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_starts_a_plugin_and_sees_its_runs() {
    let mut server = Server::configured(Backend::Real, Path::new(QUICKSTART), plugins).await;
    let runs = tempfile::tempdir().unwrap();
    server.kill();
    server.set_env("ARTIFACTDB_RUNS", runs.path().to_str().unwrap());
    server.restart().await;
    let run = |body: Value| {
        let (server, token) = (&server, server.token.clone());
        async move {
            server
                .call(Method::PUT, "/task/run", &token, Some(body))
                .await
        }
    };
    let (status, accepted) = run(json!({"name": "plugin:p", "params": {"depth": 3}})).await;
    assert_eq!(status, 202, "{accepted}");
    let job = accepted["path"].as_str().unwrap();
    let (_, page) = server.get("/events?stage=requested").await;
    let event = &page["results"][0];
    assert_eq!(
        event["message"],
        json!({"plugin": "p", "params": {"depth": 3}, "by": "admin"})
    );
    assert_eq!(server.get(job).await.1["status"], "PENDING");
    let ended = json!([{
        "job": "i-plugin-p-0", "instance": "quickstart", "event": event["id"],
        "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:05Z",
        "succeeded": false, "exitCode": 7, "log": "it broke",
    }]);
    std::fs::write(runs.path().join("p"), ended.to_string()).unwrap();
    let (_, record) = server.get(job).await;
    assert_eq!(record["status"], "FAILURE", "{record}");
    assert_eq!(record["traceback"], "it broke");
    assert_eq!(record["result"]["exit_code"], 7);
    let (_, logs) = server.get("/tasks/logs").await;
    let line = logs["plugin:p"][0]["logs"][0].as_str().unwrap();
    assert!(line.contains("it broke"), "{logs}");
    let (_, known) = server.get("/plugins").await;
    assert_eq!(known["plugins"][0]["last_run"]["exit_code"], 7);
    // What the operator has not written whole is not known, and breaks nothing.
    std::fs::write(runs.path().join("p"), "[{").unwrap();
    assert_eq!(
        server.get("/plugins").await.1["plugins"][0]["last_run"],
        Value::Null
    );
    let long = "x".repeat(20_000);
    let (status, _) = run(json!({"name": "plugin:p", "params": {"long": long}})).await;
    assert_eq!(status, 422);
    let (status, _) = run(json!({"name": "plugin:q"})).await;
    assert_eq!(status, 404);
}
