//! Many writers at once: exactly one wins each version, and nothing is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Server, table};

const WRITERS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_32_wins_a_version() {
    let server = Arc::new(Server::start().await);
    let tasks = (0..WRITERS).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            let files = table("a.csv", &format!("a\n{writer}\n"), "race", writer);
            let (status, begun) = server.begin("P", "1", &files, &server.token).await;
            if status != 200 {
                assert!(
                    matches!(status.as_u16(), 423 | 409 | 400),
                    "{status} {begun}"
                );
                return (writer, status, None);
            }
            server.transfer(&begun, &files).await.unwrap();
            let (status, accepted) = server
                .complete(&begun, &json!({"read_access": "public"}))
                .await;
            (writer, status, Some(accepted))
        })
    });
    let outcomes = futures::future::join_all(tasks).await;
    let winners: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap())
        .filter(|(_, status, _)| *status == StatusCode::ACCEPTED)
        .collect();
    assert_eq!(winners.len(), 1);
    let (winner, _, accepted) = &winners[0];
    let job = server.wait(accepted.as_ref().unwrap()).await;
    assert_eq!(job["status"], "SUCCESS", "{job}");
    let content = format!("a\n{winner}\n").into_bytes();
    assert_eq!(
        server.download("P:a.csv@1", "").await.1,
        content,
        "no other writer's bytes"
    );
    let (_, document) = server.anonymous("/files/P:a.csv@1/metadata").await;
    assert_eq!(document["rows"], *winner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_8_versions_has_one_winner_and_revisions_are_consecutive() {
    let server = Arc::new(Server::start().await);
    let tasks = (0..WRITERS).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            let version = format!("v{}", writer % 8);
            let files = table("a.csv", &format!("a\n{writer}\n"), "race", writer);
            let (status, begun) = server.begin("P", &version, &files, &server.token).await;
            if status != 200 {
                assert!(
                    matches!(status.as_u16(), 423 | 409 | 400),
                    "{status} {begun}"
                );
                return None;
            }
            server.transfer(&begun, &files).await.unwrap();
            let (status, accepted) = server
                .complete(&begun, &json!({"read_access": "public"}))
                .await;
            assert_eq!(status, 202, "{accepted}");
            assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
            Some((version, writer))
        })
    });
    let outcomes = futures::future::join_all(tasks).await;
    let winners: Vec<(String, usize)> = outcomes
        .into_iter()
        .filter_map(|outcome| outcome.unwrap())
        .collect();
    let versions: BTreeSet<&String> = winners.iter().map(|(version, _)| version).collect();
    assert_eq!((winners.len(), versions.len()), (8, 8));
    let mut revisions = BTreeSet::new();
    for (version, writer) in &winners {
        let (_, document) = server
            .anonymous(&format!("/files/P:a.csv@{version}/metadata"))
            .await;
        assert_eq!(document["rows"], *writer);
        revisions.insert(document["_extra"]["numerical_revision"].as_u64().unwrap());
    }
    assert_eq!(revisions, (1..=8).collect());
}

#[tokio::test]
async fn a_running_upload_locks_its_version_and_no_other() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "lock", 1);
    let (_, first) = server.begin("P", "1", &files, &server.token).await;
    let (status, second) = server.begin("P", "1", &files, &server.token).await;
    assert_eq!(status, 423, "{second}");
    let (_, other) = server.begin("P", "2", &files, &server.token).await;
    assert!(other["completion_url"].is_string());
    let (_, lock) = server.get("/projects/P/lock").await;
    assert_eq!(lock["lock"]["stage"], "uploading");
    assert_eq!(lock["lock"]["owner"], "admin");
    let (_, lock) = server.anonymous("/projects/P/lock").await;
    assert_eq!(
        (lock["lock"]["stage"].as_str(), &lock["lock"]["owner"]),
        (Some("uploading"), &serde_json::Value::Null),
        "who writes is not public"
    );

    // Forced off, the first upload is fenced by the next one: whatever it does changes nothing.
    let (status, _) = server
        .call(
            reqwest::Method::DELETE,
            "/projects/P/lock",
            &server.token,
            None,
        )
        .await;
    assert_eq!(status, 200);
    let (status, third) = server.begin("P", "1", &files, &server.token).await;
    assert_eq!(status, 200, "{third}");
    server.transfer(&first, &files).await.unwrap();
    let (status, stale) = server.complete(&first, &json!({})).await;
    assert_eq!(status, 409, "{stale}");
    let abort = first["abort_url"].as_str().unwrap();
    let (status, _) = server.call(reqwest::Method::PUT, abort, "", None).await;
    assert_eq!(status, 409, "a stale abort does not end the later upload");
    server.transfer(&third, &files).await.unwrap();
    let (status, accepted) = server
        .complete(&third, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202);
    // Completing twice is the same completion.
    let (status, again) = server.complete(&third, &json!({})).await;
    assert_eq!(
        (status.as_u16(), &again["job_id"]),
        (202, &accepted["job_id"])
    );
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    let (status, exists) = server.begin("P", "1", &files, &server.token).await;
    assert_eq!(status, 400);
    assert_eq!(
        exists["reason"],
        "version '1' already exists for project 'P'"
    );
    let abort = third["abort_url"].as_str().unwrap();
    assert_eq!(
        server.call(reqwest::Method::PUT, abort, "", None).await.0,
        400
    );
    assert_eq!(server.download("P:a.csv@1", "").await.1, b"a\n1\n");
}

/// Clients that go away at any moment of a request: nothing half-written shows, nothing stays locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_go_away_leave_no_damage() {
    let server = Server::start().await;
    let old = vec![1_u8; 200_000];
    let files = vec![
        ("big.bin".to_owned(), old.clone()),
        (
            "big.bin.json".to_owned(),
            br#"{"path": "big.bin"}"#.to_vec(),
        ),
    ];
    let (_, begun) = server.begin("P", "1", &files, &server.token).await;
    server.transfer(&begun, &files).await.unwrap();
    let entry = &begun["presigned_urls"][0];
    let (url, md5) = (
        entry["url"].as_str().unwrap(),
        entry["md5sum"].as_str().unwrap(),
    );
    for round in 0..200 {
        let put = server
            .http
            .put(url)
            .header("content-md5", md5)
            .body(old.clone());
        let moment = std::time::Duration::from_micros(100 * round);
        let _ = tokio::time::timeout(moment, put.send()).await;
    }
    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    assert_eq!(server.download("P:big.bin@1", "").await.1, old);

    for round in 0..40 {
        let version = format!("v{round}");
        let moment = std::time::Duration::from_micros(200 * round);
        let begin = server.begin("P", &version, &files, &server.token);
        let _ = tokio::time::timeout(moment, begin).await;
        // Whatever came of it: an administrator can end it, or nothing ever began.
        let abort = format!("/projects/P/version/{version}/abort");
        let (status, _) = server
            .call(reqwest::Method::PUT, &abort, &server.token, None)
            .await;
        assert!(
            matches!(status.as_u16(), 200 | 404),
            "round {round}: {status}"
        );
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let (StatusCode::OK, lock) = server.get("/projects/P/lock").await {
        let version = lock["lock"]["info"]["version"].as_str().unwrap();
        let abort = format!("/projects/P/version/{version}/abort");
        server
            .call(reqwest::Method::PUT, &abort, &server.token, None)
            .await;
        assert!(std::time::Instant::now() < deadline, "{lock}");
    }
}
