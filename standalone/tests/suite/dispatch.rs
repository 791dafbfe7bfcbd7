//! The dispatcher on a fake clock, with a store that fails and stops, a cluster that is full or away,
//! and dispatchers that die at random between any two steps: no event is lost, and none has two Jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use artifactdb_core::event::{Event, EventStage};
use artifactdb_core::id::Project;
use artifactdb_core::plugin::{Interest, Projects};
use artifactdb_core::versions::Versions;
use artifactdb_indexer::{Dispatcher, JobError, Jobs, PluginJob};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::interleavings::{World, seeds};

const EVENTS: usize = 60;

/// A cluster that is often full and sometimes away for a while.
#[derive(Clone)]
struct Cluster {
    /// Jobs by name, with the events that they were made for.
    jobs: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    random: Arc<Mutex<StdRng>>,
    away: Arc<Mutex<Option<Instant>>>,
}

impl Jobs for Cluster {
    async fn create(&self, job: &Value) -> Result<(), JobError> {
        let (roll, pause) = {
            let mut random = self.random.lock();
            (random.random_range(0..100), random.random_range(0..50))
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if roll == 0 {
            *self.away.lock() = Some(Instant::now() + Duration::from_secs(30));
        }
        if self.away.lock().is_some_and(|until| until > Instant::now()) {
            return Err(JobError::Busy("away".to_owned()));
        }
        if roll < 10 {
            return Err(JobError::Busy("exceeded quota".to_owned()));
        }
        let name = job["metadata"]["name"].as_str().unwrap().to_owned();
        let env = job.pointer("/spec/template/spec/containers/0/env").unwrap();
        let event: Event = serde_json::from_str(env[0]["value"].as_str().unwrap()).unwrap();
        let event_id = job["metadata"]["annotations"]["artifactdb.io/event"].clone();
        assert_eq!(event_id, event.id);
        // A name that is taken makes no second one.
        self.jobs
            .lock()
            .entry(name)
            .or_insert_with(|| vec![event.id]);
        // It may have been made, and the answer be lost.
        match roll {
            10..14 => Err(JobError::Busy("the answer was lost".to_owned())),
            _ => Ok(()),
        }
    }
}

fn plugin(name: &str, since: jiff::Timestamp, projects: &[&str]) -> PluginJob {
    PluginJob {
        name: name.to_owned(),
        prefix: format!("i-plugin-{name}"),
        since,
        interest: Interest {
            on: vec![EventStage::Indexed],
            projects: Projects::new(projects.iter().map(|own| (*own).to_owned()).collect()),
            excluded: Projects::default(),
        },
        job: json!({
            "metadata": {"annotations": {}},
            "spec": {"template": {"spec": {"containers": [{"name": "plugin", "env": []}]}}},
        }),
    }
}

/// Dispatchers, one after the other, each killed after a random time; the last ones know of a plugin
/// that the first ones did not, and sometimes two run at once.
async fn dispatchers(versions: &Arc<Versions>, cluster: &Cluster, plugins: &[PluginJob]) {
    let (_stop, stopping) = watch::channel(false);
    for round in 0..12 {
        let known = match round < 4 {
            true => &plugins[..1],
            false => plugins,
        };
        let dispatcher =
            || Dispatcher::new(versions.clone(), None, known.to_vec(), cluster.clone());
        let (first, second) = (dispatcher(), dispatcher());
        let life = cluster.random.lock().random_range(100..40_000);
        let both = round % 3 == 2;
        let run = async {
            match both {
                true => {
                    tokio::join!(first.run(stopping.clone()), second.run(stopping.clone()));
                }
                false => first.run(stopping.clone()).await,
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(life), run).await;
    }
    // The last one lives on.
    let last = Dispatcher::new(versions.clone(), None, plugins.to_vec(), cluster.clone());
    let _ = tokio::time::timeout(Duration::from_secs(600), last.run(stopping.clone())).await;
}

async fn run(seed: u64) -> usize {
    let world = World::new(seed);
    let versions = &world.versions;
    let cluster = Cluster {
        jobs: Arc::default(),
        random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ 1))),
        away: Arc::default(),
    };
    let begun = versions.clock.now();
    let later = begun + jiff::SignedDuration::from_secs(20);
    let plugins = [plugin("every", begun, &[]), plugin("some", later, &["P1*"])];
    let mut told = Vec::new();
    let telling = async {
        for number in 0..EVENTS {
            let pause = cluster.random.lock().random_range(0..2000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let event = Event {
                project_id: Some(Project::new(format!("P{}", number % 20)).unwrap()),
                ..Event::of_instance(
                    EventStage::Indexed,
                    &number.to_string(),
                    versions.clock.now(),
                    json!({"number": number}),
                )
            };
            // Who tells tries again; an event may stand in the log twice.
            while versions.tell_of_instance(&event).await.is_err() {}
            told.push(event);
        }
    };
    tokio::join!(telling, dispatchers(versions, &cluster, &plugins));
    let jobs = cluster.jobs.lock();
    let wanted: BTreeSet<(String, String)> = plugins
        .iter()
        .flat_map(|plugin| {
            let of_plugin = told.iter().filter(|event| {
                event.time >= plugin.since && plugin.interest.matches(&plugin.name, event)
            });
            of_plugin.map(|event| {
                let name = format!("{}-{}", plugin.prefix, &event.id[..16]);
                (name, event.id.clone())
            })
        })
        .collect();
    let made: BTreeSet<(String, String)> = jobs
        .iter()
        .flat_map(|(name, events)| events.iter().map(|event| (name.clone(), event.clone())))
        .collect();
    let lost: Vec<_> = wanted.difference(&made).collect();
    let uncalled: Vec<_> = made.difference(&wanted).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(uncalled.is_empty(), "nobody asked for {uncalled:?}");
    made.len()
}

#[test]
fn no_event_is_lost_and_none_starts_two_jobs() {
    let (made, runs) = seeds(run);
    assert!(
        made as u64 > runs * EVENTS as u64,
        "hardly any Jobs: {made}"
    );
}

/// A cluster whose policy wants no Jobs of one plugin.
#[derive(Clone, Default)]
struct Barring {
    made: Arc<Mutex<BTreeSet<String>>>,
    denied: Arc<Mutex<usize>>,
}

impl Jobs for Barring {
    async fn create(&self, job: &Value) -> Result<(), JobError> {
        let name = job["metadata"]["name"].as_str().unwrap().to_owned();
        if name.starts_with("i-plugin-barred") {
            *self.denied.lock() += 1;
            return Err(JobError::Denied("a policy denied it".to_owned()));
        }
        self.made.lock().insert(name);
        Ok(())
    }
}

/// A hundred events of a plugin whose Jobs are denied hold up the others once, and not a hundred times.
#[test]
fn a_plugin_whose_jobs_are_denied_holds_up_no_other_for_long() {
    seeds(|seed| async move {
        let world = World::new(seed);
        let versions = &world.versions;
        let begun = versions.clock.now();
        let cluster = Barring::default();
        let plugins = vec![plugin("barred", begun, &[]), plugin("every", begun, &[])];
        for number in 0..100 {
            let now = versions.clock.now();
            let cause = number.to_string();
            let event = Event::of_instance(EventStage::Indexed, &cause, now, json!({}));
            while versions.tell_of_instance(&event).await.is_err() {}
        }
        let dispatcher = Dispatcher::new(versions.clone(), None, plugins, cluster.clone());
        let (_stop, stopping) = watch::channel(false);
        let patience = Duration::from_secs(2500);
        let _ = tokio::time::timeout(patience, dispatcher.run(stopping)).await;
        assert_eq!(cluster.made.lock().len(), 100);
        // Sixteen at a time are tried for two minutes, a dozen times each; then none is for long.
        let denied = *cluster.denied.lock();
        assert!((100..500).contains(&denied), "{denied}");
        1
    });
}
