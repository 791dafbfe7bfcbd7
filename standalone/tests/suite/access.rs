//! Every route for every kind of caller on projects of every visibility, held to one table
//! (`access.txt`). What somebody may not see must not show anywhere: not in a body, a count, a
//! bucket, a page or the text of an error.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, encode, table};

const TABLE: &str = include_str!("access.txt");
const VISIBILITIES: [&str; 5] = ["public", "authenticated", "viewers", "owners", "none"];
const CALLERS: [&str; 9] = [
    "anonymous",
    "stranger",
    "viewer",
    "owner",
    "uploader",
    "creator",
    "admin",
    "expired",
    "presigned",
];
/// In every document of the projects, and in nothing else.
const MARK: &str = "zanzibar";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Reads(u16, u16),
    Asks(u16),
    Shows(u16, u16),
    Writes(u16),
    Role(&'static str, u16),
    Root(u16),
    Signed(u16),
    Anyone(u16),
    Blind(u16),
}

struct Route {
    method: Method,
    path: &'static str,
    wrong_body: bool,
    rule: Rule,
}

#[derive(Default)]
struct Expectations {
    may_read: BTreeMap<&'static str, BTreeSet<&'static str>>,
    may_write: BTreeSet<&'static str>,
    has: BTreeMap<&'static str, BTreeSet<&'static str>>,
    routes: Vec<Route>,
}

fn expectations() -> Expectations {
    let mut all = Expectations::default();
    for line in TABLE.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["may-read", visibility, ref callers @ ..] => {
                all.may_read
                    .insert(visibility, callers.iter().copied().collect());
            }
            ["may-write", ref callers @ ..] => all.may_write.extend(callers),
            ["has", role, ref callers @ ..] => {
                all.has.insert(role, callers.iter().copied().collect());
            }
            [method, path, ref rule @ ..] => {
                let code = |text: &str| text.parse::<u16>().unwrap();
                let rule = match *rule {
                    ["reads", a, b] => Rule::Reads(code(a), code(b)),
                    ["asks", a] => Rule::Asks(code(a)),
                    ["shows", a, b] => Rule::Shows(code(a), code(b)),
                    ["writes", a] => Rule::Writes(code(a)),
                    ["role", role, a] => Rule::Role(role, code(a)),
                    ["root", a] => Rule::Root(code(a)),
                    ["signed", a] => Rule::Signed(code(a)),
                    ["anyone", a] => Rule::Anyone(code(a)),
                    ["blind", a] => Rule::Blind(code(a)),
                    _ => panic!("{line}"),
                };
                all.routes.push(Route {
                    method: method.parse().unwrap(),
                    path: path.strip_suffix("?!").unwrap_or(path),
                    wrong_body: path.ends_with("?!"),
                    rule,
                });
            }
            _ => panic!("{line}"),
        }
    }
    all
}

impl Expectations {
    fn reads(&self, visibility: &str, caller: &str) -> bool {
        self.may_read[visibility].contains(caller)
    }

    fn status(&self, rule: Rule, visibility: &str, caller: &str) -> u16 {
        let refused = match caller {
            "anonymous" | "presigned" => 401,
            _ => 403,
        };
        let when = |allowed: bool, yes: u16, no: u16| if allowed { yes } else { no };
        let reads = self.reads(visibility, caller);
        let uploads = self.has["uploader"].contains(caller);
        match rule {
            Rule::Blind(status) => status,
            _ if caller == "expired" => 400,
            Rule::Anyone(status) => status,
            Rule::Reads(yes, no) => when(reads, yes, no),
            Rule::Asks(yes) => when(reads || uploads, yes, refused),
            Rule::Shows(yes, no) => when(reads || uploads, yes, no),
            Rule::Writes(yes) => when(self.may_write.contains(caller), yes, refused),
            Rule::Role(role, yes) => when(self.has[role].contains(caller), yes, refused),
            Rule::Root(yes) => when(self.has["admin"].contains(caller), yes, 403),
            Rule::Signed(_) if caller == "presigned" => 403,
            Rule::Signed(yes) => when(self.may_write.contains(caller), yes, refused),
        }
    }
}

/// A project whose documents are hidden, or not, at one scope.
struct Project {
    id: String,
    visibility: &'static str,
    scope: &'static str,
}

struct World {
    server: Server,
    tokens: BTreeMap<&'static str, String>,
    /// Of an upload of another version.
    credential: String,
    projects: Vec<Project>,
}

fn permissions(visibility: &str) -> Value {
    json!({
        "read_access": visibility, "write_access": "owners",
        "owners": ["owner"], "viewers": ["viewer"],
    })
}

async fn accepted(server: &Server, path: &str, body: Value) {
    let (status, accepted) = server
        .call(Method::PUT, path, &server.token, Some(body))
        .await;
    assert_eq!(status, 202, "{path}: {accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
}

impl World {
    /// Projects of every visibility, given by a version's permissions and by the project's.
    async fn new() -> Self {
        let server = Server::start().await;
        let mut world = Self::around(server).await;
        for visibility in VISIBILITIES {
            for scope in ["version", "project"] {
                let id = format!("{visibility}-by-{scope}");
                let first = match scope {
                    // What the version says counts, whatever the project says.
                    "version" if visibility == "public" => permissions("none"),
                    "version" => permissions("public"),
                    _ => permissions(visibility),
                };
                world.fill(&id, &first).await;
                if scope == "version" {
                    let path = format!("/projects/{id}/version/v1/permissions");
                    accepted(&world.server, &path, permissions(visibility)).await;
                    let mut own = permissions(visibility);
                    own["scope"] = json!("project");
                    accepted(&world.server, &format!("/projects/{id}/permissions"), own).await;
                }
                world.projects.push(Project {
                    id,
                    visibility,
                    scope,
                });
            }
        }
        world
    }

    async fn around(server: Server) -> Self {
        let mut tokens = BTreeMap::new();
        for caller in CALLERS {
            let token = match caller {
                "anonymous" | "presigned" => String::new(),
                "expired" => server.expired_token(),
                "uploader" | "creator" | "admin" => server.token_for(caller, &[caller]),
                _ => server.token_for(caller, &[]),
            };
            tokens.insert(caller, token);
        }
        let (status, begun) = server
            .begin(
                "elsewhere",
                "1",
                &table("x.csv", "x", "x", 1),
                &server.token,
            )
            .await;
        assert_eq!(status, 200);
        let url = begun["completion_url"].as_str().unwrap();
        let (_, credential) = url.split_once("X-ADB-Credential=").unwrap();
        Self {
            credential: credential.to_owned(),
            server,
            tokens,
            projects: Vec::new(),
        }
    }

    /// One version of one file.
    async fn fill(&self, id: &str, own: &Value) {
        let files = table("a.csv", &format!("{id}\n"), &format!("{MARK} {id}"), 7);
        self.server.upload(id, "v1", &files, own).await;
    }

    fn path(&self, template: &str, project: &str) -> String {
        let id = |path: &str, version: &str| encode(&format!("{project}:{path}@{version}"));
        let seal = |text: String| URL_SAFE_NO_PAD.encode(text);
        let gprn = format!("gprn:dev:quickstart::project:{project}");
        let expiry = seal(format!("{project}/none/1"));
        template
            .replace("{a}", &id("a.csv", "v1"))
            .replace("{latest}", &id("a.csv", "latest"))
            .replace("{revision}", &id("a.csv", "NUM-1"))
            .replace("{encoded}", &seal(format!("{project}:a.csv@v1")))
            .replace("{other}", &seal(format!("{project}:z.csv@none")))
            .replace("{expiry}", &format!("expire-{expiry}"))
            .replace("{g}", &encode(&gprn))
            .replace("{p}", project)
            .replace("{v}", "v1")
    }

    async fn ask(&self, route: &Route, project: &str, caller: &str) -> (u16, String) {
        let mut path = self.path(route.path, project);
        if caller == "presigned" {
            let joint = if path.contains('?') { '&' } else { '?' };
            path = format!("{path}{joint}X-ADB-Credential={}", self.credential);
        }
        let token = &self.tokens[caller];
        let url = format!("{}{path}", self.server.url);
        let mut request = self.server.http.request(route.method.clone(), url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if route.wrong_body {
            request = request.body("{\"filenames\": 1, \"owners\": {}, \"stage\": 1");
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        // Where it leads is part of what it says.
        let location = response.headers().get("location");
        let location = location.map(|own| own.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        (status, format!("{}{text}", location.unwrap_or_default()))
    }

    /// Walks the table on `projects`; returns the number of cases and what differs.
    async fn walk(&self, expected: &Expectations) -> (usize, Vec<String>) {
        let (mut cases, mut wrong) = (0, Vec::new());
        for project in &self.projects {
            let (id, visibility) = (&*project.id, project.visibility);
            for route in &expected.routes {
                for caller in CALLERS {
                    cases += 1;
                    let (status, text) = self.ask(route, id, caller).await;
                    let wanted = expected.status(route.rule, visibility, caller);
                    let what = || {
                        let short: String = text.chars().take(200).collect();
                        format!(
                            "{} {} of {id} by {caller}: {status} {short}",
                            route.method, route.path
                        )
                    };
                    if status != wanted {
                        wrong.push(format!("{}, wanted {wanted}", what()));
                    }
                    let hidden: Vec<&Project> = self
                        .projects
                        .iter()
                        .filter(|own| !expected.reads(own.visibility, caller))
                        .collect();
                    // Titles of hidden documents name their project.
                    for own in hidden {
                        if text.contains(&format!("{MARK} {}", own.id)) {
                            wrong.push(format!("{} tells of {}", what(), own.id));
                        }
                    }
                    if let Rule::Reads(_, no) = route.rule
                        && status == no
                        && caller != "expired"
                    {
                        let (nothing, missing) = self.ask(route, "nowhere", caller).await;
                        let (text, missing) =
                            (anonymous(&text, id), anonymous(&missing, "nowhere"));
                        if (nothing, &missing) != (status, &text) {
                            wrong.push(format!("{} but of nothing: {nothing} {missing}", what()));
                        }
                    }
                }
            }
        }
        (cases, wrong)
    }

    /// What searches, counts, buckets, pages and lists show to each caller is what the table says.
    async fn walk_queries(&self, expected: &Expectations) -> (usize, Vec<String>) {
        let (mut cases, mut wrong) = (0, Vec::new());
        for caller in CALLERS.into_iter().filter(|own| *own != "expired") {
            let visible: BTreeSet<&str> = self
                .projects
                .iter()
                .filter(|own| expected.reads(own.visibility, caller))
                .map(|own| &*own.id)
                .collect();
            let token = &self.tokens[caller];
            let get = async |path: &str| self.server.call(Method::GET, path, token, None).await.1;
            let mut check = |what: &str, shown: BTreeSet<String>, total: Option<u64>| {
                cases += 1;
                let shown: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
                if shown != visible || total.is_some_and(|total| total != visible.len() as u64) {
                    wrong.push(format!("{what} by {caller}: {shown:?} of {total:?}"));
                }
            };
            let project_of = |hit: &Value| hit["_extra"]["project_id"].as_str().unwrap().to_owned();
            let query = encode(&format!("{MARK} AND path:a.csv"));
            // One at a time: every page has its cursor.
            let mut path = format!("/search?q={query}&size=1&sort=path");
            let (mut shown, mut total) = (BTreeSet::new(), 0);
            loop {
                let page = get(&path).await;
                total = page["total"].as_u64().unwrap().max(total);
                shown.extend(page["results"].as_array().unwrap().iter().map(project_of));
                match page["next"].as_str() {
                    Some(next) => path = next.to_owned(),
                    None => break,
                }
            }
            check("search", shown, Some(total));
            let page = get(&format!("/search?q={query}&size=100&latest=true")).await;
            let shown = page["results"].as_array().unwrap().iter().map(project_of);
            check("latest", shown.collect(), page["total"].as_u64());
            let found = get(&format!("/aggregate?q={query}&agg_field=_extra.project_id")).await;
            let buckets = found["buckets"].as_array().unwrap();
            let shown = buckets
                .iter()
                .map(|own| own["key"].as_str().unwrap().to_owned());
            check("aggregate", shown.collect(), Some(buckets.len() as u64));
            let listed = get("/projects?size=500").await;
            let listed = listed["results"].as_array().unwrap();
            let shown = listed
                .iter()
                .map(|own| own["project_id"].as_str().unwrap().to_owned());
            check("projects", shown.collect(), None);
            let gprns: Vec<String> = self
                .projects
                .iter()
                .map(|own| format!("gprn:dev:quickstart::project:{}", own.id))
                .collect();
            let asked = self.server.call(
                Method::POST,
                "/gprn/permissions",
                token,
                Some(json!({"gprns": gprns})),
            );
            let allowed = asked.await.1;
            let allowed = allowed["gprns"].as_array().unwrap().iter();
            let allowed = allowed.filter(|own| own["allowed"] == true);
            let shown = allowed.map(|own| {
                own["gprn"]
                    .as_str()
                    .unwrap()
                    .rsplit(':')
                    .next()
                    .unwrap()
                    .to_owned()
            });
            check("gprn permissions", shown.collect(), None);
            // Links to what one may not read are refused as links to nothing are.
            for project in &self.projects {
                if !expected.has["creator"].contains(caller) {
                    break;
                }
                cases += 1;
                let link = |target: String| json!({"filenames": [{"filename": "l.csv", "check": "link", "value": {"artifactdb_id": target}}]});
                let path = format!("/projects/of-{caller}-{}/version/1/upload", project.id);
                let body = link(format!("{}:a.csv@v1", project.id));
                let (status, text) = self
                    .server
                    .call(Method::POST, &path, token, Some(body))
                    .await;
                let wanted = if visible.contains(&*project.id) {
                    200
                } else {
                    400
                };
                if status.as_u16() != wanted {
                    wrong.push(format!(
                        "link to {} by {caller}: {status} {text}",
                        project.id
                    ));
                }
            }
        }
        (cases, wrong)
    }
}

/// An answer without the project's name and the request's id.
fn anonymous(text: &str, project: &str) -> String {
    let mut text = text
        .replace(project, "?")
        .replace(&URL_SAFE_NO_PAD.encode(project), "?");
    if let Ok(mut body) = serde_json::from_str::<Value>(&text)
        && let Some(members) = body.as_object_mut()
    {
        members.remove("request_id");
        text = body.to_string();
    }
    text
}

fn report(cases: usize, wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} of {cases} cases are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!("{cases} cases");
}

#[tokio::test]
async fn everyone_gets_what_the_table_says() {
    let expected = expectations();
    let world = World::new().await;
    let (cases, wrong) = world.walk(&expected).await;
    assert!(cases >= 2000, "{cases}");
    report(cases, &wrong);
    let (cases, wrong) = world.walk_queries(&expected).await;
    report(cases, &wrong);
}

/// The instance's own permissions count where neither version nor project has any.
#[tokio::test]
async fn the_instances_permissions_count_where_there_are_no_others() {
    let expected = expectations();
    for visibility in VISIBILITIES {
        let server = Server::start().await;
        server
            .write_global_permissions(&permissions(visibility))
            .await;
        let mut world = World::around(server).await;
        let id = format!("{visibility}-by-instance");
        world.fill(&id, &json!({})).await;
        world.projects.push(Project {
            id,
            visibility,
            scope: "global",
        });
        let (cases, wrong) = world.walk(&expected).await;
        report(cases, &wrong);
        let (cases, wrong) = world.walk_queries(&expected).await;
        report(cases, &wrong);
        assert!(world.projects.iter().all(|own| own.scope == "global"));
    }
}
