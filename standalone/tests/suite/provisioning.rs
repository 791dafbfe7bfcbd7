//! Uploads whose project or version the instance numbers, and the sequences behind it.

use std::collections::BTreeSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{QUICKSTART, Server, table};

/// Asks for a number; returns the status, and where to go on or the reason.
async fn provision(server: &Server, path: &str, token: &str, body: &Value) -> (u16, String) {
    let asked = server.raw(Method::POST, path, token, Some(body)).await;
    let response = asked.unwrap();
    let status = response.status().as_u16();
    if status == 307 {
        return (
            status,
            response.headers()["location"].to_str().unwrap().to_owned(),
        );
    }
    let body: Value = response.json().await.unwrap();
    (status, body["reason"].as_str().unwrap().to_owned())
}

fn names(files: &[(String, Vec<u8>)]) -> Value {
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    json!({"filenames": names})
}

/// The project and version that a location names.
fn target(location: &str) -> (String, String) {
    let parts: Vec<&str> = location.split(['/', '?']).collect();
    (parts[2].to_owned(), parts[4].to_owned())
}

/// Follows a redirection as clients do: the same request again.
async fn follow(server: &Server, location: &str, token: &str, files: &[(String, Vec<u8>)]) {
    let begun = server
        .call(Method::POST, location, token, Some(names(files)))
        .await;
    assert_eq!(begun.0, 200, "{}", begun.1);
    for (name, content) in files {
        let url = begun.1["presigned_urls"][name].as_str().unwrap();
        let put = server.http.put(url).body(content.clone()).send();
        assert_eq!(put.await.unwrap().status(), 200);
    }
    let (status, accepted) = server.complete(&begun.1, &json!({})).await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
}

#[tokio::test]
async fn projects_and_versions_are_numbered() {
    let server = Server::start().await;
    let creator = server.token_for("cleo", &["creator"]);
    let stranger = server.token_for("sam", &[]);
    let files = table("a.csv", "a\n1\n", "numbered", 1);
    let body = names(&files);
    for (path, token, status, reason) in [
        ("/projects/upload", "", 401, "Not authenticated"),
        ("/projects/upload", &stranger, 403, "missing role"),
        (
            "/projects/upload?prefix=X",
            &creator,
            400,
            "Unknown sequence prefix 'X'",
        ),
        (
            "/projects/nowhere/upload",
            &server.token,
            400,
            "there is no project 'nowhere'",
        ),
    ] {
        let (got, text) = provision(&server, path, token, &body).await;
        assert_eq!(got, status, "{path}: {text}");
        assert!(text.contains(reason), "{text}");
    }
    // Nobody takes the last number by hand, and none that is to come.
    for number in ["PRJ999999999", "PRJ000000002"] {
        let path = format!("/projects/{number}/version/1/upload");
        let (status, _) = server
            .call(Method::POST, &path, &creator, Some(body.clone()))
            .await;
        assert_eq!(status, 403, "{number}");
    }
    // A body that is no JSON costs no number.
    let broken = server
        .http
        .post(format!("{}/projects/upload", server.url))
        .bearer_auth(&creator)
        .body("{")
        .send();
    assert_eq!(broken.await.unwrap().status(), 422);
    let (status, first) = provision(&server, "/projects/upload", &creator, &body).await;
    assert_eq!(status, 307, "{first}");
    assert!(
        first.starts_with("/projects/PRJ000000001/version/1/upload?X-ADB-Credential="),
        "{first}"
    );
    follow(&server, &first, &creator, &files).await;
    // A client that leaves its token behind on the way is still who asked.
    let (_, second) = provision(&server, "/projects/upload?prefix=PRJ", &creator, &body).await;
    assert_eq!(target(&second), ("PRJ000000002".into(), "1".into()));
    follow(&server, &second, "", &files).await;
    let owned = server
        .call(
            Method::GET,
            "/projects/PRJ000000002/permissions",
            &creator,
            None,
        )
        .await;
    assert_eq!(owned.1["owners"], json!(["cleo"]));
    // The next version is for who may write.
    let next = "/projects/PRJ000000001/upload";
    assert_eq!(provision(&server, next, "", &body).await.0, 401);
    assert_eq!(provision(&server, next, &stranger, &body).await.0, 403);
    let (_, location) = provision(&server, next, &creator, &body).await;
    assert_eq!(target(&location), ("PRJ000000001".into(), "2".into()));
    follow(&server, &location, &creator, &files).await;
    // A version that was named by hand is passed over, as is one that was never used.
    let none = json!({"read_access": "public"});
    server.upload("PRJ000000001", "7", &files, &none).await;
    server.upload("PRJ000000001", "draft", &files, &none).await;
    let (_, eighth) = provision(&server, next, &creator, &body).await;
    let (_, ninth) = provision(&server, next, &creator, &body).await;
    assert_eq!(
        (target(&eighth).1, target(&ninth).1),
        ("8".into(), "9".into())
    );
    let (status, current) = server.get("/sequences/PRJ000000001/current_version").await;
    assert_eq!(
        (status.as_u16(), current),
        (
            200,
            json!({"project_id": "PRJ000000001", "current_version": 9})
        )
    );
    // A project that was never numbered goes on from its numbers, too.
    server.upload("by-hand", "3", &files, &none).await;
    let (_, fourth) = provision(&server, "/projects/by-hand/upload", &server.token, &body).await;
    assert_eq!(target(&fourth).1, "4");
    // While somebody holds the project, nothing is given out.
    let lock = json!({"stage": "tidying"});
    server
        .call(
            Method::POST,
            "/projects/by-hand/lock",
            &server.token,
            Some(lock),
        )
        .await;
    let (status, reason) =
        provision(&server, "/projects/by-hand/upload", &server.token, &body).await;
    assert_eq!(status, 423, "{reason}");
}

#[tokio::test]
async fn a_redirection_is_good_for_one_request() {
    let server = Server::start().await;
    let creator = server.token_for("cleo", &["creator"]);
    let files = table("a.csv", "a\n1\n", "numbered", 1);
    let body = names(&files);
    let (_, location) = provision(&server, "/projects/upload", &creator, &body).await;
    let credential = location.split_once('?').unwrap().1;
    for path in [
        format!("/projects/PRJ000000001/version/2/upload?{credential}"),
        format!("/projects/other/version/1/upload?{credential}"),
        format!("{location}&overwrite=true"),
        format!("{}x", location),
        "/projects/PRJ000000001/version/1/upload?X-ADB-Credential=nonsense".to_owned(),
    ] {
        let (status, refused) = server
            .call(Method::POST, &path, &creator, Some(body.clone()))
            .await;
        assert_eq!(status, 403, "{path}: {refused}");
    }
    for verb in ["complete", "abort"] {
        let path = format!("/projects/PRJ000000001/version/1/{verb}?{credential}");
        let (status, refused) = server.call(Method::PUT, &path, "", None).await;
        assert_eq!(status, 403, "{refused}");
    }
    follow(&server, &location, "", &files).await;
    let (status, again) = server
        .call(Method::POST, &location, "", Some(body.clone()))
        .await;
    assert_eq!(status, 400, "{again}");
    // Behind a proxy that takes a prefix off, the location has it.
    let response = server
        .http
        .post(format!("{}/projects/upload", server.url))
        .bearer_auth(&creator)
        .header("x-adb-prefix", "/v1/")
        .json(&body)
        .send()
        .await
        .unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    assert!(
        location.starts_with("/v1/projects/PRJ000000002/version/1/upload?"),
        "{location}"
    );
}

#[tokio::test]
async fn a_number_is_given_out_once() {
    let mut server = Server::start().await;
    let body = json!({"filenames": []});
    let asked = join_all((0..32).map(|_| async {
        let (status, location) = provision(&server, "/projects/upload", &server.token, &body).await;
        assert_eq!(status, 307, "{location}");
        target(&location).0
    }));
    let given: BTreeSet<String> = asked.await.into_iter().collect();
    assert_eq!(given.len(), 32);
    assert_eq!(given.last().unwrap(), "PRJ000000032");
    let first = "/projects/PRJ000000001/upload";
    let asked = join_all((0..16).map(|_| async {
        let (status, location) = provision(&server, first, &server.token, &body).await;
        assert_eq!(status, 307, "{location}");
        target(&location).1
    }));
    let given: BTreeSet<String> = asked.await.into_iter().collect();
    assert_eq!(given.len(), 16);
    // One that was made by hand is not given out, and counters that are lost come from the store.
    let files = table("a.csv", "a\n1\n", "numbered", 1);
    server.upload("PRJ000000034", "1", &files, &json!({})).await;
    let (_, location) = provision(&server, "/projects/upload", &server.token, &body).await;
    assert_eq!(target(&location).0, "PRJ000000033");
    let (_, location) = provision(&server, "/projects/upload", &server.token, &body).await;
    assert_eq!(target(&location).0, "PRJ000000035");
    server.terminate();
    server.restart().await;
    let (_, location) = provision(&server, "/projects/upload", &server.token, &body).await;
    assert_eq!(target(&location).0, "PRJ000000036");
}

#[tokio::test]
async fn pools_say_which_numbers_are_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    let pools = "- prefix: PRJ
      default: true
    - prefix: T
      format: '{prefix}-{seq_id:03}'
      pools:
        - {type: provisioned, from: 5, to: 8}
        - {type: restricted, from: 6, to: 7}";
    let quickstart = std::fs::read_to_string(QUICKSTART).unwrap();
    let text = quickstart.replace("- prefix: PRJ\n      default: true", pools);
    assert_ne!(text, quickstart);
    std::fs::write(&resources, text).unwrap();
    let server = Server::with(&resources).await;
    let (status, all) = server.get("/sequences").await;
    assert_eq!(status, 200);
    assert_eq!(
        all[1],
        json!({
            "prefix": "T", "default": false, "test": false,
            "provisioned_pools": [{"pool_id": 1, "pool_type": "PROVISIONED", "pool_status": "ACTIVE", "lower_limit": 5, "upper_limit": 8, "created_at": null}],
            "restricted_pools": [{"pool_id": 2, "pool_type": "RESTRICTED", "pool_status": "ACTIVE", "lower_limit": 6, "upper_limit": 7, "created_at": null}],
            "current_seq_id": {"status": "error", "reason": "no number was given out yet"},
        })
    );
    let body = json!({"filenames": []});
    for wanted in ["T-005", "T-008"] {
        let (_, location) =
            provision(&server, "/projects/upload?prefix=T", &server.token, &body).await;
        assert_eq!(target(&location).0, wanted);
    }
    let (status, reason) =
        provision(&server, "/projects/upload?prefix=T", &server.token, &body).await;
    assert_eq!(status, 400);
    assert!(reason.starts_with("No active provisioned pool"), "{reason}");
    let (_, synced) = server
        .call(Method::PUT, "/sequences/sync?prefix=T", &server.token, None)
        .await;
    assert_eq!(synced[0]["prefix"], "T");
    assert!(synced[0]["current_seq_id"].as_u64() >= Some(8), "{synced}");
    // These are for administrators.
    let creator = server.token_for("cleo", &["creator"]);
    for (method, path) in [
        (Method::GET, "/sequences"),
        (Method::PUT, "/sequences/sync"),
        (Method::GET, "/sequences/T-005/current_version"),
    ] {
        assert_eq!(
            server.call(method.clone(), path, &creator, None).await.0,
            403
        );
        assert_eq!(server.call(method, path, "", None).await.0, 401);
    }
    let (status, _) = server.get("/sequences/T-999/current_version").await;
    assert_eq!(status, 404);
}
