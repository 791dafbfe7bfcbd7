//! Tasks that administrators run by name, and what became of those that failed (CONTRACT section 8).
//! Those that are plugins are in `plugins`.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_core::id::{Project, excerpt};
use artifactdb_core::queue::{JobStatus, Priority, Task};
use artifactdb_core::timestamp::{parse_period, rfc3339};
use artifactdb_core::versions::WriteError;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::jobs::accepted;
use super::plugins;
use crate::App;
use crate::auth::Admin;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::openapi::shapes;

/// Failures that are shown.
const SHOWN: usize = 1000;
const STALE: &str = "14d";

/// A task that can be asked for by its name.
struct Offered {
    name: &'static str,
    params: &'static [&'static str],
    about: &'static str,
}

const OFFERED: [Offered; 3] = [
    Offered {
        name: "reindex",
        params: &["project_ids"],
        about: "Writes the documents of projects again from the storage; of all without a list.",
    },
    Offered {
        name: "purge-stale",
        params: &["older_than"],
        about: "Deletes what was marked for deletion before a period such as 14d, which is the default.",
    },
    Offered {
        name: "sync-permissions",
        params: &[],
        about: "Holds the permissions of all documents to those in the storage, for changes past the API.",
    },
];

#[utoipa::path(get, path = "/tasks", tag = "tasks",
    responses(
        (status = 200, description = "The tasks that can be run by name", body = shapes::Tasks),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
    ))]
pub async fn list(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let tasks = OFFERED.iter().map(|own| {
        json!({
            "name": own.name, "core": true, "mandatory": true,
            "callable_info": {"named_params": own.params, "args": null, "kwargs": null, "docs": own.about},
        })
    });
    let tasks: Vec<Value> = tasks.chain(plugins::tasks(&app)).collect();
    let gprn = app.config.own_gprn().map(|own| own.to_string());
    Ok(Json(json!({"updated": null, "gprn": gprn, "tasks": tasks})))
}

#[derive(Deserialize)]
pub struct RunRequest {
    name: String,
    #[serde(default)]
    params: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct ReindexParams {
    #[serde(default)]
    project_ids: Vec<Project>,
}

#[utoipa::path(put, path = "/task/run", tag = "tasks",
    request_body(content = shapes::RunBody, description = "`name` of a task, or `plugin:` and the name of a plugin; and its `params`"),
    responses(
        (status = 202, description = "The task's job", body = shapes::Accepted),
        (status = 400, description = "Plugins run in a cluster only"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such task"),
        (status = 422, description = "The body or a parameter is malformed"),
        (status = 423, description = "It is being done already"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn run(
    State(app): State<Arc<App>>,
    Admin(who): Admin,
    headers: HeaderMap,
    body: Body<RunRequest>,
) -> ApiResult<Response> {
    let request = body.required().await?;
    let params = request.params.unwrap_or_default();
    if let Some(plugin) = plugins::named(&app, &request.name) {
        return plugins::run(&app, &who, &headers, plugin, params).await;
    }
    let Some(offered) = OFFERED.iter().find(|own| own.name == request.name) else {
        return Err(ApiError::not_found(format!(
            "No such task: '{}'",
            excerpt(&request.name)
        )));
    };
    if let Some(unknown) = params
        .keys()
        .find(|name| !offered.params.contains(&&***name))
    {
        return Err(ApiError::unprocessable(format!(
            "task '{}' has no parameter '{}'",
            offered.name,
            excerpt(unknown)
        )));
    }
    let task = match offered.name {
        "reindex" => {
            let own: ReindexParams = serde_json::from_value(json!(params))
                .map_err(|error| ApiError::unprocessable(format!("params: {error}")))?;
            Task::Reindex {
                projects: own.project_ids,
            }
        }
        "sync-permissions" => Task::SyncPermissions,
        _ => {
            let age = match params.get("older_than") {
                None => STALE,
                Some(own) => own.as_str().unwrap_or_default(),
            };
            let seconds = parse_period(age).and_then(|own| u32::try_from(own.as_secs()).ok());
            Task::PurgeStale {
                older_than_seconds: seconds.ok_or_else(|| {
                    ApiError::unprocessable("older_than must be a period such as 12h or 14d")
                })?,
            }
        }
    };
    app.begin_once(task.clone()).await?;
    Ok(accepted(&app, &headers, &task))
}

#[utoipa::path(get, path = "/tasks/logs", tag = "tasks",
    responses(
        (status = 200, description = "The tasks that were given up, and the last runs of plugins, newest first, by their name", body = shapes::TaskLogs),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 503, description = "The queue is away"),
    ))]
pub async fn logs(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let dead = app.versions.queue.dead(SHOWN).await;
    let mut by_name = plugins::logs(&app).await;
    for letter in dead.map_err(WriteError::from)? {
        let mut line = json!(letter.task);
        line["error"] = json!(letter.error);
        line["attempts"] = json!(letter.attempts);
        let entry = json!({"time": rfc3339(letter.at), "logs": [line.to_string()]});
        by_name
            .entry(letter.task.name().to_owned())
            .or_default()
            .push(entry);
    }
    Ok(Json(json!(by_name)))
}

#[utoipa::path(put, path = "/task/logs/reset", tag = "tasks",
    responses(
        (status = 200, description = "Failures until now are forgotten", body = shapes::Document),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 503, description = "The queue is away"),
    ))]
pub async fn reset_logs(State(app): State<Arc<App>>, _: Admin) -> ApiResult<Json<Value>> {
    let forgotten = app.versions.queue.forget_dead().await;
    forgotten.map_err(WriteError::from)?;
    Ok(Json(json!({})))
}

impl App {
    pub(super) async fn enqueue(&self, task: Task) -> ApiResult<()> {
        let queued = self.versions.queue.enqueue(task, Priority::Maintenance);
        Ok(queued.await.map_err(WriteError::from)?)
    }

    /// Enqueues a task of which one runs at a time.
    pub(super) async fn begin_once(&self, task: Task) -> ApiResult<()> {
        if self.is_at_work(&task).await? {
            let what = match &task {
                Task::Reindex { .. } => "Re-indexing",
                _ => task.name(),
            };
            return Err(ApiError::new(
                StatusCode::LOCKED,
                format!("{what} already in progress: wait for its job to end"),
            ));
        }
        self.enqueue(task).await
    }

    /// Whether a task waits or is being done.
    pub(super) async fn is_at_work(&self, task: &Task) -> ApiResult<bool> {
        let known = self.versions.queue.job(task).await;
        let known = known.map_err(WriteError::from)?;
        Ok(known
            .is_some_and(|known| !matches!(known.status, JobStatus::Success | JobStatus::Failure)))
    }
}
