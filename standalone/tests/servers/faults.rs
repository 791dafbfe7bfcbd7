//! What goes wrong, on purpose, on the real servers: each test keeps a history of what clients were
//! told, and looks at its end whether all of it is true (DESIGN I1 to I6).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use artifactdb_core::id::{Project, Version};
use artifactdb_core::queue::{Priority, Queue, Task};
use rand::{Rng, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Backend, QUICKSTART, Server, table};
use crate::history::{History, check, try_upload};
use crate::proxy::{Fault, HttpProxy, OwnRedis};

const WRITERS: usize = 16;
const PROJECTS: usize = 4;

/// Writers that upload versions of their own until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    pub history: History,
    pub tried: Arc<AtomicUsize>,
    acknowledged: Arc<AtomicUsize>,
}

impl Writers {
    fn start(server: &Server, urls: Vec<String>) -> Self {
        let writers = Self {
            stop: Arc::default(),
            tasks: Vec::new(),
            history: History::default(),
            tried: Arc::default(),
            acknowledged: Arc::default(),
        };
        let tasks = (0..WRITERS)
            .map(|writer| {
                let (stop, history, tried, acknowledged) = (
                    writers.stop.clone(),
                    writers.history.clone(),
                    writers.tried.clone(),
                    writers.acknowledged.clone(),
                );
                let (token, urls) = (server.token.clone(), urls.clone());
                let http = reqwest::Client::builder()
                    .timeout(Duration::from_secs(20))
                    .build()
                    .unwrap();
                tokio::spawn(async move {
                    let mut number = writer;
                    while !stop.load(Ordering::Relaxed) {
                        let (project, version) =
                            (format!("P{}", number % PROJECTS), format!("v{number}"));
                        let url = &urls[number % urls.len()];
                        tried.fetch_add(1, Ordering::Relaxed);
                        match try_upload(&http, url, &token, &project, &version).await {
                            Ok(true) => {
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                                let mut history = history.lock().unwrap();
                                history.entry(project).or_default().insert(version);
                            }
                            Ok(false) | Err(_) => {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                        }
                        number += WRITERS;
                    }
                })
            })
            .collect();
        Self { tasks, ..writers }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn stop(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        println!(
            "{} uploads tried, {} acknowledged",
            self.tried.load(Ordering::Relaxed),
            self.acknowledged.load(Ordering::Relaxed)
        );
        self.history
    }
}

/// How long nothing may get done, and how long it may all take on a busy machine.
const STUCK: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(600);

/// Waits until everything that was acknowledged is indexed and nothing is left to do.
async fn settle(server: &Server, history: &History) {
    let started = Instant::now();
    let (mut before, mut changed) = (Vec::new(), Instant::now());
    let real = server.real();
    let queue = real.queue();
    loop {
        let mut open = Vec::new();
        if let Ok((waiting, in_hand)) = queue.depth().await {
            if waiting + in_hand > 0 {
                open.push(format!("{waiting} tasks wait, {in_hand} are in hand"));
            }
        } else {
            open.push("the queue is away".to_owned());
        }
        let history = history.lock().unwrap().clone();
        for (project, versions) in &history {
            // The API may be one that was killed a moment ago and is not up again.
            let path = format!("/projects/{project}/versions");
            let known = match server.raw(Method::GET, &path, &server.token, None).await {
                Ok(response) if response.status() == StatusCode::OK => {
                    let answer: Value = response.json().await.unwrap_or_default();
                    answer["aggs"].as_array().map_or(0, Vec::len)
                }
                _ => 0,
            };
            if known < versions.len() {
                open.push(format!("{project}: {known} of {}", versions.len()));
            }
        }
        if open.is_empty() {
            return;
        }
        if open != before {
            (before, changed) = (open.clone(), Instant::now());
        }
        assert!(
            changed.elapsed() < STUCK && started.elapsed() < SETTLED,
            "never done: {open:?}\n{}",
            tail(&server.log())
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

async fn behind(change: impl FnOnce(&mut artifactdb_core::config::InstanceConfig)) -> Server {
    Server::configured(Backend::Real, Path::new(QUICKSTART), change).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kills_lose_nothing() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let writers = Writers::start(&server, vec![server.url.clone()]);
    let processes = server.processes();
    let mut kills = vec![0; processes];
    for _ in 0..100 {
        let pause = Duration::from_millis(random.random_range(20..600));
        tokio::time::sleep(pause).await;
        let place = random.random_range(0..processes);
        server.replace(place);
        kills[place] += 1;
    }
    println!("kills of api, worker, worker, sweeper: {kills:?}");
    assert!(writers.acknowledged() > 50, "{}", tail(&server.log()));
    let history = writers.stop().await;
    settle(&server, &history).await;
    check(&server, &history).await;
}

/// Redis dies in the middle of uploads and comes back empty, three times: leases and tasks are gone,
/// and nothing that was acknowledged is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_and_forgets_everything() {
    let mut redis = OwnRedis::start().await;
    let url = redis.url();
    let server = behind(|config| config.redis.as_mut().unwrap().url = Some(url)).await;
    let public = json!({"read_access": "public"});
    let files = table("a.csv", "a\n1\n", "before", 1);
    server.upload("before", "1", &files, &public).await;
    let writers = Writers::start(&server, vec![server.url.clone()]);
    for _ in 0..3 {
        let before = writers.acknowledged();
        while writers.acknowledged() < before + 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        redis.kill();
        // Writes say that they cannot, and when to try again; reads go on.
        let entry = json!({"filenames": ["x"]});
        let path = "/projects/during/version/1/upload";
        let response = server
            .raw(Method::POST, path, &server.token, Some(&entry))
            .await
            .unwrap();
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(server.download("before:a.csv@1", "").await.1, b"a\n1\n");
        assert_eq!(server.ids("title:before", "").await.len(), 1);
        assert_eq!(
            server.anonymous("/files/before:a.csv@1/metadata").await.0,
            200
        );
        redis.come_back().await;
        let started = Instant::now();
        while server
            .raw(Method::POST, path, &server.token, Some(&entry))
            .await
            .unwrap()
            .status()
            == 503
        {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "it never comes back"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let history = writers.stop().await;
    // The test looks at the queue of the own Redis through the instance alone.
    let started = Instant::now();
    loop {
        let found: BTreeSet<String> = server.ids("title:killed", "").await.into_iter().collect();
        let wanted = history.lock().unwrap().clone();
        let missing = wanted
            .iter()
            .flat_map(|(project, versions)| {
                versions
                    .iter()
                    .map(move |version| format!("{project}:a.csv@{version}"))
            })
            .filter(|id| !found.contains(id))
            .count();
        if missing == 0 {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{missing} are not searchable\n{}",
            tail(&server.log())
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    check(&server, &history).await;
}

/// Elasticsearch is away for a minute: downloads and writes go on, searches say 503, and afterwards
/// everything is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elasticsearch_is_away_for_a_minute() {
    let mut proxy = HttpProxy::to(&crate::real::services().es).await;
    let url = proxy.url.clone();
    let server = behind(|config| config.elasticsearch.as_mut().unwrap().urls = vec![url]).await;
    let public = json!({"read_access": "public"});
    let files = table("a.csv", "a\n1\n", "before", 1);
    server.upload("before", "1", &files, &public).await;
    let writers = Writers::start(&server, vec![server.url.clone()]);
    while writers.acknowledged() < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.stop().await;
    let away = Instant::now();
    let at_stop = writers.acknowledged();
    while away.elapsed() < Duration::from_secs(60) {
        let response = server
            .raw(Method::GET, "/search?q=*", "", None)
            .await
            .unwrap();
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(server.download("before:a.csv@1", "").await.1, b"a\n1\n");
        assert_eq!(
            server.download("before:a.csv@latest", "").await.1,
            b"a\n1\n"
        );
        // An upload with a look for equal files needs the index, and goes on without it.
        let version = format!("during{}", away.elapsed().as_secs());
        let (status, begun) = server
            .begin("before", &version, &files, &server.token)
            .await;
        assert!(
            status == 200 || status == StatusCode::LOCKED || status == 400,
            "{begun}"
        );
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!(writers.acknowledged() > at_stop, "writes go on");
    proxy.start().await;
    let history = writers.stop().await;
    settle(&server, &history).await;
    check(&server, &history).await;
}

/// Elasticsearch says that it has no room (429), and that its index may not be written: the writes
/// wait, none is lost, and no version is called wrong for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elasticsearch_has_no_room_and_is_read_only() {
    let proxy = HttpProxy::to(&crate::real::services().es).await;
    let url = proxy.url.clone();
    let server = behind(|config| config.elasticsearch.as_mut().unwrap().urls = vec![url]).await;
    let writers = Writers::start(&server, vec![server.url.clone()]);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    proxy.faults(move |_, path| {
        if !path.contains("/_bulk") {
            return Fault::None;
        }
        match count.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Fault::None,
            _ => Fault::Status(429),
        }
    });
    while writers.acknowledged() < 60 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.faults(|_, _| Fault::None);
    let path = format!("/{}/_settings", server.real().engine.alias());
    let block = |on: bool| json!({"index.blocks.write": on});
    let real = server.real();
    real.raw_engine(Method::PUT, &path, &block(true)).await;
    let before = writers.acknowledged();
    while writers.acknowledged() < before + 30 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        server
            .raw(Method::GET, "/search?q=*", "", None)
            .await
            .unwrap()
            .status(),
        200
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    real.raw_engine(Method::PUT, &path, &block(false)).await;
    let history = writers.stop().await;
    settle(&server, &history).await;
    check(&server, &history).await;
    assert!(asked.load(Ordering::Relaxed) > 10);
    assert_eq!(real.queue().dead(10).await.unwrap(), []);
}

/// The object store answers 500 and 503, takes its time, and loses its answers, for one request in
/// six: nothing is acknowledged that it does not hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_object_store_is_flaky() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let proxy = HttpProxy::to(&crate::real::services().s3).await;
    let url = proxy.url.clone();
    let server = behind(|config| config.storage[0].endpoint = Some(url)).await;
    let random = parking_lot::Mutex::new(rand::rngs::StdRng::seed_from_u64(seed));
    let faults = Arc::new(AtomicUsize::new(0));
    let count = faults.clone();
    proxy.faults(move |_, _| {
        let fault = match random.lock().random_range(0..30) {
            0 => Fault::Status(500),
            1 => Fault::Status(503),
            2 => Fault::Slow(Duration::from_millis(300)),
            3 => Fault::Cut,
            4 => Fault::Lost,
            _ => return Fault::None,
        };
        count.fetch_add(1, Ordering::Relaxed);
        fault
    });
    let writers = Writers::start(&server, vec![server.url.clone()]);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Away altogether: nothing is acknowledged.
    proxy.faults(|_, _| Fault::Status(503));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let response = server
        .raw(
            Method::POST,
            "/projects/x/version/1/upload",
            &server.token,
            Some(&json!({"filenames": ["a"]})),
        )
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    proxy.faults(|_, _| Fault::None);
    println!("{} faults", faults.load(Ordering::Relaxed));
    assert!(writers.acknowledged() > 10);
    let history = writers.stop().await;
    settle(&server, &history).await;
    check(&server, &history).await;
}

/// Tasks that come twice, late, in the wrong order, or for what never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_come_twice_and_out_of_order() {
    let server = Server::start().await;
    let public = json!({"read_access": "public"});
    let files = |number: usize| table("a.csv", &format!("a\n{number}\n"), "order", number);
    for number in 1..=3 {
        server
            .upload("P", &number.to_string(), &files(number), &public)
            .await;
    }
    let private = json!({"read_access": "owners"});
    let (_, accepted) = server
        .call(
            Method::PUT,
            "/projects/P/permissions",
            &server.token,
            Some(private),
        )
        .await;
    server.wait(&accepted).await;
    let before = snapshot(&server).await;
    let queue = server.real().queue();
    let (project, version) = (Project::new("P").unwrap(), |name: &str| {
        Version::new(name).unwrap()
    });
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for _ in 0..100 {
        let name = random.random_range(1..=4).to_string();
        let epoch = random.random_range(0..12);
        let task = match random.random_range(0..3) {
            0 => Task::Index {
                project: project.clone(),
                version: version(&name),
                epoch,
            },
            1 => Task::Remove {
                project: project.clone(),
                version: version(&name),
                epoch,
            },
            _ => Task::Permissions {
                project: project.clone(),
                tick: epoch,
            },
        };
        let priority = Priority::ALL[random.random_range(0..3)];
        queue.enqueue(task, priority).await.unwrap();
    }
    let started = Instant::now();
    while queue.depth().await.unwrap() != (0, 0) {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(snapshot(&server).await, before);
    assert!(server.ids("*", "").await.is_empty(), "nobody reads it");
    server.upload("P", "4", &files(4), &public).await;
    assert_eq!(server.ids("*", &server.token).await.len(), 4);
}

/// Every document as the administrator sees it, without what tells when it was written.
async fn snapshot(server: &Server) -> Vec<Value> {
    let (_, page) = server.get("/search?q=*&size=500&sort=_extra.id").await;
    let mut documents = page["results"].as_array().unwrap().clone();
    for document in &mut documents {
        document["_extra"]["meta_indexed"] = Value::Null;
    }
    documents
}

/// Processes whose clocks are ten minutes ahead and behind, beside one whose clock is right: nobody
/// loses anything by it, and no running upload is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_are_off_by_ten_minutes() {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("libfaketime is missing; `make services` installs it");
    let mut server = Server::start().await;
    let real = server.real();
    let off = |mut command: std::process::Command, by: &str| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME", by)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    };
    let mut commands = Vec::new();
    let mut urls = vec![server.url.clone()];
    for by in ["+10m", "-10m"] {
        let listen = format!("127.0.0.1:{}", crate::harness::free_port());
        let mut api = real.command("artifactdb-api");
        api.args(["--listen", &listen]);
        urls.push(format!("http://{listen}"));
        let mut worker = real.command("artifactdb-indexer");
        worker.arg("worker");
        let mut sweeper = real.command("artifactdb-indexer");
        sweeper.args(["sweep", "--every", "1"]);
        commands.extend([off(api, by), off(worker, by), off(sweeper, by)]);
    }
    for command in &commands {
        server.spawn(command);
    }
    for url in &urls[1..] {
        let started = Instant::now();
        while reqwest::get(format!("{url}/readyz"))
            .await
            .map_or(0, |ready| ready.status().as_u16())
            != 200
        {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "{}",
                tail(&server.log())
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // The clocks are really off.
    let date = reqwest::get(format!("{}/livez", urls[1])).await.unwrap();
    let date = date.headers()["date"].to_str().unwrap().to_owned();
    let told = jiff::fmt::rfc2822::parse(&date).unwrap().timestamp();
    let ahead = told.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((590..610).contains(&ahead), "{ahead}");

    let files = table("a.csv", "a\n1\n", "running", 1);
    let (status, running) = server.begin("running", "1", &files, &server.token).await;
    assert_eq!(status, 200);
    let writers = Writers::start(&server, urls.clone());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(15) {
        // One version through all of them: one upload at a time.
        let url = &urls[started.elapsed().as_secs() as usize % urls.len()];
        let path = format!("{url}/projects/running/version/1/upload");
        let body = json!({"filenames": ["x"]});
        let (status, answer) = server
            .call(Method::POST, &path, &server.token, Some(body))
            .await;
        assert_eq!(status, 423, "{answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    server.transfer(&running, &files).await.unwrap();
    let (status, accepted) = server
        .complete(&running, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    assert!(writers.acknowledged() > 20, "{}", writers.acknowledged());
    let history = writers.stop().await;
    settle(&server, &history).await;
    check(&server, &history).await;
}

/// The object store fails in the middle of an upload request that wants files in parts: the request
/// says so, the version is free again, and no unfinished parts stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_parts_that_cannot_begin_leaves_nothing() {
    let proxy = HttpProxy::to(&crate::real::services().s3).await;
    let url = proxy.url.clone();
    let server = behind(|config| config.storage[0].endpoint = Some(url)).await;
    let real = server.real();
    let bucket = real.config.storage[0].bucket.clone();
    let unfinished = async || {
        let listed = real.store.client().list_multipart_uploads().bucket(&bucket);
        listed.send().await.unwrap().uploads().len()
    };
    let path = "/projects/P/version/1/upload";
    let large = |name: &str| json!({"filename": name, "size": 200 << 20});
    let body = json!({"filenames": [large("a"), large("b"), large("c")]});
    for fault in [Fault::Status(503), Fault::Cut, Fault::Lost] {
        proxy.faults(move |method, path| match (method, path) {
            ("POST", path) if path.contains("/b?uploads") => fault,
            _ => Fault::None,
        });
        let started = Instant::now();
        let response = loop {
            let asked = server.raw(Method::POST, path, &server.token, Some(&body));
            let response = asked.await.unwrap();
            // The upload before is aborted, and a moment later its lease is given back.
            if response.status() != StatusCode::LOCKED {
                break response;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{fault:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(response.status(), 503, "{fault:?}");
        assert!(response.headers().contains_key("retry-after"));
        proxy.faults(|_, _| Fault::None);
        let started = Instant::now();
        let begun = loop {
            let (status, begun) = server
                .call(Method::POST, path, &server.token, Some(body.clone()))
                .await;
            if status == 200 {
                break begun;
            }
            assert_eq!(status, StatusCode::LOCKED, "{begun}");
            assert!(started.elapsed() < Duration::from_secs(30), "{begun}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(begun["multipart"].as_array().map(Vec::len), Some(3));
        assert_eq!(unfinished().await, 3, "those of the upload that runs");
        let abort = begun["abort_url"].as_str().unwrap();
        let (status, answer) = server.call(Method::PUT, abort, "", None).await;
        assert!(status.is_success(), "{answer}");
        let started = Instant::now();
        while unfinished().await > 0 {
            assert!(started.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
