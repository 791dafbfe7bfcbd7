//! Wrong and hostile input: each gets the documented status and a reason; nothing is lost, nothing
//! leaks, and the server goes on.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Difference, Server, encode, md5_hex, table};

#[tokio::test]
async fn hostile_identifiers() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    server
        .upload("P", "1", &files, &json!({"read_access": "public"}))
        .await;
    for id in [
        "",
        "P",
        "P:",
        "P:a.csv",
        "P:@1",
        ":a.csv@1",
        "P:a.csv@",
        "P:../secrets.json@1",
        "P:a/../../x@1",
        "P:..meta/state.json@1",
        "..meta:permissions.json@1",
        "P:a.csv@..meta",
        "P:a.csv@../x",
        "P:a\u{0}b@1",
        "_P:a@1",
        "P/Q:a@1",
        "regexp:P.*:a.csv@1x/y",
        "P:.@1",
        "P:a//b@1",
    ] {
        for tail in ["", "/metadata"] {
            let (status, body) = server
                .anonymous(&format!("/files/{}{tail}", encode(id)))
                .await;
            assert!(
                matches!(status.as_u16(), 400 | 404),
                "{id:?}{tail}: {status} {body}"
            );
        }
    }
    let long = "x".repeat(10_000);
    for path in [
        format!("/files/{long}:a@1"),
        format!("/projects/{long}/versions"),
        format!("/projects/P/version/{long}/metadata"),
    ] {
        assert_eq!(server.anonymous(&path).await.0, 400, "{}", &path[..20]);
    }
    for path in ["/files/%FF%FE:a@1", "/files/%ZZ", "/files/P%3Aa.csv%401%00"] {
        let status = server
            .raw(Method::GET, path, "", None)
            .await
            .unwrap()
            .status();
        assert!(matches!(status.as_u16(), 400 | 404), "{path}: {status}");
    }
    // Upstream's query helper took these for operators (CONTRACT section 11, entry 5).
    for id in ["P:a.csv|b@1", "P:!=a.csv@1", "P:*@1", "*:a.csv@1"] {
        assert_eq!(
            server
                .anonymous(&format!("/files/{}/metadata", encode(id)))
                .await
                .0,
            404,
            "{id}"
        );
    }
    for version in ["latest", "LATEST", "..x", "a@b", "a/b", "_v", ""] {
        let path = format!("/projects/P/version/{}/upload", encode(version));
        let (status, _) = server
            .call(
                Method::POST,
                &path,
                &server.token,
                Some(json!({"filenames": ["x"]})),
            )
            .await;
        assert!(matches!(status.as_u16(), 400 | 404), "{version}: {status}");
    }
    // A client that does not resolve dots, as this one's would.
    for version in ["..", "%2E%2E", "."] {
        let head = format!(
            "POST /projects/P/version/{version}/upload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 16\r\nconnection: close\r\n\r\n{{\"filenames\":[]}}",
            server.token
        );
        let mut stream = TcpStream::connect(server.url.trim_start_matches("http://"))
            .await
            .unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{version}: {answer}");
    }
    assert_eq!(server.anonymous("/files/P:a.csv@1/metadata").await.0, 200);
}

/// Bodies are read when it is known that the caller may send one: nobody else's fill the memory.
#[tokio::test]
async fn who_may_not_upload_is_told_so_before_the_body_comes() {
    const LENGTH: usize = 20_000_000;
    let server = Server::start().await;
    for path in [
        "/projects/P/version/1/upload",
        "/projects/P/upload",
        "/projects/upload",
    ] {
        // Whoever waits with the body, and whoever sends all of it before they listen.
        for sent in [1, LENGTH] {
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {LENGTH}\r\n\r\n");
            let address = server.url.trim_start_matches("http://");
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b' '; sent]).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}") {
                let read = stream.read_buf(&mut answer).await.unwrap();
                assert!(read > 0, "{path}: the connection is closed");
            }
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
            assert!(answer.contains("\"reason\""), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn wrong_upload_requests() {
    let server = Server::start().await;
    let ask = async |body: Value| {
        server
            .call(
                Method::POST,
                "/projects/P/version/1/upload",
                &server.token,
                Some(body),
            )
            .await
    };
    let file = |name: &str, check: &str, value: Value| json!({"filenames": [{"filename": name, "check": check, "value": value}]});
    let md5 = md5_hex(b"x");
    for (body, wanted) in [
        (json!({}), 422),
        (json!([]), 422),
        (json!([["a"]]), 422),
        (json!({"filenames": "a"}), 422),
        (json!({"filenames": [1]}), 422),
        (json!({"filenames": [{"check": "md5"}]}), 422),
        (file("a", "size_mdtm", json!({})), 422),
        (file("a", "nonsense", json!({})), 422),
        (file("a", "md5", json!({"md5sum": md5})), 422),
        (file("a", "md5", Value::Null), 422),
        (file("a", "simple", json!({"md5sum": "not hex"})), 422),
        (file("a", "link", json!({})), 422),
        (json!({"filenames": ["a"], "mode": "carrier-pigeon"}), 422),
        (json!({"filenames": ["a"], "mode": "sts-credentials"}), 501),
        (json!({"filenames": ["a/..meta/x"]}), 403),
        (json!({"filenames": ["..meta"]}), 403),
        (json!({"filenames": ["../x"]}), 400),
        (json!({"filenames": ["/x"]}), 400),
        (json!({"filenames": [""]}), 400),
        (json!({"filenames": ["x".repeat(1100)]}), 400),
        (json!({"filenames": ["a", "a"]}), 400),
        (json!({"filenames": ["a"], "completed_by": "soon"}), 400),
        (json!({"filenames": ["a"], "expires_in": "never"}), 400),
        (
            json!({"filenames": ["a"], "completed_by": "in 3 days", "expires_in": "in 1 day"}),
            400,
        ),
    ] {
        let (status, answer) = ask(body.clone()).await;
        assert_eq!(status.as_u16(), wanted, "{body}: {answer}");
    }
    let (_, answer) = ask(file("a", "size_mdtm", json!({}))).await;
    assert_eq!(
        answer["reason"],
        "Invalid deduplication info: 'size_mdtm' is not a valid check"
    );
    let text = server
        .http
        .post(format!("{}/projects/P/version/1/upload", server.url))
        .bearer_auth(&server.token)
        .body("{not json")
        .send()
        .await
        .unwrap();
    assert_eq!(text.status(), 422);
    // None of this left a lock or a trace.
    assert_eq!(server.get("/projects/P/lock").await.0, 404);
    assert_eq!(ask(json!({"filenames": []})).await.0, 200);
}

#[tokio::test]
async fn a_body_of_50_megabytes_is_refused() {
    let server = Server::start().await;
    let body = format!("{{\"filenames\": [\"{}\"]}}", "x".repeat(50_000_000));
    for path in ["/projects/P/version/1/upload", "/schema/validate"] {
        let sent = server
            .http
            .post(format!("{}{path}", server.url))
            .bearer_auth(&server.token)
            .body(body.clone())
            .send()
            .await;
        // The connection may be closed before all of it is sent.
        if let Ok(response) = sent {
            assert_eq!(response.status(), 413);
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["status"], "error");
        }
    }
    assert_eq!(
        server
            .raw(Method::GET, "/readyz", "", None)
            .await
            .unwrap()
            .status(),
        200
    );
}

/// A version whose files arrive and whose metadata is as given: the end of its job.
async fn job_of(server: &Server, version: &str, files: &[(String, Vec<u8>)]) -> Value {
    let (status, begun) = server.begin("P", version, files, &server.token).await;
    assert_eq!(status, 200, "{begun}");
    server.transfer(&begun, files).await.unwrap();
    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    server.wait(&accepted).await
}

#[tokio::test]
async fn wrong_metadata_fails_its_job_and_shows_nothing() {
    let server = Server::start().await;
    let data = ("a.csv".to_owned(), b"a\n".to_vec());
    let md5 = md5_hex(b"a\n");
    let table = |change: &dyn Fn(&mut Value)| {
        let mut metadata = json!({"$schema": "table/v1.json", "path": "a.csv", "md5sum": md5, "title": "t", "rows": 1, "columns": []});
        change(&mut metadata);
        metadata.to_string().into_bytes()
    };
    for (number, (metadata, why)) in [
        (b"{not json".to_vec(), "is not JSON"),
        (b"[1, 2]".to_vec(), "is not a JSON object"),
        (b"\xff\xfe".to_vec(), "is not JSON"),
        (
            table(&|m| {
                m.as_object_mut().unwrap().remove("path");
            }),
            "has no 'path'",
        ),
        (
            table(&|m| m["path"] = json!("b.csv")),
            "which is no file of this version",
        ),
        (table(&|m| m["path"] = json!("../a.csv")), "bad 'path'"),
        (table(&|m| m["rows"] = json!("many")), "breaks schema"),
        (table(&|m| m["md5sum"] = json!(7)), "breaks schema"),
        (
            table(&|m| m["$schema"] = json!("unknown/v1.json")),
            "unknown schema",
        ),
        (table(&|m| m["$schema"] = json!("table")), "bad '$schema'"),
        (table(&|m| m["surprise"] = json!(1)), "is in no schema"),
        (
            table(&|m| m["_extra"] = json!({"permissions": {"read_access": "public"}})),
            "reserved field",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let files = vec![data.clone(), ("a.csv.json".to_owned(), metadata)];
        let job = job_of(&server, &format!("v{number}"), &files).await;
        assert_eq!(job["status"], "FAILURE", "{why}");
        assert!(
            job["traceback"].as_str().unwrap().contains(why),
            "{why}: {job}"
        );
        let (status, info) = server
            .get(&format!("/projects/P/version/v{number}/info"))
            .await;
        assert_eq!(
            (status.as_u16(), &info["status"]),
            (200, &json!("error")),
            "{info}"
        );
    }
    let huge = vec![("huge.json".to_owned(), vec![b' '; 9_000_000])];
    let job = job_of(&server, "huge", &huge).await;
    assert!(
        job["traceback"]
            .as_str()
            .unwrap()
            .contains("is larger than"),
        "{job}"
    );
    // Listed as data, it is data.
    let ignored = vec![
        huge[0].clone(),
        (".adbignore".to_owned(), b"huge.json\n".to_vec()),
    ];
    assert_eq!(
        job_of(&server, "ignored", &ignored).await["status"],
        "SUCCESS"
    );
    assert!(server.ids("*", &server.token).await.is_empty());
    assert_eq!(server.anonymous("/projects/P/versions").await.0, 404);
    // Mended, the same version can be uploaded again.
    let good = vec![data.clone(), ("a.csv.json".to_owned(), table(&|_| {}))];
    assert_eq!(job_of(&server, "v0", &good).await["status"], "SUCCESS");
    assert_eq!(server.ids("*", "").await, ["P:a.csv@v0"]);
}

#[tokio::test]
async fn what_was_promised_must_come() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    let (_, begun) = server.begin("P", "1", &files, &server.token).await;
    let (status, answer) = server.complete(&begun, &json!({})).await;
    assert_eq!(status, 400);
    assert_eq!(
        answer["reason"],
        "promised files were not uploaded: 'a.csv', 'a.csv.json'"
    );
    // The store refuses other bytes than were promised, and says MD5.
    let entry = begun["presigned_urls"]
        .as_array()
        .unwrap()
        .iter()
        .find(|own| own["filename"] == "a.csv")
        .unwrap();
    let put = server
        .http
        .put(entry["url"].as_str().unwrap())
        .header("content-md5", entry["md5sum"].as_str().unwrap());
    let refused = put.body("other").send().await.unwrap();
    assert_eq!(refused.status(), 400);
    if !server.differs(Difference::StoreWording) {
        assert!(refused.text().await.unwrap().contains("MD5"));
    }
    // The upload is still open; what else was put there does not become part of it.
    server.transfer(&begun, &files).await.unwrap();
    let (status, _) = server
        .complete(&begun, &json!({"read_access": "sometimes"}))
        .await;
    assert_eq!(status, 422);
    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202);
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    assert_eq!(server.anonymous("/files/P:extra.csv@1").await.0, 404);
}

#[tokio::test]
async fn links_to_nothing_itself_or_the_hidden() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "secret", 1);
    server
        .upload("hidden", "1", &files, &json!({"read_access": "none"}))
        .await;
    let stranger = server.token_for("stranger", &["uploader"]);
    let ask = async |target: &str| {
        let body = json!({"filenames": [{"filename": "b", "check": "link", "value": {"artifactdb_id": target}}]});
        let (status, answer) = server
            .call(
                Method::POST,
                "/projects/mine/version/1/upload",
                &stranger,
                Some(body),
            )
            .await;
        (
            status.as_u16(),
            answer["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (status, hidden) = ask("hidden:a.csv@1").await;
    let (_, missing) = ask("hidden:none.csv@1").await;
    assert_eq!(status, 400);
    assert_eq!(
        hidden.replace("a.csv", "none.csv"),
        missing,
        "a hidden file looks like a missing one"
    );
    assert!(hidden.contains("No such file"), "{hidden}");
    for target in [
        "mine:b@1",
        "mine:b@latest",
        "hidden:a.csv@LATEST",
        "nonsense",
        "nowhere:x@1",
    ] {
        assert_eq!(ask(target).await.0, 400, "{target}");
    }
    // A link into one's own version would be a cycle, through /link as well.
    let base64 =
        |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let link = async |source: &str, target: &str| {
        let path = format!(
            "/link/{}/to/{}",
            encode(&base64(source)),
            encode(&base64(target))
        );
        server
            .call(Method::PUT, &path, &stranger, None)
            .await
            .0
            .as_u16()
    };
    assert_eq!(link("mine:b@1", "mine:b@1").await, 400);
    assert_eq!(link("mine:b@1", "mine:b@latest").await, 400);
    assert_eq!(link("mine:b@1", "hidden:a.csv@1").await, 404);
    assert_eq!(
        server
            .call(Method::PUT, "/link/!!/to/??", &stranger, None)
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn redirections_in_a_circle_end() {
    let server = Server::start().await;
    let redirection = |from: &str, to: &str| {
        let metadata = json!({"$schema": "redirection/v1.json", "path": from, "redirection": {"targets": [{"type": "local", "location": to}]}});
        (format!("{from}.json"), metadata.to_string().into_bytes())
    };
    // The sample has no such schema: an instance of its own, without validation.
    drop(server);
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("instance.yaml");
    std::fs::write(&resources, "apiVersion: artifactdb.io/v1alpha1\nkind: ArtifactDB\nmetadata: {name: circle}\nspec: {standalone: {}}\n---\napiVersion: artifactdb.io/v1alpha1\nkind: ArtifactSchema\nmetadata: {name: r}\nspec:\n  type: redirection\n  version: v1\n  schema:\n    title: Redirection\n    properties:\n      redirection: {type: object}\n").unwrap();
    let server = Server::with(&resources).await;
    let files = vec![
        redirection("a", "b"),
        redirection("b", "a"),
        redirection("c", "real"),
        ("real".to_owned(), b"bytes".to_vec()),
        ("real.json".to_owned(), br#"{"path": "real"}"#.to_vec()),
    ];
    server
        .upload("P", "1", &files, &json!({"read_access": "public"}))
        .await;
    let request = server.anonymous("/files/P:a@1/metadata?follow_link=true");
    let (status, _) = tokio::time::timeout(Duration::from_secs(10), request)
        .await
        .unwrap();
    assert_eq!(status, 404);
    assert_eq!(server.download("P:a@1", "").await.0, 404);
    assert_eq!(server.download("P:c@1", "").await.1, b"bytes");
}

#[tokio::test]
async fn query_bombs_and_wrong_queries() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "first", 1);
    server
        .upload("P", "1", &files, &json!({"read_access": "public"}))
        .await;
    let deep = format!("{}a{}", "(".repeat(5000), ")".repeat(5000));
    let wide = vec!["a"; 3000].join(" OR ");
    let stars = "*a*b*c*d*e*f*g* ".repeat(50);
    for q in [
        deep.as_str(),
        &wide,
        &stars,
        "(",
        "a AND",
        "\"open",
        "[1 TO",
        "title:/(/",
        "title:/(a{1000}){1000}/",
        "~",
        "a^b",
        "",
    ] {
        let path = format!("/search?q={}", encode(q));
        let request = server.anonymous(&path);
        let (status, body) = tokio::time::timeout(Duration::from_secs(20), request)
            .await
            .unwrap();
        assert_eq!(status, 400, "{}: {body}", &q[..q.len().min(40)]);
        assert!(
            body["reason"]
                .as_str()
                .unwrap()
                .starts_with("Query Parse Error: "),
            "{body}"
        );
    }
    for (path, wanted) in [
        ("/search", 422),
        ("/search?q=*&size=0", 400),
        ("/search?q=*&size=x", 400),
        ("/search?q=*&sort=nope", 400),
        ("/search?q=*&sort=title", 400),
        ("/search?q=*&latest=perhaps", 422),
        ("/search?q=nope:x", 200),
        // As lenient as Elasticsearch's queries over all fields: these find nothing.
        ("/search?q=rows:many", 200),
        ("/search?q=rows:1*", 200),
        ("/search?q=complete:maybe", 200),
        ("/search?q=collected:[x%20TO%20y]", 200),
        ("/search?q=*&size=100000", 200),
        ("/aggregate?q=*", 422),
        ("/aggregate?q=*&agg_field=nope", 400),
        ("/aggregate?q=*&agg_field=rows&agg_type=median", 422),
        ("/aggregate?q=*&agg_field=rows&agg_size=0", 422),
        ("/scroll/abc", 400),
        ("/scroll/None", 400),
        ("/projects?size=501", 422),
        ("/files/P:a.csv@1?expires_in=5", 422),
        ("/jobs/unknown", 200),
        ("/nothing/here", 404),
        ("/projects/P/version/1/nothing", 404),
    ] {
        let (status, body) = server.anonymous(path).await;
        assert_eq!(status.as_u16(), wanted, "{path}: {body}");
    }
    let (_, body) = server.anonymous("/search?q=title:(a").await;
    assert_eq!(
        body["reason"],
        "Query Parse Error: this '(' is never closed at character 7"
    );
    assert_eq!(
        server.call(Method::DELETE, "/search", "", None).await.0,
        405
    );
    assert_eq!(server.ids("*", "").await.len(), 1, "still answering");
}

/// A path longer than Elasticsearch's own identifiers may be.
#[tokio::test]
async fn a_long_path_is_a_file_as_any_other() {
    let server = Server::start().await;
    let name = format!("{}a.csv", format!("{}/", "d".repeat(180)).repeat(4));
    let files = table(&name, "a\n1\n", "long", 1);
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
    let id = format!("P:{name}@1");
    assert_eq!(server.ids("title:long", "").await, [id.as_str()]);
    let path = format!("/files/{}/metadata", encode(&id));
    let (status, document) = server.anonymous(&path).await;
    assert_eq!(
        (status.as_u16(), &document["_extra"]["id"]),
        (200, &json!(id))
    );
    assert_eq!(server.download(&id, "").await.1, b"a\n1\n");
    let hidden = json!({"read_access": "owners"});
    let (_, accepted) = server
        .call(
            Method::PUT,
            "/projects/P/permissions",
            &server.token,
            Some(hidden),
        )
        .await;
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    assert_eq!(server.anonymous(&path).await.0, 404);
    assert!(server.ids("title:long", "").await.is_empty());
}

#[tokio::test]
async fn ten_thousand_files_in_one_upload() {
    let server = Server::start().await;
    let mut files = Vec::with_capacity(10_000);
    for number in 0..5_000 {
        files.extend(table(
            &format!("part/{number}.csv"),
            &format!("a\n{number}\n"),
            "one of many",
            number,
        ));
    }
    let (status, begun) = server.begin("P", "1", &files, &server.token).await;
    assert_eq!(status, 200);
    assert_eq!(begun["presigned_urls"].as_array().unwrap().len(), 10_000);
    let urls = begun["presigned_urls"].as_array().unwrap();
    let by_name: std::collections::HashMap<&str, &Vec<u8>> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content))
        .collect();
    let puts = urls.iter().map(|entry| {
        let content = by_name[entry["filename"].as_str().unwrap()].clone();
        let put = server
            .http
            .put(entry["url"].as_str().unwrap())
            .header("content-md5", entry["md5sum"].as_str().unwrap())
            .body(content);
        async move { assert_eq!(put.send().await.unwrap().status(), 200) }
    });
    futures::StreamExt::for_each(
        futures::StreamExt::buffer_unordered(futures::stream::iter(puts), 64),
        |()| async {},
    )
    .await;
    let (status, accepted) = server
        .complete(&begun, &json!({"read_access": "public"}))
        .await;
    assert_eq!(status, 202, "{accepted}");
    let job = server.wait(&accepted).await;
    assert_eq!(job["result"]["indexed_files"], 5_000, "{job}");
    let found = server.ids("rows:>=4000", "").await;
    assert_eq!(found.len(), 1_000);
    assert_eq!(
        server.ids("*", "").await.len(),
        5_000,
        "every page to the end"
    );
}
