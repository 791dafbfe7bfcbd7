//! The index is disposable (DESIGN I5): it is wiped and built again, and built anew beside the live
//! one while searches and uploads go on.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use artifactdb_core::id::{Project, Version};
use artifactdb_core::query::Query;
use artifactdb_core::search::admin::IndexAdmin;
use artifactdb_core::search::{Search, SearchRequest, Write};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, QUICKSTART, Server, encode, table};
use crate::proxy::OwnRedis;

/// What an answer says, without what tells when and where it was indexed.
fn normal(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for name in ["meta_indexed", "index_name", "next"] {
                    map.remove(name);
                }
                map.values_mut().for_each(walk);
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

fn questions() -> Vec<String> {
    let mut paths = Vec::new();
    let queries = [
        "*",
        "title:one",
        "title:two OR title:three",
        "rows:>2",
        "rows:[1 TO 3]",
        "NOT title:one",
        "_extra.project_id:P1",
        "_extra.numerical_revision:2",
        "a.csv",
        "path:dir*",
        "_exists_:_extra.link",
        "title:(one AND two)",
        "columns.name:a",
        "_extra.type:table",
        "table",
        "md5sum:*",
        "nothing",
        "_extra.permissions.owners:ann",
        "title:\"one\"",
        "complete:true",
        "title:t* AND NOT rows:0",
    ];
    for query in queries {
        let query = encode(query);
        for rest in [
            "&sort=_extra.id",
            "&sort=-rows,_extra.id",
            "&latest=true&sort=_extra.id",
            "&sort=_extra.uploaded,_extra.id&size=3",
        ] {
            paths.push(format!("/search?q={query}{rest}"));
        }
        for field in ["_extra.project_id", "rows", "title"] {
            paths.push(format!("/aggregate?q={query}&agg_field={field}"));
        }
    }
    paths.push("/projects".to_owned());
    for project in 0..6 {
        paths.push(format!("/projects/P{project}/versions"));
        for version in ["1", "2", "latest", "NUM-1"] {
            paths.push(format!("/projects/P{project}/version/{version}/metadata"));
            paths.push(format!("/files/P{project}:dir%2Fa.csv@{version}/metadata"));
        }
    }
    paths
}

async fn answers(server: &Server, tokens: &[String]) -> Vec<(String, u16, Value)> {
    let mut found = Vec::new();
    for path in questions() {
        for token in tokens {
            let (status, answer) = server.call(Method::GET, &path, token, None).await;
            found.push((path.clone(), status.as_u16(), normal(answer)));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_answers_as_before_after_amnesia() {
    let mut redis = OwnRedis::start().await;
    let url = redis.url();
    let mut server = Server::configured(Backend::Real, Path::new(QUICKSTART), |config| {
        config.redis.as_mut().unwrap().url = Some(url);
    })
    .await;
    let ann = server.token_for("ann", &["uploader"]);
    for (number, title) in ["one", "two", "three", "one two", "five", "six"]
        .iter()
        .enumerate()
    {
        let project = format!("P{number}");
        let mut files = table("dir/a.csv", "a\n1\n", title, number);
        files.extend(table("b.csv", &format!("b\n{number}\n"), title, number + 1));
        let permissions = match number {
            0..3 => json!({"read_access": "public"}),
            3 => json!({"read_access": "viewers", "viewers": ["bob"], "owners": ["ann"]}),
            _ => json!({"read_access": "none", "owners": ["ann"]}),
        };
        for version in 1..=2 {
            // The second links to what did not change.
            server
                .upload(&project, &version.to_string(), &files, &permissions)
                .await;
        }
    }
    let change = json!({"read_access": "authenticated"});
    let (status, accepted) = server
        .call(
            Method::PUT,
            "/projects/P1/version/2/permissions",
            &server.token,
            Some(change),
        )
        .await;
    assert_eq!(status, 202);
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    let tokens = [
        String::new(),
        ann,
        server.token_for("bob", &[]),
        server.token.clone(),
    ];
    let before = answers(&server, &tokens).await;
    assert!(
        before.len() >= 200
            && before
                .iter()
                .filter(|(_, status, _)| *status == 200)
                .count()
                > 200
    );

    server.terminate();
    redis.kill();
    redis.come_back().await;
    server.wipe_index().await;
    let rebuilt = server
        .real()
        .command("artifactdb-indexer")
        .arg("reindex")
        .output()
        .unwrap();
    assert!(
        rebuilt.status.success(),
        "{}",
        String::from_utf8_lossy(&rebuilt.stderr)
    );
    let lines = String::from_utf8(rebuilt.stdout).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "switched", "{lines}");
    server.restart().await;
    let after = answers(&server, &tokens).await;
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old, new);
    }
    println!("{} answers are as before", after.len());
}

/// Documents of the rebuild under load; the slower suite asks for more.
fn documents() -> usize {
    std::env::var("ARTIFACTDB_TEST_DOCUMENTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4_000)
}

/// Documents of one version.
const EACH: usize = 500;

/// The most memory that a process ever had resident, in MB.
fn peak(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1000.0)
}

async fn fill(server: &Server, version: usize) {
    let files: Vec<(String, Vec<u8>)> = (0..EACH)
        .map(|number| {
            let path = format!("d{number}.json");
            let document = json!({
                "$schema": "table/v1.json", "path": path, "title": format!("bulk {number}"),
                "md5sum": "00000000000000000000000000000000", "rows": number, "columns": [],
                "description": "words to fill a document of about a kilobyte ".repeat(15),
            });
            (path, document.to_string().into_bytes())
        })
        .collect();
    let (project, version) = (format!("B{}", version % 10), version.to_string());
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let path = format!("/projects/{project}/version/{version}/upload");
    let body = json!({"filenames": names});
    let (status, begun) = server
        .call(Method::POST, &path, &server.token, Some(body))
        .await;
    assert_eq!(status, 200, "{begun}");
    let puts = files.into_iter().map(|(name, content)| {
        let url = begun["presigned_urls"][&name].as_str().unwrap().to_owned();
        let http = server.http.clone();
        async move {
            let put = http.put(url).body(content).send().await.unwrap();
            assert_eq!(put.status(), 200);
        }
    });
    use futures::StreamExt;
    futures::stream::iter(puts)
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_rebuilt_under_load() {
    let server = Server::start().await;
    let wanted = documents();
    for version in 0..wanted / EACH {
        fill(&server, version).await;
    }
    let total = AtomicUsize::new(wanted);
    let old = server.real().engine.live().await.unwrap().unwrap();

    // A field of another type: it cannot be changed in place.
    let mut config = server.real().config.clone();
    for item in &mut config.schemas.items {
        if let Some(rows) =
            std::sync::Arc::make_mut(&mut item.schema).pointer_mut("/properties/rows")
        {
            *rows = json!({"type": "number"});
        }
    }
    assert_ne!(
        config.mapping().0.hash(),
        server.real().config.mapping().0.hash()
    );
    server.real().write_config(&config);
    let stop = AtomicBool::new(false);
    let (searches, uploads) = (AtomicUsize::new(0), AtomicUsize::new(0));

    let searching = async {
        while !stop.load(Ordering::Relaxed) {
            let floor = total.load(Ordering::Relaxed);
            let (status, page) = server.anonymous("/search?q=bulk&size=5").await;
            assert_eq!(status, 200, "{page}");
            let found = page["total"].as_u64().unwrap() as usize;
            assert!(found >= floor, "{found} of {floor} documents");
            searches.fetch_add(1, Ordering::Relaxed);
        }
    };
    let uploading = async {
        let mut version = 100_000;
        while !stop.load(Ordering::Relaxed) {
            fill(&server, version).await;
            version += 1;
            total.fetch_add(EACH, Ordering::Relaxed);
            uploads.fetch_add(1, Ordering::Relaxed);
        }
    };
    let rebuilding = async {
        let start = || {
            let mut command =
                tokio::process::Command::from(server.real().command("artifactdb-indexer"));
            command
                .arg("reindex")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        // Killed while it is at it.
        let mut first = start();
        let mut lines = tokio::io::BufReader::new(first.stdout.take().unwrap()).lines();
        use tokio::io::AsyncBufReadExt;
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "progress" && event["documents"].as_u64().unwrap() > 0 {
                break;
            }
            assert_ne!(event["event"], "switched", "it was too fast to be killed");
        }
        first.kill().await.unwrap();
        let live = server.real().engine.live().await.unwrap().unwrap();
        assert_eq!(live, old, "half an index is not switched to");

        let second = start();
        let pid = second.id().unwrap();
        let highest = Arc::new(parking_lot::Mutex::new(0.0_f64));
        let watching = {
            let highest = highest.clone();
            tokio::spawn(async move {
                while let Some(now) = peak(pid) {
                    {
                        let mut highest = highest.lock();
                        *highest = highest.max(now);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        };
        let started = Instant::now();
        let ended = second.wait_with_output().await.unwrap();
        watching.abort();
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
        let elapsed = started.elapsed();
        // Some searches of the new index, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.store(true, Ordering::Relaxed);
        (elapsed, *highest.lock())
    };
    let ((), (), (elapsed, highest)) = tokio::join!(searching, uploading, rebuilding);
    println!(
        "{} documents rebuilt in {:.1} s, {highest:.0} MB at the most, {} searches and {} uploads meanwhile",
        total.load(Ordering::Relaxed),
        elapsed.as_secs_f64(),
        searches.load(Ordering::Relaxed),
        uploads.load(Ordering::Relaxed)
    );
    assert!(highest < 80.0, "{highest} MB");
    assert!(searches.load(Ordering::Relaxed) > 10 && uploads.load(Ordering::Relaxed) > 0);
    let live = server.real().engine.live().await.unwrap().unwrap();
    assert_ne!(live.name, old.name);
    assert_eq!(live.mapping_hash, config.mapping().0.hash());
    assert_eq!(server.real().engine.building().await.unwrap(), None);
    assert_eq!(
        server.ids("bulk", "").await.len(),
        total.load(Ordering::Relaxed)
    );
    let kept = server.real().engine.count_in(&old.name).await.unwrap();
    assert!(kept >= wanted as u64, "the old index is kept");
}

/// Several processes share a rebuild; the last one to end switches.
#[tokio::test]
async fn processes_share_a_rebuild() {
    let server = Server::start().await;
    let public = json!({"read_access": "public"});
    for number in 0..8 {
        let files = table("a.csv", &format!("a\n{number}\n"), "shared", number);
        server
            .upload(&format!("P{number}"), "1", &files, &public)
            .await;
    }
    let old = server.real().engine.live().await.unwrap().unwrap();
    let run = |shard: &str| {
        let mut command = server.real().command("artifactdb-indexer");
        command
            .args(["reindex", "--shard", shard])
            .output()
            .unwrap()
    };
    let first = run("1/3");
    let last_line = |output: &std::process::Output| -> Value {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    };
    assert!(first.status.success());
    assert_eq!(
        last_line(&first),
        json!({"event": "waiting", "done": 1, "of": 3})
    );
    assert!(run("0/3").status.success());
    assert_eq!(server.real().engine.live().await.unwrap().unwrap(), old);
    // What is written now goes to both.
    let files = table("a.csv", "a\n9\n", "shared", 9);
    server.upload("P9", "1", &files, &public).await;
    let last = run("2/3");
    assert!(
        last.status.success(),
        "{}",
        String::from_utf8_lossy(&last.stderr)
    );
    assert_eq!(last_line(&last)["event"], "switched");
    assert_ne!(server.real().engine.live().await.unwrap().unwrap(), old);
    assert_eq!(server.ids("shared", "").await.len(), 9);
}

/// Only added fields go into the live index; anything else waits for a rebuild, which is refused
/// when it would lose documents.
#[tokio::test]
async fn added_fields_go_in_place_and_a_lossy_rebuild_is_refused() {
    let mut server = Server::start().await;
    let public = json!({"read_access": "public"});
    let files = table("a.csv", "a\n1\n", "place", 1);
    server.upload("P", "1", &files, &public).await;
    let old = server.real().engine.live().await.unwrap().unwrap();
    let mut config = server.real().config.clone();
    for item in &mut config.schemas.items {
        if let Some(properties) =
            std::sync::Arc::make_mut(&mut item.schema).pointer_mut("/properties")
        {
            properties["added"] = json!({"type": "string"});
        }
    }
    server.real().write_config(&config);
    server.terminate();
    server.restart().await;
    let hash = config.mapping().0.hash();
    let started = Instant::now();
    loop {
        let live = server.real().engine.live().await.unwrap().unwrap();
        if live.mapping_hash == hash {
            assert_eq!(live.name, old.name);
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{live:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Without the field that the document has, it does not fit any more.
    for item in &mut config.schemas.items {
        if let Some(properties) = std::sync::Arc::make_mut(&mut item.schema)
            .pointer_mut("/properties")
            .and_then(Value::as_object_mut)
        {
            properties.remove("title");
        }
    }
    server.real().write_config(&config);
    let run = |arguments: &[&str]| {
        let mut command = server.real().command("artifactdb-indexer");
        command.args(arguments).output().unwrap()
    };
    let refused = run(&["reindex"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && text.contains("--allow-failed"),
        "{text}"
    );
    assert_eq!(server.ids("place", "").await.len(), 1);
    assert!(run(&["reindex", "--allow-failed"]).status.success());
    assert_eq!(
        server
            .real()
            .engine
            .count_in(server.real().engine.alias())
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn a_snapshot_is_taken_and_restored() {
    let server = Server::configured(Backend::Real, Path::new(QUICKSTART), |config| {
        let engine = config.elasticsearch.as_mut().unwrap();
        engine.snapshot_repository = Some(config.name.clone());
    })
    .await;
    let files = table("a.csv", "a\n1\n", "kept", 1);
    server
        .upload("P", "1", &files, &json!({"read_access": "public"}))
        .await;
    let real = server.real();
    let Some(location) = crate::real::services().repository.clone() else {
        panic!("ARTIFACTDB_TEST_ES_REPOSITORY names no folder that Elasticsearch may write to");
    };
    let repository = real.config.name.clone();
    let body = json!({"type": "fs", "settings": {"location": format!("{location}/{repository}")}});
    real.raw_engine(Method::PUT, &format!("/_snapshot/{repository}"), &body)
        .await;
    let mut command = real.command("artifactdb-indexer");
    let taken = command
        .args(["snapshot", "--repository", &repository])
        .output()
        .unwrap();
    assert!(
        taken.status.success(),
        "{}",
        String::from_utf8_lossy(&taken.stderr)
    );
    let line: Value = serde_json::from_slice(&taken.stdout).unwrap();
    let name = line["name"].as_str().unwrap();
    let live = real.engine.live().await.unwrap().unwrap();
    real.raw_engine(Method::DELETE, &format!("/{}", live.name), &Value::Null)
        .await;
    let path = format!("/_snapshot/{repository}/{name}/_restore?wait_for_completion=true");
    real.raw_engine(Method::POST, &path, &json!({"include_global_state": false}))
        .await;
    assert_eq!(server.ids("kept", "").await.len(), 1);
    // The same by the API: ask for one, see both, delete them.
    let admin = |method: Method, path: String| {
        let server = &server;
        async move { server.call(method, &path, &server.token, None).await }
    };
    let (status, accepted) = admin(Method::PUT, "/index/snapshot".to_owned()).await;
    assert_eq!(status, 202, "{accepted}");
    let job = server.wait(&accepted).await;
    assert_eq!(job["result"]["state"], "SUCCESS", "{job}");
    // A worker that takes the task over from one that died finds it done.
    let taken = &job["result"];
    let name = taken["snapshot"].as_str().unwrap();
    let again = real.engine.take_snapshot(&repository, name).await.unwrap();
    assert_eq!(&again, taken);
    let (_, all) = admin(Method::GET, "/index/snapshots".to_owned()).await;
    assert_eq!(all["count"], 2, "{all}");
    for own in all["snapshots"].as_array().unwrap() {
        let path = format!("/index/snapshots/{}", own["snapshot"].as_str().unwrap());
        let (_, shown) = admin(Method::GET, path.clone()).await;
        assert_eq!(&shown, own);
        let (status, deleted) = admin(Method::DELETE, path.clone()).await;
        assert_eq!(
            (status.as_u16(), &deleted["status"]),
            (202, &json!("deleted"))
        );
        assert_eq!(admin(Method::GET, path).await.0, 404);
    }
    for name in ["_all", "*", "a/b"] {
        let path = format!("/index/snapshots/{}", encode(name));
        assert_eq!(admin(Method::DELETE, path).await.0, 404);
    }
    real.raw_engine(
        Method::DELETE,
        &format!("/_snapshot/{repository}"),
        &Value::Null,
    )
    .await;
}

/// What a worker was told is visible must be so behind a switch that comes at once: it is written to
/// both indices, and both show it. And a worker that was held up over the switch writes to what is
/// live then.
#[tokio::test]
async fn what_is_visible_stays_so_over_a_switch() {
    let mut server = Server::start().await;
    server.kill();
    let building = &server.real().engine;
    let index = building.begin_build().await.unwrap();
    // Two workers, who know that an index is being built.
    let [one, late] = [0, 1].map(|_| server.real().engines().remove(0));
    let write = |name: &str| {
        Write {
        id: format!("P:{name}@1"),
        version: 1,
        document: serde_json::from_value(json!({
            "title": name, "_extra": {"id": format!("P:{name}@1"), "project_id": "P", "version": "1"},
        }))
        .unwrap(),
    }
    };
    let found = async |name: &str| {
        let query = Query::exact("_extra.id", format!("P:{name}@1").as_str());
        let request = SearchRequest {
            query,
            sort: Vec::new(),
            latest: false,
            size: 1,
            cursor: None,
        };
        building.search(request).await.unwrap().total
    };
    assert_eq!(one.write(vec![write("first")]).await.unwrap(), []);
    assert_eq!(late.write(vec![write("second")]).await.unwrap(), []);
    one.refresh().await.unwrap();
    late.refresh().await.unwrap();
    building.swap(&index).await.unwrap();
    assert_eq!((found("first").await, found("second").await), (1, 1));
    assert_eq!(late.write(vec![write("third")]).await.unwrap(), []);
    late.refresh().await.unwrap();
    assert_eq!(found("third").await, 1);
    let project = Project::new("P").unwrap();
    let version = Version::new("1").unwrap();
    assert_eq!(one.remove(&project, &version, 2).await.unwrap(), 3);
    one.refresh().await.unwrap();
    assert_eq!(found("third").await, 0);
}
