//! What clients saw while things went wrong, and the check that all of it is true afterwards: what
//! was acknowledged is there, searchable, with unique and consecutive revisions, and nothing
//! half-done is visible (DESIGN I1 to I3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Server, table};

/// What the clients saw: versions that were acknowledged, by project.
pub type History = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// One upload against a server that may die at any moment; true when its completion was answered.
pub async fn try_upload(
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

/// The revisions of the visible versions of a project, in order.
async fn revisions(server: &Server, project: &str) -> Vec<u64> {
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
    revisions
}

pub async fn check(server: &Server, history: &History) {
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
        // What was completed and not acknowledged has a revision too, and the sweeper brings it.
        let started = Instant::now();
        loop {
            let revisions = revisions(server, project).await;
            let unique: BTreeSet<u64> = revisions.iter().copied().collect();
            assert_eq!(unique.len(), revisions.len(), "{project}: {revisions:?}");
            if unique
                .last()
                .is_none_or(|last| *last == unique.len() as u64)
            {
                break;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "revisions of {project} are consecutive: {revisions:?}\n{}",
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
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
