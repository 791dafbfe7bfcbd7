//! Files that are too large for one request: clients that say how large a file will be get URLs for
//! its parts.

use std::io::Write;
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, table};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 130 * MIB + 17;

fn content(at: usize) -> u8 {
    (at % 251) as u8
}

#[tokio::test]
async fn a_large_file_comes_in_parts() {
    let server = Server::start().await;
    let folder = TempDir::new().unwrap();
    let whole: Vec<u8> = (0..SIZE).map(content).collect();
    let mut file = std::fs::File::create(folder.path().join("large.csv")).unwrap();
    file.write_all(&whole).unwrap();
    let metadata = &table("large.csv", "", "large", 1)[1];
    let mut document: Value = serde_json::from_slice(&metadata.1).unwrap();
    document["md5sum"] = json!(crate::harness::md5_hex(&whole));
    std::fs::write(folder.path().join("large.csv.json"), document.to_string()).unwrap();

    let upload = |version: &str| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_artifactdb"))
            .args(["upload", "--project", "P", "--version", version, "--json"])
            .args(["--url", &server.url, "--token", &server.token])
            .arg(folder.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let summary = upload("1");
    assert_eq!(
        (&summary["uploaded"], &summary["documents"]),
        (&json!(2), &json!(1))
    );
    let (status, downloaded) = server.download("P:large.csv@1", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(downloaded == whole);

    // The same file again is linked, as a small one would be.
    assert_eq!(upload("2")["linked"], 1);
}

/// An upload request for one file of `size` bytes.
async fn begin(server: &Server, version: &str, size: usize) -> Value {
    let path = format!("/projects/P/version/{version}/upload");
    let body = json!({"filenames": [{
        "filename": "large.bin", "check": "simple", "size": size,
        "value": {"md5sum": "d41d8cd98f00b204e9800998ecf8427e"},
    }]});
    let (status, begun) = server
        .call(Method::POST, &path, &server.token, Some(body))
        .await;
    assert_eq!(status, 200, "{begun}");
    begun
}

#[tokio::test]
async fn what_came_in_parts_has_the_size_that_was_promised() {
    let server = Server::start().await;
    assert!(
        begin(&server, "small", 100 * MIB - 1)
            .await
            .get("multipart")
            .is_none()
    );
    let begun = begin(&server, "1", 100 * MIB).await;
    assert_eq!(begun["presigned_urls"], json!([]));
    let file = &begun["multipart"][0];
    assert_eq!(file["part_size"], 64 * MIB);
    let urls = file["part_urls"].as_array().unwrap();
    assert_eq!(urls.len(), 2);

    // One small part instead of two large ones.
    let put = server.http.put(urls[0].as_str().unwrap()).body("short");
    let stored = put.send().await.unwrap();
    assert_eq!(stored.status(), 200);
    let etag = stored.headers()["etag"].to_str().unwrap().to_owned();
    let (status, refused) = server.complete(&begun, &json!({})).await;
    assert_eq!(status, 400);
    assert_eq!(
        refused["reason"],
        "promised files were not uploaded: 'large.bin'"
    );
    let part = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>");
    let post = server
        .http
        .post(file["completion_url"].as_str().unwrap())
        .body(format!(
            "<CompleteMultipartUpload>{part}</CompleteMultipartUpload>"
        ));
    assert_eq!(post.send().await.unwrap().status(), 200);
    let (status, refused) = server.complete(&begun, &json!({})).await;
    assert_eq!(status, 400);
    assert_eq!(
        refused["reason"],
        "files do not have the size that was promised: 'large.bin'"
    );

    // The parts of an upload that was given up go with it.
    let begun = begin(&server, "2", 100 * MIB).await;
    let file = &begun["multipart"][0];
    let url = file["part_urls"][0].as_str().unwrap();
    let put = server.http.put(url).body("part");
    assert_eq!(put.send().await.unwrap().status(), 200);
    let path = begun["abort_url"].as_str().unwrap();
    let (status, answer) = server.call(Method::PUT, path, "", None).await;
    assert!(status.is_success(), "{answer}");
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let put = server.http.put(url).body("part").send().await.unwrap();
        if put.status() == StatusCode::NOT_FOUND {
            break;
        }
        assert!(std::time::Instant::now() < patience, "{}", put.status());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    // Nobody gets a million URLs.
    let huge = (0..3).map(|number| json!({"filename": format!("{number}"), "size": 5_u64 << 40}));
    let body = json!({"filenames": huge.collect::<Vec<_>>()});
    let path = "/projects/P/version/huge/upload";
    let (status, refused) = server
        .call(Method::POST, path, &server.token, Some(body))
        .await;
    assert_eq!(status, 400);
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("29961 parts"), "{reason}");
    let (status, _) = server.begin("P", "huge", &[], &server.token).await;
    assert_eq!(status, 200, "what was refused locks nothing");

    // What is no size is no size.
    for (size, wanted) in [
        (json!("big"), 422),
        (json!(-1), 422),
        (json!(6_u64 << 40), 400),
    ] {
        let body = json!({"filenames": [{
            "filename": "x", "check": "simple", "size": size,
            "value": {"md5sum": "d41d8cd98f00b204e9800998ecf8427e"},
        }]});
        let path = "/projects/P/version/3/upload";
        let (status, answer) = server
            .call(Method::POST, path, &server.token, Some(body))
            .await;
        assert_eq!(status.as_u16(), wanted, "{answer}");
    }
}
