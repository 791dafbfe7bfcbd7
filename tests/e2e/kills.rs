//! Pods die at random under uploads, the operator among them: nothing acknowledged is lost, and while
//! the operator is away everything served stays as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use artifactdb_e2e::{Space, eventually, names, table};
use futures::future::join_all;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use serde_json::json;

const OPERATOR: &str = "artifactdb-system";
/// How long pods die.
const DYING: Duration = Duration::from_secs(120);
const WRITERS: usize = 4;

/// Deletes a pod without grace: the API server forgets it at once, its processes are told to stop.
async fn delete_one(api: &Api<DynamicObject>, labels: &str) -> bool {
    let Ok(pods) = api.list(&ListParams::default().labels(labels)).await else {
        return false;
    };
    let running: Vec<_> = pods
        .items
        .iter()
        .filter(|own| own.metadata.deletion_timestamp.is_none())
        .collect();
    if running.is_empty() {
        return false;
    }
    let chosen = running[rand::random_range(0..running.len())];
    let now = DeleteParams::default().grace_period(0);
    let name = chosen.metadata.name.as_deref().unwrap();
    api.delete(name, &now).await.is_ok()
}

/// Kills a process of a pod in the middle of what it does, where pods run on this machine.
pub(crate) fn kill_one(binary: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return false;
    };
    let mut found: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(format!("{binary}\0").as_bytes())
        })
        .collect();
    if found.is_empty() {
        return false;
    }
    let pid = found.swap_remove(rand::random_range(0..found.len()));
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid])
        .status();
    killed.is_ok_and(|status| status.success())
}

/// Deletes the pods that the kubelet starts again only after a pause (up to five minutes for one that
/// died often): what is tested is what the next ones find.
async fn end_pauses(api: &Api<DynamicObject>) {
    let pods = api.list(&ListParams::default()).await.unwrap();
    for pod in pods {
        let statuses = pod.data["status"]["containerStatuses"].as_array();
        let pauses = statuses.into_iter().flatten();
        if pauses
            .filter(|own| own["state"]["waiting"].is_object())
            .count()
            > 0
        {
            let name = pod.metadata.name.as_deref().unwrap();
            let _ = api.delete(name, &DeleteParams::default()).await;
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_while_pods_die() {
    let space = Space::new("kills").await;
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    let instance = space.instance("typical").await;
    let pods = space.api("Pod");
    let operators: Api<DynamicObject> = Api::namespaced_with(
        space.client.clone(),
        OPERATOR,
        &artifactdb_e2e::resource("Pod"),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let tried = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (instance, stop, tried) = (instance.clone(), stop.clone(), tried.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    tried.fetch_add(1, Ordering::Relaxed);
                    let version = number.to_string();
                    let files = table("a.csv", &format!("{writer} {number}"), "killed");
                    let project = format!("writer{writer}");
                    if instance.complete(&project, &version, &files).await.is_ok() {
                        acknowledged.push(format!("{project}:a.csv@{version}"));
                    }
                }
                acknowledged
            })
        })
        .collect();
    let begun = Instant::now();
    let (mut deleted, mut killed) = ([0; 3], [0; 3]);
    let local = std::env::var("ARTIFACTDB_E2E_LOCAL").is_ok();
    while begun.elapsed() < DYING {
        let which = rand::random_range(0..3);
        let (api, labels, binary) = [
            (&pods, "app.kubernetes.io/component=api", "/artifactdb-api"),
            (
                &pods,
                "app.kubernetes.io/component=indexer",
                "/artifactdb-indexer",
            ),
            (
                &operators,
                "app.kubernetes.io/name=artifactdb-operator",
                "/artifactdb-operator",
            ),
        ][which];
        if local && rand::random() {
            killed[which] += usize::from(kill_one(binary));
        } else {
            deleted[which] += usize::from(delete_one(api, labels).await);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> = join_all(writers)
        .await
        .into_iter()
        .flat_map(|one| one.unwrap())
        .collect();
    println!(
        "api, indexer, operator: killed {killed:?}, deleted {deleted:?}; {} uploads tried, {} acknowledged",
        tried.load(Ordering::Relaxed),
        acknowledged.len()
    );
    assert!(deleted.iter().all(|count| *count > 2) && acknowledged.len() > 50);
    assert!(!local || killed.iter().all(|count| *count > 2));
    end_pauses(&pods).await;
    end_pauses(&operators).await;
    space.wait("adb/typical", "condition=Ready", 120).await;
    let begun = Instant::now();
    // What no worker finished the sweeper finds.
    let all = acknowledged.len() as u64;
    eventually(
        "everything acknowledged is found",
        Duration::from_secs(300),
        || async {
            match instance.count("title:killed").await? {
                found if found >= all => Ok(()),
                found => Err(format!("{found} of {all}")),
            }
        },
    )
    .await;
    println!(
        "found {:.0} s after the API was ready",
        begun.elapsed().as_secs_f64()
    );
    for id in acknowledged.iter().step_by(7) {
        let content = instance.download(id).await;
        let (writer, number) = id.split_once(":a.csv@").unwrap();
        assert_eq!(
            String::from_utf8(content).unwrap(),
            format!("{} {number}", writer.trim_start_matches("writer"))
        );
    }
    space.end().await;
}

#[tokio::test]
async fn the_operator_away_changes_nothing_served() {
    let space = Space::new("absence").await;
    space.apply(&space.sample("typical")).await;
    space.wait("adb/typical", "condition=Ready", 60).await;
    let instance = space.instance("typical").await;
    let before = names_of(&space).await;
    let scale = |replicas: u32| {
        let replicas = format!("--replicas={replicas}");
        let space = &space;
        async move {
            let operator = [
                "-n",
                OPERATOR,
                "scale",
                "deployment/artifactdb-operator",
                &replicas,
            ];
            space.kubectl(&operator, "").await.unwrap();
        }
    };
    scale(0).await;
    let operators: Api<DynamicObject> = Api::namespaced_with(
        space.client.clone(),
        OPERATOR,
        &artifactdb_e2e::resource("Pod"),
    );
    eventually("no operator", Duration::from_secs(60), || async {
        let left = operators
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len();
        match left {
            0 => Ok(()),
            left => Err(format!("{left} pods")),
        }
    })
    .await;
    for number in 1..=10 {
        let version = number.to_string();
        instance
            .upload("alone", &version, &table("a.csv", &version, "alone"))
            .await;
    }
    assert_eq!(instance.count("title:alone").await, Ok(10));
    space
        .patch(
            "ArtifactDB",
            "typical",
            json!({"spec": {"indexer": {"concurrency": 5}}}),
        )
        .await;
    scale(1).await;
    // Changes that came meanwhile are found, and the API was left as it was.
    eventually("the change is made", Duration::from_secs(90), || async {
        let own = space.get("Deployment", "typical-indexer").await;
        match own["spec"]["template"]["spec"]["containers"][0]["command"].to_string() {
            text if text.contains("\"5\"") => Ok(()),
            text => Err(text),
        }
    })
    .await;
    assert_eq!(names_of(&space).await, before);
    space.end().await;
}

async fn names_of(space: &Space) -> Vec<String> {
    let pods = space.list("Pod", "app.kubernetes.io/component=api").await;
    let mut all: Vec<String> = names(&pods).into_iter().map(str::to_owned).collect();
    all.sort();
    all
}
