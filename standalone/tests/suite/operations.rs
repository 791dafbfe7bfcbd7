//! Around the routes: limits, caching, compression, other sites, prefixes of proxies, request ids, and
//! the log of changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Path as Segment;
use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{QUICKSTART, Server, table};

/// A server of the quickstart whose instance says more.
async fn with_spec(more: &str) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    let quickstart = std::fs::read_to_string(QUICKSTART).unwrap();
    let text = quickstart.replacen("  sequences:\n", &format!("{more}\n  sequences:\n"), 1);
    assert_ne!(text, quickstart);
    std::fs::write(&resources, text).unwrap();
    (Server::with(&resources).await, folder)
}

async fn one_file(server: &Server) {
    let title = "long ".repeat(400);
    let files = table("a.csv", "a\n1\n", &title, 1);
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
}

#[tokio::test]
async fn a_caller_who_asks_too_often_is_told_when_to_come_again() {
    let (server, _folder) =
        with_spec("  api:\n    rateLimit: {requestsPerSecond: 1, burst: 5}").await;
    let ann = server.token_for("ann", &[]);
    let ask = async |token: &str| {
        server
            .raw(Method::GET, "/projects", token, None)
            .await
            .unwrap()
    };
    let mut refused = None;
    for _ in 0..20 {
        let answer = ask(&ann).await;
        if answer.status() == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status(), 200);
    }
    let refused = refused.expect("20 requests are more than 5");
    let after: u32 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=5).contains(&after), "{after}");
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["status"], "error");
    // Another caller is not held up, and neither is whoever asks how the server is.
    let bob = server.token_for("bob", &[]);
    assert_eq!(ask(&bob).await.status(), 200);
    for _ in 0..20 {
        let (status, _) = server.anonymous("/jobs/nothing").await;
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let server = Server::start().await;
    one_file(&server).await;
    for path in [
        "/files/P:a.csv@1/metadata",
        "/schemas/table/v1",
        "/openapi.json",
    ] {
        let get = |tag: &str| {
            let request = server.http.get(format!("{}{path}", server.url));
            request.header("if-none-match", tag.to_owned()).send()
        };
        let first = get("\"other\"").await.unwrap();
        assert_eq!(first.status(), 200);
        assert_eq!(first.headers()["cache-control"], "private, no-cache");
        let tag = first.headers()["etag"].to_str().unwrap().to_owned();
        let again = get(&tag).await.unwrap();
        assert_eq!(again.status(), 304);
        assert_eq!(again.headers()["etag"], tag.as_str());
        assert_eq!(again.text().await.unwrap(), "");
    }
    // Permissions are asked each time: a tag opens nothing.
    let first = server
        .http
        .get(format!("{}/files/P:a.csv@1/metadata", server.url));
    let tag = first.send().await.unwrap().headers()["etag"].clone();
    let hide = json!({"read_access": "owners"});
    let (_, accepted) = server
        .call(
            Method::PUT,
            "/projects/P/permissions",
            &server.token,
            Some(hide),
        )
        .await;
    server.wait(&accepted).await;
    let started = std::time::Instant::now();
    loop {
        let again = server
            .http
            .get(format!("{}/files/P:a.csv@1/metadata", server.url));
        let status = again
            .header("if-none-match", &tag)
            .send()
            .await
            .unwrap()
            .status();
        if status == 404 {
            break;
        }
        assert!(
            status == 304 && started.elapsed().as_secs() < 10,
            "{status}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let redirected = server
        .raw(Method::GET, "/files/P:a.csv@1", &server.token, None)
        .await
        .unwrap();
    assert_eq!(redirected.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn long_answers_are_compressed_for_whoever_takes_it() {
    let server = Server::start().await;
    one_file(&server).await;
    let url = format!("{}/search?q=*", server.url);
    let plain = server.http.get(&url).send().await.unwrap();
    assert!(plain.headers().get("content-encoding").is_none());
    let length = plain.bytes().await.unwrap().len();
    let asked = server.http.get(&url).header("accept-encoding", "gzip");
    let packed = asked.send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.bytes().await.unwrap().len() < length / 2);
    // A refusal says as plainly what it says, however long it is.
    let (_, metadata) = table("a.csv", "a", "t", 1).remove(1);
    let mut document: Value = serde_json::from_slice(&metadata).unwrap();
    document["rows"] = json!("many".repeat(2000));
    let asked = server
        .http
        .post(format!("{}/schema/validate", server.url))
        .header("accept-encoding", "gzip")
        .json(&json!({"docs": [document]}));
    let refused = asked.send().await.unwrap();
    assert_eq!(refused.status(), 422);
    let text = refused.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert!(text.len() > 2000 && body["request_id"].is_string());
}

#[tokio::test]
async fn other_sites_may_ask_where_the_configuration_says_so() {
    let ask = async |server: &Server, method: Method, origin: &str| {
        let request = server
            .http
            .request(method, format!("{}/projects", server.url));
        let request = request.header("origin", origin.to_owned());
        let request = request.header("access-control-request-method", "GET");
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get("access-control-allow-origin").cloned();
        (
            answer.status().as_u16(),
            allowed.map(|own| own.to_str().unwrap().to_owned()),
        )
    };
    let closed = Server::start().await;
    assert_eq!(
        ask(&closed, Method::GET, "https://a.org").await,
        (200, None)
    );
    let (open, _one) = with_spec("  api:\n    cors: {}").await;
    let any = Some("*".to_owned());
    assert_eq!(
        ask(&open, Method::OPTIONS, "https://a.org").await,
        (200, any.clone())
    );
    assert_eq!(ask(&open, Method::GET, "https://a.org").await, (200, any));
    let (some, _two) = with_spec("  api:\n    cors: {allowOrigins: ['https://a.org']}").await;
    let one = Some("https://a.org".to_owned());
    assert_eq!(
        ask(&some, Method::OPTIONS, "https://a.org").await,
        (200, one)
    );
    assert_eq!(ask(&some, Method::OPTIONS, "https://b.org").await.1, None);
}

#[tokio::test]
async fn a_prefix_that_a_proxy_leaves_is_taken_off() {
    let (server, _folder) = with_spec("  ingress: {host: adb.example.org, prefix: adb/v1/}").await;
    one_file(&server).await;
    for (path, wanted) in [
        ("/adb/v1/projects/P/versions", 200),
        ("/projects/P/versions", 200),
        ("/adb/v1//projects/P/versions", 200),
        ("/adb/v1", 200),
        ("/adb/v1?x=1", 200),
        ("/adb/v10/projects/P/versions", 404),
        ("/adb/v1/adb/v1/projects/P/versions", 404),
    ] {
        assert_eq!(server.anonymous(path).await.0, wanted, "{path}");
    }
    let body = json!({"filenames": []});
    let asked = server
        .raw(
            Method::POST,
            "/adb/v1/projects/upload",
            &server.token,
            Some(&body),
        )
        .await
        .unwrap();
    let location = asked.headers()["location"].to_str().unwrap();
    assert!(location.starts_with("/adb/v1/projects/PRJ"), "{location}");
    let (status, _) = server.call(Method::POST, location, "", Some(body)).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn refusals_name_their_request_and_changes_are_logged() {
    let server = Server::start().await;
    let request = server.http.get(format!("{}/files/nonsense", server.url));
    let answer = request
        .header("x-request-id", "mine-17")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-17");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["request_id"], "mine-17", "{body}");
    let answer = server.raw(Method::GET, "/nowhere", "", None).await.unwrap();
    let id = answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["request_id"], id.as_str());
    let ann = server.token_for("ann", &[]);
    let lock = json!({"stage": "tidying"});
    let path = "/projects/P/lock";
    assert_eq!(
        server
            .call(Method::POST, path, &ann, Some(lock.clone()))
            .await
            .0,
        403
    );
    assert_eq!(
        server
            .call(Method::POST, path, &server.token, Some(lock))
            .await
            .0,
        200
    );
    server.anonymous("/projects").await;
    let asks = server
        .http
        .request(Method::OPTIONS, format!("{}{path}", server.url));
    asks.send().await.unwrap();
    let log = server.log();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("audit")).collect();
    let of = |words: [&str; 3]| {
        let told = |line: &&&str| words.iter().all(|word| line.contains(word));
        audit.iter().filter(told).count()
    };
    assert_eq!(of([path, "403", "ann"]), 1, "{audit:?}");
    assert_eq!(of([path, "200", "admin"]), 1, "{audit:?}");
    assert_eq!(audit.len(), 2, "{audit:?}");
    assert!(!log.contains(&ann) && !log.contains(&server.token));
}

#[tokio::test]
async fn groups_count_as_their_members() {
    let away = Arc::new(AtomicBool::new(false));
    let gone = away.clone();
    let directory = axum::Router::new().route(
        "/groups/{user}",
        axum::routing::get(move |Segment(user): Segment<String>| async move {
            let empty = json!({"response": {"docs": []}});
            match (&*user, gone.load(Ordering::Relaxed)) {
                (_, true) => Err(StatusCode::INTERNAL_SERVER_ERROR),
                ("ann", _) => Ok(axum::Json(
                    json!({"response": {"docs": [{"email": "genes@x.org"}]}}),
                )),
                ("a/b", _) => Ok(axum::Json(json!(["genes"]))),
                _ => Ok(axum::Json(empty)),
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/groups/{{user}}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, directory).await.unwrap() });
    let more = format!("  auth:\n    groups: {{urlTemplate: '{url}', cacheTtl: 1h}}");
    let (server, _folder) = with_spec(&more).await;
    let files = table("a.csv", "a\n1\n", "shared", 1);
    let shared = json!({"read_access": "viewers", "viewers": ["genes"], "owners": ["genes@x.org"]});
    server.upload("P", "1", &files, &shared).await;
    let sees = async |user: &str| {
        let token = server.token_for(user, &[]);
        let found = server.ids("shared", &token).await.len();
        let (status, _) = server
            .call(Method::GET, "/files/P:a.csv@1/metadata", &token, None)
            .await;
        assert_eq!(found == 1, status == 200, "{user}");
        found == 1
    };
    assert!(sees("ann").await);
    assert!(sees("a/b").await);
    assert!(!sees("sam").await);
    // An owner by group writes.
    let ann = server.token_for("ann", &[]);
    let change = json!({"viewers": ["genes", "sam"]});
    let (status, accepted) = server
        .call(Method::PUT, "/projects/P/permissions", &ann, Some(change))
        .await;
    assert_eq!(status, 202, "{accepted}");
    server.wait(&accepted).await;
    // While the directory is away, what it said counts; who was not seen has no groups.
    away.store(true, Ordering::Relaxed);
    assert!(sees("ann").await);
    let new = server.token_for("zoe", &[]);
    assert_eq!(server.ids("shared", &new).await.len(), 0);
}
