//! Events: each transition is told once, in pages and as it happens.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use artifactdb_core::event::{Event, EventStage, log_name, log_time};
use axum::http::StatusCode;
use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, table};

async fn all(server: &Server, query: &str) -> Vec<Value> {
    let mut path = format!("/events?{query}");
    let mut found = Vec::new();
    loop {
        let (status, page) = server.get(&path).await;
        assert_eq!(status, 200, "{page}");
        let results = page["results"].as_array().unwrap();
        assert_eq!(page["count"], results.len());
        found.extend(results.clone());
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => return found,
        }
    }
}

/// Stages of what was told of a version, of the project itself (`None`), in the order of the log.
fn stages<'e>(events: &'e [Value], version: Option<&str>) -> Vec<&'e str> {
    events
        .iter()
        .filter(|own| own["version"].as_str() == version)
        .map(|own| own["stage"].as_str().unwrap())
        .collect()
}

/// The events of a project, once there are so many.
async fn once_there_are(server: &Server, project: &str, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let events = all(server, &format!("project={project}")).await;
        if events.len() >= count {
            return events;
        }
        let patience = begun.elapsed() < Duration::from_secs(60);
        assert!(
            patience,
            "{count} are wanted: {events:#?}\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn remove(server: &Server, path: &str) {
    let (status, accepted) = server.call(Method::DELETE, path, &server.token, None).await;
    assert_eq!(status, 202, "{accepted}");
    server.wait(&accepted).await;
}

#[tokio::test]
async fn every_transition_is_told_once() {
    let mut server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "told", 1);
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
    server.upload("P", "2", &files, &public).await;
    // One that is given up.
    let (_, begun) = server.begin("P", "3", &files, &server.token).await;
    let abort = begun["abort_url"].as_str().unwrap();
    let (status, _) = server.call(Method::PUT, abort, "", None).await;
    assert_eq!(status, 200);
    // One that cannot be indexed.
    let broken = vec![("b.json".to_owned(), b"no JSON".to_vec())];
    let (_, begun) = server.begin("P", "4", &broken, &server.token).await;
    server.transfer(&begun, &broken).await.unwrap();
    let (_, accepted) = server.complete(&begun, &json!({})).await;
    assert_eq!(server.wait(&accepted).await["status"], "FAILURE");
    let change = json!({"viewers": ["ann"]});
    let path = "/projects/P/permissions";
    let (_, accepted) = server
        .call(Method::PUT, path, &server.token, Some(change))
        .await;
    server.wait(&accepted).await;
    remove(&server, "/projects/P/version/2").await;

    let events = once_there_are(&server, "P", 16).await;
    let written = ["uploaded", "completed", "indexed"];
    assert_eq!(stages(&events, Some("1"))[..3], written);
    assert_eq!(stages(&events, Some("1"))[3..], ["created"]);
    let mut second = written.to_vec();
    second.extend(["version-created", "purged", "deleted"]);
    assert_eq!(stages(&events, Some("2")), second);
    assert_eq!(stages(&events, Some("3")), ["purged", "deleted"]);
    assert_eq!(
        stages(&events, Some("4")),
        ["uploaded", "completed", "failed"]
    );
    assert_eq!(stages(&events, None), ["permissions-changed"]);
    let indexed = events.iter().find(|own| own["stage"] == "indexed").unwrap();
    assert_eq!(indexed["message"], json!({"indexed_files": 1}));
    assert_eq!(indexed["use_schema"], true);
    let time: jiff::Timestamp = indexed["time"].as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(time);
    assert!(age.abs() < jiff::SignedDuration::from_mins(5), "{time}");
    let mut ids: Vec<&str> = events.iter().filter_map(|own| own["id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len());

    // About everything.
    let (_, accepted) = server
        .call(Method::PUT, "/index/build", &server.token, None)
        .await;
    server.wait(&accepted).await;
    let about_all = all(&server, "stage=all-indexed,all-indexed-failed").await;
    assert_eq!(about_all.len(), 1);
    assert_eq!(about_all[0]["project_id"], Value::Null);
    assert_eq!(about_all[0]["use_schema"], false);

    // Pages lead to the end, and filters leave out the rest.
    let whole = all(&server, "").await;
    assert_eq!(all(&server, "size=1").await, whole);
    assert_eq!(all(&server, "size=3").await, whole);
    assert_eq!(all(&server, "stage=failed&size=1").await.len(), 1);
    assert_eq!(all(&server, "project=nothing").await, [Value::Null; 0]);
    assert_eq!(all(&server, "since=1h").await, whole);
    assert_eq!(all(&server, "since=2099-01-01T00:00:00Z").await.len(), 0);
    for wrong in ["stage=exploded", "since=yesterday", "after=here", "size=0"] {
        let (status, refused) = server.get(&format!("/events?{wrong}")).await;
        assert_eq!(status, 422, "{wrong}: {refused}");
    }

    // They outlive the process, and nothing is told again.
    server.terminate();
    server.restart().await;
    server.upload("Q", "1", &files, &public).await;
    once_there_are(&server, "Q", 4).await;
    let after = all(&server, "").await;
    assert_eq!(after[..whole.len()], whole);
    assert_eq!(after.len(), whole.len() + 4);
}

/// Reads messages from a followed log until `enough`.
async fn follow(
    server: &Server,
    query: &str,
    last: Option<&str>,
    enough: impl Fn(&str) -> bool,
) -> String {
    let mut request = server
        .http
        .get(format!("{}/events/follow?{query}", server.url))
        .header("accept-encoding", "gzip")
        .bearer_auth(&server.token);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let read = async {
        while !enough(&text) {
            let chunk = response.chunk().await.unwrap().expect("it goes on");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    assert!(read.is_ok(), "only {text}\n{}", server.log());
    text
}

#[tokio::test]
async fn followers_hear_of_events_as_they_happen() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "followed", 1);
    let public = json!({"read_access": "public"});
    server.upload("early", "1", &files, &public).await;
    let (told, ()) = tokio::join!(
        follow(&server, "", None, |text| text.contains("event: created")),
        async {
            // Whoever follows from now on has asked by then; the early project is not theirs.
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.upload("late", "1", &files, &public).await;
        }
    );
    assert!(!told.contains("early"), "{told}");
    assert_eq!(told.matches("event: indexed").count(), 1);

    // Who comes back goes on where they were.
    let whole = follow(&server, "since=1h", None, |text| {
        text.matches("event: created").count() == 2 && text.ends_with("\n\n")
    })
    .await;
    let ids: Vec<&str> = whole
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert!(ids.len() >= 2, "{whole}");
    // What was begun before that and came after it is told, too.
    let before = log_time(ids[0]).unwrap() - SignedDuration::from_secs(5);
    let straggler = Event::of_instance(EventStage::AllIndexed, "late", before, json!({}));
    let key = format!("..events/{}.json", log_name(before, "late"));
    let entry = serde_json::to_vec(&[straggler]).unwrap();
    server.put_object(&key, entry).await;
    let rest = follow(&server, "", Some(ids[0]), |text| {
        text.contains("event: all-indexed") && text.matches("event: created").count() == 2
    })
    .await;
    let told = |text: &str| -> BTreeSet<String> {
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|event| serde_json::from_str::<Value>(event).unwrap()["id"].to_string())
            .collect()
    };
    assert!(told(&rest).is_superset(&told(&whole)), "{rest}");
    // The table of expectations holds what ends.
    let (status, _) = server.anonymous("/events/follow").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let owner = server.token_for("admin", &["uploader"]);
    let (status, _) = server
        .call(Method::GET, "/events/follow", &owner, None)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_command_line_lists_and_follows() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "listed", 1);
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
    let command = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_artifactdb"));
        command
            .arg("events")
            .args(arguments)
            .env("ARTIFACTDB_URL", &server.url)
            .env("ARTIFACTDB_TOKEN", &server.token)
            .kill_on_drop(true);
        command
    };
    let listed = command(&["--stage", "indexed", "--stage", "created"])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("indexed") && lines[0].contains("P@1"),
        "{text}"
    );
    let wrong = command(&["--stage", "exploded"]).output().await.unwrap();
    assert_eq!(wrong.status.code(), Some(5));

    let mut following = command(&["--follow", "--json", "--since", "1h", "--project", "P"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = tokio::io::BufReader::new(following.stdout.take().unwrap());
    let mut lines = tokio::io::AsyncBufReadExt::lines(stdout);
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line());
        let line = line.await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        seen.push(format!("{} {}", event["version"], event["stage"]));
        if seen.len() == 4 {
            server.upload("P", "2", &files, &public).await;
        }
    }
    assert_eq!(seen[7], "\"2\" \"version-created\"");
}
