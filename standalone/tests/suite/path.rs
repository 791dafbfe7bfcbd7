//! The first whole path: upload, index, search, download, next version, in both dialects.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, encode, md5_hex, table};

#[tokio::test]
async fn the_map_dialect_from_upload_to_download() {
    let server = Server::start().await;
    let files = table("d/a b+c%.csv", "a\n1\n", "A table about penguins", 1);
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let path = "/projects/P/version/1/upload";
    let (status, begun) = server
        .call(
            Method::POST,
            path,
            &server.token,
            Some(json!({"filenames": names})),
        )
        .await;
    assert_eq!(status, 200, "{begun}");
    for key in [
        "project_id",
        "version",
        "revision",
        "presigned_urls",
        "sts",
        "links",
        "complete_before",
        "completion_url",
        "abort_url",
        "purge_job_id",
    ] {
        assert!(!begun[key].is_null(), "{key}");
    }
    assert_eq!(begun["revision"], "NUM-1");
    for (name, url) in begun["presigned_urls"].as_object().unwrap() {
        let content = &files.iter().find(|(own, _)| own == name).unwrap().1;
        let put = server.http.put(url.as_str().unwrap()).body(content.clone());
        assert_eq!(put.send().await.unwrap().status(), 200);
    }
    let completion = begun["completion_url"].as_str().unwrap();
    assert!(completion.starts_with("/projects/P/version/1/complete?"));
    let response = server
        .raw(
            Method::PUT,
            completion,
            "",
            Some(&json!({"read_access": "public"})),
        )
        .await
        .unwrap();
    assert_eq!(response.status(), 202);
    let link = response.headers()["link"].to_str().unwrap().to_owned();
    let accepted: Value = response.json().await.unwrap();
    assert_eq!(
        link,
        format!("<{}>; rel=status", accepted["job_url"].as_str().unwrap())
    );
    let job = server.wait(&accepted).await;
    assert_eq!(job["status"], "SUCCESS", "{job}");
    assert_eq!(
        job["result"],
        json!({"project_id": "P", "indexed_files": 1, "version": "1"})
    );
    assert_eq!(job["task_id"], accepted["job_id"]);

    let id = "P:d/a b+c%.csv@1";
    // Encoded, and with slashes, colon and `@` as they are.
    for text in [
        encode(id),
        id.replace('%', "%25")
            .replace(' ', "%20")
            .replace('+', "%2B"),
    ] {
        let (status, document) = server.anonymous(&format!("/files/{text}/metadata")).await;
        assert_eq!(status, 200, "{document}");
        assert_eq!(document["_extra"]["id"], id);
        assert_eq!(document["_extra"]["file_size"], 4);
        assert_eq!(document["_extra"]["numerical_revision"], 1);
        assert_eq!(
            document["_extra"]["permissions"]["owners"],
            json!(["admin"])
        );
        assert_eq!(document["_extra"]["permissions"]["viewers"], json!([]));
        assert_eq!(document["$schema"], "table/v1.json");
        assert_eq!(document["_extra"]["$schema"], "table/v1.json");
    }
    assert_eq!(
        server.download(id, "").await,
        (200.try_into().unwrap(), b"a\n1\n".to_vec())
    );
    let (_, raw) = server
        .anonymous(&format!("/files/{}/metadata?raw=true", encode(id)))
        .await;
    assert_eq!(raw, serde_json::from_slice::<Value>(&files[1].1).unwrap());
    let (_, list) = server.anonymous("/projects/P/version/1/metadata").await;
    let (_, single) = server
        .anonymous(&format!("/files/{}/metadata", encode(id)))
        .await;
    assert_eq!(
        list["results"][0], single,
        "a list shows what a single answer shows"
    );
}

#[tokio::test]
async fn the_array_dialect_links_what_did_not_change() {
    let server = Server::start().await;
    let mut files = table("a.csv", "a\n1\n", "first", 1);
    files.extend(table("b.csv", "b\n2\n", "second", 1));
    let public = json!({"read_access": "public"});
    assert_eq!(server.upload("P", "1", &files, &public).await, 0);
    files[2].1 = b"b\n3\n".to_vec();
    let metadata = table("b.csv", "b\n3\n", "second, mended", 1);
    files[3] = metadata[1].clone();
    assert_eq!(server.upload("P", "2", &files, &public).await, 1);
    assert_eq!(
        server.upload("P", "3", &files, &public).await,
        2,
        "links do not chain"
    );

    let (_, document) = server.anonymous("/files/P:a.csv@3/metadata").await;
    assert_eq!(document["_extra"]["link"]["artifactdb"], "P:a.csv@1");
    let (_, followed) = server
        .anonymous("/files/P:a.csv@3/metadata?follow_link=true")
        .await;
    assert_eq!(followed["_extra"]["id"], "P:a.csv@1");
    assert_eq!(server.download("P:a.csv@3", "").await.1, b"a\n1\n");
    assert_eq!(server.download("P:b.csv@latest", "").await.1, b"b\n3\n");
    assert_eq!(server.download("P:b.csv@NUM-1", "").await.1, b"b\n2\n");

    let (_, versions) = server.anonymous("/projects/P/versions").await;
    assert_eq!(versions["latest"], json!({"_extra.version": "3"}));
    assert_eq!(versions["total"], 3);
    let (_, info) = server.get("/projects/P/version/latest/info").await;
    assert_eq!(info["status"], "ok", "{info}");
    let (_, latest) = server.anonymous("/search?q=*&latest=true&sort=path").await;
    let ids: Vec<&Value> = latest["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| &hit["_extra"]["id"])
        .collect();
    assert_eq!(ids, ["P:a.csv@3", "P:b.csv@3"]);
}

#[tokio::test]
async fn a_late_write_does_not_change_a_completed_version() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let (_, begun) = server
        .call(
            Method::POST,
            "/projects/P/version/1/upload",
            &server.token,
            Some(json!({"filenames": names})),
        )
        .await;
    let url = begun["presigned_urls"]["a.csv"]
        .as_str()
        .unwrap()
        .to_owned();
    for (name, url) in begun["presigned_urls"].as_object().unwrap() {
        let content = &files.iter().find(|(own, _)| own == name).unwrap().1;
        server
            .http
            .put(url.as_str().unwrap())
            .body(content.clone())
            .send()
            .await
            .unwrap();
    }
    let (_, accepted) = server.complete(&begun, &json!({})).await;
    server.wait(&accepted).await;
    let late = server.http.put(&url).body("changed").send().await.unwrap();
    assert_eq!(late.status(), 200, "the URL is still good");
    assert_eq!(
        server.download("P:a.csv@1", "").await.1,
        b"a\n1\n",
        "readers get what was completed"
    );
    let (_, info) = server.get("/projects/P/version/1/info").await;
    assert_eq!(info["status"], "error");
    assert_eq!(
        info["anomalies"],
        json!(["P:a.csv@1: changed after its completion"])
    );
}

#[tokio::test]
async fn a_transient_version_expires_and_is_never_linked_to() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    let begin = |version: &str, expires: Option<&str>| {
        let entries: Vec<Value> = files
            .iter()
            .map(|(name, content)| json!({"filename": name, "check": if name.ends_with("json") {"simple"} else {"md5"}, "value": {"md5sum": md5_hex(content), "field": "md5sum"}}))
            .collect();
        let mut body = json!({"filenames": entries});
        if let Some(expires) = expires {
            body["expires_in"] = json!(expires);
            body["completed_by"] = json!(expires);
        }
        let path = format!("/projects/P/version/{version}/upload");
        let server = &server;
        async move {
            server
                .call(Method::POST, &path, &server.token, Some(body))
                .await
        }
    };
    let (status, begun) = begin("t", Some("in 10 seconds")).await;
    assert_eq!(status, 200, "{begun}");
    server.transfer(&begun, &files).await.unwrap();
    let (_, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    server.wait(&accepted).await;
    let (_, document) = server.anonymous("/files/P:a.csv@t/metadata").await;
    assert!(
        document["_extra"]["transient"]["expires_in"].is_string(),
        "{document}"
    );
    let (_, begun) = begin("2", None).await;
    assert_eq!(begun["links"], json!([]), "nothing persistent is equal");
    let abort = begun["abort_url"].as_str().unwrap();
    assert_eq!(server.call(Method::PUT, abort, "", None).await.0, 200);
    let link = json!({"filenames": [{"filename": "x", "check": "link", "value": {"artifactdb_id": "P:a.csv@t"}}]});
    let (status, refused) = server
        .call(
            Method::POST,
            "/projects/P/version/3/upload",
            &server.token,
            Some(link),
        )
        .await;
    assert_eq!(status, 400);
    assert!(
        refused["reason"].as_str().unwrap().contains("transient"),
        "{refused}"
    );

    // Downloads end with the expiry itself; documents go with the next sweep.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let (download, _) = server.download("P:a.csv@t", "").await;
        let (metadata, _) = server.anonymous("/files/P:a.csv@t/metadata").await;
        let found = server.ids("*", &server.token).await;
        if download == 404 && metadata == 404 && found.is_empty() {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{download} {metadata} {found:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let mut server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    server
        .upload("P", "1", &files, &json!({"read_access": "public"}))
        .await;
    let read = async |server: &Server| {
        let (_, mut document) = server.anonymous("/files/P:a.csv@1/metadata").await;
        // A sweeper may have had it written a second time.
        document["_extra"]["meta_indexed"] = Value::Null;
        document
    };
    let before = read(&server).await;
    server.terminate();
    server.restart().await;
    assert_eq!(read(&server).await, before);
    assert_eq!(server.download("P:a.csv@1", "").await.1, b"a\n1\n");
    // The index is disposable.
    server.terminate();
    server.wipe_index().await;
    server.restart().await;
    let (_, after) = server.anonymous("/files/P:a.csv@1/metadata").await;
    assert_eq!(after["_extra"]["id"], before["_extra"]["id"]);
    assert_eq!(server.ids("title:first", "").await, ["P:a.csv@1"]);
}

#[tokio::test]
async fn the_documentation_serves_itself() {
    let server = Server::start().await;
    let (status, document) = server.anonymous("/openapi.json").await;
    assert_eq!(status, 200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let page = server
        .raw(Method::GET, "/__swagger__/", "", None)
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    let html = page.text().await.unwrap();
    assert!(
        html.contains("swagger-ui-bundle.js") && !html.contains("//unpkg") && !html.contains("cdn")
    );
    let script = server
        .raw(Method::GET, "/__swagger__/swagger-ui-bundle.js", "", None)
        .await
        .unwrap();
    assert!(script.bytes().await.unwrap().len() > 100_000);
    for path in ["/livez", "/readyz"] {
        assert_eq!(
            server
                .raw(Method::GET, path, "", None)
                .await
                .unwrap()
                .status(),
            200
        );
    }
    let metrics = server
        .raw(Method::GET, "/metrics", "", None)
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("artifactdb_http_request_duration_seconds_bucket"));
    assert!(metrics.ends_with("# EOF\n"));
}
