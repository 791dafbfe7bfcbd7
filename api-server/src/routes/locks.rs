//! Locks: the leases on projects and versions, as existing clients know them.

use std::sync::Arc;

use artifactdb_core::lease::{Holder, LeaseKey, LeaseRecord};
use artifactdb_core::permissions::{Action, may, roles};
use artifactdb_core::timestamp::rfc3339;
use artifactdb_core::versions::WriteError;
use axum::Json;
use axum::extract::State;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, ProjectPath};
use crate::openapi::shapes;

/// How long a lock that a person takes lives; upstream's lived for ever (CONTRACT section 11).
const LOCK_LIFE: SignedDuration = SignedDuration::from_hours(1);

fn describe(record: &LeaseRecord) -> Value {
    let info = match (&record.holder.info, &record.key.version) {
        (Some(info), _) => json!(info),
        (None, Some(version)) => json!({"version": version}),
        (None, None) => json!(true),
    };
    json!({
        "stage": record.holder.stage,
        "info": info,
        "created": rfc3339(record.created),
        "expires": rfc3339(record.expires),
        "owner": record.holder.owner,
    })
}

#[utoipa::path(get, path = "/projects/{project}/lock", tag = "locks",
    params(("project" = String, Path)),
    responses(
        (status = 200, description = "The lock of the project or of one of its versions", body = shapes::Locked),
        (status = 404, description = "It is not locked"),
    ))]
pub async fn get(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
) -> ApiResult<Json<Value>> {
    let resolved = app.versions.resolve_permissions(&project, None).await?;
    let permissions = resolved.as_ref().map(|resolved| &resolved.permissions);
    let trusted = identity.caller.has_role(&[roles::UPLOADER])
        || may(&identity.caller, Action::Read, &project, permissions);
    let records = app
        .versions
        .lease
        .of_project(&project)
        .await
        .map_err(WriteError::from)?;
    let Some(first) = records.first() else {
        return Err(ApiError::not_found("Project isn't locked"));
    };
    if !trusted {
        // That it is locked is public; who writes what is not (CONTRACT section 11, entry 3).
        let lock = json!({"stage": first.holder.stage, "created": rfc3339(first.created)});
        return Ok(Json(json!({"status": "locked", "lock": lock})));
    }
    let locks: Vec<Value> = records.iter().map(describe).collect();
    Ok(Json(
        json!({"status": "locked", "lock": describe(first), "locks": locks}),
    ))
}

#[utoipa::path(get, path = "/projects/lock", tag = "locks",
    responses(
        (status = 200, description = "Every locked project", body = shapes::LockedProjects),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an uploader"),
    ))]
pub async fn all(State(app): State<Arc<App>>, identity: Identity) -> ApiResult<Json<Value>> {
    // Names of projects are not public (CONTRACT section 11, entry 3).
    app.require_role(&identity, &[roles::UPLOADER])?;
    let records = app.versions.lease.all().await.map_err(WriteError::from)?;
    let mut locked: Vec<String> = records
        .into_iter()
        .map(|record| record.key.project.into())
        .collect();
    locked.dedup();
    Ok(Json(json!({"locked": locked})))
}

#[derive(Deserialize)]
pub struct LockRequest {
    stage: String,
    #[serde(default)]
    info: Option<String>,
}

#[utoipa::path(post, path = "/projects/{project}/lock", tag = "locks",
    params(("project" = String, Path)),
    request_body(content = shapes::LockBody, description = "`stage`, and `info` for people"),
    responses(
        (status = 200, description = "Locked for an hour", body = shapes::Locked),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an uploader"),
        (status = 423, description = "Locked by someone else"),
    ))]
pub async fn lock(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
    body: Body<LockRequest>,
) -> ApiResult<Json<Value>> {
    app.require_role(&identity, &[roles::UPLOADER])?;
    let request = body.required().await?;
    let key = LeaseKey {
        project,
        version: None,
    };
    let holder = Holder {
        owner: identity.name().unwrap_or_default().to_owned(),
        stage: request.stage.clone(),
        info: request.info.clone(),
    };
    let expires = app.versions.clock.now() + LOCK_LIFE;
    app.versions
        .lease
        .acquire(&key, holder, expires)
        .await
        .map_err(WriteError::from)?;
    Ok(Json(json!({
        "status": "locked",
        "lock": {"stage": request.stage, "info": request.info},
    })))
}

#[utoipa::path(delete, path = "/projects/{project}/lock", tag = "locks",
    params(("project" = String, Path)),
    responses(
        (status = 200, description = "No longer locked; uploads that held a lock are fenced off by the next one", body = shapes::Locked),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an uploader"),
        (status = 404, description = "It is not locked"),
    ))]
pub async fn unlock(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
) -> ApiResult<Json<Value>> {
    app.require_role(&identity, &[roles::UPLOADER])?;
    let lease = &app.versions.lease;
    let records = lease.of_project(&project).await.map_err(WriteError::from)?;
    let mut ended = None;
    for record in records {
        let last = lease.expire(&record.key).await.map_err(WriteError::from)?;
        ended = ended.or(last);
    }
    match ended {
        Some(record) => Ok(Json(
            json!({"status": "unlocked", "lock": describe(&record)}),
        )),
        None => Err(ApiError::not_found("Project isn't locked")),
    }
}
