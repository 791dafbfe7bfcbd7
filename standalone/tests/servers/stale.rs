//! Marks for deletion: what they mark goes once they are old enough, and what is in use stays.

use artifactdb_core::id::Project;
use artifactdb_core::keys;
use artifactdb_core::store::{Condition, Store};
use serde_json::{Value, json};

use crate::harness::{Server, table};

async fn put(server: &Server, keys: &[&str]) {
    for key in keys {
        let store = &server.real().store;
        let body = b"{}".as_slice().into();
        store.put(key, body, Condition::Always).await.unwrap();
    }
}

async fn below(server: &Server, project: &str) -> Vec<String> {
    let prefix = keys::project_prefix(&Project::new(project).unwrap());
    let listed = server.real().store.list(&prefix).await.unwrap();
    listed.into_iter().map(|own| own.key).collect()
}

async fn purge(server: &Server, age: &str) -> Value {
    let mut command = tokio::process::Command::from(server.real().command("artifactdb-indexer"));
    let output = command
        .args(["purge-stale", "--older-than", age])
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_marked_goes_and_what_is_in_use_stays() {
    let server = Server::start().await;
    let public = json!({"read_access": "public"});
    for version in ["1", "2"] {
        let files = table("a.csv", &format!("a\n{version}\n"), "zebra", 7);
        server.upload("ours", version, &files, &public).await;
    }
    // A bucket from before: versions that no state tells of, one of them marked; a whole project.
    put(
        &server,
        &[
            "old/1/a.csv",
            "old/1/..meta/permissions.json",
            "old/1/..deleteme",
            "old/2/a.csv",
            "gone/1/a.csv",
            "gone/..meta/permissions.json",
            "gone/..deleteme",
        ],
    )
    .await;
    // The store tells times by the second.
    let second = std::time::Duration::from_millis(1100);
    tokio::time::sleep(second).await;
    put(&server, &["ours/1/..deleteme"]).await;
    // One that is being uploaded is in use, and so is one that came after its mark.
    put(&server, &["busy/1/..deleteme", "late/1/..deleteme"]).await;
    let files = table("a.csv", "a\n3\n", "zebra", 7);
    let (status, _) = server.begin("busy", "1", &files, &server.token).await;
    assert_eq!(status.as_u16(), 200);
    server.upload("late", "1", &files, &public).await;

    assert_eq!(
        purge(&server, "1h").await,
        json!({"event": "purged", "versions": 0, "kept": 5}),
        "no mark is that old"
    );
    assert_eq!(below(&server, "gone").await.len(), 3);

    tokio::time::sleep(second).await;
    assert_eq!(
        purge(&server, "0s").await,
        json!({"event": "purged", "versions": 4, "kept": 1})
    );
    assert_eq!(below(&server, "gone").await, Vec::<String>::new());
    assert_eq!(below(&server, "old").await, ["old/2/a.csv"]);
    assert_eq!(server.download("ours:a.csv@2", "").await.1, b"a\n2\n");
    assert_eq!(server.download("late:a.csv@1", "").await.1, b"a\n3\n");
    assert!(
        below(&server, "busy")
            .await
            .contains(&"busy/1/..deleteme".to_owned())
    );
    let found = ["late:a.csv@1", "ours:a.csv@2"];
    for attempt in 0.. {
        let mut ids = server.ids("zebra", "").await;
        ids.sort();
        if ids == found {
            break;
        }
        assert!(attempt < 100, "{ids:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // Again there is nothing left but what is in use.
    assert_eq!(
        purge(&server, "0s").await,
        json!({"event": "purged", "versions": 0, "kept": 1})
    );
}
