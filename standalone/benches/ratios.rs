//! `make bench`: speed and size of a served instance, as ratios against baselines measured in the
//! same run on the same machine. The server and the baseline are processes of their own; the load
//! comes from this one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use artifactdb_core::config::StorageConfig;
use artifactdb_core::store::{Credentials, S3Store, Store};
use futures::StreamExt;
use md5::{Digest, Md5};
use serde_json::{Value, json};

mod common;

use common::{Load, Process, Row, gets, load, print, resident, wait_for};

const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const DOCUMENTS: usize = 10_000;
const PROJECTS: usize = 10_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.get(1).map(String::as_str) {
        Some("--baseline") => runtime.block_on(baseline(&arguments[2], &arguments[3])),
        _ => runtime.block_on(bench()),
    }
}

/// The bare handler: the same bytes from memory, nothing else.
async fn baseline(body: &str, ready: &str) {
    let bytes = bytes::Bytes::from(std::fs::read(body).unwrap());
    let handler = move || {
        let bytes = bytes.clone();
        async move { ([("content-type", "application/json")], bytes) }
    };
    let router = axum::Router::new().fallback(axum::routing::get(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::fs::write(format!("{ready}.next"), address).unwrap();
    std::fs::rename(format!("{ready}.next"), ready).unwrap();
    axum::serve(listener, router).await.unwrap();
}

struct Instance {
    process: Process,
    url: String,
    address: String,
    token: String,
    started: Duration,
    http: reqwest::Client,
    data: PathBuf,
}

async fn serve(folder: &Path) -> Instance {
    let ready = folder.join("ready.json");
    let data = folder.join("data");
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../config/samples/quickstart.yaml"
    );
    let begun = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_artifactdb"))
        .args([
            "serve",
            sample,
            "--listen",
            "127.0.0.1:0",
            "--s3-listen",
            "localhost:0",
        ])
        .arg("--data")
        .arg(&data)
        .arg("--ready-file")
        .arg(&ready)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    let content: Value = serde_json::from_str(&wait_for(&ready).await).unwrap();
    let started = begun.elapsed();
    let url = content["url"].as_str().unwrap().to_owned();
    Instance {
        process,
        address: url.trim_start_matches("http://").to_owned(),
        url,
        token: content["token"].as_str().unwrap().to_owned(),
        started,
        http: reqwest::Client::new(),
        data,
    }
}

/// Ours against the bare handler that answers the same bytes, in turns.
async fn compare(
    name: &str,
    target: f64,
    instance: &Instance,
    paths: &[String],
    connections: usize,
    folder: &Path,
    rows: &mut Vec<Row>,
) {
    let sample = instance
        .http
        .get(format!("{}{}", instance.url, paths[0]))
        .send()
        .await
        .unwrap();
    assert_eq!(sample.status(), 200);
    let body = sample.bytes().await.unwrap();
    let file = folder.join("body");
    std::fs::write(&file, &body).unwrap();
    let ready = folder.join("baseline");
    let _ = std::fs::remove_file(&ready);
    let child = Command::new(std::env::current_exe().unwrap())
        .arg("--baseline")
        .arg(&file)
        .arg(&ready)
        .spawn()
        .unwrap();
    let bare = Process(child);
    let address = wait_for(&ready).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let ours_requests = gets(&instance.address, paths);
    load(
        &instance.address,
        &ours_requests,
        connections,
        Duration::from_millis(500),
    )
    .await;
    for _ in 0..ROUNDS {
        theirs.push(load(&address, &gets(&address, paths), connections, ROUND).await);
        ours.push(load(&instance.address, &ours_requests, connections, ROUND).await);
    }
    drop(bare);
    let best = |loads: Vec<Load>| {
        loads
            .into_iter()
            .max_by(|a, b| a.rate.total_cmp(&b.rate))
            .unwrap()
    };
    let (ours, theirs) = (best(ours), best(theirs));
    let ratio = ours.rate / theirs.rate;
    rows.push(Row {
        name: format!("{name}, {connections} connections"),
        ours: format!(
            "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            ours.rate, ours.p50, ours.p99
        ),
        baseline: format!(
            "bare axum {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            theirs.rate, theirs.p50, theirs.p99
        ),
        result: format!("{ratio:.2}"),
        target: format!(">= {target}"),
        met: ratio >= target,
    });
}

fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn document(number: usize) -> (String, Vec<u8>, String, Vec<u8>) {
    let name = format!("part/{number:05}.csv");
    let content = format!("a,b\n{number},{}\n", number * 7).into_bytes();
    let metadata = json!({
        "$schema": "table/v1.json", "path": name, "md5sum": md5_hex(&content), "rows": number,
        "title": format!("Table number {number} of group {}", number % 1000),
        "description": "One of many tables of a benchmark, with a line of text about itself",
        "species": (["Adelie", "Gentoo", "Chinstrap"][number % 3]), "island": "Dream", "columns": [{"name": "a", "type": "number"}],
    });
    (
        name.clone(),
        content,
        format!("{name}.json"),
        metadata.to_string().into_bytes(),
    )
}

async fn upload(
    instance: &Instance,
    project: &str,
    version: &str,
    numbers: std::ops::Range<usize>,
) -> Value {
    let mut files: HashMap<String, Vec<u8>> = HashMap::new();
    for number in numbers {
        let (name, content, metapath, metadata) = document(number);
        files.insert(name, content);
        files.insert(metapath, metadata);
    }
    let begun = begin(
        instance,
        project,
        version,
        &json!({"filenames": files.keys().collect::<Vec<_>>()}),
    )
    .await;
    let puts = begun["presigned_urls"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, url)| {
            let put = instance
                .http
                .put(url.as_str().unwrap())
                .body(files[name].clone());
            async move { assert_eq!(put.send().await.unwrap().status(), 200) }
        });
    futures::stream::iter(puts)
        .buffer_unordered(64)
        .for_each(|()| async {})
        .await;
    begun
}

async fn begin(instance: &Instance, project: &str, version: &str, body: &Value) -> Value {
    let url = format!(
        "{}/projects/{project}/version/{version}/upload",
        instance.url
    );
    let answer = instance
        .http
        .post(url)
        .bearer_auth(&instance.token)
        .json(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// Seconds from the request that completes to the answer that everything is searchable.
async fn complete(instance: &Instance, begun: &Value) -> f64 {
    let url = format!(
        "{}{}",
        instance.url,
        begun["completion_url"].as_str().unwrap()
    );
    let started = Instant::now();
    let accepted = instance
        .http
        .put(url)
        .json(&json!({"read_access": "public"}))
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 202);
    let accepted: Value = accepted.json().await.unwrap();
    let job = format!("{}{}", instance.url, accepted["path"].as_str().unwrap());
    loop {
        let answer: Value = instance
            .http
            .get(&job)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        match answer["status"].as_str() {
            Some("SUCCESS") => return started.elapsed().as_secs_f64(),
            Some("FAILURE") => panic!("{answer}"),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

async fn abort(instance: &Instance, begun: &Value) {
    let url = format!("{}{}", instance.url, begun["abort_url"].as_str().unwrap());
    assert_eq!(instance.http.put(url).send().await.unwrap().status(), 200);
}

/// The median time of an upload request of 400 files, in milliseconds.
async fn upload_request(instance: &Instance, dedup: usize) -> f64 {
    let entries: Vec<Value> = (0..400)
        .map(|number| {
            let (name, content, ..) = document(number);
            match number < dedup {
                true => json!({"filename": name, "check": "md5", "value": {"field": "md5sum", "md5sum": md5_hex(&content)}}),
                false => json!(format!("plain/{number}")),
            }
        })
        .collect();
    let body = json!({"filenames": entries});
    let mut times = Vec::new();
    for round in 0..21 {
        let version = format!("try{dedup}-{round}");
        let url = format!("{}/projects/bench/version/{version}/upload", instance.url);
        let request = instance
            .http
            .post(url)
            .bearer_auth(&instance.token)
            .json(&body);
        let begun = Instant::now();
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let bytes = answer.bytes().await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(status, 200);
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["links"].as_object().unwrap().len(), dedup);
        abort(instance, &answer).await;
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The median time until a new project's redirection, in milliseconds.
async fn provision(instance: &Instance) -> f64 {
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let mut times = Vec::new();
    for _ in 0..101 {
        let request = http
            .post(format!("{}/projects/upload", instance.url))
            .bearer_auth(&instance.token)
            .json(&json!({"filenames": []}));
        let begun = Instant::now();
        assert_eq!(request.send().await.unwrap().status(), 307);
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

async fn total(instance: &Instance, query: &str) -> u64 {
    let url = format!("{}/search?size=1&q={query}", instance.url);
    let answer = instance.http.get(url).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["total"].as_u64().unwrap()
}

/// Seconds from the request to the first search in which a project of a thousand documents is gone.
async fn permission_change(instance: &Instance) -> f64 {
    let begun = upload(instance, "thousand", "1", 0..1000).await;
    complete(instance, &begun).await;
    let query = "_extra.project_id:thousand";
    assert_eq!(total(instance, query).await, 1000);
    let request = instance
        .http
        .put(format!("{}/projects/thousand/permissions", instance.url))
        .bearer_auth(&instance.token)
        .json(&json!({"read_access": "owners"}));
    let begun = Instant::now();
    assert_eq!(request.send().await.unwrap().status(), 202);
    while total(instance, query).await > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed().as_secs_f64()
}

async fn many_projects(instance: &Instance) {
    let known = total(instance, "*").await;
    let uploads = futures::stream::iter(0..PROJECTS).map(|number| async move {
        let project = format!("many{number:05}");
        let begun = upload(instance, &project, "1", number..number + 1).await;
        let url = begun["completion_url"].as_str().unwrap();
        let put = instance.http.put(format!("{}{url}", instance.url));
        let put = put.json(&json!({"read_access": "public"}));
        assert_eq!(put.send().await.unwrap().status(), 202);
    });
    uploads.buffer_unordered(32).collect::<Vec<()>>().await;
    while total(instance, "*").await < known + PROJECTS as u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Seconds for every page of the list of projects.
async fn list_projects(instance: &Instance) -> f64 {
    let begun = Instant::now();
    let (mut path, mut found) = ("/projects?size=500".to_owned(), 0);
    loop {
        let answer = instance.http.get(format!("{}{path}", instance.url));
        let page: Value = answer.send().await.unwrap().json().await.unwrap();
        found += page["results"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert!(found >= PROJECTS, "{found}");
    begun.elapsed().as_secs_f64()
}

/// Nanoseconds per presigned URL: ours, and the SDK's.
async fn presign() -> (f64, f64) {
    let storage = StorageConfig {
        alias: "a".into(),
        bucket: "bucket".into(),
        endpoint: Some("http://localhost:1".into()),
        public_endpoint: None,
        region: "us-east-1".into(),
        path_style: true,
        version_pinning: None,
        sts: None,
    };
    let credentials = Credentials {
        access_key: "key".into(),
        secret_key: "secret".into(),
        session_token: None,
    };
    let store = S3Store::new(&storage, credentials);
    let now = jiff::Timestamp::now();
    let begun = Instant::now();
    for number in 0..2000 {
        std::hint::black_box(store.presign_put(&format!("P/1/file{number}"), None, now, 3600));
    }
    let ours = begun.elapsed().as_nanos() as f64 / 2000.0;
    let begun = Instant::now();
    for number in 0..500 {
        let config =
            aws_sdk_s3::presigning::PresigningConfig::expires_in(Duration::from_secs(3600))
                .unwrap();
        let put = store
            .client()
            .put_object()
            .bucket("bucket")
            .key(format!("P/1/file{number}"));
        std::hint::black_box(put.presigned(config).await.unwrap());
    }
    (ours, begun.elapsed().as_nanos() as f64 / 500.0)
}

async fn bench() {
    let mut rows = Vec::new();
    let below = |name: &str, value: f64, unit: &str, limit: f64, python: &str| Row {
        name: name.to_owned(),
        ours: format!("{value:.3} {unit}"),
        baseline: python.to_owned(),
        result: format!("{:.2} of the limit", value / limit),
        target: format!("< {limit} {unit}"),
        met: value < limit,
    };
    let folder = tempfile::tempdir().unwrap();
    let mut starts = Vec::new();
    for number in 0..5 {
        let own = folder.path().join(format!("start{number}"));
        std::fs::create_dir(&own).unwrap();
        starts.push(serve(&own).await.started.as_secs_f64());
    }
    starts.sort_by(f64::total_cmp);
    rows.push(below(
        "start to ready, empty folder",
        starts[2],
        "s",
        0.3,
        "",
    ));
    let instance = serve(folder.path()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    rows.push(below(
        "idle memory of the instance",
        resident(instance.process.0.id()),
        "MB",
        50.0,
        "Python: API and worker 332 MB",
    ));

    let begun = upload(&instance, "small", "1", 0..200).await;
    let seconds = complete(&instance, &begun).await;
    rows.push(below(
        "complete to searchable, 200 documents",
        seconds,
        "s",
        0.3,
        "Python: 6.3 s",
    ));
    let begun = upload(&instance, "bench", "1", 0..DOCUMENTS).await;
    let seconds = complete(&instance, &begun).await;
    rows.push(below(
        "complete to searchable, 10,000 documents",
        seconds,
        "s",
        10.0,
        "",
    ));
    let plain = upload_request(&instance, 0).await;
    rows.push(below(
        "upload request, 400 files",
        plain,
        "ms",
        10.0,
        "Python: 246 ms",
    ));
    let checked = upload_request(&instance, 200).await;
    rows.push(below(
        "upload request, 400 files, 200 MD5 checks",
        checked,
        "ms",
        20.0,
        "Python: 841 ms",
    ));

    let metadata: Vec<String> = (0..1000)
        .map(|number| format!("/files/bench%3Apart%2F{:05}.csv%401/metadata", number * 7))
        .collect();
    // Ten hits each, and no two of the thousand queries alike.
    let search: Vec<String> = (0..1000)
        .map(|group| {
            format!("/search?q=title%3A%22group%20{group}%22%20AND%20_extra.project_id%3Abench")
        })
        .collect();
    for connections in [8, 64] {
        compare(
            "file metadata",
            0.5,
            &instance,
            &metadata,
            connections,
            folder.path(),
            &mut rows,
        )
        .await;
    }
    for connections in [8, 64] {
        compare(
            "search of 10 hits among 10,000",
            0.15,
            &instance,
            &search,
            connections,
            folder.path(),
            &mut rows,
        )
        .await;
    }
    rows.push(below(
        "provision a project",
        provision(&instance).await,
        "ms",
        10.0,
        "",
    ));
    rows.push(below(
        "permission change to visible, 1,000 documents",
        permission_change(&instance).await,
        "s",
        1.0,
        "",
    ));
    many_projects(&instance).await;
    rows.push(below(
        "list 10,000 projects, 20 pages",
        list_projects(&instance).await,
        "s",
        2.0,
        "Python: 14 ms a page of 100, which makes 1.4 s",
    ));
    let (ours, sdk) = presign().await;
    rows.push(Row {
        name: "presign one URL".to_owned(),
        ours: format!("{:.1} µs", ours / 1000.0),
        baseline: format!("aws-sdk-s3 {:.1} µs", sdk / 1000.0),
        result: format!("{:.3}", ours / sdk),
        target: "< 1".to_owned(),
        met: ours < sdk,
    });
    rows.push(below(
        "memory after all this",
        resident(instance.process.0.id()),
        "MB",
        1000.0,
        "",
    ));
    print(&rows);
    drop(instance.data);
}
