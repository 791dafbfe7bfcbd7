//! The query parser held to Elasticsearch itself: the same query through the one-process instance,
//! through the instance on real servers, and raw as `query_string`, finds the same documents.

use std::collections::BTreeSet;
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, Server, encode};

const RESOURCES: &str = "apiVersion: artifactdb.io/v1alpha1
kind: ArtifactDB
metadata: {name: queries}
spec: {standalone: {}}
---
apiVersion: artifactdb.io/v1alpha1
kind: ArtifactSchema
metadata: {name: thing}
spec:
  type: thing
  version: v1
  schema:
    title: Thing
    properties:
      path: {type: string}
      name: {type: string}
      tags: {type: array, items: {type: string}}
      text: {type: string, _elasticsearch: {type: text}}
      count: {type: integer}
      mass: {type: number}
      good: {type: boolean}
      day: {type: string, format: date-time}
      place:
        type: object
        properties:
          city: {type: string}
          level: {type: integer}
      hidden: {type: string, _elasticsearch: {index: false}}
";

const WORDS: [&str; 16] = [
    "red",
    "Red",
    "blue",
    "green-ish",
    "über",
    "x y",
    "AND",
    "7",
    "3.5",
    "true",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog's",
    "2024-05-01",
];
const CITIES: [&str; 5] = ["Oslo", "Bergen", "New York", "São Paulo", "oslo"];
const DOCUMENTS: usize = 120;

fn documents(random: &mut StdRng) -> Vec<Value> {
    let word = |random: &mut StdRng| (*WORDS.choose(random).unwrap()).to_owned();
    (0..DOCUMENTS)
        .map(|number| {
            let mut document = json!({"$schema": "thing/v1.json", "path": format!("dir{}/f{number}.txt", number % 4)});
            let mut put = |name: &str, value: Value| document[name] = value;
            if random.random_bool(0.8) {
                put("name", json!(word(random)));
            }
            if random.random_bool(0.6) {
                let tags: Vec<String> = (0..random.random_range(0..4)).map(|_| word(random)).collect();
                put("tags", json!(tags));
            }
            if random.random_bool(0.8) {
                let words: Vec<String> = (0..random.random_range(1..9)).map(|_| word(random)).collect();
                put("text", json!(words.join(" ")));
            }
            if random.random_bool(0.8) {
                put("count", json!(random.random_range(-3..12)));
            }
            if random.random_bool(0.8) {
                put("mass", json!(f64::from(random.random_range(-20..40)) / 4.0));
            }
            if random.random_bool(0.8) {
                put("good", json!(random.random_bool(0.5)));
            }
            if random.random_bool(0.8) {
                let (month, day) = (random.random_range(1..13), random.random_range(1..29));
                put("day", json!(format!("2024-{month:02}-{day:02}T{:02}:30:00Z", random.random_range(0..24))));
            }
            if random.random_bool(0.7) {
                put("place", json!({"city": CITIES.choose(random).unwrap(), "level": random.random_range(0..5)}));
            }
            put("hidden", json!("secret"));
            document
        })
        .collect()
}

/// Written by hand: every form of the syntax, and what people get wrong.
const BY_HAND: &[&str] = &[
    "*",
    "*:*",
    "red",
    "Red",
    "RED",
    "red blue",
    "red AND blue",
    "red OR blue",
    "red && blue",
    "red || blue",
    "NOT red",
    "!red",
    "-red",
    "+red",
    "+red -blue",
    "red AND NOT blue",
    "red NOT blue",
    "(red OR blue) AND fox",
    "red OR blue AND fox",
    "red AND blue OR fox",
    "red AND (blue OR (fox AND NOT dog))",
    "text:red",
    "text:(red blue)",
    "text:(red AND blue)",
    "text:(+red -blue)",
    "text:\"red blue\"",
    "text:\"red blue\"~3",
    "text:\"blue red\"~3",
    "text:r*d",
    "text:re?",
    "text:R*",
    "text:jump*",
    "text:*umps",
    "name:red",
    "name:Red",
    "name:r*",
    "name:R*",
    "name:\"x y\"",
    "name:x\\ y",
    "name:x",
    "name:(red blue)",
    "name:(red OR \"x y\")",
    "name:green-ish",
    "name:green\\-ish",
    "green-ish",
    "\"green-ish\"",
    "name:über",
    "über",
    "name:AND",
    "name:\"AND\"",
    "tags:red",
    "tags:(red AND blue)",
    "tags:7",
    "count:7",
    "count:-2",
    "count:\"-2\"",
    "count:7.0",
    "count:7.5",
    "count:[1 TO 5]",
    "count:{1 TO 5}",
    "count:[1 TO 5}",
    "count:{1 TO 5]",
    "count:[* TO 5]",
    "count:[5 TO *]",
    "count:>5",
    "count:>=5",
    "count:<5",
    "count:<=5",
    "count:(>2 AND <6)",
    "count:[1.5 TO 4.5]",
    "mass:3.5",
    "mass:[0 TO 2.5]",
    "mass:>2",
    "mass:{* TO 0}",
    "good:true",
    "good:false",
    "NOT good:true",
    "day:2024-05-01",
    "day:[2024-03-01 TO 2024-06-30]",
    "day:[2024-03 TO 2024-05]",
    "day:{2024-03 TO 2024-05}",
    "day:>2024-06",
    "day:<=2024-06-15",
    "day:[2024-01-01 TO now]",
    "day:>now",
    "day:\"2024-05-01\"",
    "day:[* TO 2024-02]",
    "_exists_:name",
    "_exists_:place",
    "_exists_:place.city",
    "NOT _exists_:tags",
    "_exists_:nope",
    "name:*",
    "count:*",
    "place.city:Oslo",
    "place.city:oslo",
    "place.city:\"New York\"",
    "place.city:New\\ York",
    "place.city:New*",
    "place.level:[2 TO 3]",
    "place.\\*:Oslo",
    "place.*:Oslo",
    "nope:red",
    "nope:[1 TO 2]",
    "nope:r*",
    "red~",
    "red~1",
    "text:bleu~",
    "text:bleu~2",
    "name:rad~1",
    "name:/r.d/",
    "name:/[rR]ed/",
    "text:/ju.*/",
    "name:/r/",
    "red^2 blue",
    "name:red^3 OR name:blue",
    "(red)^2",
    "path:dir1*",
    "path:dir1\\/f1.txt",
    "path:\"dir1/f1.txt\"",
    "_extra.version:1",
    "_extra.project_id:Q",
    "_extra.project_id:\"Q\"",
    "_extra.id:\"Q:dir1/f1.txt@1\"",
    "_extra.type:thing",
    "thing",
    "Thing",
    "_extra.file_size:>0",
    "_extra.numerical_revision:1",
    "\"x y\"",
    "x y",
    "x\\ y",
    "dog's",
    "\"dog's\"",
    "text:dog's",
    "2024-05-01",
    "\"2024-05-01\"",
    "7",
    "3.5",
    "true",
    "fox jumps",
    "\"fox jumps\"",
    "\"jumps fox\"",
    "\"fox jumps\"~2",
    "fo*",
    "F*",
    "f?x",
    "hidden:secret",
    "secret",
    "all:thing",
    "all:red",
    "(red",
    "red)",
    "\"red",
    "red AND",
    "AND red",
    "name:",
    ":red",
    "[1 TO 2]",
    "count:[1 TO",
    "count:abc",
    "good:maybe",
    "day:someday",
    "count:[a TO b]",
    "name:/[/",
    "",
    "red AND AND blue",
    "()",
    "name:()",
    "red\\",
    "name:[a TO s]",
    "name:{r TO s}",
    "text:[a TO g]",
    "name:>r",
    "tags:(7 OR 3.5)",
    "text:(\"fox jumps\" OR dog)",
    "-name:red -name:blue",
    "+name:red +count:>0",
    "name:red name:blue",
    "name:red count:7",
    "NOT (red OR blue)",
    "NOT NOT red",
    "red -(blue fox)",
    "text:über",
    "text:UBER",
    "text:ÜBER",
    "São",
    "\"São Paulo\"",
    "place.city:S*",
    "name:tru?",
    "good:tru?",
    "good:T",
    "count:1*",
    "mass:1?",
    "day:2024*",
    "tags:*",
    "text:x*y",
    "name:x*y",
    "name:\\*",
    "name:\\?",
    "a~",
    "text:lazy~1 AND text:dog",
    "text:\"lazy dog's\"~5",
    "red  blue",
    " red ",
    "\tred\n",
    "red\u{3000}blue",
    "name:red\u{a0}",
    "count:+7",
    "mass:-0.5",
    "mass:\"-0.5\"",
    "mass:[-2 TO -1]",
    "count:[-2 TO -1]",
    "_exists_:pl*",
    "text:(fox OR (lazy AND dog))",
    "_id:x",
];

fn atom(random: &mut StdRng) -> String {
    let word = |random: &mut StdRng| {
        let word = *[
            "red",
            "Red",
            "blue",
            "fox",
            "jumps",
            "lazy",
            "over",
            "green-ish",
            "7",
            "3.5",
            "true",
        ]
        .choose(random)
        .unwrap();
        word.to_owned()
    };
    match random.random_range(0..16) {
        0..=2 => word(random),
        3 => format!("text:{}", word(random)),
        4 => format!("name:{}", word(random)),
        5 => format!("tags:{}", word(random)),
        6 => format!("count:{}", random.random_range(0..10)),
        7 => {
            let low = random.random_range(-3..8);
            let (open, close) = *[("[", "]"), ("{", "}"), ("[", "}"), ("{", "]")]
                .choose(random)
                .unwrap();
            format!(
                "count:{open}{low} TO {}{close}",
                low + random.random_range(0..5)
            )
        }
        8 => format!("mass:>={}", f64::from(random.random_range(-20..40)) / 4.0),
        9 => format!("good:{}", random.random_bool(0.5)),
        10 => format!("day:[2024-{:02} TO *]", random.random_range(1..13)),
        11 => format!("\"{} {}\"", word(random), word(random)),
        12 => format!(
            "text:\"{} {}\"~{}",
            word(random),
            word(random),
            random.random_range(1..4)
        ),
        13 => format!("{}*", &word(random)[..1]),
        14 => format!(
            "_exists_:{}",
            ["name", "tags", "count", "place.city"]
                .choose(random)
                .unwrap()
        ),
        _ => format!("place.city:\"{}\"", CITIES.choose(random).unwrap()),
    }
}

fn generated(random: &mut StdRng, depth: u32) -> String {
    if depth == 0 || random.random_bool(0.3) {
        return atom(random);
    }
    let one = |random: &mut StdRng| generated(random, depth - 1);
    match random.random_range(0..8) {
        0 | 1 => format!("{} AND {}", one(random), one(random)),
        2 => format!("{} OR {}", one(random), one(random)),
        3 => format!("{} {}", one(random), one(random)),
        4 => format!("({}) AND NOT ({})", one(random), one(random)),
        5 => format!("+{} -{}", atom(random), atom(random)),
        6 => format!("({} OR {})", one(random), one(random)),
        _ => format!("NOT {}", atom(random)),
    }
}

/// What a query finds, or that it is refused.
type Found = Result<BTreeSet<String>, u16>;

async fn through(server: &Server, query: &str) -> Found {
    let path = format!("/search?q={}&size=500", encode(query));
    let (status, page) = server.get(&path).await;
    if status != 200 {
        return Err(status.as_u16());
    }
    assert!(page["next"].is_null(), "{query}");
    let results = page["results"].as_array().unwrap();
    Ok(results
        .iter()
        .map(|hit| hit["_extra"]["id"].as_str().unwrap().to_owned())
        .collect())
}

async fn raw(server: &Server, query: &str) -> Found {
    let path = format!("/{}/_search", server.real().engine.alias());
    let body = json!({"size": 1000, "_source": false, "query": {"query_string": {"query": query}}});
    let answer = server.real().raw_engine(Method::POST, &path, &body).await;
    match answer["status"].as_u64() {
        Some(status) => Err(u16::try_from(status).unwrap()),
        None => Ok(answer["hits"]["hits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hit| hit["_id"].as_str().unwrap().to_owned())
            .collect()),
    }
}

fn shown(found: &Found) -> String {
    match found {
        Ok(ids) => format!("{} hits", ids.len()),
        Err(status) => format!("status {status}"),
    }
}

/// Queries on which we differ from Elasticsearch on purpose.
fn meant(query: &str) -> Option<&'static str> {
    match query {
        "" => Some("an empty query is a mistake, and is told as one"),
        "place.*:Oslo" => Some(
            "a pattern of fields that covers numbers too is refused by Elasticsearch; here it is as lenient as a query without a field",
        ),
        "name:/[/" => Some(
            "a regular expression that cannot be read finds nothing in Elasticsearch; here it is refused, with what is wrong",
        ),
        _ if repeats_a_word(query) => Some(
            "a sloppy phrase that repeats a word: the embedded engine is content with one occurrence",
        ),
        _ => None,
    }
}

/// Whether a query holds a phrase like `"red red"~2`.
fn repeats_a_word(query: &str) -> bool {
    query.split('"').skip(1).step_by(2).any(|phrase| {
        let words: Vec<String> = phrase.split(' ').map(str::to_lowercase).collect();
        let sloppy = query.contains(&format!("\"{phrase}\"~"));
        sloppy && words.iter().collect::<BTreeSet<_>>().len() < words.len()
    })
}

#[tokio::test]
async fn queries_find_what_elasticsearch_finds() {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("queries.yaml");
    std::fs::write(&resources, RESOURCES).unwrap();
    let resources: &Path = &resources;
    let (embedded, real) = tokio::join!(
        Server::on(Backend::Embedded, resources),
        Server::on(Backend::Real, resources)
    );
    let mut random = StdRng::seed_from_u64(20_240_501);
    let files: Vec<(String, Vec<u8>)> = documents(&mut random)
        .iter()
        .flat_map(|document| {
            let path = document["path"].as_str().unwrap().to_owned();
            let metadata = document.to_string().into_bytes();
            [(format!("{path}.json"), metadata), (path, b"data".to_vec())]
        })
        .collect();
    let mut entries = Vec::new();
    for (name, content) in &files {
        let md5 = crate::harness::md5_hex(content);
        entries.push(json!({"filename": name, "check": "simple", "value": {"md5sum": md5}}));
    }
    for server in [&embedded, &real] {
        let body = json!({"filenames": entries});
        let (status, begun) = server
            .call(
                Method::POST,
                "/projects/Q/version/1/upload",
                &server.token,
                Some(body),
            )
            .await;
        assert_eq!(status, 200, "{begun}");
        server.transfer(&begun, &files).await.unwrap();
        let (_, accepted) = server
            .complete(&begun, &json!({"read_access": "public"}))
            .await;
        assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    }

    let mut queries: Vec<String> = BY_HAND.iter().map(|query| (*query).to_owned()).collect();
    while queries.len() < BY_HAND.len() + 250 {
        queries.push(generated(&mut random, 3));
    }
    let (mut wrong, mut found) = (Vec::new(), 0);
    for query in &queries {
        let (ours, served, truth) = tokio::join!(
            through(&embedded, query),
            through(&real, query),
            raw(&real, query)
        );
        found += usize::from(truth.as_ref().is_ok_and(|ids| !ids.is_empty()));
        if (ours != truth || served != truth) && meant(query).is_none() {
            wrong.push(format!(
                "{query:?}: embedded {}, real {}, raw {}",
                shown(&ours),
                shown(&served),
                shown(&truth)
            ));
        }
    }
    println!("{} queries, {found} of them with hits", queries.len());
    assert!(found > queries.len() / 2, "too few queries find anything");
    assert!(
        wrong.is_empty(),
        "{} of {} queries differ:\n{}",
        wrong.len(),
        queries.len(),
        wrong.join("\n")
    );
}
