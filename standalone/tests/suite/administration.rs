//! What administrators do: the index, tasks by name, maintenance, and versions that are to stay.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, Server, table};

async fn as_admin(
    server: &Server,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let (status, answer) = server.call(method, path, &server.token, body).await;
    (status.as_u16(), answer)
}

#[tokio::test]
async fn administration_is_for_administrators() {
    let server = Server::start().await;
    let uploader = server.token_for("ursula", &["uploader", "creator"]);
    for (method, path) in [
        (Method::PUT, "/index/build"),
        (Method::GET, "/index/status"),
        (Method::GET, "/index/settings"),
        (Method::DELETE, "/index/default/inactive"),
        (Method::GET, "/index/models/default"),
        (Method::DELETE, "/index/models/default"),
        (Method::PUT, "/index/models/generate"),
        (Method::PUT, "/index/models/sync"),
        (Method::GET, "/index/mappings/default"),
        (Method::PUT, "/index/aliases/sync"),
        (Method::PUT, "/index/snapshot"),
        (Method::GET, "/index/snapshots"),
        (Method::GET, "/index/snapshots/a"),
        (Method::DELETE, "/index/snapshots/a"),
        (Method::GET, "/tasks"),
        (Method::GET, "/plugins"),
        (Method::GET, "/tasks/logs"),
        (Method::PUT, "/task/logs/reset"),
        (Method::DELETE, "/maintenance/requests"),
        (Method::DELETE, "/schema/cache"),
        (Method::GET, "/config"),
        (Method::GET, "/sequences"),
    ] {
        for (token, wanted) in [("", 401), (uploader.as_str(), 403)] {
            let (status, body) = server.call(method.clone(), path, token, None).await;
            assert_eq!(status, wanted, "{method} {path}: {body}");
        }
    }
    for (path, body) in [
        ("/task/run", json!({"name": "reindex"})),
        ("/maintenance/requests", json!({"name": "wait"})),
    ] {
        for (token, wanted) in [("", 401), (uploader.as_str(), 403)] {
            let (status, _) = server
                .call(Method::PUT, path, token, Some(body.clone()))
                .await;
            assert_eq!(status, wanted, "{path}");
        }
    }
}

#[tokio::test]
async fn the_index_is_seen_and_built_again() {
    let server = Server::start().await;
    let public = json!({"read_access": "public"});
    for project in ["P", "Q"] {
        let files = table("a.csv", project, "indexed", 1);
        server.upload(project, "1", &files, &public).await;
    }
    let (status, seen) = as_admin(&server, Method::GET, "/index/status", None).await;
    assert_eq!(status, 200);
    assert_eq!(seen["aliases"]["synced"], true, "{seen}");
    assert_eq!(
        seen["models"],
        json!({"diffs": {"default": null}, "synced": true})
    );
    let (_, settings) = as_admin(&server, Method::GET, "/index/settings", None).await;
    let live = &settings["indices"]["active"]["default"]["name"];
    assert_eq!(live, &seen["aliases"]["clients"]["default"]["index"]);
    assert_eq!(settings["total"], 1);
    let (_, model) = as_admin(&server, Method::GET, "/index/models/default", None).await;
    let (_, mapping) = as_admin(&server, Method::GET, "/index/mappings/default", None).await;
    for shown in [&model, &mapping] {
        assert_eq!(shown["properties"]["rows"]["type"], "integer", "{shown}");
    }
    let (_, synced) = as_admin(&server, Method::PUT, "/index/models/sync?dryrun=true", None).await;
    assert_eq!(
        synced,
        json!({"default": {"synced": true, "remaining-diffs": [], "status": "dry-run"}})
    );
    let (status, done) = as_admin(&server, Method::PUT, "/index/aliases/sync", None).await;
    assert_eq!((status, done), (200, json!({"status": "ok"})));
    let (_, deleted) = as_admin(
        &server,
        Method::DELETE,
        "/index/default/inactive?keep=0",
        None,
    )
    .await;
    assert_eq!(deleted, json!({"deleted": []}));
    for (method, path, wanted) in [
        (Method::GET, "/index/models/other", 404),
        (Method::GET, "/index/mappings/other", 404),
        (Method::DELETE, "/index/other/inactive", 404),
        (Method::DELETE, "/index/default/inactive?keep=-1", 422),
        (Method::PUT, "/index/models/sync?client=other", 404),
        (Method::PUT, "/index/models/sync?dryrun=perhaps", 422),
        (Method::PUT, "/index/models/generate", 501),
        (Method::DELETE, "/index/models/default", 400),
        (Method::PUT, "/index/aliases/sync?action=move", 422),
        (Method::PUT, "/index/snapshot", 501),
        (Method::GET, "/index/snapshots", 501),
    ] {
        let (status, body) = as_admin(&server, method.clone(), path, None).await;
        assert_eq!(status, wanted, "{method} {path}: {body}");
    }
    // Of one project, then of all.
    let some = json!({"project_ids": ["P"]});
    for (body, versions) in [(Some(some), 1), (None, 2)] {
        let (status, accepted) = as_admin(&server, Method::PUT, "/index/build", body).await;
        assert_eq!(status, 202, "{accepted}");
        let job = server.wait(&accepted).await;
        assert_eq!(job["status"], "SUCCESS", "{job}");
        assert_eq!(job["result"]["versions"], versions);
    }
    assert_eq!(server.ids("indexed", "").await.len(), 2);
    let many: Vec<String> = (0..51).map(|number| format!("P{number}")).collect();
    let many = json!({"project_ids": many});
    let (status, _) = as_admin(&server, Method::PUT, "/index/build", Some(many)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn tasks_run_by_name() {
    let server = Server::start().await;
    let (_, tasks) = as_admin(&server, Method::GET, "/tasks", None).await;
    let names: Vec<&str> = tasks["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| own["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["reindex", "purge-stale", "sync-permissions"]);
    for name in names {
        let body = json!({"name": name, "params": {}});
        let (status, accepted) = as_admin(&server, Method::PUT, "/task/run", Some(body)).await;
        assert_eq!(status, 202, "{accepted}");
        assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    }
    for (body, wanted) in [
        (json!({"name": "harakiri"}), 404),
        (json!({"name": "reindex", "params": {"x": 1}}), 422),
        (
            json!({"name": "reindex", "params": {"project_ids": "P"}}),
            422,
        ),
        (
            json!({"name": "purge-stale", "params": {"older_than": "soon"}}),
            422,
        ),
        (json!({"params": {}}), 422),
    ] {
        let (status, answer) = as_admin(&server, Method::PUT, "/task/run", Some(body)).await;
        assert_eq!(status, wanted, "{answer}");
    }
    // A version that does not fit its schema is given up, and is told of until that is reset.
    let mut files = table("a.csv", "a", "wrong", 1);
    files[1].1 = br#"{"$schema": "table/v1.json", "path": "a.csv", "rows": "many"}"#.to_vec();
    let (_, begun) = server.begin("P", "1", &files, &server.token).await;
    server.transfer(&begun, &files).await.unwrap();
    let (_, accepted) = server.complete(&begun, &json!({})).await;
    assert_eq!(server.wait(&accepted).await["status"], "FAILURE");
    let (_, logs) = as_admin(&server, Method::GET, "/tasks/logs", None).await;
    let line = logs["index"][0]["logs"][0].as_str().unwrap();
    assert!(line.contains("\"project\":\"P\""), "{logs}");
    let (status, reset) = as_admin(&server, Method::PUT, "/task/logs/reset", None).await;
    assert_eq!((status, reset), (200, json!({})));
    let (_, logs) = as_admin(&server, Method::GET, "/tasks/logs", None).await;
    assert_eq!(logs, json!({}));
}

#[tokio::test]
async fn requests_for_maintenance_are_kept_in_order() {
    let server = Server::start().await;
    let path = "/maintenance/requests";
    assert_eq!(as_admin(&server, Method::DELETE, path, None).await.0, 404);
    for name in ["re-index", "restart", "wait"] {
        let body = json!({"name": name, "args": [1]});
        assert_eq!(
            as_admin(&server, Method::PUT, path, Some(body)).await.0,
            200
        );
    }
    let huge = json!({"name": "wait", "args": ["x".repeat(100_000)]});
    assert_eq!(
        as_admin(&server, Method::PUT, path, Some(huge)).await.0,
        400
    );
    let unknown = json!({"name": "explode"});
    assert_eq!(
        as_admin(&server, Method::PUT, path, Some(unknown)).await.0,
        400
    );
    let (_, status) = as_admin(&server, Method::GET, "/maintenance/status", None).await;
    let names = |requests: &Value| -> Vec<String> {
        let requests = requests.as_array().unwrap();
        let names = requests.iter().map(|own| own["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    };
    assert_eq!(status["state"], Value::Null);
    assert_eq!(names(&status["requests"]), ["re-index", "restart", "wait"]);
    // Nobody else learns who asked for what.
    let (_, status) = server.anonymous("/maintenance/status").await;
    assert_eq!(status["requests"], json!([]));
    let (_, first) = as_admin(&server, Method::DELETE, path, None).await;
    assert_eq!(
        (&first["name"], &first["args"]),
        (&json!("re-index"), &json!([1]))
    );
    let all = format!("{path}?purge=true");
    let (_, rest) = as_admin(&server, Method::DELETE, &all, None).await;
    assert_eq!(names(&rest), ["restart", "wait"]);
}

#[tokio::test]
async fn a_transient_version_can_be_made_to_stay() {
    let server = Server::start().await;
    let ann = server.token_for("ann", &["creator"]);
    let stranger = server.token_for("sam", &[]);
    let files = table("a.csv", "a\n1\n", "passing", 1);
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let body = json!({"filenames": names, "expires_in": "in 1 hour", "completed_by": "in 1 hour"});
    let path = "/projects/P-1/version/v-1/upload";
    let (status, begun) = server.call(Method::POST, path, &ann, Some(body)).await;
    assert_eq!(status, 200, "{begun}");
    for (name, content) in &files {
        let url = begun["presigned_urls"][name].as_str().unwrap();
        let put = server.http.put(url).body(content.clone()).send();
        assert_eq!(put.await.unwrap().status(), 200);
    }
    let (_, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    let document = "/files/P-1:a.csv@v-1/metadata";
    let (_, metadata) = server.anonymous(document).await;
    let job = begun["expires_job_id"].as_str().unwrap();
    assert_eq!(metadata["_extra"]["transient"]["expires_job_id"], job);
    let cancel = format!("/jobs/{job}");
    for (token, wanted) in [("", 401), (stranger.as_str(), 403)] {
        let (status, _) = server.call(Method::DELETE, &cancel, token, None).await;
        assert_eq!(status, wanted);
    }
    let purge = format!("/jobs/{}", begun["purge_job_id"].as_str().unwrap());
    for (path, wanted) in [
        ("/jobs/nothing", 404),
        ("/jobs/expire-nothing", 404),
        (purge.as_str(), 400),
    ] {
        let (status, answer) = server.call(Method::DELETE, path, &ann, None).await;
        assert_eq!(status, wanted, "{path}: {answer}");
    }
    let (status, answer) = server.call(Method::DELETE, &cancel, &ann, None).await;
    assert_eq!(
        (status.as_u16(), answer),
        (200, json!({"job_id": job, "cancelled": true}))
    );
    // The document says so once it is written again.
    let started = std::time::Instant::now();
    loop {
        let (status, metadata) = server.anonymous(document).await;
        assert_eq!(status, 200);
        if metadata["_extra"].get("transient").is_none() {
            break;
        }
        assert!(started.elapsed().as_secs() < 60, "{metadata}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (status, _) = server.call(Method::DELETE, &cancel, &ann, None).await;
    assert_eq!(status, 400);
    // What stays can be linked to.
    let link = json!({"filenames": [{"filename": "b.csv", "check": "link", "value": {"artifactdb_id": "P-1:a.csv@v-1"}}]});
    let (status, begun) = server
        .call(
            Method::POST,
            "/projects/P-1/version/v-2/upload",
            &ann,
            Some(link),
        )
        .await;
    assert_eq!(status, 200, "{begun}");
}

#[tokio::test]
async fn the_service_key_is_an_administrator() {
    let server = Server::start().await;
    let ask = |key: &str| {
        let request = server
            .http
            .get(format!("{}/config", server.url))
            .header("x-adb-service-key", key);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    match crate::BACKEND {
        // One process has no automation beside it.
        Backend::Embedded => assert_eq!(ask("anything").await, 400),
        Backend::Real => {
            let key = server.real().service_key();
            assert_eq!(ask(&key).await, 200);
            assert_eq!(ask(&key[1..]).await, 400);
            assert_eq!(ask("").await, 400);
        }
    }
}

#[tokio::test]
async fn corrections_beside_the_metadata_count_when_it_is_indexed_again() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "wrong title", 1);
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
    let correct = async |diff: &str| {
        let key = "P/1/..diff/a.csv.json.jsondiff";
        server.put_object(key, diff.as_bytes().to_vec()).await;
        let (_, accepted) = as_admin(&server, Method::PUT, "/index/build", None).await;
        let job = server.wait(&accepted).await;
        assert_eq!(job["status"], "SUCCESS", "{job}");
        job["result"]["failed"].as_u64().unwrap()
    };
    let failed =
        correct(r#"{"title": "corrected", "columns": {"0": {"name": "b"}}, "$delete": ["rows"]}"#);
    assert_eq!(failed.await, 0);
    let (_, document) = server.anonymous("/files/P:a.csv@1/metadata").await;
    assert_eq!(document["title"], "corrected");
    assert_eq!(
        document["columns"],
        json!([{"name": "b", "type": "number"}])
    );
    assert!(document.get("rows").is_none());
    let (_, raw) = server.anonymous("/files/P:a.csv@1/metadata?raw=true").await;
    assert_eq!(raw["title"], "wrong title");
    // What does not fit, or says who may read, changes nothing that is shown.
    for wrong in [
        "no JSON",
        r#"{"columns": {"7": 1}}"#,
        r#"{"path": "b.csv"}"#,
        r#"{"_extra": {"permissions": {"read_access": "none"}}}"#,
        r#"{"rows": "many"}"#,
    ] {
        assert_eq!(correct(wrong).await, 1, "{wrong}");
        assert_eq!(server.ids("corrected", "").await, ["P:a.csv@1"], "{wrong}");
    }
}

#[tokio::test]
async fn permissions_that_were_written_past_the_api_count_once_they_are_synced() {
    let server = Server::start().await;
    let public = json!({"read_access": "public"});
    for project in ["P", "Q"] {
        let files = table("a.csv", project, "synced", 1);
        server.upload(project, "1", &files, &public).await;
    }
    let sync = async || {
        let body = json!({"name": "sync-permissions"});
        let (status, accepted) = as_admin(&server, Method::PUT, "/task/run", Some(body)).await;
        assert_eq!(status, 202, "{accepted}");
        server.wait(&accepted).await["result"].clone()
    };
    assert_eq!(sync().await, json!({"projects": 2, "changed": 0}));
    let closed = json!({"owners": ["ann"], "read_access": "owners"});
    let key = "P/..meta/permissions.json";
    server
        .put_object(key, closed.to_string().into_bytes())
        .await;
    assert_eq!(sync().await, json!({"projects": 2, "changed": 1}));
    assert_eq!(server.ids("synced", "").await, ["Q:a.csv@1"]);
    let ann = server.token_for("ann", &[]);
    assert_eq!(server.ids("synced", &ann).await.len(), 2);
    assert_eq!(sync().await, json!({"projects": 2, "changed": 0}));
}

/// What is shown is not lost by being made again of what does not fit any more.
#[tokio::test]
async fn a_version_that_cannot_be_made_again_stays_as_it_was() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "passing", 1);
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let body = json!({"filenames": names, "expires_in": "in 1 hour", "completed_by": "in 1 hour"});
    let path = "/projects/P/version/1/upload";
    let (_, begun) = as_admin(&server, Method::POST, path, Some(body)).await;
    for (name, content) in &files {
        let url = begun["presigned_urls"][name].as_str().unwrap();
        let put = server.http.put(url).body(content.clone()).send();
        assert_eq!(put.await.unwrap().status(), 200);
    }
    let public = json!({"read_access": "public"});
    let (_, accepted) = server.complete(&begun, &public).await;
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    server
        .put_object("P/1/..diff/a.csv.json.jsondiff", b"no JSON".to_vec())
        .await;
    let cancel = format!("/jobs/{}", begun["expires_job_id"].as_str().unwrap());
    let (status, answer) = as_admin(&server, Method::DELETE, &cancel, None).await;
    assert_eq!(status, 200, "{answer}");
    let started = std::time::Instant::now();
    loop {
        let (_, logs) = as_admin(&server, Method::GET, "/tasks/logs", None).await;
        if logs.get("index").is_some() {
            break;
        }
        assert!(started.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(server.ids("passing", "").await, ["P:a.csv@1"]);
    let (status, _) = server.download("P:a.csv@1", "").await;
    assert_eq!(status, 200);
}
