//! `make bench`, the real servers: the API, two workers and a sweeper, as ratios against what the
//! same servers do when they are asked without us, in the same run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "../tests/suite/harness.rs"]
mod harness;
#[path = "../tests/suite/real.rs"]
mod real;

use std::path::Path;
use std::time::{Duration, Instant};

use artifactdb_core::config::StsConfig;
use artifactdb_core::id::{Project, Version};
use artifactdb_core::lease::{Holder, Lease, LeaseKey};
use artifactdb_core::store::{Credentials, S3Store, Store};
use aws_sdk_s3::primitives::ByteStream;
use common::{Load, Row, gets, load, print, resident};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use harness::{Backend, QUICKSTART, Server, encode};

const BACKEND: Backend = Backend::Real;
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 8;
const VERSIONS: usize = 20;
const EACH: usize = 500;
/// Searches of which none comes twice, more than all rounds take.
const SEARCHES: usize = 100_000;
/// Documents that a worker reads at the same time, times the tasks of two workers.
const READS: usize = 128;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(bench());
}

fn document(version: usize, number: usize) -> (String, Vec<u8>) {
    let path = format!("d{number}.json");
    let body = json!({
        "$schema": "table/v1.json", "path": path, "title": format!("bulk {number} of {version}"),
        "md5sum": "00000000000000000000000000000000", "rows": number, "columns": [],
        "species": (["Adelie", "Gentoo", "Chinstrap"][number % 3]),
        "description": "words to fill a document of about a kilobyte ".repeat(15),
    });
    (path, body.to_string().into_bytes())
}

async fn begin(server: &Server, project: &str, version: &str, body: Value) -> Value {
    let path = format!("/projects/{project}/version/{version}/upload");
    let (status, begun) = server
        .call(Method::POST, &path, &server.token, Some(body))
        .await;
    assert_eq!(status, 200, "{begun}");
    begun
}

/// Puts the files of an upload; it can be completed then.
async fn bring(server: &Server, project: &str, version: usize, documents: usize) -> Value {
    let files: Vec<_> = (0..documents)
        .map(|number| document(version, number))
        .collect();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let begun = begin(
        server,
        project,
        &version.to_string(),
        json!({"filenames": names}),
    )
    .await;
    let puts = files.into_iter().map(|(name, content)| {
        let url = begun["presigned_urls"][&name].as_str().unwrap().to_owned();
        let put = server.http.put(url).body(content).send();
        async move { assert_eq!(put.await.unwrap().status(), 200) }
    });
    futures::stream::iter(puts)
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
    begun
}

fn best(loads: Vec<Load>) -> Load {
    loads
        .into_iter()
        .max_by(|a, b| a.rate.total_cmp(&b.rate))
        .unwrap()
}

/// Two kinds of requests in turns; the rate of the first over that of the second.
async fn compare(
    name: &str,
    target: f64,
    ours: (&str, Vec<Vec<u8>>),
    theirs: (&str, Vec<Vec<u8>>),
    what: &str,
    server: &Server,
    rows: &mut Vec<Row>,
) {
    let api = server.pids()[0];
    let (mut own, mut raw) = (Vec::new(), Vec::new());
    for address in [&ours, &theirs] {
        load(address.0, &address.1, CONNECTIONS, ROUND).await;
    }
    let (mut spent, mut answers) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        raw.push(load(theirs.0, &theirs.1, CONNECTIONS, ROUND).await);
        let before = cpu_seconds(api);
        let one = load(ours.0, &ours.1, CONNECTIONS, ROUND).await;
        spent += cpu_seconds(api) - before;
        answers += one.rate * ROUND.as_secs_f64();
        own.push(one);
    }
    let (own, raw) = (best(own), best(raw));
    let each = spent * 1e6 / answers;
    let shown = |load: &Load| {
        format!(
            "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            load.rate, load.p50, load.p99
        )
    };
    let ratio = own.rate / raw.rate;
    rows.push(Row {
        name: name.to_owned(),
        ours: format!("{}, {each:.0} µs of CPU", shown(&own)),
        baseline: format!("{what} {}", shown(&raw)),
        result: format!("{ratio:.2}"),
        target: format!(">= {target}"),
        met: ratio >= target,
    });
}

/// What a process used of the processors so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name in brackets, in hundredths of a second: proc(5).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}

fn limit(name: &str, value: f64, unit: &str, limit: f64, baseline: &str) -> Row {
    Row {
        name: name.to_owned(),
        ours: format!("{value:.1} {unit}"),
        baseline: baseline.to_owned(),
        result: format!("{:.2} of the limit", value / limit),
        target: format!("< {limit} {unit}"),
        met: value < limit,
    }
}

fn post(address: &str, path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Whether a group of rows was asked for: all are, unless `ARTIFACTDB_BENCH_ONLY` names some.
fn wanted(group: &str) -> bool {
    match std::env::var("ARTIFACTDB_BENCH_ONLY") {
        Ok(groups) => groups.split(',').any(|one| one == group),
        Err(_) => true,
    }
}

async fn bench() {
    let server = Server::configured(BACKEND, Path::new(QUICKSTART), |config| {
        config.storage[0].sts = real::services()
            .role
            .clone()
            .map(|role_arn| StsConfig { role_arn });
    })
    .await;
    let mut rows = Vec::new();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pids = server.pids();
    rows.push(limit(
        "idle memory of the API",
        resident(pids[0]),
        "MB",
        25.0,
        "Python: 104 MB",
    ));
    rows.push(limit(
        "idle memory of a worker",
        resident(pids[1]),
        "MB",
        25.0,
        "Python: 180 MB",
    ));
    if wanted("indexing") || wanted("search") || wanted("metadata") {
        indexing(&server, &mut rows).await;
    }
    if wanted("search") {
        searches(&server, &mut rows).await;
    }
    if wanted("metadata") {
        metadata(&server, &mut rows).await;
    }
    if wanted("leases") {
        leases(&server, &mut rows).await;
    }
    if wanted("versions") {
        many_versions(&server, &mut rows).await;
    }
    print(&rows);
    if wanted("size") {
        let mut rows = Vec::new();
        hundred_thousand_files(&server, &mut rows).await;
        print(&rows);
    }
}

async fn searches(server: &Server, rows: &mut Vec<Row>) {
    let es = real::services().es.trim_start_matches("http://").to_owned();
    let api = server.url.trim_start_matches("http://").to_owned();
    let alias = server.real().engine.alias().to_owned();
    let search = |q: &str, size: usize| {
        let ours = gets(&api, &[format!("/search?q={}&size={size}", encode(q))]);
        let raw = json!({"query": {"query_string": {"query": q}}, "size": size, "track_total_hits": true});
        (ours, vec![post(&es, &format!("/{alias}/_search"), &raw)])
    };
    for (name, q, size) in [
        (
            "search, 10 of 10,000 by text",
            "title:bulk AND species:Gentoo",
            10,
        ),
        ("search, a page of 20 hits that are all", "title:7", 50),
        ("search, 50 of 10,000, all", "*", 50),
    ] {
        let (ours, raw) = search(q, size);
        compare(name, 0.8, (&api, ours), (&es, raw), "raw", server, rows).await;
    }
    // Both may remember what they answered; here they can not.
    let (ours, raw) = (0..SEARCHES)
        .map(|number| (number % EACH, number / EACH))
        .map(|(rows, title)| search(&format!("title:({title} bulk) AND rows:<={rows}"), 10))
        .map(|(mut ours, mut raw)| (ours.remove(0), raw.remove(0)))
        .unzip();
    compare(
        "search, 10 of them, no query twice",
        0.8,
        (&api, ours),
        (&es, raw),
        "raw",
        server,
        rows,
    )
    .await;
}

async fn metadata(server: &Server, rows: &mut Vec<Row>) {
    let es = real::services().es.trim_start_matches("http://").to_owned();
    let api = server.url.trim_start_matches("http://").to_owned();
    let alias = server.real().engine.alias().to_owned();
    let ids: Vec<String> = (0..2_000)
        .map(|number| (number * 7919) % (VERSIONS * EACH))
        .map(|number| {
            let version = number / EACH;
            format!("B{version}:d{}.json@{version}", number % EACH)
        })
        .collect();
    let ours: Vec<String> = ids
        .iter()
        .map(|id| format!("/files/{}/metadata", encode(id)))
        .collect();
    let raw: Vec<String> = ids
        .iter()
        .map(|id| format!("/{alias}/_doc/{}", encode(id)))
        .collect();
    compare(
        "file metadata, 2,000 files in turn",
        1.0,
        (&api, gets(&api, &ours)),
        (&es, gets(&es, &raw)),
        "raw GET",
        server,
        rows,
    )
    .await;
}

/// From the completions of 20 versions to their last document, against what the object store and
/// the engine allow one after the other. Both sides of a round are measured one behind the other, and
/// the round in the middle counts: the servers' own speed differs from minute to minute.
async fn indexing(server: &Server, rows: &mut Vec<Row>) {
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // The searches that follow are among the documents of one round.
        let project = ["B", "C", "D"][round % 3];
        let ours = index_versions(server, project).await;
        let gets = raw_gets(server, project).await;
        let bulk = raw_bulk(server).await;
        if round > 0 {
            forget(server, project).await;
        }
        let allowed = 1.0 / (1.0 / gets + 1.0 / bulk);
        rounds.push((ours / allowed, ours, gets, bulk, allowed));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, ours, gets, bulk, allowed) = rounds[rounds.len() / 2];
    let all: Vec<String> = rounds
        .iter()
        .map(|round| format!("{:.2}", round.0))
        .collect();
    rows.push(Row {
        name: "indexing, 20 versions of 500 documents".to_owned(),
        ours: format!("{ours:.0} documents/s"),
        baseline: format!(
            "{gets:.0} GETs/s and {bulk:.0} documents/s allow {allowed:.0}; Python: 32"
        ),
        result: format!("{ratio:.2} (of {})", all.join(", ")),
        target: ">= 0.8".to_owned(),
        met: ratio >= 0.8,
    });
}

const DOCUMENTS: f64 = (VERSIONS * EACH) as f64;

async fn index_versions(server: &Server, project: &str) -> f64 {
    let mut begun = Vec::new();
    for version in 0..VERSIONS {
        begun.push(bring(server, &format!("{project}{version}"), version, EACH).await);
    }
    let public = json!({"read_access": "public"});
    let started = Instant::now();
    let jobs = begun.iter().map(|begun| async {
        let (status, accepted) = server.complete(begun, &public).await;
        assert_eq!(status, 202, "{accepted}");
        // As rarely as a person's client would: asking is not what is measured.
        let path = accepted["path"].as_str().unwrap();
        while server.anonymous(path).await.1["status"] != "SUCCESS" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    futures::future::join_all(jobs).await;
    DOCUMENTS / started.elapsed().as_secs_f64()
}

async fn raw_gets(server: &Server, project: &str) -> f64 {
    let store = &server.real().store;
    let started = Instant::now();
    let reads = (0..VERSIONS * EACH).map(|number| async move {
        let version = number / EACH;
        let key = format!("{project}{version}/{version}/d{}.json", number % EACH);
        store.get(&key, None).await.unwrap().unwrap()
    });
    futures::stream::iter(reads)
        .buffer_unordered(READS)
        .collect::<Vec<_>>()
        .await;
    DOCUMENTS / started.elapsed().as_secs_f64()
}

async fn raw_bulk(server: &Server) -> f64 {
    let real = server.real();
    let index = format!("raw-{}", real.config.name);
    let live = real.engine.live().await.unwrap().unwrap();
    let mapping = real
        .raw_engine(
            Method::GET,
            &format!("/{}/_mapping", live.name),
            &Value::Null,
        )
        .await;
    let mut settings = json!({"settings": {"index": {"number_of_replicas": 0, "refresh_interval": "30s", "mapping.total_fields.limit": 2200}}});
    settings["mappings"] = mapping[&live.name]["mappings"].clone();
    real.raw_engine(Method::PUT, &format!("/{index}"), &settings)
        .await;
    let path = "/search?q=title:bulk&size=500";
    let (_, page) = server.get(path).await;
    let documents: Vec<Value> = page["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| {
            let mut hit = hit.clone();
            hit["_extra"].as_object_mut().unwrap().remove("index_name");
            hit
        })
        .collect();
    let bodies: Vec<String> = (0..VERSIONS)
        .map(|version| {
            let mut body = String::new();
            for (number, document) in documents.iter().enumerate() {
                body.push_str(&json!({"index": {"_id": format!("{version}-{number}"), "version": 1, "version_type": "external_gte"}}).to_string());
                body.push('\n');
                body.push_str(&document.to_string());
                body.push('\n');
            }
            body
        })
        .collect();
    let url = format!("{}/{index}/_bulk", real::services().es);
    let started = Instant::now();
    let writes = bodies.into_iter().map(|body| {
        let sent = server
            .http
            .post(&url)
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send();
        async move {
            let answer: Value = sent.await.unwrap().json().await.unwrap();
            assert_eq!(answer["errors"], false, "{answer}");
        }
    });
    futures::stream::iter(writes)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
    real.raw_engine(Method::POST, &format!("/{index}/_refresh"), &Value::Null)
        .await;
    let rate = DOCUMENTS / started.elapsed().as_secs_f64();
    real.raw_engine(Method::DELETE, &format!("/{index}"), &Value::Null)
        .await;
    rate
}

/// Takes the documents of a round out of the index.
async fn forget(server: &Server, project: &str) {
    let alias = server.real().engine.alias();
    let mut body = String::new();
    for number in 0..VERSIONS * EACH {
        let version = number / EACH;
        let id = format!("{project}{version}:d{}.json@{version}", number % EACH);
        body.push_str(&json!({"delete": {"_index": alias, "_id": id}}).to_string());
        body.push('\n');
    }
    let url = format!("{}/_bulk?refresh=true", real::services().es);
    let sent = server
        .http
        .post(&url)
        .header("content-type", "application/x-ndjson")
        .body(body)
        .send()
        .await
        .unwrap();
    let answer: Value = sent.json().await.unwrap();
    assert_eq!(answer["errors"], false, "{answer}");
}

async fn leases(server: &Server, rows: &mut Vec<Row>) {
    let lease = server.real().lease();
    let client = redis::Client::open(real::services().redis.as_str()).unwrap();
    let raw = client.get_connection_manager().await.unwrap();
    let holder = || Holder {
        owner: "ann".into(),
        stage: "uploading".into(),
        info: None,
    };
    let until = || Instant::now() + ROUND;
    let ours = async || {
        let end = until();
        let lease = &lease;
        let rounds = (0..CONNECTIONS).map(|number| async move {
            let mut done = 0_usize;
            let key = LeaseKey::version(
                &Project::new(format!("L{number}")).unwrap(),
                &Version::new("1").unwrap(),
            );
            while Instant::now() < end {
                let expires = Timestamp::now() + SignedDuration::from_secs(60);
                let token = lease.acquire(&key, holder(), expires).await.unwrap();
                assert!(lease.release(&key, &token).await.unwrap());
                done += 1;
            }
            done
        });
        futures::future::join_all(rounds)
            .await
            .into_iter()
            .sum::<usize>() as f64
            / ROUND.as_secs_f64()
    };
    let theirs = async || {
        let end = until();
        let rounds = (0..CONNECTIONS).map(|number| {
            let mut raw = raw.clone();
            async move {
                let mut done = 0_usize;
                let key = format!("raw-lease-{number}");
                while Instant::now() < end {
                    let _: redis::Value = redis::cmd("SET")
                        .arg(&key)
                        .arg("token")
                        .arg("NX")
                        .arg("PX")
                        .arg(60_000)
                        .query_async(&mut raw)
                        .await
                        .unwrap();
                    let _: redis::Value = redis::cmd("DEL")
                        .arg(&key)
                        .query_async(&mut raw)
                        .await
                        .unwrap();
                    done += 1;
                }
                done
            }
        });
        futures::future::join_all(rounds)
            .await
            .into_iter()
            .sum::<usize>() as f64
            / ROUND.as_secs_f64()
    };
    let (mut own, mut plain) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        plain = plain.max(theirs().await);
        own = own.max(ours().await);
    }
    let ratio = own / plain;
    rows.push(Row {
        name: "lease, acquire and release".to_owned(),
        ours: format!("{own:.0}/s"),
        baseline: format!("SET NX PX and DEL {plain:.0}/s"),
        result: format!("{ratio:.2}"),
        target: ">= 0.5".to_owned(),
        met: ratio >= 0.5,
    });
}

/// In a project of 2,000 versions, one more against the tenth.
async fn many_versions(server: &Server, rows: &mut Vec<Row>) {
    let public = json!({"read_access": "public"});
    let one = async |number: usize| {
        let begun = bring(server, "M", number, 1).await;
        let started = Instant::now();
        let (status, accepted) = server.complete(&begun, &public).await;
        let elapsed = started.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(status, 202, "{accepted}");
        assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
        elapsed
    };
    let mut early = Vec::new();
    for number in 0..20 {
        let elapsed = one(number).await;
        if number >= 5 {
            early.push(elapsed);
        }
    }
    let between = (20..1_990).map(one);
    futures::stream::iter(between)
        .buffer_unordered(8)
        .collect::<Vec<f64>>()
        .await;
    let mut late = Vec::new();
    for number in 1_990..2_005 {
        late.push(one(number).await);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (early, late) = (median(early), median(late));
    rows.push(Row {
        name: "completing one of 2,000 versions".to_owned(),
        ours: format!("{late:.1} ms"),
        baseline: format!("about the tenth {early:.1} ms"),
        result: format!("{:.2}", late / early),
        target: "<= 2".to_owned(),
        met: late / early <= 2.0,
    });
}

/// 100,000 files by session credentials, half of them metadata of the others.
async fn hundred_thousand_files(server: &Server, rows: &mut Vec<Row>) {
    let files = 100_000_usize;
    let begun = begin(
        server,
        "H",
        "1",
        json!({"filenames": [], "mode": "sts-credentials"}),
    )
    .await;
    let text = |name: &str| {
        begun["sts"]["credentials"][name]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let credentials = Credentials {
        access_key: text("aws_access_key_id"),
        secret_key: text("aws_secret_access_key"),
        session_token: Some(text("aws_session_token")),
    };
    let store = S3Store::new(&server.real().config.storage[0], credentials);
    let bucket = store.bucket().to_owned();
    let client = store.client();
    let puts = (0..files / 2).flat_map(|number| {
        let path = format!("f{number}.csv");
        let metadata = json!({
            "$schema": "table/v1.json", "path": path, "title": format!("huge {number}"),
            "md5sum": "00000000000000000000000000000000", "rows": number, "columns": [],
        });
        [
            (path.clone(), b"a\n1\n".to_vec()),
            (format!("{path}.json"), metadata.to_string().into_bytes()),
        ]
    });
    let puts = puts.map(|(path, content)| {
        let put = client
            .put_object()
            .bucket(&bucket)
            .key(format!("H/1/{path}"))
            .body(ByteStream::from(content));
        async move { put.send().await.unwrap() }
    });
    futures::stream::iter(puts)
        .buffer_unordered(32)
        .for_each(|_| async {})
        .await;
    let peak = std::sync::Arc::new(std::sync::Mutex::new(0.0_f64));
    let (pid, watched) = (server.pids()[0], peak.clone());
    let watching = tokio::spawn(async move {
        loop {
            let now = resident(pid);
            {
                let mut peak = watched.lock().unwrap();
                *peak = peak.max(now);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let started = Instant::now();
    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    let completed = started.elapsed().as_secs_f64();
    loop {
        let (_, job) = server.get(accepted["path"].as_str().unwrap()).await;
        match job["status"].as_str().unwrap() {
            "SUCCESS" => break,
            "FAILURE" => panic!("{job}"),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    let indexed = started.elapsed().as_secs_f64();
    let mut path = "/projects/H/version/1/metadata".to_owned();
    let mut listed = 0;
    loop {
        let (status, page) = server.get(&path).await;
        assert_eq!(status, 200, "after {listed}: {page}\n{}", server.log());
        listed += page["results"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(listed, files / 2);
    let (_, page) = server.get("/search?q=title:huge&size=1").await;
    assert_eq!(page["total"], files / 2);
    watching.abort();
    let peak = *peak.lock().unwrap();
    rows.push(limit(
        "100,000 files, completed to indexed",
        indexed,
        "s",
        300.0,
        &format!("the completion itself {completed:.1} s"),
    ));
    rows.push(limit("memory of the API meanwhile", peak, "MB", 150.0, ""));
}
