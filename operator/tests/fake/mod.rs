//! An API server in this process: it keeps objects, numbers them, takes server-side applies as
//! replacements, and fails the call that it is told to fail. No admission, no garbage collection, and
//! watches that tell nothing: whoever wants to know what changed lists again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// `deployments/default/typical-api`
type Key = (String, String, String);

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Before(usize),
    /// It is done, and the answer is lost.
    After(usize),
}

#[derive(Default)]
pub struct Cluster {
    pub objects: BTreeMap<Key, Value>,
    version: u64,
    /// Calls that are not reads, since the last `begin`.
    pub writes: Vec<String>,
    calls: usize,
    fault: Option<Fault>,
    pub failed: bool,
}

#[derive(Clone, Default)]
pub struct ApiServer(pub Arc<Mutex<Cluster>>);

struct Path {
    plural: String,
    namespace: String,
    name: Option<String>,
    status: bool,
}

/// `/apis/<group>/<version>/namespaces/<namespace>/<plural>/<name>/status`, or less of it.
fn parse(path: &str) -> Option<Path> {
    let mut parts = path.trim_matches('/').split('/');
    match parts.next()? {
        "api" => {}
        "apis" => {
            parts.next()?;
        }
        _ => return None,
    }
    parts.next()?;
    let mut next = parts.next()?;
    let mut namespace = String::new();
    if next == "namespaces" {
        namespace = parts.next()?.to_owned();
        next = parts.next()?;
    }
    Some(Path {
        plural: next.to_owned(),
        namespace,
        name: parts.next().map(str::to_owned),
        status: parts.next() == Some("status"),
    })
}

fn refusal(code: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
        "message": reason, "reason": reason, "code": code.as_u16(),
    });
    (code, axum::Json(body)).into_response()
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                match value {
                    Value::Null => {
                        into.remove(name);
                    }
                    value => merge(into.entry(name).or_insert(json!({})), value),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl Cluster {
    fn stamp(&mut self, object: &mut Value, before: Option<&Value>) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let uid = before.map_or(json!(format!("uid-{}", self.version)), |own| {
            own["metadata"]["uid"].clone()
        });
        object["metadata"]["uid"] = uid;
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        if object.get("spec").is_some() {
            let generation = before.map_or(1, |own| {
                let was = own["metadata"]["generation"].as_u64().unwrap_or(0);
                was + u64::from(own["spec"] != object["spec"])
            });
            object["metadata"]["generation"] = json!(generation);
        }
    }

    fn answer(
        &mut self,
        method: &Method,
        path: &Path,
        query: &str,
        kind: &str,
        body: Value,
    ) -> Response {
        let key = |name: &str| (path.plural.clone(), path.namespace.clone(), name.to_owned());
        let Some(name) = &path.name else {
            if *method == Method::POST {
                let mut object = body;
                let name = object["metadata"]["name"]
                    .as_str()
                    .unwrap_or("generated")
                    .to_owned();
                object["metadata"]["namespace"] = json!(path.namespace);
                if self.objects.contains_key(&key(&name)) {
                    return refusal(StatusCode::CONFLICT, "AlreadyExists");
                }
                self.stamp(&mut object, None);
                self.objects.insert(key(&name), object.clone());
                return (StatusCode::CREATED, axum::Json(object)).into_response();
            }
            if query.contains("watch=true") {
                // It tells nothing and never ends.
                let silence = stream::pending::<Result<Vec<u8>, std::io::Error>>();
                return Body::from_stream(silence).into_response();
            }
            let items: Vec<&Value> = self
                .objects
                .iter()
                .filter(|((plural, namespace, _), _)| {
                    *plural == path.plural
                        && (path.namespace.is_empty() || *namespace == path.namespace)
                })
                .map(|(_, object)| object)
                .collect();
            let list = json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
            });
            return axum::Json(list).into_response();
        };
        let before = self.objects.get(&key(name)).cloned();
        match (method.as_str(), before) {
            ("GET", Some(object)) => axum::Json(object).into_response(),
            ("DELETE", Some(object)) => {
                self.objects.remove(&key(name));
                axum::Json(object).into_response()
            }
            ("PATCH", before) if kind.contains("apply-patch") => {
                let mut object = body;
                if let Some(status) = before.as_ref().and_then(|own| own.get("status")) {
                    object["status"] = status.clone();
                }
                self.stamp(&mut object, before.as_ref());
                self.objects.insert(key(name), object.clone());
                axum::Json(object).into_response()
            }
            ("PATCH", Some(before)) => {
                let mut object = before.clone();
                match path.status {
                    true => merge(&mut object["status"], &body["status"]),
                    false => merge(&mut object, &body),
                }
                self.stamp(&mut object, Some(&before));
                self.objects.insert(key(name), object.clone());
                axum::Json(object).into_response()
            }
            _ => refusal(StatusCode::NOT_FOUND, "NotFound"),
        }
    }
}

async fn handle(State(server): State<ApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(path) = parse(parts.uri.path()) else {
        return refusal(StatusCode::NOT_FOUND, "NotFound");
    };
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    let header = parts.headers.get("content-type");
    let kind = header.and_then(|own| own.to_str().ok()).unwrap_or_default();
    let mut cluster = server.0.lock();
    let reads = parts.method == Method::GET;
    let fault = cluster.fault;
    if !reads && path.plural != "events" {
        cluster
            .writes
            .push(format!("{} {}", parts.method, parts.uri.path()));
        cluster.calls += 1;
        if fault == Some(Fault::Before(cluster.calls)) {
            cluster.failed = true;
            return refusal(StatusCode::BAD_REQUEST, "Fault");
        }
    }
    let calls = cluster.calls;
    let query = parts.uri.query().unwrap_or_default();
    let answer = cluster.answer(&parts.method, &path, query, kind, body);
    if !reads && path.plural != "events" && fault == Some(Fault::After(calls)) {
        cluster.failed = true;
        return refusal(StatusCode::BAD_REQUEST, "Fault");
    }
    answer
}

impl ApiServer {
    pub fn client(&self) -> Client {
        let router = Router::new().fallback(handle).with_state(self.clone());
        Client::new(router, "default")
    }

    /// Puts an object as a user would.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut cluster = self.0.lock();
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default")
            .to_owned();
        object["metadata"]["namespace"] = json!(namespace);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (plural.to_owned(), namespace, name);
        let before = cluster.objects.get(&key).cloned();
        cluster.stamp(&mut object, before.as_ref());
        cluster.objects.insert(key, object);
    }

    pub fn get(&self, plural: &str, name: &str) -> Value {
        let key = (plural.to_owned(), "default".to_owned(), name.to_owned());
        self.0.lock().objects.get(&key).cloned().unwrap_or_default()
    }

    /// Counts from here, and fails as `fault` says.
    pub fn begin(&self, fault: Option<Fault>) {
        let mut cluster = self.0.lock();
        cluster.writes.clear();
        cluster.calls = 0;
        cluster.fault = fault;
        cluster.failed = false;
    }

    pub fn writes(&self) -> Vec<String> {
        self.0.lock().writes.clone()
    }

    pub fn failed(&self) -> bool {
        self.0.lock().failed
    }

    /// Everything there is, without what differs from one time to another.
    pub fn state(&self) -> BTreeMap<Key, Value> {
        let mut all = self.0.lock().objects.clone();
        all.retain(|(plural, ..), _| plural != "events");
        for ((plural, ..), object) in &mut all {
            for name in ["resourceVersion", "uid", "generation", "ownerReferences"] {
                object["metadata"].as_object_mut().unwrap().remove(name);
            }
            let applied = object["metadata"]["annotations"].as_object_mut();
            // It covers the owner's uid.
            applied.map(|own| own.remove("artifactdb.io/applied"));
            if plural == "secrets" {
                object["data"] = json!(null);
            }
            let conditions = object["status"]["conditions"].as_array_mut();
            for condition in conditions.into_iter().flatten() {
                condition["lastTransitionTime"] = json!(null);
            }
        }
        all
    }
}
