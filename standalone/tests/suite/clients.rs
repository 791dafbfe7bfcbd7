//! Clients in the manner of those that people have (CONTRACT section 9): each makes its whole round
//! trip with the requests, headers and expectations of its kind, and nothing that it would not know.

use std::collections::BTreeMap;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Difference, Server, encode, md5_hex, table};

/// The JavaScript client: every error body is parsed, links are full URLs in the map form and paths in
/// the array form, the `link` header must be quoted, and link and file requests go out together.
struct Script<'a> {
    server: &'a Server,
    token: &'a str,
}

impl Script<'_> {
    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value, Option<String>) {
        let url = match url.starts_with("http") {
            true => url.to_owned(),
            false => format!("{}{url}", self.server.url),
        };
        let mut request = self
            .server
            .http
            .request(method, url)
            .bearer_auth(self.token);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let link = response
            .headers()
            .get("link")
            .map(|own| own.to_str().unwrap().to_owned());
        // It parses the body of every answer that it reads as JSON.
        (status, response.json().await.unwrap(), link)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body, _) = self.send(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// All pages, by the header alone.
    async fn all(&self, path: &str) -> Vec<Value> {
        let (mut path, mut results) = (path.to_owned(), Vec::new());
        loop {
            let (status, mut page, link) = self.send(Method::GET, &path, None).await;
            assert_eq!(status, 200, "{page}");
            let found = page["results"].as_array_mut().unwrap();
            assert!(
                !found.is_empty() || results.is_empty(),
                "a page of nothing was promised"
            );
            results.append(found);
            let Some(link) = link else { return results };
            let next = link.strip_prefix('<').unwrap();
            let (next, rest) = next.split_once('>').unwrap();
            assert!(rest.starts_with("; rel=\"more\""), "{link}");
            path = next.to_owned();
        }
    }

    async fn upload(
        &self,
        project: &str,
        version: &str,
        files: &[(String, Vec<u8>)],
        more: Value,
        array: bool,
    ) -> usize {
        let names: Vec<Value> = files
            .iter()
            .map(|(name, content)| {
                let md5 = md5_hex(content);
                match (name.ends_with(".json"), array) {
                    (true, true) => json!({"filename": name, "check": "simple", "value": {"md5sum": md5}}),
                    (true, false) => json!(name),
                    (false, _) => json!({"filename": name, "check": "md5", "value": {"md5sum": md5, "field": "md5sum"}}),
                }
            })
            .collect();
        let mut body = json!({"filenames": names, "mode": "s3-presigned-url"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let start = format!("/projects/{project}/version/{version}/upload");
        let (status, begun, _) = self.send(Method::POST, &start, Some(body)).await;
        assert_eq!(status, 200, "{begun}");
        // (name, URL, MD5 in Base64)
        let entries = |list: &Value| -> Vec<(String, String, Option<String>)> {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            match list {
                Value::Array(list) => list
                    .iter()
                    .map(|own| {
                        (
                            text(&own["filename"]),
                            text(&own["url"]),
                            own["md5sum"].as_str().map(str::to_owned),
                        )
                    })
                    .collect(),
                Value::Object(list) => list
                    .iter()
                    .map(|(name, url)| (name.clone(), text(url), None))
                    .collect(),
                other => panic!("{other}"),
            }
        };
        assert_eq!(begun["presigned_urls"].is_array(), array);
        let links = entries(&begun["links"]);
        let put_links = links.iter().map(|(_, url, _)| async {
            // The map form has full URLs, or paths where the server does not know its own name.
            self.send(Method::PUT, url, None).await.0
        });
        let put_files = entries(&begun["presigned_urls"])
            .into_iter()
            .map(|(name, url, md5)| {
                let content = files
                    .iter()
                    .find(|(own, _)| *own == name)
                    .unwrap()
                    .1
                    .clone();
                let mut request = self.server.http.put(url).body(content);
                if let Some(md5) = md5 {
                    request = request
                        .header("content-md5", md5)
                        .header("content-type", "application/octet-stream");
                }
                async move { request.send().await.unwrap().status() }
            });
        let (linked, sent) = tokio::join!(join_all(put_links), join_all(put_files));
        assert!(
            linked.iter().chain(&sent).all(|status| status.is_success()),
            "{linked:?} {sent:?}"
        );
        let complete = begun["completion_url"].as_str().unwrap();
        let permissions = json!({"read_access": "viewers", "viewers": ["vera"]});
        let (status, accepted, _) = self.send(Method::PUT, complete, Some(permissions)).await;
        assert_eq!(status, 202, "{accepted}");
        // It asks again and again, without a pause.
        let job = format!("/jobs/{}", accepted["job_id"].as_str().unwrap());
        loop {
            match self.get(&job).await["status"].as_str() {
                Some("SUCCESS") => return links.len(),
                Some("FAILURE") => panic!("{job} failed"),
                _ => {}
            }
        }
    }

    /// `append`, `remove` or `set`, over what is there.
    async fn change_viewers(&self, project: &str, change: impl Fn(&mut Vec<String>)) {
        let path = format!("/projects/{project}/permissions");
        let current = self.get(&path).await;
        let list = |name: &str| -> Vec<String> {
            let all = current[name].as_array().unwrap();
            all.iter()
                .map(|own| own.as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(list("owners"), ["ann"], "who completes first owns");
        let mut viewers = list("viewers");
        change(&mut viewers);
        let (status, accepted, _) = self
            .send(Method::PUT, &path, Some(json!({"viewers": viewers})))
            .await;
        assert!(status.is_success(), "{accepted}");
        let job = format!("/jobs/{}", accepted["job_id"].as_str().unwrap());
        while self.get(&job).await["status"] != "SUCCESS" {}
    }
}

#[tokio::test]
async fn in_the_manner_of_the_javascript_client() {
    let server = Server::start().await;
    let token = server.token_for("ann", &["creator"]);
    let client = Script {
        server: &server,
        token: &token,
    };
    let mut files = table("a.csv", "a\n1\n", "first", 1);
    files.extend(table("deep/b c.csv", "b\n2\n", "second", 2));
    assert_eq!(
        client.upload("js", "base", &files, json!({}), true).await,
        0
    );
    // A transient version of the same, with both dates alike.
    let passing = json!({"expires_in": "in 1 days", "completed_by": "in 1 days"});
    assert_eq!(
        client.upload("js", "passing", &files, passing, true).await,
        2
    );
    // Links name the version that stays, in either dialect.
    for (version, array) in [("modified", true), ("again", false)] {
        files[0].1 = format!("a\n{version}\n").into_bytes();
        files[1].1 = table("a.csv", &format!("a\n{version}\n"), "first", 1)[1]
            .1
            .clone();
        assert_eq!(
            client.upload("js", version, &files, json!({}), array).await,
            1
        );
        let id = encode(&format!("js:deep/b c.csv@{version}"));
        let followed = client
            .get(&format!("/files/{id}/metadata?follow_link=true"))
            .await;
        assert_eq!(followed["_extra"]["version"], "base");
        let own = client.get(&format!("/files/{id}/metadata")).await;
        assert_eq!(own["_extra"]["link"]["artifactdb"], "js:deep/b c.csv@base");
        let (status, bytes) = server
            .download(&format!("js:deep/b c.csv@{version}"), &token)
            .await;
        assert_eq!((status.as_u16(), &*bytes), (200, b"b\n2\n".as_slice()));
    }
    // Every entry of a list is what the file itself answers.
    let listed = client.all("/projects/js/version/modified/metadata").await;
    assert_eq!(listed.len(), 2);
    for entry in listed {
        let id = encode(entry["_extra"]["id"].as_str().unwrap());
        assert_eq!(client.get(&format!("/files/{id}/metadata")).await, entry);
        let raw = client.get(&format!("/files/{id}/metadata?raw=true")).await;
        assert!(raw.get("_extra").is_none() && raw["path"] == entry["path"]);
    }
    let versions = client.get("/projects/js/versions").await;
    let names: Vec<&str> = versions["aggs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| own["_extra.version"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(versions["latest"]["_extra.version"], "again");
    client
        .change_viewers("js", |viewers| viewers.push("hugo".to_owned()))
        .await;
    let hugo = server.token_for("hugo", &[]);
    assert_eq!(server.ids("first", &hugo).await.len(), 4);
    client
        .change_viewers("js", |viewers| viewers.retain(|own| own != "hugo"))
        .await;
    assert!(server.ids("first", &hugo).await.is_empty());
    // Errors are read as `reason`; an anonymous caller hears what its tests look for.
    let nobody = Script {
        server: &server,
        token: "",
    };
    let response = server
        .raw(Method::GET, "/projects/js/permissions", nobody.token, None)
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    let body: Value = response.json().await.unwrap();
    assert!(
        body["reason"]
            .as_str()
            .unwrap()
            .contains("user credentials not supplied")
    );
    // Many projects and documents, a page at a time.
    for number in 0..7 {
        let files = table("a.csv", &number.to_string(), "many", number);
        server
            .upload(
                &format!("many{number}"),
                "1",
                &files,
                &json!({"read_access": "public"}),
            )
            .await;
    }
    assert_eq!(client.all("/projects?size=3").await.len(), 8);
    assert_eq!(client.all("/search?q=many&size=2").await.len(), 7);
    // An abort is a path after the base URL, without a body.
    let (_, begun, _) = client
        .send(
            Method::POST,
            "/projects/js/version/never/upload",
            Some(json!({"filenames": ["x"]})),
        )
        .await;
    let (status, _, _) = client
        .send(Method::PUT, begun["abort_url"].as_str().unwrap(), None)
        .await;
    assert!(status.is_success());
}

/// The R client: first without a token, then with one; doubled slashes before links; `rel=more` without
/// quotes; jobs asked without a token.
struct R<'a> {
    server: &'a Server,
    token: &'a str,
}

impl R<'_> {
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::Response {
        let url = match path.starts_with("http") {
            true => path.to_owned(),
            false => format!("{}{path}", self.server.url),
        };
        let first = self
            .server
            .raw(method.clone(), &url, "", body)
            .await
            .unwrap();
        // A redirection is an answer to whoever wants its location.
        let enough = match first.status().is_redirection() {
            true => true,
            false => first.status().as_u16() < 300,
        };
        match enough {
            true => first,
            false => self
                .server
                .raw(method, &url, self.token, body)
                .await
                .unwrap(),
        }
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let response = self.send(method, path, body.as_ref()).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn upload(
        &self,
        project: &str,
        version: &str,
        files: &[(String, Vec<u8>)],
        links: &BTreeMap<String, String>,
        expires: Option<&str>,
    ) -> Value {
        let names: Vec<Value> = files
            .iter()
            .map(|(name, content)| match links.get(name) {
                Some(target) => json!({"filename": name, "check": "link", "value": {"artifactdb_id": target}}),
                None => json!({"filename": name, "check": "simple", "value": {"md5sum": md5_hex(content)}}),
            })
            .collect();
        let mut body = json!({"filenames": names, "mode": "s3-presigned-url"});
        if let Some(expires) = expires {
            body["expires_in"] = json!(expires);
            body["completed_by"] = json!(expires);
        }
        let path = format!("/projects/{project}/version/{version}/upload");
        self.json(Method::POST, &path, Some(body)).await
    }

    async fn finish(&self, begun: &Value, files: &[(String, Vec<u8>)], permissions: Value) {
        for link in begun["links"].as_array().unwrap() {
            // The base ends with a slash, and the path begins with one.
            let path = format!("/{}", link["url"].as_str().unwrap());
            assert!(path.starts_with("//link/"));
            self.json(Method::PUT, &path, None).await;
        }
        for entry in begun["presigned_urls"].as_array().unwrap() {
            let name = entry["filename"].as_str().unwrap();
            let content = files.iter().find(|(own, _)| own == name).unwrap().1.clone();
            let put = self.server.http.put(entry["url"].as_str().unwrap());
            let put = put.header("content-md5", entry["md5sum"].as_str().unwrap());
            let kind = if name.ends_with(".json") {
                "application/json"
            } else {
                "text/csv"
            };
            let sent = put
                .header("content-type", kind)
                .body(content)
                .send()
                .await
                .unwrap();
            assert_eq!(sent.status(), 200);
        }
        let path = format!(
            "{}&overwrite_permissions=true",
            begun["completion_url"].as_str().unwrap()
        );
        let accepted = self.json(Method::PUT, &path, Some(permissions)).await;
        let job = format!("/jobs/{}", accepted["job_id"].as_str().unwrap());
        loop {
            let (_, job) = self.server.anonymous(&job).await;
            match job["status"].as_str() {
                Some("SUCCESS") => return,
                Some("FAILURE") => panic!("{job}"),
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    }

    async fn all(&self, path: &str) -> Vec<Value> {
        let (mut path, mut results) = (path.to_owned(), Vec::new());
        loop {
            let response = self.send(Method::GET, &path, None).await;
            let link = response
                .headers()
                .get("link")
                .map(|own| own.to_str().unwrap().to_owned());
            let mut page: Value = response.json().await.unwrap();
            results.append(page["results"].as_array_mut().unwrap());
            match link {
                Some(link) if link.contains("rel=more") => {
                    let end = link.find('>').unwrap();
                    path = link[1..end].to_owned();
                }
                _ => return results,
            }
        }
    }
}

#[tokio::test]
async fn in_the_manner_of_the_r_client() {
    let server = Server::start().await;
    let token = server.token_for("ann", &["creator"]);
    let client = R {
        server: &server,
        token: &token,
    };
    let files = table("a.csv", "a\n1\n", "fielded", 1);
    let none = BTreeMap::new();
    let own = json!({"scope": "project", "read_access": "public", "write_access": "owners", "owners": ["ann"], "viewers": []});
    let begun = client.upload("r", "base", &files, &none, None).await;
    client.finish(&begun, &files, own.clone()).await;
    // A version of links, one of them to another project.
    let other = table("o.csv", "o\n1\n", "fielded", 1);
    let begun = client.upload("r-other", "1", &other, &none, None).await;
    client.finish(&begun, &other, own.clone()).await;
    let mut both = files.clone();
    both.extend(table("linked.csv", "o\n1\n", "fielded", 1));
    let links = BTreeMap::from([
        ("a.csv".to_owned(), "r:a.csv@base".to_owned()),
        ("linked.csv".to_owned(), "r-other:o.csv@1".to_owned()),
    ]);
    let begun = client.upload("r", "linked", &both, &links, None).await;
    assert_eq!(begun["links"].as_array().unwrap().len(), 2);
    client.finish(&begun, &both, own.clone()).await;
    let (_, bytes) = server.download("r:linked.csv@linked", "").await;
    assert_eq!(bytes, b"o\n1\n");
    // A corrupted file is refused by the store, in words that name the MD5.
    let mut wrong = table("a.csv", "a\n2\n", "fielded", 1);
    let begun = client.upload("r", "wrong", &wrong, &none, None).await;
    wrong[0].1 = b"something else".to_vec();
    let entry = begun["presigned_urls"]
        .as_array()
        .unwrap()
        .iter()
        .find(|own| own["filename"] == "a.csv")
        .unwrap();
    let put = server.http.put(entry["url"].as_str().unwrap());
    let put = put.header("content-md5", entry["md5sum"].as_str().unwrap());
    let refused = put.body(wrong[0].1.clone()).send().await.unwrap();
    assert!(refused.status().is_client_error());
    if !server.differs(Difference::StoreWording) {
        assert!(refused.text().await.unwrap().contains("MD5"));
    }
    client
        .json(Method::PUT, begun["abort_url"].as_str().unwrap(), None)
        .await;
    // What expires cannot be linked to; what is hidden is as if it were not there.
    let begun = client
        .upload("r", "passing", &files, &none, Some("in 2 days"))
        .await;
    client.finish(&begun, &files, own.clone()).await;
    let refused = async |target: &str| {
        let body = json!({"filenames": [{"filename": "a.csv", "check": "link", "value": {"artifactdb_id": target}}]});
        let answer = client
            .send(Method::POST, "/projects/r/version/x/upload", Some(&body))
            .await;
        assert_eq!(answer.status(), 400);
        answer.json::<Value>().await.unwrap()["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(refused("r:a.csv@passing").await.contains("transient"));
    let secret = server.token_for("zoe", &["creator"]);
    let hidden = R {
        server: &server,
        token: &secret,
    };
    let begun = hidden.upload("hidden", "1", &files, &none, None).await;
    let closed = json!({"read_access": "viewers", "owners": ["zoe"], "viewers": []});
    hidden.finish(&begun, &files, closed).await;
    assert!(refused("hidden:a.csv@1").await.contains("No such file"));
    let response = client
        .send(Method::GET, "/projects/hidden/permissions", None)
        .await;
    assert!(!response.status().is_success());
    let (_, body) = server.anonymous("/projects/hidden/permissions").await;
    assert!(body["reason"].as_str().unwrap().contains("authenticated"));
    // An upload without a token fails cleanly before it is tried with one.
    let body = json!({"filenames": []});
    let (status, _) = server
        .call(Method::POST, "/projects/r/version/y/upload", "", Some(body))
        .await;
    assert!(status.as_u16() >= 300);
    // What it searches for: the latest, without what passes.
    let path = "/search?q=fielded&fields=path,_extra.id,_extra.transient&latest=true&size=1";
    let found = client.all(path).await;
    let kept: Vec<&str> = found
        .iter()
        .filter(|own| !own["_extra"]["transient"].is_object())
        .map(|own| own["_extra"]["id"].as_str().unwrap())
        .collect();
    assert!(
        kept.contains(&"r-other:o.csv@1") && !kept.contains(&"r:a.csv@passing"),
        "{kept:?}"
    );
    let versions = client.json(Method::GET, "/projects/r/versions", None).await;
    assert!(versions["latest"]["_extra.version"].is_string());
    // A location is read and not followed.
    let response = client
        .send(
            Method::GET,
            &format!("/files/{}?expires_in=60", encode("r:a.csv@base")),
            None,
        )
        .await;
    assert_eq!(response.status(), 302);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(
        server
            .http
            .get(location)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "a\n1\n"
    );
    let mut sharing = own;
    sharing["read_access"] = json!("viewers");
    sharing["viewers"] = json!(["bob"]);
    client
        .json(Method::PUT, "/projects/r/permissions", Some(sharing))
        .await;
    let read = client
        .json(Method::GET, "/projects/r/permissions", None)
        .await;
    assert_eq!(
        (&read["viewers"], &read["owners"]),
        (&json!(["bob"]), &json!(["ann"]))
    );
}

/// The command line of the Python backend: it starts from `/`, numbers by sequence, follows 307, sends
/// whole sets of permissions, and shows jobs.
#[tokio::test]
async fn in_the_manner_of_the_command_line() {
    let server = Server::start().await;
    let token = server.token_for("ann", &["creator"]);
    let get = async |path: &str| {
        let (status, body) = server.call(Method::GET, path, &token, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let root = get("/").await;
    assert!(
        root["name"].is_string() && root["auth"]["clients"].is_object(),
        "{root}"
    );
    let prefix = root["sequences"][0]["prefix"].as_str().unwrap();
    let files = table("a.csv", "a\n1\n", "by command", 1);
    let valid: Value = serde_json::from_slice(&files[1].1).unwrap();
    let (status, _) = server
        .call(
            Method::POST,
            "/schema/validate",
            &token,
            Some(json!({"docs": [valid]})),
        )
        .await;
    assert_eq!(status, 200);
    let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
    let body = json!({"filenames": names, "mode": "s3-presigned-url"});
    for path in [
        format!("/projects/upload?prefix={prefix}"),
        "/projects/PRJ000000001/upload".to_owned(),
    ] {
        let response = server
            .raw(Method::POST, &path, &token, Some(&body))
            .await
            .unwrap();
        assert_eq!(response.status(), 307);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let (status, begun) = server
            .call(Method::POST, &location, &token, Some(body.clone()))
            .await;
        assert_eq!(status, 200, "{begun}");
        for (name, content) in &files {
            let url = begun["presigned_urls"][name].as_str().unwrap();
            let sent = server
                .http
                .put(url)
                .body(content.clone())
                .send()
                .await
                .unwrap();
            assert_eq!(sent.status(), 200);
        }
        let own = json!({"read_access": "viewers", "write_access": "owners", "owners": ["ann"], "viewers": []});
        let complete = begun["completion_url"].as_str().unwrap();
        let (status, accepted) = server.call(Method::PUT, complete, &token, Some(own)).await;
        assert_eq!(status, 202);
        for member in ["job_id", "job_url", "path", "status"] {
            assert!(accepted[member].is_string(), "{accepted}");
        }
        let job = server.wait(&accepted).await;
        assert!(job["task_id"].is_string() && job.get("traceback").is_some());
        assert_eq!(job["result"]["indexed_files"], 1);
    }
    assert!(get("/jobs/long-gone").await.get("task_id").is_none());
    let found = get(&format!(
        "/search?q={}",
        encode("command AND _extra.project_id:\"PRJ000000001\" AND _extra.version:\"2\"")
    ))
    .await;
    assert_eq!(found["total"], 1);
    let whole = json!({"scope": "project", "read_access": "public", "write_access": "owners", "owners": ["ann"], "viewers": ["bob"]});
    let path = "/projects/PRJ000000001/permissions";
    let (status, accepted) = server
        .call(Method::PUT, path, &token, Some(whole.clone()))
        .await;
    assert_eq!(status, 202);
    server.wait(&accepted).await;
    assert_eq!(get(path).await, whole);
    assert_eq!(server.ids("command", "").await.len(), 2);
    let (status, accepted) = server.call(Method::DELETE, path, &token, None).await;
    assert_eq!(status, 202);
    server.wait(&accepted).await;
    assert_eq!(server.ids("command", &token).await.len(), 0);
    assert_eq!(
        get("/schemas").await["document_types"][0]["name"],
        "package"
    );
    assert!(get("/schema/clients").await.is_object());
    let tasks = server.get("/tasks").await.1;
    assert!(tasks["tasks"].is_array());
}
