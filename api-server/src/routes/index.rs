//! The index, for administrators (CONTRACT section 3.9). An instance has one; upstream's clients call
//! it by the alias of the client that searches it.

use std::sync::Arc;

use artifactdb_core::id::{Project, excerpt};
use artifactdb_core::queue::Task;
use artifactdb_core::search::admin::{AdminError, only_adds};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::jobs::accepted;
use super::schemas::{CLIENT, check_client};
use crate::App;
use crate::auth::Admin;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Params, TextPath};
use crate::openapi::shapes;

/// Projects that one request names at the most: the job's id names them, too.
const NAMED_MAX: usize = 50;
/// Former indices that stay where the caller does not say.
const KEPT: u64 = 5;

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Search(error) => error.into(),
            AdminError::Unsupported(text) => Self::new(StatusCode::NOT_IMPLEMENTED, text),
            AdminError::NotFound(text) => Self::not_found(text),
        }
    }
}

#[derive(Deserialize)]
pub struct BuildRequest {
    #[serde(default)]
    project_ids: Vec<Project>,
}

#[utoipa::path(put, path = "/index/build", tag = "index",
    request_body(content = Option<shapes::BuildBody>, description = "`project_ids`; absent: every project"),
    responses(
        (status = 202, description = "A job that writes the documents again from the storage", body = shapes::Accepted),
        (status = 400, description = "Too many projects are named"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 422, description = "The body is malformed"),
        (status = 423, description = "It is being done already"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn build(
    State(app): State<Arc<App>>,
    _: Admin,
    headers: HeaderMap,
    body: Body<BuildRequest>,
) -> ApiResult<Response> {
    let projects = body
        .given()
        .await?
        .map(|body| body.project_ids)
        .unwrap_or_default();
    if projects.len() > NAMED_MAX {
        return Err(ApiError::bad_request(format!(
            "name at most {NAMED_MAX} projects, or none for all of them"
        )));
    }
    let task = Task::Reindex { projects };
    app.begin_once(task.clone()).await?;
    Ok(accepted(&app, &headers, &task))
}

#[utoipa::path(get, path = "/index/status", tag = "index",
    responses(
        (status = 200, description = "Whether the index that answers is the one that the schemas want", body = shapes::IndexStatus),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn status(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let standing = app.search.admin().standing().await?;
    let synced = standing.live.is_some();
    let current = synced && standing.differences.is_empty();
    let diff = match current {
        true => Value::Null,
        false => json!(standing.differences),
    };
    Ok(Json(json!({
        "aliases": {
            "synced": synced,
            "clients": {CLIENT: {
                "alias": standing.alias,
                "index": standing.live,
                "target": standing.live,
                "building": standing.building,
                "status": if synced { "synced" } else { "missing" },
            }},
        },
        "config": {"backend": [CLIENT], "frontend": [CLIENT]},
        "models": {"diffs": {CLIENT: diff}, "synced": current},
    })))
}

#[utoipa::path(get, path = "/index/settings", tag = "index",
    responses(
        (status = 200, description = "The settings of the index that answers, and of former ones, newest first", body = shapes::AllIndexSettings),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn settings(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let all = app.search.admin().indices().await?;
    let total = all.len();
    let (active, inactive): (Vec<_>, Vec<_>) = all.into_iter().partition(|own| own.live);
    Ok(Json(json!({
        "indices": {
            "active": {CLIENT: active.first()},
            "inactive": {CLIENT: inactive},
        },
        "total": total,
    })))
}

#[utoipa::path(delete, path = "/index/{alias}/inactive", tag = "index",
    params(
        ("alias" = String, Path),
        ("keep" = Option<u64>, Query, description = "Newest former indices that stay, 5 by default"),
    ),
    responses(
        (status = 200, description = "The names of the indices that were deleted", body = shapes::Deleted),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias"),
        (status = 422, description = "A parameter is malformed"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn delete_inactive(
    State(app): State<Arc<App>>,
    _: Admin,
    TextPath(alias): TextPath,
    params: Params,
) -> ApiResult<Json<Value>> {
    check_client(Some(&alias))?;
    let keep = params.number("keep", KEPT, (0, u64::from(u32::MAX)))?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let deleted = app.search.admin().delete_inactive(keep).await?;
    Ok(Json(json!({"deleted": deleted})))
}

#[utoipa::path(get, path = "/index/models/{alias}", tag = "index",
    params(("alias" = String, Path), ("preview" = Option<bool>, Query, description = "Accepted; it is always what the schemas make now")),
    responses(
        (status = 200, description = "The mapping that the schemas make", body = shapes::Document),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias"),
    ))]
pub async fn model(
    State(app): State<Arc<App>>,
    _: Admin,
    TextPath(alias): TextPath,
) -> ApiResult<Json<Value>> {
    check_client(Some(&alias))?;
    Ok(Json(app.search.admin().wanted_mapping()))
}

#[utoipa::path(delete, path = "/index/models/{alias}", tag = "index",
    params(("alias" = String, Path)),
    responses(
        (status = 400, description = "Models follow from the schemas and cannot be deleted by themselves"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias"),
    ))]
pub async fn delete_model(_: Admin, TextPath(alias): TextPath) -> ApiResult<Json<Value>> {
    check_client(Some(&alias))?;
    Err(ApiError::bad_request(
        "the model of this index follows from its schemas: change or delete an ArtifactSchema instead",
    ))
}

#[utoipa::path(get, path = "/index/mappings/{alias}", tag = "index",
    params(("alias" = String, Path)),
    responses(
        (status = 200, description = "The mapping of the index that answers", body = shapes::Document),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias, or no index behind it"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn mapping(
    State(app): State<Arc<App>>,
    _: Admin,
    TextPath(alias): TextPath,
) -> ApiResult<Json<Value>> {
    check_client(Some(&alias))?;
    match app.search.admin().live_mapping().await? {
        Some(mapping) => Ok(Json(mapping)),
        None => Err(ApiError::not_found("there is no live index")),
    }
}

#[utoipa::path(put, path = "/index/models/generate", tag = "index",
    responses(
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 501, description = "Models are compiled from the schemas at every start; there is nothing to generate"),
    ))]
pub async fn generate_model(_: Admin) -> ApiResult<Json<Value>> {
    Err(ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "models are compiled from the schemas at every start: there is nothing to generate; GET /index/models/default shows the model",
    ))
}

#[utoipa::path(put, path = "/index/models/sync", tag = "index",
    params(
        ("client" = Option<String>, Query), ("dryrun" = Option<bool>, Query),
        ("skip_forbidden_op" = Option<bool>, Query, description = "Do what can be done, and leave the rest"),
    ),
    responses(
        (status = 200, description = "What was to do, and what is left", body = shapes::ModelSyncs),
        (status = 400, description = "The index has to be built anew"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias, or no index behind it"),
        (status = 422, description = "A parameter is malformed"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn sync_model(
    State(app): State<Arc<App>>,
    _: Admin,
    params: Params,
) -> ApiResult<Json<Value>> {
    check_client(params.get("client"))?;
    let (dry, skip) = (params.flag("dryrun")?, params.flag("skip_forbidden_op")?);
    let admin = app.search.admin();
    let standing = admin.standing().await?;
    if standing.live.is_none() {
        return Err(ApiError::not_found("there is no live index"));
    }
    let additive = only_adds(&standing.differences);
    if !additive && !skip {
        return Err(ApiError::bad_request(
            "only 'add' operations can be done in place: the other differences need a new index, which the operator builds",
        ));
    }
    // The engine takes a mapping whole or not at all.
    let left = match (dry, additive && !standing.differences.is_empty()) {
        (false, true) => {
            admin.add_fields().await?;
            admin.standing().await?.differences
        }
        _ => standing.differences,
    };
    Ok(Json(json!({CLIENT: {
        "synced": left.is_empty(),
        "remaining-diffs": left,
        "status": if dry { "dry-run" } else { "ok" },
    }})))
}

#[utoipa::path(put, path = "/index/aliases/sync", tag = "index",
    params(("client" = Option<String>, Query), ("action" = Option<String>, Query, description = "`create`, `sync`, or both")),
    responses(
        (status = 200, description = "The alias is where it has to be", body = shapes::Done),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias"),
        (status = 422, description = "A parameter is malformed"),
        (status = 503, description = "There is no index, or the search engine is away"),
    ))]
pub async fn sync_aliases(
    State(app): State<Arc<App>>,
    _: Admin,
    params: Params,
) -> ApiResult<Json<Value>> {
    check_client(params.get("client"))?;
    let actions = params.get("action").unwrap_or("create,sync");
    if actions
        .split(',')
        .any(|own| !matches!(own.trim(), "create" | "sync"))
    {
        return Err(ApiError::unprocessable(
            "query parameter 'action' must be create, sync, or both",
        ));
    }
    match app.search.admin().standing().await?.live {
        Some(_) => Ok(Json(json!({"status": "ok"}))),
        None => Err(ApiError::unavailable(
            "there is no index behind the alias: one is built from the storage first",
        )),
    }
}

impl App {
    fn repository(&self) -> ApiResult<&str> {
        let engine = self.config.elasticsearch.as_ref();
        let repository = engine.and_then(|own| own.snapshot_repository.as_deref());
        repository.ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_IMPLEMENTED,
                "this instance has no repository of snapshots: set spec.snapshots.repository",
            )
        })
    }
}

#[utoipa::path(put, path = "/index/snapshot", tag = "index",
    params(("client" = Option<String>, Query)),
    responses(
        (status = 202, description = "A job that takes a snapshot", body = shapes::Accepted),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such alias"),
        (status = 501, description = "No repository is configured"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn take_snapshot(
    State(app): State<Arc<App>>,
    _: Admin,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    check_client(params.get("client"))?;
    let now = app.versions.clock.now().to_zoned(TimeZone::UTC);
    let task = Task::Snapshot {
        repository: app.repository()?.to_owned(),
        name: format!(
            "{}-{}",
            app.search.admin().standing().await?.alias,
            now.strftime("%Y%m%d-%H%M%S")
        ),
    };
    app.enqueue(task.clone()).await?;
    Ok(accepted(&app, &headers, &task))
}

#[utoipa::path(get, path = "/index/snapshots", tag = "index",
    responses(
        (status = 200, description = "The snapshots of the repository", body = shapes::Snapshots),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "The engine does not know the repository"),
        (status = 501, description = "No repository is configured"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn snapshots(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let all = app.search.admin().snapshots(app.repository()?).await?;
    Ok(Json(json!({"count": all.len(), "snapshots": all})))
}

#[utoipa::path(get, path = "/index/snapshots/{name}", tag = "index",
    params(("name" = String, Path)),
    responses(
        (status = 200, description = "One snapshot", body = shapes::Document),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "There is none of this name"),
        (status = 501, description = "No repository is configured"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn snapshot(
    State(app): State<Arc<App>>,
    _: Admin,
    TextPath(name): TextPath,
) -> ApiResult<Json<Value>> {
    Ok(Json(app.snapshot_named(&name).await?))
}

#[utoipa::path(delete, path = "/index/snapshots/{name}", tag = "index",
    params(("name" = String, Path)),
    responses(
        (status = 202, description = "It is deleted", body = shapes::SnapshotDeleted),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "There is none of this name"),
        (status = 501, description = "No repository is configured"),
        (status = 503, description = "The search engine is away"),
    ))]
pub async fn delete_snapshot(
    State(app): State<Arc<App>>,
    _: Admin,
    TextPath(name): TextPath,
) -> ApiResult<(StatusCode, Json<Value>)> {
    // By a name that is there: no wildcard, and no path, gets to the engine.
    app.snapshot_named(&name).await?;
    let admin = app.search.admin();
    let result = admin.delete_snapshot(app.repository()?, &name).await?;
    let body = json!({"snapshot": name, "status": "deleted", "result": result});
    Ok((StatusCode::ACCEPTED, Json(body)))
}

impl App {
    async fn snapshot_named(&self, name: &str) -> ApiResult<Value> {
        let all = self.search.admin().snapshots(self.repository()?).await?;
        let found = all.into_iter().find(|own| own["snapshot"] == name);
        found
            .ok_or_else(|| ApiError::not_found(format!("there is no snapshot '{}'", excerpt(name))))
    }
}
