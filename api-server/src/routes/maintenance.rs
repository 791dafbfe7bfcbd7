//! Requests for maintenance: a list that this server keeps, first in, first out, for whoever looks
//! after the deployment (CONTRACT section 8.5). It does none of them itself.

use std::sync::Arc;

use artifactdb_core::keys;
use artifactdb_core::queue::Task;
use artifactdb_core::store::{get_json, swap_json};
use artifactdb_core::timestamp::rfc3339;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::App;
use crate::auth::{Admin, Identity};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Params};
use crate::openapi::shapes;

/// Requests that may wait.
const WAITING_MAX: usize = 100;
/// Bytes of each.
const REQUEST_MAX: usize = 16 * 1024;
const OPERATIONS: [&str; 6] = [
    "re-index",
    "restart-deployments",
    "wait-deployments",
    "restart",
    "wait",
    "scale-deployment",
];

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Waiting {
    requests: Vec<Value>,
}

#[derive(Deserialize)]
pub struct Request {
    name: String,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    kwargs: Option<Map<String, Value>>,
}

impl App {
    async fn waiting(&self) -> ApiResult<Vec<Value>> {
        let store = &*self.versions.store;
        let read = get_json::<Waiting>(store, keys::MAINTENANCE).await?;
        Ok(read.map(|(own, _)| own.requests).unwrap_or_default())
    }
}

#[utoipa::path(get, path = "/maintenance/status", tag = "maintenance",
    responses(
        (status = 200, description = "Whether every project is being indexed again; for administrators, the requests that wait, too", body = shapes::Maintenance),
        (status = 503, description = "A server is away"),
    ))]
pub async fn status(State(app): State<Arc<App>>, identity: Identity) -> ApiResult<Json<Value>> {
    let everything = Task::Reindex {
        projects: Vec::new(),
    };
    let state = match app.is_at_work(&everything).await? {
        true => json!("re-indexing"),
        false => Value::Null,
    };
    // What somebody asked for is nobody else's business (CONTRACT section 11, entry 3).
    let requests = match identity.caller.has_role(&[]) {
        true => app.waiting().await?,
        false => Vec::new(),
    };
    Ok(Json(json!({
        "state": state, "requests": requests,
        "started_at": null, "stage": null, "owner": null, "info": null,
    })))
}

#[utoipa::path(put, path = "/maintenance/requests", tag = "maintenance",
    request_body(content = shapes::MaintenanceBody, description = "`name` of an operation, its `args` and `kwargs`"),
    responses(
        (status = 200, description = "The requests that wait now", body = Vec<shapes::MaintenanceRequest>),
        (status = 400, description = "No such operation, too large, or too many requests wait"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 422, description = "The body is malformed"),
        (status = 503, description = "The storage is away"),
    ))]
pub async fn request(
    State(app): State<Arc<App>>,
    Admin(identity): Admin,
    body: Body<Request>,
) -> ApiResult<Json<Value>> {
    let request = body.required().await?;
    if !OPERATIONS.contains(&&*request.name) {
        return Err(ApiError::bad_request(format!(
            "Unknown operation, use one of: {}",
            OPERATIONS.join(", ")
        )));
    }
    let entry = json!({
        "name": request.name,
        "args": request.args.unwrap_or_default(),
        "kwargs": request.kwargs.unwrap_or_default(),
        "owner": identity.name(),
        "created": rfc3339(app.versions.clock.now()),
    });
    if entry.to_string().len() > REQUEST_MAX {
        return Err(ApiError::bad_request(format!(
            "a request takes at most {REQUEST_MAX} bytes"
        )));
    }
    let store = &*app.versions.store;
    let kept = swap_json(store, keys::MAINTENANCE, |own: &mut Waiting| {
        let fits = own.requests.len() < WAITING_MAX;
        fits.then(|| {
            own.requests.push(entry.clone());
            own.requests.clone()
        })
    });
    match kept.await? {
        Some(requests) => Ok(Json(Value::Array(requests))),
        None => Err(ApiError::bad_request(format!(
            "{WAITING_MAX} requests wait already"
        ))),
    }
}

#[utoipa::path(delete, path = "/maintenance/requests", tag = "maintenance",
    params(("purge" = Option<bool>, Query, description = "All of them, not the oldest alone")),
    responses(
        (status = 200, description = "The request that was taken off, or all of them", body = shapes::TakenRequests),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "None waits"),
        (status = 422, description = "A parameter is malformed"),
        (status = 503, description = "The storage is away"),
    ))]
pub async fn take(State(app): State<Arc<App>>, _: Admin, params: Params) -> ApiResult<Json<Value>> {
    let purge = params.flag("purge")?;
    let store = &*app.versions.store;
    let taken = swap_json(store, keys::MAINTENANCE, |own: &mut Waiting| {
        (!own.requests.is_empty()).then(|| match purge {
            true => Value::Array(std::mem::take(&mut own.requests)),
            false => own.requests.remove(0),
        })
    });
    match taken.await? {
        Some(taken) => Ok(Json(taken)),
        None => Err(ApiError::not_found("No maintenance requests found")),
    }
}
