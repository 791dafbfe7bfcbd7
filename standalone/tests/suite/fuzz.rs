//! Hostile input by the hundred thousand: parsers never panic and print what they read, and the server
//! answers everything with JSON and never with a 500.
//!
//! `ARTIFACTDB_FUZZ_INPUTS` says how many (20,000), `ARTIFACTDB_FUZZ_SEED` which.

use std::sync::atomic::{AtomicUsize, Ordering};

use artifactdb_core::gprn::Gprn;
use artifactdb_core::id::{ArtifactId, ArtifactRef, FilePath, Project, Version, VersionRef};
use artifactdb_core::permissions::PermissionsPatch;
use artifactdb_core::query::{self, Limits};
use artifactdb_core::state::Expiry;
use artifactdb_core::timestamp::{parse_date, parse_moment, parse_period};
use artifactdb_core::upload::UploadRequest;
use futures::StreamExt;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, encode, table};

/// What input begins as: things that are right.
const GOOD: [&str; 28] = [
    "P:a.csv@1",
    "P:deep/b c.csv@latest",
    "P:a@b.csv@NUM-2",
    "PRJ000000001",
    "NUM-1",
    "gprn:dev:quickstart::project:P@1",
    "gprn:dev:quickstart::artifact:P:a.csv@1",
    "gprn::quickstart::doc",
    "title:penguins AND rows:[1 TO 20]",
    "+a -b \"c d\"~2 (e OR f*) NOT g?h",
    "_extra.uploaded:>=2026-01-01",
    "/[a-z]+.*/ word~1 ^2",
    "_exists_:rows",
    "{\"read_access\": \"viewers\", \"owners\": [\"ann\"], \"viewers\": \"bob,eve\"}",
    "{\"filenames\": [\"a\", {\"filename\": \"b\", \"check\": \"md5\", \"value\": {\"field\": \"md5sum\", \"md5sum\": \"0cc175b9c0f1b6a831c399e269772661\"}}]}",
    "{\"filenames\": [{\"filename\": \"c\", \"check\": \"link\", \"value\": {\"artifactdb_id\": \"P:a.csv@1\"}}], \"expires_in\": \"in 2 days\"}",
    "{\"docs\": [{\"$schema\": \"table/v1.json\", \"path\": \"a\"}]}",
    "{\"gprns\": [\"gprn:dev:quickstart::project:P\"]}",
    "{\"stage\": \"tidying\", \"info\": null}",
    "in 3 hours",
    "2026-02-28T12:00:00+01:00",
    "14d",
    "expire-UC8xLzM",
    "UDphLmNzdkAx/to/UDpiLmNzdkAx",
    "true",
    "-1",
    "18446744073709551616",
    "rows,-title",
];
/// What is put into it.
const HOSTILE: [&str; 44] = [
    ":",
    "@",
    "/",
    "..",
    ".",
    "..meta",
    "..deleteme",
    "%00",
    "\0",
    "\n",
    "\r\n",
    "é",
    "\u{202e}",
    "\u{feff}",
    "💥",
    "latest",
    "NUM-",
    "\"",
    "'",
    "\\",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    " TO ",
    " AND ",
    " OR ",
    "NOT ",
    "*",
    "?",
    "~",
    "^",
    "&&",
    "||",
    "!",
    "<",
    ">",
    "=",
    "null",
    "1e999",
    "%2e%2e%2f",
    "_",
];

fn mutated(random: &mut StdRng) -> String {
    let mut text: Vec<char> = GOOD.choose(random).unwrap_or(&"").chars().collect();
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=text.len());
        let end = (at + random.random_range(0..8)).min(text.len());
        match random.random_range(0..6) {
            0 | 1 => {
                let own = HOSTILE.choose(random).unwrap_or(&"");
                text.splice(at..at, own.chars());
            }
            2 => {
                text.drain(at..end);
            }
            3 => {
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy);
            }
            4 => {
                let other: Vec<char> = GOOD.choose(random).unwrap_or(&"").chars().collect();
                text.splice(at..at, other);
            }
            // Rarely, something long.
            _ if random.random_range(0..50) == 0 => {
                let own = HOSTILE.choose(random).unwrap_or(&"").repeat(2000);
                text.splice(at..at, own.chars());
            }
            _ => {
                if let Some(own) = text.get_mut(at) {
                    *own = char::from_u32(random.random_range(0..0x300)).unwrap_or('x');
                }
            }
        }
    }
    text.into_iter().collect()
}

fn inputs() -> usize {
    let number = std::env::var("ARTIFACTDB_FUZZ_INPUTS").ok();
    number.map_or(20_000, |number| number.parse().unwrap())
}

fn seed() -> u64 {
    let number = std::env::var("ARTIFACTDB_FUZZ_SEED").ok();
    number.map_or(0x00ad_bdb0, |number| number.parse().unwrap())
}

/// What is understood is printed as something that is understood alike.
fn parse(text: &str, now: Timestamp) {
    if let Ok(id) = ArtifactId::parse(text) {
        assert_eq!(ArtifactId::parse(&id.to_string()), Ok(id), "{text:?}");
    }
    let _ = ArtifactRef::parse(text);
    if let Ok(gprn) = Gprn::parse(text) {
        assert_eq!(Gprn::parse(&gprn.to_string()), Ok(gprn), "{text:?}");
    }
    if let Some(expiry) = Expiry::parse(text) {
        assert_eq!(Expiry::parse(&expiry.to_string()), Some(expiry), "{text:?}");
    }
    let _ = (
        Version::new(text),
        VersionRef::parse(text),
        FilePath::new(text),
    );
    let _ = (
        parse_moment(text, now),
        parse_date(text),
        parse_period(text),
    );
    let _ = query::parse(text, Limits::default());
    let _ = serde_json::from_str::<PermissionsPatch>(text);
    let target = (Project::new("P").unwrap(), Version::new("1").unwrap());
    if let Ok(request) = serde_json::from_str::<UploadRequest>(text) {
        let _ = request.plan(&target.0, &target.1, now);
    }
}

#[test]
fn parsers_take_everything() {
    let mut random = StdRng::seed_from_u64(seed());
    let now = Timestamp::now();
    for _ in 0..inputs() * 9 / 10 {
        parse(&mutated(&mut random), now);
    }
}

/// A request of some route, with what is hostile in its path, its query, its body or its credentials.
fn request(
    random: &mut StdRng,
    routes: &[(Method, String)],
    tokens: &[String],
    signed: &[String],
) -> (Method, String, Option<String>, String) {
    let (method, template) = routes.choose(random).unwrap();
    let mut path = String::new();
    let mut rest = template.as_str();
    while let Some((before, behind)) = rest.split_once('{') {
        path.push_str(before);
        let text = mutated(random);
        path.push_str(&match random.random_range(0..4) {
            0 => "P".to_owned(),
            1 => "1".to_owned(),
            2 => encode(&text),
            // As it is, but for what no client can send.
            _ => text
                .chars()
                .filter(|own| own.is_ascii_graphic() && !"?#".contains(*own))
                .collect(),
        });
        rest = behind.split_once('}').map_or("", |(_, rest)| rest);
    }
    path.push_str(rest);
    let mut query = Vec::new();
    for name in [
        "q",
        "fields",
        "sort",
        "size",
        "latest",
        "agg_field",
        "agg_size",
        "agg_type",
        "follow_link",
        "raw",
        "expires_in",
        "ttl",
        "prefix",
        "client",
        "keep",
        "max_pools",
        "purge",
        "dryrun",
        "check",
        "deep",
        "X-ADB-Credential",
    ] {
        if random.random_range(0..8) == 0 || (name == "q" && path.starts_with("/search")) {
            query.push(format!("{name}={}", encode(&mutated(random))));
        }
    }
    if random.random_range(0..10) == 0 {
        query.push(format!(
            "X-ADB-Credential={}",
            signed.choose(random).unwrap()
        ));
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let body = (*method != Method::GET && random.random_range(0..4) > 0).then(|| mutated(random));
    (
        method.clone(),
        path,
        body,
        tokens.choose(random).unwrap().clone(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_everything() {
    let server = Server::start().await;
    let files = table("a.csv", "a\n1\n", "penguins", 7);
    let public = json!({"read_access": "public"});
    server.upload("P", "1", &files, &public).await;
    let described = artifactdb_api::openapi_json();
    let mut routes = Vec::new();
    for (path, operations) in described["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            // What would index everything again, thousands of times; and what never ends.
            if !matches!(&**path, "/index/build" | "/task/run" | "/events/follow") {
                routes.push((method.to_uppercase().parse().unwrap(), path.clone()));
            }
        }
    }
    // Cursors and credentials that are right but for a bit.
    let (_, begun) = server.begin("P", "9", &files, &server.token).await;
    let url = begun["completion_url"].as_str().unwrap();
    let credential = url.split_once("X-ADB-Credential=").unwrap().1.to_owned();
    let mut signed = vec![credential.clone()];
    for at in (0..credential.len()).step_by(7) {
        let mut broken = credential.clone();
        broken.replace_range(
            at..=at,
            if &credential[at..=at] == "A" {
                "B"
            } else {
                "A"
            },
        );
        routes.push((Method::GET, format!("/scroll/{broken}")));
        routes.push((Method::GET, format!("/jobs/{broken}")));
        signed.push(broken);
    }
    let tokens = [
        server.token.clone(),
        server.token_for("ann", &[]),
        server.token_for("cleo", &["creator"]),
        String::new(),
        "a.b.c".to_owned(),
        format!("{}x", server.token),
    ];
    let mut random = StdRng::seed_from_u64(seed());
    let answered = AtomicUsize::new(0);
    let count = inputs() / 10;
    futures::stream::iter(0..count)
        .map(|_| request(&mut random, &routes, &tokens, &signed))
        .for_each_concurrent(32, |(method, path, body, token)| {
            let (server, answered) = (&server, &answered);
            async move {
                let mut request = server
                    .http
                    .request(method.clone(), format!("{}{path}", server.url));
                if !token.is_empty() {
                    request = request.bearer_auth(&token);
                }
                if let Some(body) = &body {
                    request = request.body(body.clone());
                }
                // What no client can send.
                let Ok(request) = request.build() else { return };
                let response = server
                    .http
                    .execute(request)
                    .await
                    .unwrap_or_else(|error| panic!("{method} {path} {body:?}: {error}"));
                let status = response.status().as_u16();
                let text = response.text().await.unwrap();
                let what = || format!("{method} {path} {body:?}: {status} {text}");
                assert!(status < 500 || status == 501, "{}", what());
                if status >= 400 {
                    let told: Value =
                        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}", what()));
                    assert!(
                        told["reason"].is_string() && told["status"].is_string(),
                        "{}",
                        what()
                    );
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
    let answered = answered.into_inner();
    assert!(answered * 10 > count * 9, "{answered} of {count}");
    assert!(!server.log().contains("panicked"));
    let alive = server.raw(Method::GET, "/livez", "", None).await.unwrap();
    assert_eq!(alive.status(), 200);
}
