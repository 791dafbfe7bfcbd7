//! Jobs: what became of the work behind a 202. A job's id names its task under a signature, so
//! that its end can be told from the store when the queue has forgotten it.

use std::sync::Arc;

use artifactdb_core::queue::{JobRecord, JobStatus, Task};
use artifactdb_core::state::Expiry;
use artifactdb_core::timestamp::rfc3339;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{plugins, proxy_prefix, to_the_end};
use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};
use crate::extract::TextPath;
use crate::openapi::shapes;
use crate::signer::Purpose;

impl App {
    pub fn job_id(&self, task: &Task) -> String {
        self.signer.seal(Purpose::Job, task)
    }
}

/// 202 for work that goes on (CONTRACT section 3.0).
pub fn accepted(app: &App, headers: &HeaderMap, task: &Task) -> Response {
    accepted_as(headers, &app.job_id(task))
}

/// The same for a job of that id.
pub fn accepted_as(headers: &HeaderMap, id: &str) -> Response {
    let path = format!("/jobs/{id}");
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let url = match (text("x-forwarded-proto"), text("x-forwarded-host")) {
        (Some(scheme), Some(host)) => {
            format!("{scheme}://{host}{}{path}", proxy_prefix(headers))
        }
        _ => path.clone(),
    };
    let body = json!({"job_id": id, "path": path, "job_url": url, "status": "accepted"});
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if let Ok(link) = HeaderValue::try_from(format!("<{url}>; rel=status")) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "From an answer with 202")),
    responses((status = 200, description = "How far the work is; PENDING for an unknown id", body = shapes::Job)))]
pub async fn job(State(app): State<Arc<App>>, TextPath(id): TextPath) -> ApiResult<Json<Value>> {
    let Some(task) = app.signer.open::<Task>(Purpose::Job, &id) else {
        let run = plugins::job(&app, &id).await;
        return Ok(Json(
            run.unwrap_or_else(|| json!({"status": "PENDING", "result": null})),
        ));
    };
    let record = app.versions.queue.job(&task).await;
    let known = match record {
        Ok(Some(record)) if record.status != JobStatus::Pending => Some(record),
        _ => None,
    };
    let record = match known {
        Some(record) => record,
        None => from_store(&app, &task).await?,
    };
    if record.status == JobStatus::Success
        && let Some(project) = task.project()
    {
        app.documents.forget(project);
    }
    Ok(Json(json!({
        "status": record.status,
        "result": record.result,
        "traceback": record.error,
        "children": [],
        "date_done": record.done.map(rfc3339),
        "task_id": id,
    })))
}

/// What the store tells of a task's end.
async fn from_store(app: &App, task: &Task) -> ApiResult<JobRecord> {
    let record = |status, result, error| JobRecord {
        status,
        result,
        error,
        done: None,
    };
    let pending = record(JobStatus::Pending, Value::Null, None);
    Ok(match task {
        Task::Index {
            project,
            version,
            epoch,
        } => match app.versions.state(project, version).await? {
            Some((state, _)) if state.epoch == *epoch => {
                if let Some(reason) = state.failure {
                    record(JobStatus::Failure, json!({}), Some(reason))
                } else if let Some(documents) = state.documents {
                    let result = json!({"project_id": project, "indexed_files": documents, "version": version});
                    record(JobStatus::Success, result, None)
                } else {
                    pending
                }
            }
            _ => {
                let reason = "the version was replaced or removed".to_owned();
                record(JobStatus::Failure, json!({}), Some(reason))
            }
        },
        Task::Permissions { project, tick } => {
            let head = app.versions.head(project).await?.unwrap_or_default();
            let waits = head
                .permission_changes
                .values()
                .any(|change| change <= tick);
            match waits {
                true => pending,
                false => record(JobStatus::Success, json!({"project_id": project}), None),
            }
        }
        Task::Remove { project, epoch, .. } => {
            let head = app.versions.head(project).await?.unwrap_or_default();
            match head.pending.contains_key(epoch) {
                true => pending,
                false => record(JobStatus::Success, json!({"project_id": project}), None),
            }
        }
        // Nothing but the queue knows of these.
        Task::Reindex { .. }
        | Task::Snapshot { .. }
        | Task::PurgeStale { .. }
        | Task::SyncPermissions => pending,
    })
}

#[utoipa::path(delete, path = "/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The `expires_job_id` of a transient version")),
    responses(
        (status = 200, description = "The version will not expire", body = shapes::Cancelled),
        (status = 400, description = "It has expired, was made to stay before, or is no job that can be cancelled"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such job"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    identity: Identity,
    TextPath(id): TextPath,
) -> ApiResult<Json<Value>> {
    let Some(expiry) = Expiry::parse(&id) else {
        return Err(match app.signer.open::<Task>(Purpose::Job, &id) {
            None => ApiError::not_found("No such job"),
            Some(_) => ApiError::bad_request(
                "only the expiry of a version can be cancelled: an upload ends by its completion or its abort, and what was acknowledged is done",
            ),
        });
    };
    let Expiry {
        project,
        version,
        epoch,
    } = expiry;
    app.require_write(&identity, &project, Some(&version))
        .await?;
    let versions = app.versions.clone();
    let kept = to_the_end(async move { versions.keep(&project, &version, epoch).await });
    match kept.await? {
        true => Ok(Json(json!({"job_id": id, "cancelled": true}))),
        false => Err(ApiError::bad_request(
            "the version does not expire any more: it has expired already, or was made to stay",
        )),
    }
}
