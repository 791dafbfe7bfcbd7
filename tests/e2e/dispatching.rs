//! The dispatcher's bench (`make bench`): from an event to its Job, against a plain client that makes
//! the same Jobs; memory and writes while nothing happens. Pods match no node and stay pending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use artifactdb_e2e::table::{Limit, Table};
use artifactdb_e2e::{Instance, Space, eventually, memory, table};
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, PostParams, WatchEvent, WatchParams};
use serde_json::json;

const EVENTS: usize = 200;
/// Between two events: each is dispatched by itself.
const PAUSE: Duration = Duration::from_millis(150);
const QUIET: Duration = Duration::from_secs(60);

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// When Jobs were first seen in a watch, by name.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<String, f64>>>);

impl Seen {
    /// Watches the Jobs of a namespace.
    fn watch(space: &Space) -> Self {
        let seen = Self::default();
        let (own, api) = (seen.clone(), space.api("Job"));
        tokio::spawn(async move {
            loop {
                // Bookmarks ask more of etcd than an old one gives.
                let parameters = WatchParams::default().disable_bookmarks();
                let stream = api.watch(&parameters, "0").await.unwrap();
                let mut stream = Box::pin(stream);
                while let Some(event) = stream.next().await {
                    let at = now();
                    match event {
                        Ok(WatchEvent::Added(job)) => {
                            own.0.lock().unwrap().entry(job.name_any()).or_insert(at);
                        }
                        Ok(WatchEvent::Error(status)) => panic!("{}", status.message),
                        Ok(_) => {}
                        // It ends from time to time, and is begun again.
                        Err(_) => break,
                    }
                }
            }
        });
        seen
    }

    fn at(&self, name: &str) -> Option<f64> {
        self.0.lock().unwrap().get(name).copied()
    }

    async fn all(&self, names: impl Iterator<Item = String> + Clone) {
        eventually("every Job is seen", Duration::from_secs(60), || {
            let missing = names.clone().filter(|name| self.at(name).is_none()).count();
            async move {
                match missing {
                    0 => Ok(()),
                    missing => Err(format!("{missing} are missing")),
                }
            }
        })
        .await;
    }
}

/// The values below which half and 99 of a hundred are, in milliseconds.
fn percentiles(mut all: Vec<f64>) -> (f64, f64) {
    all.sort_by(f64::total_cmp);
    let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize] * 1000.0;
    (at(0.5), at(0.99))
}

async fn events(instance: &Instance) -> HashMap<String, f64> {
    let mut next = "/events?stage=completed&project=bench&size=500".to_owned();
    let mut all = HashMap::new();
    loop {
        let (_, page) = instance.get(&next).await.unwrap();
        for event in page["results"].as_array().unwrap() {
            let time: k8s_openapi::jiff::Timestamp =
                event["time"].as_str().unwrap().parse().unwrap();
            let id = event["id"].as_str().unwrap().to_owned();
            all.insert(id, time.as_nanosecond() as f64 / 1e9);
        }
        match page["next"].as_str() {
            Some(path) => next = path.to_owned(),
            None => return all,
        }
    }
}

/// Writes to this namespace in the API server's audit log by accounts of our own, where this machine
/// runs it.
fn audited(space: &Space) -> Option<usize> {
    let path = std::env::var_os("ARTIFACTDB_E2E_AUDIT")?;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let accounts = [
        "system:serviceaccount:artifactdb-system:".to_owned(),
        format!("system:serviceaccount:{}:", space.name),
    ];
    let here = format!("\"namespace\":\"{}\"", space.name);
    let own =
        |line: &&str| line.contains(&here) && accounts.iter().any(|account| line.contains(account));
    Some(text.lines().filter(own).count())
}

#[tokio::main]
async fn main() -> ExitCode {
    let space = Space::new("dispatching").await;
    space.apply(&space.sample("typical")).await;
    let plugin = json!({
        "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactPlugin",
        "metadata": {"name": "p"},
        "spec": {
            "image": "registry.example.org/plugin:1", "on": ["completed"], "projects": ["bench"],
            "concurrency": 1, "timeout": "1h",
            "podTemplate": {"spec": {"nodeSelector": {"artifactdb.io/bench": "nowhere"}}},
        },
    });
    space.apply(&plugin.to_string()).await;
    space.wait("adbplugin/p", "condition=Ready", 60).await;
    space.wait("adb/typical", "condition=Ready", 90).await;
    let instance = space.instance("typical").await;
    instance
        .upload("bench", "0", &table("a.csv", "0", "bench"))
        .await;

    // Everything has been used once, and the operator has looked again; nothing happens.
    tokio::time::sleep(Duration::from_secs(80)).await;
    let before = audited(&space);
    tokio::time::sleep(QUIET).await;
    let quiet = audited(&space).zip(before).map(|(now, then)| now - then);
    let idle = memory("/artifactdb-indexer\0dispatch\0").map(|(now, _)| now);

    let seen = Seen::watch(&space);
    for number in 1..=EVENTS {
        let version = number.to_string();
        let files = table("a.csv", &version, "bench");
        instance.complete("bench", &version, &files).await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    let happened = events(&instance).await;
    let job = |id: &String| format!("typical-plugin-p-{}", &id[..16]);
    seen.all(happened.keys().map(job)).await;
    let ours = happened
        .iter()
        .map(|(id, at)| seen.at(&job(id)).unwrap() - at);
    let (own_half, own_most) = percentiles(ours.collect());

    // The same Jobs by a client that does nothing else.
    let model = happened.keys().next().map(job).unwrap();
    let mut model = space.get("Job", &model).await;
    let meta = model["metadata"].as_object_mut().unwrap();
    meta.retain(|name, _| ["labels", "annotations"].contains(&&**name));
    meta["labels"].as_object_mut().unwrap().clear();
    for name in ["selector", "manualSelector"] {
        model["spec"].as_object_mut().unwrap().remove(name);
    }
    model["spec"]["template"]["metadata"] = json!({});
    model["spec"]["suspend"] = json!(true);
    model.as_object_mut().unwrap().remove("status");
    let api: Api<DynamicObject> = space.api("Job");
    let mut plain = HashMap::new();
    for number in 0..EVENTS {
        let name = format!("plain-{number}");
        model["metadata"]["name"] = json!(name);
        let object = serde_json::from_value(model.clone()).unwrap();
        plain.insert(name, now());
        api.create(&PostParams::default(), &object).await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    seen.all(plain.keys().cloned()).await;
    let theirs = plain.iter().map(|(name, at)| seen.at(name).unwrap() - at);
    let (raw_half, raw_most) = percentiles(theirs.collect());

    let mut table = Table::default();
    table.row("plain client: Job made, p50 in ms", raw_half, None);
    table.row("plain client: Job made, p99 in ms", raw_most, None);
    table.row("event to Job, p50 in ms", own_half, None);
    table.row("event to Job, p99 in ms", own_most, None);
    table.row(
        "event to Job / plain client, p50",
        own_half / raw_half,
        None,
    );
    table.row(
        "event to Job / plain client, p99",
        own_most / raw_most,
        None,
    );
    if let Some(idle) = idle {
        table.row(
            "dispatcher: idle memory, MB",
            idle,
            Some(Limit::AtMost(25.0)),
        );
    }
    if let Some(quiet) = quiet {
        let name = format!("writes in {} s in which nothing happens", QUIET.as_secs());
        table.row(&name, quiet as f64, Some(Limit::AtMost(0.0)));
    }
    space.end().await;
    table.end()
}
