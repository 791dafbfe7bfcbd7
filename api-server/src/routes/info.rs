//! What the instance is and how it is doing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use artifactdb_core::query::Query;
use artifactdb_core::search::SearchRequest;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::App;
use crate::auth::{Admin, Identity};
use crate::error::{ApiError, ApiResult};
use crate::openapi::shapes;

/// How long a dependency may take to answer a health check.
const PATIENCE: Duration = Duration::from_secs(2);

#[utoipa::path(get, path = "/", tag = "information",
    responses((status = 200, description = "What this instance is", body = shapes::Instance)))]
pub async fn root(State(app): State<Arc<App>>, headers: HeaderMap) -> Json<Value> {
    let config = &app.config;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let prefix = text("x-forwarded-prefix")
        .or_else(|| text("x-replaced-path"))
        .or_else(|| text("x-adb-prefix"))
        .unwrap_or("/");
    let swagger = format!("{}/__swagger__/", prefix.trim_end_matches('/'));
    let mut well_known = Map::new();
    if let Some(primary) = &config.auth.well_known_primary {
        well_known.insert("primary".to_owned(), json!(primary));
    }
    well_known.insert(
        "secondary".to_owned(),
        json!(config.auth.well_known_secondary),
    );
    let others: Vec<&String> = config
        .auth
        .known_clients
        .iter()
        .filter(|client| **client != config.auth.client_id)
        .collect();
    let sequences: Vec<Value> = config
        .sequences
        .iter()
        .map(|own| json!({"prefix": own.prefix, "default": own.default, "test": own.test}))
        .collect();
    // Bucket names and credentials are nobody's business here (CONTRACT section 11, entry 3).
    let storage: Vec<Value> = config
        .storage
        .iter()
        .map(|storage| json!({"alias": storage.alias}))
        .collect();
    let mut storage = json!({"clients": storage});
    if let Some(switch) = &config.storage_switch {
        storage["switch"] = json!(switch);
    }
    Json(json!({
        "name": config.name,
        "version": env!("CARGO_PKG_VERSION"),
        "env": config.environment,
        "description": config.description,
        "artifactdb": env!("CARGO_PKG_VERSION"),
        "doc": "/openapi.json",
        "swagger": swagger,
        "sequences": sequences,
        "auth": {
            "clients": {"main": config.auth.client_id, "others": others},
            "well-known": well_known,
        },
        "storage": storage,
    }))
}

/// Words in the name of a member that holds a secret.
const SECRET: [&str; 4] = ["secret", "token", "password", "key"];

/// `value` without what is secret in it: members that are named so, and credentials in URLs.
fn redacted(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| {
                let lower = name.to_lowercase();
                let secret = SECRET.iter().any(|word| lower.contains(word));
                let value = match (secret, value) {
                    (true, Value::String(text)) if !text.is_empty() => json!("******"),
                    (_, value) => redacted(value),
                };
                (name, value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        Value::String(text) => match text.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                match rest[..end].rfind('@') {
                    Some(at) => json!(format!("{scheme}://******{}", &rest[at..])),
                    None => json!(text),
                }
            }
            None => json!(text),
        },
        other => other,
    }
}

#[utoipa::path(get, path = "/config", tag = "information",
    responses(
        (status = 200, description = "The configuration, without what is secret in it", body = shapes::Document),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an admin"),
    ))]
pub async fn config(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    Ok(Json(redacted(json!(*app.config))))
}

#[utoipa::path(get, path = "/status", tag = "information",
    responses((status = 200, description = "How its parts are doing", body = shapes::Health)))]
pub async fn status(State(app): State<Arc<App>>, identity: Identity) -> Json<Value> {
    // Counted for whoever asks: a total would tell of documents that they may not read.
    let documents = app
        .search
        .search(SearchRequest {
            query: app.visible(&identity, Query::All),
            sort: Vec::new(),
            latest: false,
            size: 0,
            cursor: None,
        })
        .await
        .map(|page| page.total);
    let depth = app.versions.queue.depth().await;
    let word =
        |failed: Option<String>| failed.map_or_else(|| "ok".to_owned(), |e| format!("error: {e}"));
    Json(json!({
        "status": {
            "elasticsearch": word(documents.as_ref().err().map(ToString::to_string)),
            "queue": word(depth.as_ref().err().map(ToString::to_string)),
        },
        "stats": {
            "elasticsearch": {"default": documents.unwrap_or_default()},
            "queue": {
                "waiting": depth.as_ref().map(|(waiting, _)| *waiting).unwrap_or_default(),
                "running": depth.as_ref().map(|(_, running)| *running).unwrap_or_default(),
            },
        },
    }))
}

#[utoipa::path(get, path = "/livez", tag = "information",
    responses((status = 200, description = "The process answers; says nothing of its dependencies")))]
pub async fn livez() -> &'static str {
    "ok"
}

#[utoipa::path(get, path = "/readyz", tag = "information",
    responses(
        (status = 200, description = "Everything that requests need answers"),
        (status = 503, description = "Names what is missing"),
    ))]
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    let mut missing = Vec::new();
    if app.stopping.load(Ordering::Relaxed) {
        missing.push("the server is stopping".to_owned());
    }
    let parts = app.everywhere().map(|app| async {
        tokio::join!(
            tokio::time::timeout(
                PATIENCE,
                app.versions
                    .store
                    .get(artifactdb_core::keys::GLOBAL_PERMISSIONS, None)
            ),
            tokio::time::timeout(PATIENCE, app.search.count()),
        )
    });
    for (store, search) in futures::future::join_all(parts).await {
        match store {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => missing.push(error.to_string()),
            Err(_) => missing.push("the object store does not answer".to_owned()),
        }
        match search {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => missing.push(error.to_string()),
            Err(_) => missing.push("the search engine does not answer".to_owned()),
        }
    }
    if missing.is_empty() {
        return "ok".into_response();
    }
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, missing.join("; ")).into_response()
}

#[utoipa::path(get, path = "/metrics", tag = "information",
    responses((status = 200, description = "Metrics in the OpenMetrics format")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let cut = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let queues = || app.everywhere().map(|app| &app.versions.queue);
    let depths = futures::future::try_join_all(queues().map(|queue| queue.depth()));
    if let Ok(depths) = depths.await {
        let (waiting, in_hand) = depths
            .iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        app.metrics.tasks_waiting.set(cut(waiting));
        app.metrics.tasks_in_hand.set(cut(in_hand));
    }
    let dead = futures::future::try_join_all(queues().map(|queue| queue.dead(1000)));
    if let Ok(dead) = dead.await {
        let all = dead.iter().map(Vec::len).sum();
        app.metrics.tasks_dead.set(cut(all));
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.encode()).into_response()
}
