//! Session credentials: an S3 client of the caller's own, for one version and nothing else.

use std::path::Path;

use artifactdb_core::config::{StorageConfig, StsConfig};
use artifactdb_core::store::{Credentials, S3Store};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, QUICKSTART, Server, table};
use crate::real::services;

async fn server() -> Server {
    let role = services().role.clone();
    let role_arn = role.expect("ARTIFACTDB_TEST_S3_ROLE names no role that may be assumed");
    Server::configured(Backend::Real, Path::new(QUICKSTART), |config| {
        config.storage[0].sts = Some(StsConfig { role_arn });
    })
    .await
}

fn client(server: &Server, block: &Value) -> Client {
    let text = |name: &str| block["credentials"][name].as_str().unwrap().to_owned();
    let storage = StorageConfig {
        endpoint: Some(services().s3.clone()),
        sts: None,
        ..server.real().config.storage[0].clone()
    };
    let credentials = Credentials {
        access_key: text("aws_access_key_id"),
        secret_key: text("aws_secret_access_key"),
        session_token: Some(text("aws_session_token")),
    };
    S3Store::new(&storage, credentials).client().clone()
}

async fn put(client: &Client, bucket: &str, key: &str, content: &[u8]) -> bool {
    let body = ByteStream::from(content.to_vec());
    let sent = client
        .put_object()
        .bucket(bucket)
        .key(key)
        .body(body)
        .send();
    sent.await.is_ok()
}

async fn get(client: &Client, bucket: &str, key: &str) -> bool {
    client
        .get_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .is_ok()
}

#[tokio::test]
async fn an_upload_by_session_credentials() {
    let server = server().await;
    let bucket = server.real().config.storage[0].bucket.clone();
    let other = table("other.csv", "a\n1\n", "other", 1);
    server
        .upload("P", "0", &other, &json!({"read_access": "owners"}))
        .await;

    // Nothing is named: what a listing finds is the version.
    let body = json!({"filenames": [], "mode": "sts-credentials"});
    let path = "/projects/P/version/1/upload";
    let (status, begun) = server
        .call(Method::POST, path, &server.token, Some(body))
        .await;
    assert_eq!(status, 200, "{begun}");
    assert_eq!(begun["presigned_urls"], json!({}));
    let sts = &begun["sts"];
    assert_eq!(
        (&sts["bucket"], &sts["prefix"]),
        (&json!(bucket), &json!("P/1/"))
    );
    assert!(sts["expiration"].is_string() && sts["session_name"].is_string());
    let session = client(&server, sts);
    for (name, content) in table("a.csv", "a\n1\n", "session", 1) {
        assert!(put(&session, &bucket, &format!("P/1/{name}"), &content).await);
    }
    // A large file in parts.
    let key = "P/1/large.bin";
    let part = vec![7_u8; 5 * 1024 * 1024];
    let created = session
        .create_multipart_upload()
        .bucket(&bucket)
        .key(key)
        .send()
        .await
        .unwrap();
    let upload = created.upload_id().unwrap();
    let mut parts = Vec::new();
    for number in 1..=2 {
        let sent = session
            .upload_part()
            .bucket(&bucket)
            .key(key)
            .upload_id(upload)
            .part_number(number)
            .body(ByteStream::from(part.clone()))
            .send()
            .await
            .unwrap();
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(sent.e_tag().map(str::to_owned))
                .build(),
        );
    }
    session
        .complete_multipart_upload()
        .bucket(&bucket)
        .key(key)
        .upload_id(upload)
        .multipart_upload(
            CompletedMultipartUpload::builder()
                .set_parts(Some(parts))
                .build(),
        )
        .send()
        .await
        .unwrap();
    assert!(
        put(
            &session,
            &bucket,
            "P/1/large.bin.json",
            br#"{"path": "large.bin"}"#
        )
        .await
    );

    // Other versions, other projects, and the records of this version are out of reach.
    for key in [
        "P/2/a.csv",
        "P/0/other.csv",
        "Q/1/a.csv",
        "P/10/a.csv",
        "P/1/..meta/state.json",
        "P/..meta/head.json",
        "..meta/permissions.json",
    ] {
        assert!(!put(&session, &bucket, key, b"mine").await, "{key}");
    }
    for key in [
        "P/0/other.csv",
        "P/..meta/head.json",
        "P/1/..meta/state.json",
    ] {
        assert!(!get(&session, &bucket, key).await, "{key}");
    }

    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["result"]["indexed_files"], 2);
    let (status, content) = server.download("P:large.bin@1", &server.token).await;
    assert_eq!(
        (status.as_u16(), content.len()),
        (200, 2 * part.len()),
        "{}",
        String::from_utf8_lossy(&content[..content.len().min(200)])
    );

    // What comes late is no part of the version.
    assert!(put(&session, &bucket, "P/1/a.csv", b"late").await);
    assert_eq!(
        server.download("P:a.csv@1", &server.token).await.1,
        b"a\n1\n"
    );
}

#[tokio::test]
async fn readers_get_credentials_for_what_they_may_read() {
    let server = server().await;
    let bucket = server.real().config.storage[0].bucket.clone();
    let public = table("a.csv", "a\n1\n", "public", 1);
    server
        .upload("P", "1", &public, &json!({"read_access": "public"}))
        .await;
    server
        .upload(
            "S",
            "1",
            &public,
            &json!({"read_access": "owners", "owners": ["ann"]}),
        )
        .await;
    let (status, sts) = server
        .anonymous("/projects/P/version/latest/credentials?ttl=900")
        .await;
    assert_eq!(status, 200, "{sts}");
    assert_eq!(sts["prefix"], "P/1/");
    let session = client(&server, &sts);
    assert!(get(&session, &bucket, "P/1/a.csv").await);
    assert!(!put(&session, &bucket, "P/1/a.csv", b"mine").await);
    assert!(!get(&session, &bucket, "S/1/a.csv").await);
    assert!(!get(&session, &bucket, "P/1/..meta/permissions.json").await);
    for (path, wanted) in [
        ("/projects/S/version/1/credentials", 404),
        ("/projects/P/version/2/credentials", 404),
        ("/projects/P/version/1/credentials?ttl=10", 422),
    ] {
        assert_eq!(server.anonymous(path).await.0.as_u16(), wanted, "{path}");
    }
    let ann = server.token_for("ann", &[]);
    let path = "/projects/S/version/1/credentials";
    assert_eq!(server.call(Method::GET, path, &ann, None).await.0, 200);
}
