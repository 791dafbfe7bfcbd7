//! An instance with two storages, between which a header chooses: each is a world of its own.

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Backend, QUICKSTART, Server, table};

const SWITCH: &str = "
  storage:
    - {alias: main, bucket: artifacts}
    - {alias: archive, bucket: old-artifacts}
  storageSwitch:
    header: X-Storage
    contexts: {now: main, then: archive}
";

fn resources(folder: &TempDir) -> std::path::PathBuf {
    let sample = std::fs::read_to_string(QUICKSTART).unwrap();
    let text = sample.replacen("\n  standalone:", &format!("{SWITCH}  standalone:"), 1);
    assert_ne!(text, sample);
    let path = folder.path().join("instance.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn choose(server: &mut Server, value: Option<&'static str>) {
    let mut headers = HeaderMap::new();
    if let Some(value) = value {
        headers.insert("x-storage", HeaderValue::from_static(value));
    }
    server.with_headers(headers);
}

#[tokio::test]
async fn a_header_chooses_the_storage() {
    let folder = TempDir::new().unwrap();
    let mut server = Server::with(&resources(&folder)).await;
    let public = json!({"read_access": "public"});
    let id = "P:a.csv@1";

    server
        .upload("P", "1", &table("a.csv", "a\n1\n", "recent", 1), &public)
        .await;
    choose(&mut server, Some("then"));
    assert_eq!(
        server.anonymous("/projects/P/versions").await.0,
        StatusCode::NOT_FOUND
    );
    let owners = json!({"owners": ["ann"], "viewers": ["ann"], "read_access": "viewers"});
    let files = table("a.csv", "a\n2\n", "ancient", 1);
    let (status, begun) = server.begin("P", "1", &files, &server.token).await;
    assert_eq!(status, 200, "{begun}");
    server.transfer(&begun, &files).await.unwrap();
    // What is signed for a storage is worth nothing on the other.
    choose(&mut server, Some("now"));
    let (status, answer) = server.complete(&begun, &owners).await;
    assert!(status.is_client_error(), "{answer}");
    choose(&mut server, Some("then"));
    let (status, accepted) = server.complete(&begun, &owners).await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    let ann = server.token_for("ann", &[]);
    let check = async |server: &mut Server| {
        for value in [None, Some("now")] {
            choose(server, value);
            assert_eq!(server.ids("*", "").await, [id]);
            assert_eq!(server.ids("title:recent", "").await, [id]);
            assert!(server.ids("title:ancient", &server.token).await.is_empty());
            assert_eq!(server.download(id, "").await.1, b"a\n1\n");
        }
        choose(server, Some("then"));
        assert!(server.ids("*", "").await.is_empty());
        assert_eq!(server.download(id, "").await.0, StatusCode::NOT_FOUND);
        assert_eq!(server.ids("*", &ann).await, [id]);
        assert!(server.ids("title:recent", &ann).await.is_empty());
        assert_eq!(server.download(id, &ann).await.1, b"a\n2\n");
        assert_eq!(server.download("P:a.csv@latest", &ann).await.1, b"a\n2\n");
    };
    check(&mut server).await;

    choose(&mut server, Some("elsewhere"));
    let (status, refused) = server.anonymous("/search?q=*").await;
    assert_eq!(status, 400);
    assert_eq!(
        refused["reason"],
        "Invalid value for header X-Storage. Allowed: ['now', 'then']"
    );
    choose(&mut server, None);
    let both = server
        .http
        .get(format!("{}/search?q=*", server.url))
        .header("x-storage", "now")
        .header("x-storage", "then");
    assert_eq!(both.send().await.unwrap().status(), 400);
    let (_, root) = server.anonymous("/").await;
    assert_eq!(
        root["storage"],
        json!({
            "clients": [{"alias": "main"}, {"alias": "archive"}],
            "switch": {"header": "X-Storage", "contexts": {"now": "main", "then": "archive"}},
        })
    );
    let search = server.raw(Method::GET, "/search?q=*", "", None).await;
    assert_eq!(search.unwrap().headers()["vary"], "x-storage");

    // All of it is found again after the index was lost.
    server.kill();
    match crate::BACKEND {
        Backend::Embedded => {
            std::fs::remove_dir_all(server.data.join("search")).unwrap();
            std::fs::remove_dir_all(server.data.join("search-archive")).unwrap();
        }
        Backend::Real => {
            for engine in server.real().engines() {
                assert!(engine.live().await.unwrap().is_some());
                engine.delete_all().await.unwrap();
            }
            let mut command = server.real().command("artifactdb-indexer");
            assert!(command.arg("reindex").status().unwrap().success());
        }
    }
    server.restart().await;
    check(&mut server).await;
}
