//! Global names, and what an instance says of itself.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, encode, md5_hex, table};

const OWN: &str = "gprn:dev:quickstart";

async fn ask(server: &Server, name: &str, verb: &str, token: &str) -> (u16, Value) {
    let path = format!("/gprn/{}/{verb}", encode(name));
    let (status, body) = server.call(Method::GET, &path, token, None).await;
    (status.as_u16(), body)
}

/// A public project of two versions, and one that only ann may read.
async fn filled() -> (Server, String) {
    let server = Server::start().await;
    let public = json!({"read_access": "public"});
    for version in ["1", "2"] {
        // Not the same twice: equal files would be links.
        let mut files = table("d/a.csv", &format!("a\n{version}\n"), "zebra", 7);
        files.extend(table("b.csv", &format!("b\n{version}\n"), "zebra", 8));
        server.upload("open", version, &files, &public).await;
    }
    let files = table("a.csv", "a\n1\n", "zebra", 7);
    let closed = json!({"read_access": "viewers", "owners": ["ann"]});
    server.upload("closed", "1", &files, &closed).await;
    let ann = server.token_for("ann", &[]);
    (server, ann)
}

#[tokio::test]
async fn names_are_validated() {
    let server = Server::start().await;
    for (name, wanted) in [
        ("gprn:dev:quickstart", None),
        ("gprn:dev:quickstart::project:P@3", None),
        ("gprn:dev:quickstart::artifact:P:d/a.csv@3", None),
        ("gprn:dev:quickstart::doc", None),
        ("x::quickstart", Some("Expecting prefix 'gprn', got 'x'")),
        ("gprn:dev:other", Some("Invalid 'service' name: 'other'")),
        ("gprn:prd:quickstart", Some("Invalid 'environment': ''")),
        (
            "gprn:dev:quickstart::song",
            Some("Unsupported type-id: song"),
        ),
        (
            "gprn:dev:quickstart:::P",
            Some("'resource-id' requires 'type-id'"),
        ),
    ] {
        let (status, body) = ask(&server, name, "validate", "").await;
        match wanted {
            None => assert_eq!((status, &body), (200, &json!({"status": "ok"})), "{name}"),
            Some(reason) => assert_eq!((status, &body["reason"]), (400, &json!(reason)), "{name}"),
        }
    }
    let (status, _) = ask(
        &server,
        "gprn:dev:quickstart::artifact:nothing",
        "validate",
        "",
    )
    .await;
    assert_eq!(status, 400);
    let (status, body) = server.anonymous("/gprn/gprn:dev:quickstart/sing").await;
    assert_eq!(
        (status.as_u16(), &body["status"]),
        (404, &json!("error")),
        "{body}"
    );
}

#[tokio::test]
async fn names_lead_up_and_down() {
    let (server, _) = filled().await;
    let name = format!("{OWN}::artifact:open:d/a.csv@2");
    let (status, parents) = ask(&server, &name, "parents?deep=true", "").await;
    assert_eq!(status, 200);
    let shown: Vec<String> = parents
        .as_array()
        .unwrap()
        .iter()
        .map(|own| format!("{}={}", own["type"], own["gprn"]).replace('"', ""))
        .collect();
    assert_eq!(
        shown,
        [
            "version=gprn:dev:quickstart::project:open@2",
            "project=gprn:dev:quickstart::project:open",
            "projects=gprn:dev:quickstart::project",
            "service=gprn:dev:quickstart",
            "environment=gprn:dev",
            "root=gprn:",
        ]
    );
    let (_, children) = ask(&server, &format!("{OWN}::project:open"), "children", "").await;
    let versions = ["1", "2"].map(|version| format!("{OWN}::project:open@{version}"));
    assert_eq!(children, json!({"children": versions}));
    // By version, revision and latest; and of that project alone.
    for version in ["2", "NUM-2", "latest"] {
        let name = format!("{OWN}::project:open@{version}");
        let (status, children) = ask(&server, &name, "children", "").await;
        let wanted = ["b.csv", "d/a.csv"].map(|path| format!("{OWN}::artifact:open:{path}@2"));
        assert_eq!(
            (status, children),
            (200, json!({"children": wanted})),
            "{version}"
        );
    }
    for (name, wanted) in [
        (format!("{OWN}::project:nothing"), 404),
        (format!("{OWN}::project:open@9"), 404),
        (format!("{OWN}::artifact:open:b.csv@1"), 400),
        (format!("{OWN}::project"), 400),
        (OWN.to_owned(), 400),
        (format!("{OWN}::doc"), 200),
    ] {
        assert_eq!(
            ask(&server, &name, "children", "").await.0,
            wanted,
            "{name}"
        );
    }
}

#[tokio::test]
async fn names_tell_of_nothing_that_is_hidden() {
    let (server, ann) = filled().await;
    let names = |project: &str| {
        [
            format!("{OWN}::project:{project}"),
            format!("{OWN}::project:{project}@1"),
            format!("{OWN}::project:{project}@latest"),
            format!("{OWN}::project:{project}@NUM-1"),
            format!("{OWN}::artifact:{project}:a.csv@1"),
            format!("{OWN}::artifact:{project}:a.csv@latest"),
        ]
    };
    for (hidden, missing) in names("closed").iter().zip(names("absent")) {
        assert_eq!(
            ask(&server, hidden, "permissions", &ann).await,
            (200, json!({"allowed": true}))
        );
        for token in ["", &server.token_for("eve", &["uploader"])] {
            for verb in ["permissions", "locate", "locate?check=false", "children"] {
                let (status, told) = ask(&server, hidden, verb, token).await;
                let (other, wanted) = ask(&server, &missing, verb, token).await;
                let wanted = wanted.to_string().replace("absent", "closed");
                assert_eq!(
                    (status, told.to_string()),
                    (other, wanted),
                    "{hidden} {verb}: hidden looks like missing"
                );
            }
        }
    }
    let all: Vec<String> = names("closed").into_iter().chain(names("absent")).collect();
    let body = json!({"gprns": all});
    for (token, count) in [("", 0), (ann.as_str(), 6)] {
        let path = "/gprn/permissions";
        let (status, told) = server
            .call(Method::POST, path, token, Some(body.clone()))
            .await;
        assert_eq!((status.as_u16(), &told["status"]), (200, &json!(false)));
        let allowed = told["gprns"].as_array().unwrap().iter();
        assert_eq!(allowed.filter(|own| own["allowed"] == true).count(), count);
    }
    let many = json!({"gprns": vec![OWN; 1001]});
    let (status, _) = server
        .call(Method::POST, "/gprn/permissions", "", Some(many))
        .await;
    assert_eq!(status.as_u16(), 422);
}

#[tokio::test]
async fn names_are_located() {
    let (server, _) = filled().await;
    let name = format!("{OWN}::artifact:open:d/a.csv@NUM-1");
    let (status, found) = ask(&server, &name, "locate", "").await;
    assert_eq!(status, 200, "{found}");
    let url = found["s3_url"].as_str().unwrap();
    assert!(
        url.starts_with("s3://") && url.ends_with("/open/1/d/a.csv"),
        "{url}"
    );
    let arn = found["s3_arn"].as_str().unwrap();
    assert_eq!(arn, url.replace("s3://", "arn:aws:s3:::"));
    assert!(
        found["region"].is_string() && found["links"].is_null(),
        "{found}"
    );

    // A file that is a link leads to where its bytes are.
    let metadata = table("c.csv", "a\n1\n", "zebra", 7).remove(1).1;
    let body = json!({"filenames": [
        {"filename": "c.csv", "check": "link", "value": {"artifactdb_id": "open:d/a.csv@1"}},
        {"filename": "c.csv.json", "check": "simple", "value": {"md5sum": md5_hex(&metadata)}},
    ]});
    let path = "/projects/linking/version/1/upload";
    let (status, begun) = server
        .call(Method::POST, path, &server.token, Some(body.clone()))
        .await;
    assert_eq!(status.as_u16(), 200, "{begun}");
    let sent = [("c.csv.json".to_owned(), metadata)];
    server.transfer(&begun, &sent).await.unwrap();
    let (_, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    server.wait(&accepted).await;
    let name = format!("{OWN}::project:linking@1");
    let (status, found) = ask(&server, &name, "locate?check=false", "").await;
    assert_eq!(status, 200, "{found}");
    let link = &found["links"][0];
    assert_eq!(link["key"], "linking/1/c.csv", "{found}");
    assert_eq!(link["location"]["s3_url"], json!(url));
    let (status, skipped) = ask(&server, &name, "locate?check=false&skip_links=true", "").await;
    assert_eq!((status, &skipped["links"]), (200, &Value::Null));
}

#[tokio::test]
async fn a_version_is_deleted_by_uploaders() {
    let (server, ann) = filled().await;
    let path = "/projects/open/version/NUM-1";
    for (token, wanted) in [("", 401), (ann.as_str(), 403)] {
        let (status, _) = server.call(Method::DELETE, path, token, None).await;
        assert_eq!(status.as_u16(), wanted);
    }
    let token = server.token_for("eve", &["uploader"]);
    let (status, accepted) = server.call(Method::DELETE, path, &token, None).await;
    assert_eq!(status.as_u16(), 202, "{accepted}");
    // Gone for readers at once, and from the index with the job.
    let (status, _) = server.download("open:b.csv@1", "").await;
    assert_eq!(status.as_u16(), 404);
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    let ids = server.ids("zebra", "").await;
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert!(
        ids.iter()
            .all(|id| id.starts_with("open:") && id.ends_with("@2"))
    );
    assert_eq!(server.download("open:b.csv@2", "").await.0.as_u16(), 200);
    let (_, again) = server.call(Method::DELETE, path, &token, None).await;
    assert_eq!(server.wait(&again).await["status"], "SUCCESS");
    let path = "/projects/nothing/version/1";
    let (status, accepted) = server.call(Method::DELETE, path, &token, None).await;
    assert_eq!(status.as_u16(), 202);
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    // The newest goes, and what is latest falls back; then the name is free again.
    let newest = "/projects/open/version/latest";
    let files = table("b.csv", "b\n3\n", "tiger", 9);
    let public = json!({"read_access": "public"});
    server.upload("open", "3", &files, &public).await;
    assert_eq!(server.download("open:b.csv@latest", "").await.1, b"b\n3\n");
    let (_, accepted) = server.call(Method::DELETE, newest, &token, None).await;
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    assert_eq!(server.download("open:b.csv@latest", "").await.1, b"b\n2\n");
    let (_, versions) = server.anonymous("/projects/open/versions").await;
    assert_eq!(versions["latest"]["_extra.version"], "2", "{versions}");
    let files = table("b.csv", "b\n2\n", "lion", 9);
    server
        .upload("open", "1", &files, &json!({"read_access": "public"}))
        .await;
    assert_eq!(server.ids("lion", "").await, ["open:b.csv@1"]);
}

#[tokio::test]
async fn the_configuration_is_for_admins_and_holds_no_secrets() {
    let server = Server::start().await;
    for (token, wanted) in [
        (String::new(), 401),
        (server.token_for("ann", &["uploader"]), 403),
        (server.token_for("root", &["admin"]), 200),
    ] {
        let (status, body) = server.call(Method::GET, "/config", &token, None).await;
        assert_eq!(status.as_u16(), wanted, "{body}");
        if wanted == 200 {
            assert_eq!(body["gprn"]["service"], "quickstart", "{body}");
        }
    }
}
