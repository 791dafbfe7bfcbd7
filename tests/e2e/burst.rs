//! A thousand events at once, and everything between them and their Jobs killed in the middle: every
//! event leads to one Job for each plugin that waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use artifactdb_e2e::{Instance, Space, eventually, table};
use futures::future::join_all;
use serde_json::{Value, json};

use super::kills::kill_one;
use super::plugins::scripted;

const EVENTS: usize = 1000;
/// Of them, those that a second plugin waits for.
const FEW: usize = 50;
const WRITERS: usize = 4;
/// Runs at the same time.
const TOGETHER: usize = 12;

/// Uploads an empty version named after the event, as a plugin that has something to say would.
const WRITES: &str = r#"
set -eu
ask() { into=$1; shift; curl -sS --fail-with-body --retry 10 --retry-connrefused -o "$into" -H "Authorization: Bearer $(cat $ARTIFACTDB_TOKEN_FILE)" "$@"; }
id=$(printf %s "$ARTIFACTDB_EVENT" | jq -r .id)
printf %s "$ARTIFACTDB_EVENT" > /tmp/event.txt
begin() { status=$(ask /tmp/begun -w '%{http_code}' "$ARTIFACTDB_URL/projects/written-$ARTIFACTDB_PLUGIN/version/$id/upload" -d '{"filenames": ["event.txt"], "completed_by": "in 1 minutes"}') || true; }
begin
# An attempt that got no answer may have begun it.
while [ "$status" = 423 ]; do sleep 5; begin; done
if [ "$status" = 400 ] && grep -q 'already exists' /tmp/begun; then exit 0; fi
[ "$status" = 200 ] || { cat /tmp/begun; exit 1; }
curl -sS --fail-with-body --retry 10 --retry-connrefused -T /tmp/event.txt "$(jq -r '.presigned_urls["event.txt"]' /tmp/begun)"
ask /tmp/job -X PUT "$ARTIFACTDB_URL$(jq -r .completion_url /tmp/begun)"
"#;

fn script(path: &str, argument: &str) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let status = Command::new(format!("{root}/{path}"))
        .arg(argument)
        .status()
        .unwrap();
    assert!(status.success(), "{path} {argument}");
}

/// The ids of the events that the log has, with their versions.
async fn logged(instance: &Instance, query: &str) -> BTreeMap<String, String> {
    let mut next = format!("/events?size=500&{query}");
    let mut ids = BTreeMap::new();
    loop {
        let (status, page) = instance.get(&next).await.unwrap();
        assert_eq!(status, 200, "{page}");
        let all = page["results"].as_array().unwrap();
        let text = |own: &Value, name: &str| own[name].as_str().unwrap().to_owned();
        ids.extend(
            all.iter()
                .map(|own| (text(own, "id"), text(own, "version"))),
        );
        match page["next"].as_str() {
            Some(path) => next = path.to_owned(),
            None => return ids,
        }
    }
}

/// How many Jobs there are of each event.
async fn jobs(space: &Space, plugin: &str) -> BTreeMap<String, usize> {
    let labels = format!("artifactdb.io/plugin={plugin}");
    let mut all = BTreeMap::new();
    for job in space.list("Job", &labels).await {
        let annotations = &job["metadata"]["annotations"];
        let event = annotations["artifactdb.io/event"].as_str().unwrap();
        let name = job["metadata"]["name"].as_str().unwrap();
        assert!(
            name.ends_with(&event[..16]),
            "{name} is not named after {event}"
        );
        *all.entry(event.to_owned()).or_insert(0) += 1;
    }
    all
}

#[tokio::test]
async fn every_event_of_a_burst_leads_to_one_job() {
    let local = std::env::var("ARTIFACTDB_E2E_LOCAL").is_ok();
    let space = Space::new("burst").await;
    space.apply(&space.sample("typical")).await;
    let resources = json!({"requests": {"cpu": "1m", "memory": "8Mi"}});
    for (name, more) in [
        ("all", json!({"on": ["completed"], "projects": ["burst*"]})),
        (
            "few",
            json!({"on": ["completed"], "projects": ["burst-few"]}),
        ),
    ] {
        let mut more = more;
        more["access"] = json!({"write": [format!("written-{name}")]});
        more["concurrency"] = json!(TOGETHER);
        more["retries"] = json!(4);
        more["resources"] = resources.clone();
        space.apply(&scripted(name, &more, WRITES)).await;
        space
            .wait(&format!("adbplugin/{name}"), "condition=Ready", 60)
            .await;
    }
    space.wait("adb/typical", "condition=Ready", 90).await;
    let instance = space.instance("typical").await;

    // Uploads go on while things die; what is not acknowledged is tried again as another version.
    let begun = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let instance = instance.clone();
        tokio::spawn(async move {
            let (mut number, mut done) = (0, 0);
            while done < EVENTS / WRITERS {
                number += 1;
                // The first writer's first versions are the few.
                let project = match writer == 0 && done < FEW {
                    true => "burst-few".to_owned(),
                    false => format!("burst-{writer}"),
                };
                let version = number.to_string();
                let files = table("a.csv", &format!("{writer} {number}"), "burst");
                match instance.complete(&project, &version, &files).await {
                    Ok(_) => done += 1,
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    if local {
        for (at, what) in [(250, "dispatcher"), (450, "redis"), (650, "kube-apiserver")] {
            eventually("the burst goes on", Duration::from_secs(120), || async {
                match jobs(&space, "all").await.len() {
                    own if own >= at => Ok(()),
                    own => Err(format!("{own} Jobs")),
                }
            })
            .await;
            match what {
                "dispatcher" => assert!(kill_one("/artifactdb-indexer\0dispatch")),
                "redis" => script("scripts/services.sh", "kill-redis"),
                _ => script("tests/e2e/node.sh", "kill-api"),
            }
            println!("killed {what} after {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    println!("{EVENTS} uploads in {:.1} s", begun.elapsed().as_secs_f64());

    // What was not acknowledged may still have been completed: the log says what happened.
    let wanted = [
        ("all", logged(&instance, "stage=completed").await),
        (
            "few",
            logged(&instance, "stage=completed&project=burst-few").await,
        ),
    ];
    for (plugin, events) in wanted {
        // But for what the plugins write themselves.
        let own = logged(&instance, "stage=completed&project=written-all,written-few").await;
        let events: BTreeSet<String> = events
            .into_keys()
            .filter(|id| !own.contains_key(id))
            .collect();
        eventually(
            "every event has its Job",
            Duration::from_secs(120),
            || async {
                match jobs(&space, plugin).await.len() {
                    own if own >= events.len() => Ok(()),
                    own => Err(format!("{own} of {}", events.len())),
                }
            },
        )
        .await;
        println!(
            "{plugin}: {} events have Jobs after {:.1} s",
            events.len(),
            begun.elapsed().as_secs_f64()
        );
        let all = jobs(&space, plugin).await;
        assert!(all.values().all(|count| *count == 1));
        let there: BTreeSet<String> = all.into_keys().collect();
        assert_eq!(there, events);
        // And each of them did its work, once.
        let what = format!("every Job of {plugin} has ended");
        let succeeded = eventually(&what, Duration::from_secs(1500), || async {
            let own = space.get("ArtifactPlugin", plugin).await;
            let status = &own["status"];
            let count = |name: &str| status[name].as_u64().unwrap_or(0);
            match count("succeeded") + count("failed") {
                ended if ended >= events.len() as u64 => Ok(count("succeeded")),
                ended => Err(format!("{ended} of {}", events.len())),
            }
        })
        .await;
        assert_eq!(succeeded, events.len() as u64, "{plugin}");
        let written = format!("stage=completed&project=written-{plugin}");
        let written = logged(&instance, &written).await;
        let versions: BTreeSet<String> = written.values().cloned().collect();
        assert_eq!(
            (written.len(), versions),
            (events.len(), events.clone()),
            "{plugin}"
        );
        println!(
            "{plugin}: {} versions written after {:.1} s",
            written.len(),
            begun.elapsed().as_secs_f64()
        );
    }
    space.end().await;
}
