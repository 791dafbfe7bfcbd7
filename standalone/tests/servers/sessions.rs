//! Session credentials: an S3 client of the caller's own, for one version and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        public_endpoint: None,
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

/// A service that gives the credentials of a role to what runs beside it, as a cloud does. What it
/// gives lives for four seconds, so that it is asked again; returns its address and how often it was.
async fn metadata_service() -> (String, Arc<AtomicUsize>) {
    let role = services().role.clone().unwrap();
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
        .region(aws_sdk_sts::config::Region::new("us-east-1"))
        .endpoint_url(&services().s3)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(aws_sdk_sts::config::Credentials::new(
            &services().access_key,
            &services().secret_key,
            None,
            None,
            "test",
        ));
    let client = aws_sdk_sts::Client::from_conf(config.build());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let give = move || {
        let (client, role, count) = (client.clone(), role.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let assumed = client
                .assume_role()
                .role_arn(role)
                .role_session_name("instance")
                .send();
            let given = assumed.await.unwrap().credentials.unwrap();
            let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
            axum::Json(json!({
                "AccessKeyId": given.access_key_id,
                "SecretAccessKey": given.secret_access_key,
                "Token": given.session_token,
                "Expiration": until.to_string(),
            }))
        }
    };
    let router = axum::Router::new().route("/credentials", axum::routing::get(give));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/credentials", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

/// Without keys, the instance has those of its role, and new ones before they end: uploads, signed
/// URLs and indexing go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_the_process_gives_credentials() {
    let (url, asked) = metadata_service().await;
    let mut server = Server::configured(Backend::Real, Path::new(QUICKSTART), |_| {}).await;
    let secrets = server.data.join("secrets/storage");
    std::fs::remove_dir_all(secrets).unwrap();
    server.kill();

    let mut alone = server.real().command("artifactdb-api");
    alone
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent")
        .args(["--listen", "127.0.0.1:0"]);
    let output = alone.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("storage 'default' has no credentials"),
        "{text}"
    );

    server.set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url);
    server.restart().await;
    let public = json!({"read_access": "public"});
    let started = asked.load(Ordering::Relaxed);
    let mut version = 0;
    while asked.load(Ordering::Relaxed) < started + 12 {
        version += 1;
        let files = table("a.csv", &format!("a\n{version}\n"), "role", 1);
        let name = version.to_string();
        server.upload("P", &name, &files, &public).await;
        let (status, bytes) = server.download(&format!("P:a.csv@{name}"), "").await;
        assert_eq!(status, 200);
        assert_eq!(bytes, files[0].1);
    }
    assert_eq!(server.ids("title:role", "").await.len(), version);
}
