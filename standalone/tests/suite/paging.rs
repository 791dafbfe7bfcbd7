//! Pages: complete, exact, stable under writes, bound to their caller, and ending.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, encode, table};

#[tokio::test]
async fn pages_of_every_order_are_complete_and_end() {
    let server = Server::start().await;
    let mut files = Vec::new();
    for number in 0..57 {
        files.extend(table(
            &format!("{number:02}.csv"),
            &format!("{number}"),
            ["even zebra", "odd"][number % 2],
            number / 5,
        ));
    }
    server
        .upload("P", "1", &files, &json!({"read_access": "public"}))
        .await;
    for order in [
        "",
        "&sort=path",
        "&sort=-path",
        "&sort=rows,path",
        "&sort=-rows",
        "&sort=species",
        "&latest=true&sort=-rows,path",
        "&q=zebra",
    ] {
        let query = if order.starts_with("&q=") { "" } else { "q=*" };
        let mut path = format!("/search?{query}{order}&size=10");
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let response = server.raw(Method::GET, &path, "", None).await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let link = response
                .headers()
                .get("link")
                .map(|value| value.to_str().unwrap().to_owned());
            let page: serde_json::Value = response.json().await.unwrap();
            pages += 1;
            for hit in page["results"].as_array().unwrap() {
                found.push((
                    hit["rows"].as_u64().unwrap(),
                    hit["path"].as_str().unwrap().to_owned(),
                ));
            }
            // A write between two pages changes nothing in them.
            if pages == 1 && order == "&sort=path" {
                server
                    .upload(
                        "Q",
                        "1",
                        &table("x.csv", "x", "late", 1),
                        &json!({"read_access": "public"}),
                    )
                    .await;
            }
            match page["next"].as_str() {
                Some(next) => {
                    assert_eq!(
                        link.unwrap(),
                        format!("<{next}>; rel=\"more\"; title=\"rel=more\"")
                    );
                    path = next.to_owned();
                }
                None => {
                    assert!(link.is_none(), "no dangling next");
                    assert_eq!(
                        page["total"].as_u64().unwrap() as usize,
                        found.len(),
                        "{order}"
                    );
                    break;
                }
            }
        }
        let mut unique = found.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), found.len(), "{order}: no hit twice");
        match order {
            "&sort=path" => assert!(found.is_sorted_by_key(|(_, path)| path.clone())),
            "&sort=-path" => assert!(found.iter().rev().is_sorted_by_key(|(_, path)| path)),
            "&sort=rows,path" => assert!(found.is_sorted()),
            "&sort=-rows" => assert!(found.iter().rev().is_sorted_by_key(|(rows, _)| rows)),
            "&q=zebra" => assert_eq!(found.len(), 29),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_cursor_is_its_callers_alone() {
    let server = Server::start().await;
    let mut files = table("a.csv", "1", "x", 1);
    files.extend(table("b.csv", "2", "x", 2));
    server
        .upload(
            "P",
            "1",
            &files,
            &json!({"read_access": "viewers", "owners": ["ann"]}),
        )
        .await;
    let ann = server.token_for("ann", &[]);
    let (_, page) = server
        .call(Method::GET, "/search?q=*&size=1", &ann, None)
        .await;
    let next = page["next"].as_str().unwrap();
    for token in ["", &server.token_for("eve", &[]), &server.token] {
        let (status, body) = server.call(Method::GET, next, token, None).await;
        assert_eq!(
            (status.as_u16(), &body["reason"]),
            (400, &json!("invalid scroll_id"))
        );
    }
    let changed = next.replace("/scroll/", "/scroll/A");
    assert_eq!(server.call(Method::GET, &changed, &ann, None).await.0, 400);
    let (_, last) = server.call(Method::GET, next, &ann, None).await;
    assert_eq!(
        (last["count"].as_u64(), last["next"].is_null()),
        (Some(1), true)
    );
}

#[tokio::test]
async fn projects_come_in_pages_by_name() {
    let server = Server::start().await;
    for number in 0..7 {
        server
            .upload(
                &format!("P{number}"),
                "v1",
                &table("a.csv", "1", "x", 1),
                &json!({"read_access": "public"}),
            )
            .await;
    }
    let (mut path, mut names) = ("/projects?size=3".to_owned(), Vec::new());
    loop {
        let (_, page) = server.anonymous(&path).await;
        assert_eq!(page["total"], 7);
        for project in page["results"].as_array().unwrap() {
            assert_eq!(project["aggs"], json!([{"_extra.version": "v1"}]));
            names.push(project["project_id"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["P0", "P1", "P2", "P3", "P4", "P5", "P6"]);
    let (_, page) = server
        .anonymous("/projects?agg_field=_extra.revision")
        .await;
    assert_eq!(
        page["results"][0]["aggs"],
        json!([{"_extra.revision": "NUM-1"}])
    );
}

#[tokio::test]
async fn queries_mean_what_people_expect() {
    let server = Server::start().await;
    let mut files = table(
        "adelie/dream.csv",
        "1",
        "Adelie penguins of Dream island",
        56,
    );
    files.extend(table(
        "gentoo/biscoe.csv",
        "2",
        "Gentoo penguins of Biscoe island",
        124,
    ));
    files.extend(table("notes-2007.csv", "3", "Field notes, don't lose", 3));
    server
        .upload("pen", "1", &files, &json!({"read_access": "public"}))
        .await;
    for (query, wanted) in [
        ("*", 3),
        ("*:*", 3),
        ("penguins", 2),
        ("PENGUINS", 2),
        ("title:penguins", 2),
        ("title:\"dream island\"", 1),
        ("title:\"island dream\"", 0),
        ("title:\"adelie island\"~3", 1),
        ("title:peng*", 2),
        ("title:p?nguins", 2),
        ("title:pinguins~1", 2),
        ("title:/pen.*s/", 2),
        ("penguins AND biscoe", 1),
        ("penguins biscoe", 2),
        ("penguins OR notes", 3),
        ("penguins NOT biscoe", 1),
        ("penguins -biscoe", 1),
        ("+penguins +dream", 1),
        ("NOT penguins", 1),
        ("(dream OR notes) AND title:*", 2),
        ("title:(dream biscoe)", 2),
        ("title:(+dream +biscoe)", 0),
        ("rows:56", 1),
        ("rows:[50 TO 200]", 2),
        ("rows:{56 TO *]", 1),
        ("rows:>=56", 2),
        ("rows:<56", 1),
        ("rows:[* TO *]", 3),
        ("56", 1),
        ("path:adelie\\/dream.csv", 1),
        ("path:\"adelie/dream.csv\"", 1),
        ("path:adelie*", 1),
        ("path:Adelie*", 0),
        ("adelie*", 1),
        ("_extra.id:\"pen:notes-2007.csv@1\"", 1),
        ("_extra.id:pen\\:notes-2007.csv@1", 1),
        ("_extra.project_id:pen", 3),
        ("pen", 3),
        ("_exists_:rows", 3),
        ("_exists_:species", 0),
        ("NOT _exists_:species", 3),
        ("columns.name:a", 3),
        ("columns.type:number", 3),
        ("columns.\\*:number", 3),
        ("_extra.uploaded:[2020-01-01 TO now]", 3),
        ("_extra.uploaded:>2999", 0),
        ("_extra.meta_uploaded:<now-1d", 0),
        ("_extra.file_size:1", 3),
        ("_extra.type:table", 3),
        ("_extra.type.keyword:table", 3),
        ("_extra.numerical_revision:1", 3),
        ("nothing", 0),
        ("no.such.field:x", 0),
        ("don't", 1),
        ("title:penguins^2 notes", 3),
    ] {
        let (status, page) = server
            .anonymous(&format!("/search?q={}", encode(query)))
            .await;
        assert_eq!(
            (status.as_u16(), page["total"].as_u64()),
            (200, Some(wanted)),
            "{query}: {page}"
        );
    }
    let (_, page) = server
        .anonymous("/search?q=rows:56&fields=path,_extra.id,columns.name")
        .await;
    assert_eq!(
        page["results"],
        json!([{"path": "adelie/dream.csv", "columns": [{"name": "a"}], "_extra": {"id": "pen:adelie/dream.csv@1"}}])
    );
    let (_, page) = server.anonymous("/search?q=*&sort=-rows&fields=rows").await;
    assert_eq!(
        page["results"],
        json!([{"rows": 124}, {"rows": 56}, {"rows": 3}])
    );
    let (_, agg) = server
        .anonymous("/aggregate?q=penguins&agg_field=rows&agg_type=max")
        .await;
    assert_eq!(agg, json!({"value": 124}));
    let (_, agg) = server
        .anonymous("/aggregate?q=*&agg_field=columns.type&agg_size=1")
        .await;
    assert_eq!(agg["buckets"], json!([{"key": "number", "doc_count": 3}]));
}

#[tokio::test]
async fn fields_that_a_schema_leaves_open_are_found_by_value() {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("instance.yaml");
    let text = "apiVersion: artifactdb.io/v1alpha1
kind: ArtifactDB
metadata: {name: open}
spec: {standalone: {}}
---
apiVersion: artifactdb.io/v1alpha1
kind: ArtifactSchema
metadata: {name: o}
spec:
  type: o
  version: v1
  schema:
    properties:
      free: {type: object, _elasticsearch: {dynamic: true}}
      closed: {type: object}
";
    std::fs::write(&resources, text).unwrap();
    let server = Server::with(&resources).await;
    let metadata = json!({"path": "a", "free": {"x": {"y": ["red", 7]}}, "closed": {"z": "blue"}});
    let files = vec![
        ("a".to_owned(), b"1".to_vec()),
        ("a.json".to_owned(), metadata.to_string().into_bytes()),
    ];
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
    for (query, wanted) in [
        ("free.x.y:red", 1),
        ("free.x.y:7", 1),
        ("free.x.y:green", 0),
        ("red", 1),
        ("_exists_:free.x", 1),
        ("closed.z:blue", 0),
        ("blue", 0),
        ("_exists_:closed", 0),
    ] {
        assert_eq!(server.ids(query, "").await.len(), wanted, "{query}");
    }
}

/// Engines may remember what they answered; what changes is seen by the next search all the same.
#[tokio::test]
async fn a_search_that_is_asked_again_sees_every_change() {
    let server = Server::start().await;
    let public = json!({"owners": ["ann"], "read_access": "public"});
    let path = "/search?q=title:again&sort=_extra.id";
    for version in ["1", "2", "3"] {
        let files = table("a.csv", &format!("a\n{version}\n"), "again", 1);
        server.upload("P", version, &files, &public).await;
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (status, mut page) = server.anonymous(path).await;
            assert_eq!(status, 200, "{page}");
            for hit in page["results"].as_array_mut().unwrap() {
                // The sweeper may have had a version indexed twice that a worker had in hand.
                hit["_extra"]["meta_indexed"].take();
            }
            seen.push(page);
        }
        assert!(seen.iter().all(|page| *page == seen[0]), "{seen:?}");
        assert_eq!(seen[0]["total"].to_string(), version);
        assert_eq!(
            seen[0]["results"].as_array().unwrap().len().to_string(),
            version
        );
    }
    // The documents stay the same ones; what they say of their permissions does not.
    for viewer in ["ben", "cid"] {
        let body = json!({"scope": "project", "owners": ["ann"], "viewers": [viewer], "read_access": "public"});
        let path_of = "/projects/P/permissions";
        let (status, changed) = server
            .call(Method::PUT, path_of, &server.token, Some(body))
            .await;
        assert!(status.is_success(), "{changed}");
        server.wait(&changed).await;
        for _ in 0..4 {
            let (_, page) = server.anonymous(path).await;
            for hit in page["results"].as_array().unwrap() {
                assert_eq!(hit["_extra"]["permissions"]["viewers"], json!([viewer]));
            }
        }
    }
    let body =
        json!({"scope": "project", "owners": ["ann"], "viewers": [], "read_access": "viewers"});
    let (_, changed) = server
        .call(
            Method::PUT,
            "/projects/P/permissions",
            &server.token,
            Some(body),
        )
        .await;
    server.wait(&changed).await;
    assert_eq!(server.anonymous(path).await.1["total"], 0);
}
