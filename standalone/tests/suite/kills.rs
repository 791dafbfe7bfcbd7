//! `kill -9` at any moment: what was acknowledged is there after a restart, searchable, with unique
//! and consecutive revisions; nothing half-done is visible (DESIGN I1 to I3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Server, table};

const UPLOADS: usize = 200;
const KILLS: usize = 50;
const WRITERS: usize = 8;
const PROJECTS: usize = 4;

/// What the clients saw: versions that were acknowledged, by project.
type History = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// One upload against a server that may die at any moment; true when its completion was answered.
async fn try_upload(
    http: &reqwest::Client,
    url: &str,
    token: &str,
    project: &str,
    version: &str,
) -> reqwest::Result<bool> {
    let files = table("a.csv", &format!("{project} {version}\n"), "killed", 1);
    let entries: Vec<Value> = files.iter().map(|(name, content)| {
        json!({"filename": name, "check": "simple", "value": {"md5sum": crate::harness::md5_hex(content)}})
    }).collect();
    let begun = http
        .post(format!("{url}/projects/{project}/version/{version}/upload"))
        .bearer_auth(token)
        .json(&json!({"filenames": entries}))
        .send()
        .await?;
    if begun.status() != 200 {
        return Ok(false);
    }
    let begun: Value = begun.json().await?;
    for entry in begun["presigned_urls"].as_array().unwrap() {
        let name = entry["filename"].as_str().unwrap();
        let content = files.iter().find(|(own, _)| own == name).unwrap().1.clone();
        let put = http
            .put(entry["url"].as_str().unwrap())
            .header("content-md5", entry["md5sum"].as_str().unwrap())
            .body(content)
            .send()
            .await?;
        if put.status() != 200 {
            return Ok(false);
        }
    }
    let completed = http
        .put(format!(
            "{url}{}",
            begun["completion_url"].as_str().unwrap()
        ))
        .json(&json!({"read_access": "public"}))
        .send()
        .await?;
    Ok(completed.status() == 202)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let history: History = Arc::default();
    let mut next = 0;
    let mut kills = 0;
    while kills < KILLS || next < UPLOADS {
        let (url, token) = (server.url.clone(), server.token.clone());
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (http, url, token, history) = (
                    server.http.clone(),
                    url.clone(),
                    token.clone(),
                    history.clone(),
                );
                let first = next + writer;
                tokio::spawn(async move {
                    // A writer goes on until the server dies under it.
                    for number in (0..1000).map(|round| first + round * WRITERS) {
                        let (project, version) =
                            (format!("P{}", number % PROJECTS), format!("v{number}"));
                        match try_upload(&http, &url, &token, &project, &version).await {
                            Ok(true) => {
                                history
                                    .lock()
                                    .unwrap()
                                    .entry(project)
                                    .or_default()
                                    .insert(version);
                            }
                            Ok(false) => {}
                            Err(_) => return number,
                        }
                    }
                    first
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(5..160))).await;
        server.kill();
        kills += 1;
        let ended = futures::future::join_all(writers).await;
        next = ended
            .into_iter()
            .map(|writer| writer.unwrap())
            .max()
            .unwrap_or(next)
            + WRITERS;
        // Names start at a multiple of the writers, so that no name is used twice.
        next = next.next_multiple_of(WRITERS * PROJECTS);
        server.restart().await;
        check(&server, &history).await;
    }
    let acknowledged: usize = history.lock().unwrap().values().map(BTreeSet::len).sum();
    println!("{kills} kills, {next} names tried, {acknowledged} versions acknowledged");
    assert!(
        acknowledged >= UPLOADS / 2,
        "the test hardly uploaded anything: {acknowledged}"
    );
    server.terminate();
    server.restart().await;
    check(&server, &history).await;
}

async fn check(server: &Server, history: &History) {
    let history = history.lock().unwrap().clone();
    for (project, acknowledged) in &history {
        let found = server
            .ids(&format!("_extra.project_id:{project}"), "")
            .await;
        let visible: BTreeSet<String> = found
            .iter()
            .map(|id| id.rsplit_once('@').unwrap().1.to_owned())
            .collect();
        assert_eq!(found.len(), visible.len(), "one document each");
        let lost: Vec<&String> = acknowledged.difference(&visible).collect();
        assert!(
            lost.is_empty(),
            "acknowledged and lost in {project}: {lost:?}\n{}",
            server.log()
        );
        let mut path = format!("/projects/{project}/metadata?size=500");
        let mut revisions = Vec::new();
        loop {
            let (_, page) = server.anonymous(&path).await;
            for document in page["results"].as_array().unwrap() {
                let extra = &document["_extra"];
                revisions.push(extra["numerical_revision"].as_u64().unwrap());
                // The metadata of a visible version speaks of the bytes that are there.
                assert_eq!(
                    extra["file_size"].as_u64().unwrap() as usize,
                    format!("{project} {}\n", extra["version"].as_str().unwrap()).len()
                );
            }
            match page["next"].as_str() {
                Some(next) => path = next.to_owned(),
                None => break,
            }
        }
        revisions.sort_unstable();
        let expected: Vec<u64> = (1..=revisions.len() as u64).collect();
        assert_eq!(
            revisions, expected,
            "revisions of {project} are unique and consecutive"
        );
    }
    if let Some((project, version)) = history.iter().find_map(|(p, v)| Some((p, v.last()?))) {
        let (status, bytes) = server
            .download(&format!("{project}:a.csv@{version}"), "")
            .await;
        assert_eq!(
            (status.as_u16(), bytes),
            (200, format!("{project} {version}\n").into_bytes())
        );
    }
}
