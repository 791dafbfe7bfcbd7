//! Who sees and changes what, through every door.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, table};

#[tokio::test]
async fn a_private_project_exists_for_its_people_alone() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "zebra", 7);
    server
        .upload("open", "1", &files, &json!({"read_access": "public"}))
        .await;
    server
        .upload(
            "closed",
            "1",
            &files,
            &json!({"read_access": "viewers", "owners": ["ann"], "viewers": ["bob"]}),
        )
        .await;
    let (ann, bob, eve) = (
        server.token_for("ann", &[]),
        server.token_for("bob", &[]),
        server.token_for("eve", &["uploader"]),
    );
    for (who, token, sees) in [
        ("ann", ann.as_str(), true),
        ("bob", &bob, true),
        ("eve", &eve, false),
        ("nobody", "", false),
    ] {
        let count = if sees { 2 } else { 1 };
        assert_eq!(server.ids("zebra", token).await.len(), count, "{who}");
        let (_, projects) = server.call(Method::GET, "/projects", token, None).await;
        assert_eq!(
            (projects["count"].as_u64(), projects["total"].as_u64()),
            (Some(count as u64), Some(count as u64)),
            "{who}"
        );
        let (_, agg) = server
            .call(
                Method::GET,
                "/aggregate?q=*&agg_field=_extra.project_id",
                token,
                None,
            )
            .await;
        assert_eq!(agg["buckets"].as_array().unwrap().len(), count, "{who}");
        let (_, agg) = server
            .call(
                Method::GET,
                "/aggregate?q=rows:7&agg_field=rows&agg_type=cardinality",
                token,
                None,
            )
            .await;
        assert_eq!(agg["value"], 1);
        for path in [
            "/files/closed:a.csv@1",
            "/files/closed:a.csv@1/metadata",
            "/files/closed:a.csv@latest/metadata",
            "/files/closed:a.csv@NUM-1",
            "/projects/closed/versions",
            "/projects/closed/metadata",
            "/projects/closed/version/1/metadata",
        ] {
            let response = server.raw(Method::GET, path, token, None).await.unwrap();
            let status = response.status().as_u16();
            if sees {
                assert!(matches!(status, 200 | 302), "{who} {path}: {status}");
                continue;
            }
            assert_eq!(status, 404, "{who} {path}");
            let mut hidden: Value = response.json().await.unwrap();
            hidden.as_object_mut().unwrap().remove("request_id");
            let (_, missing) = server
                .call(Method::GET, &path.replace("closed", "nothing"), token, None)
                .await;
            assert_eq!(hidden, missing, "{who} {path}: hidden looks like missing");
        }
    }
    let (_, status) = server.anonymous("/status").await;
    assert_eq!(
        status["stats"]["elasticsearch"]["default"], 1,
        "no count tells of hidden documents"
    );
    // Reading permissions: by right, by role, or 401 and 403.
    for (token, wanted) in [
        (ann.as_str(), 200),
        (&bob, 200),
        (&eve, 200),
        ("", 401),
        (&server.token_for("mallory", &[]), 403),
    ] {
        assert_eq!(
            server
                .call(Method::GET, "/projects/closed/permissions", token, None)
                .await
                .0
                .as_u16(),
            wanted
        );
    }
    let (_, refused) = server.anonymous("/projects/closed/permissions").await;
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("authenticated") && reason.contains("user credentials not supplied"));
}

#[tokio::test]
async fn owners_change_permissions_and_search_follows() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "zebra", 7);
    server
        .upload(
            "P",
            "1",
            &files,
            &json!({"read_access": "viewers", "owners": ["ann"]}),
        )
        .await;
    server
        .upload(
            "P",
            "2",
            &files,
            &json!({"read_access": "public", "owners": ["eve"]}),
        )
        .await;
    let (ann, eve) = (server.token_for("ann", &[]), server.token_for("eve", &[]));
    // The second completion did not change what the first had set.
    assert_eq!(server.ids("zebra", "").await.len(), 0);
    let put = async |path: &str, token: &str, body: Value| {
        let (status, answer) = server.call(Method::PUT, path, token, Some(body)).await;
        if status == 202 {
            assert_eq!(server.wait(&answer).await["status"], "SUCCESS");
        }
        status.as_u16()
    };
    assert_eq!(
        put(
            "/projects/P/permissions",
            &eve,
            json!({"read_access": "public"})
        )
        .await,
        403
    );
    assert_eq!(
        put(
            "/projects/P/permissions",
            "",
            json!({"read_access": "public"})
        )
        .await,
        401
    );
    assert_eq!(
        put(
            "/projects/P/permissions",
            &ann,
            json!({"read_access": "open"})
        )
        .await,
        422
    );
    assert_eq!(
        put("/projects/P/permissions", &ann, json!({"scope": "version"})).await,
        400
    );
    assert_eq!(
        put(
            "/projects/nothing/permissions",
            &server.token,
            json!({"read_access": "public"})
        )
        .await,
        404
    );
    assert_eq!(
        put(
            "/projects/P/permissions",
            &ann,
            json!({"read_access": "public", "viewers": "bob, cy"})
        )
        .await,
        202
    );
    assert_eq!(server.ids("zebra", "").await.len(), 2);
    let (_, set) = server.get("/projects/P/permissions").await;
    assert_eq!(
        set,
        json!({"scope": "project", "owners": ["ann"], "viewers": ["bob", "cy"], "read_access": "public", "write_access": "owners"})
    );

    // One version hides; the nearest file wins entirely.
    assert_eq!(
        put(
            "/projects/P/version/1/permissions",
            &ann,
            json!({"read_access": "owners", "viewers": null})
        )
        .await,
        202
    );
    assert_eq!(server.ids("zebra", "").await, ["P:a.csv@2"]);
    assert_eq!(server.download("P:a.csv@1", "").await.0, 404);
    assert_eq!(server.download("P:a.csv@1", &ann).await.0, 200);
    let (_, set) = server.get("/projects/P/version/NUM-1/permissions").await;
    assert_eq!(
        (&set["scope"], &set["viewers"]),
        (&json!("version"), &json!([]))
    );
    let (_, info) = server.get("/projects/P/version/1/info").await;
    assert_eq!(info["status"], "ok", "{info}");
    // What is latest depends on what one may see.
    assert_eq!(
        put(
            "/projects/P/version/2/permissions",
            &ann,
            json!({"read_access": "owners"})
        )
        .await,
        202
    );
    assert_eq!(
        put(
            "/projects/P/version/1/permissions",
            &ann,
            json!({"read_access": "public"})
        )
        .await,
        202
    );
    let (_, latest) = server.anonymous("/projects/P/versions").await;
    assert_eq!(latest["latest"], json!({"_extra.version": "1"}));
    assert_eq!(
        server.anonymous("/files/P:a.csv@latest/metadata").await.1["_extra"]["version"],
        "1"
    );

    let (status, answer) = server
        .call(
            Method::DELETE,
            "/projects/P/version/2/permissions",
            &ann,
            None,
        )
        .await;
    assert_eq!(status, 202);
    assert_eq!(server.wait(&answer).await["status"], "SUCCESS");
    assert_eq!(server.ids("zebra", "").await.len(), 2);
    let (_, answer) = server
        .call(Method::DELETE, "/projects/P/permissions", &ann, None)
        .await;
    server.wait(&answer).await;
    assert_eq!(
        server.ids("zebra", "").await,
        ["P:a.csv@1"],
        "without permissions only administrators read"
    );
    assert_eq!(server.ids("zebra", &server.token).await.len(), 2);
}

#[tokio::test]
async fn parallel_changes_of_one_set_are_all_kept() {
    let server = Server::start().await;
    server
        .upload(
            "P",
            "1",
            &table("a.csv", "a\n", "x", 1),
            &json!({"read_access": "public"}),
        )
        .await;
    let changes = [
        json!({"owners": ["a", "admin"]}),
        json!({"viewers": ["b"]}),
        json!({"read_access": "viewers"}),
        json!({"write_access": "none"}),
    ];
    let puts = changes.iter().map(|change| {
        server.call(
            Method::PUT,
            "/projects/P/permissions",
            &server.token,
            Some(change.clone()),
        )
    });
    for (status, _) in futures::future::join_all(puts).await {
        assert_eq!(status, 202);
    }
    let (_, set) = server.get("/projects/P/permissions").await;
    assert_eq!(
        set,
        json!({"scope": "project", "owners": ["a", "admin"], "viewers": ["b"], "read_access": "viewers", "write_access": "none"})
    );
}

#[tokio::test]
async fn who_may_upload() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "x", 1);
    let (nobody, creator, uploader) = (
        server.token_for("n", &[]),
        server.token_for("c", &["creator"]),
        server.token_for("u", &["uploader"]),
    );
    assert_eq!(server.begin("P", "1", &files, "").await.0, 401);
    assert_eq!(server.begin("P", "1", &files, &nobody).await.0, 403);
    let (status, begun) = server.begin("P", "1", &files, &creator).await;
    assert_eq!(status, 200, "a creator begins a project");
    server.transfer(&begun, &files).await.unwrap();
    let (_, accepted) = server
        .complete(&begun, &json!({"read_access": "viewers"}))
        .await;
    server.wait(&accepted).await;
    let (_, set) = server.get("/projects/P/permissions").await;
    assert_eq!(
        set["owners"],
        json!(["c"]),
        "who uploads first owns the project"
    );
    assert_eq!(
        server
            .begin("P", "2", &files, &server.token_for("d", &["creator"]))
            .await
            .0,
        403
    );
    assert_eq!(
        server.begin("P", "2", &files, &creator).await.0,
        200,
        "an owner goes on"
    );
    assert_eq!(server.begin("P", "3", &files, &uploader).await.0, 200);
    // An uploader writes everywhere, and reads only what is theirs.
    assert!(server.ids("*", &uploader).await.is_empty());
}

/// Versions complete while the project closes: whoever is indexed last must not bring the old
/// permissions back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_are_indexed_during_a_change_follow_it() {
    let server = Server::start().await;
    let first = table("a.csv", "a\n", "zebra", 1);
    let public = json!({"read_access": "public"});
    server.upload("P", "0", &first, &public).await;
    for round in 0..30 {
        let access = if round % 2 == 0 { "owners" } else { "public" };
        let mut files = Vec::new();
        for number in 0..50 {
            files.extend(table(
                &format!("{number}.csv"),
                &format!("{round}"),
                "zebra",
                number,
            ));
        }
        let version = format!("v{round}");
        let (_, begun) = server.begin("P", &version, &files, &server.token).await;
        server.transfer(&begun, &files).await.unwrap();
        let none = json!({});
        let change = Some(json!({"read_access": access}));
        // At another moment of the indexing in each round.
        let moment = std::time::Duration::from_millis(2 * round);
        let later = async {
            tokio::time::sleep(moment).await;
            let path = "/projects/P/permissions";
            server.call(Method::PUT, path, &server.token, change).await
        };
        let (completed, changed) = tokio::join!(server.complete(&begun, &none), later);
        assert_eq!(server.wait(&completed.1).await["status"], "SUCCESS");
        assert_eq!(server.wait(&changed.1).await["status"], "SUCCESS");
        let all = server.ids("zebra", &server.token).await.len();
        let visible = server.ids("zebra", "").await.len();
        let expected = if access == "public" { all } else { 0 };
        assert_eq!(visible, expected, "round {round}: {all} documents");
    }
}
