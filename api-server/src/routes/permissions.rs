//! Permissions of projects and versions.

use std::sync::Arc;

use artifactdb_core::id::{Project, Version};
use artifactdb_core::permissions::{Action, PermissionsPatch, Scope, may, roles};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde_json::{Value, json};

use super::jobs::accepted;
use super::to_the_end;
use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, ProjectPath, VersionRefPath};
use crate::openapi::shapes;

async fn read(
    app: &App,
    identity: &Identity,
    project: &Project,
    version: Option<&Version>,
) -> ApiResult<Json<Value>> {
    let resolved = app.versions.resolve_permissions(project, version).await?;
    let uploader = identity.caller.has_role(&[roles::UPLOADER]);
    let permissions = resolved.as_ref().map(|resolved| &resolved.permissions);
    if !uploader && !may(&identity.caller, Action::Read, project, permissions) {
        // The same answer whether or not the project exists.
        return Err(identity.refusal(&format!("may not read the permissions of {project}")));
    }
    match permissions {
        Some(permissions) => Ok(Json(json!(permissions))),
        None => Err(ApiError::not_found(match version {
            Some(_) => "No project-level or version-specific permissions found",
            None => "No project-level permissions found",
        })),
    }
}

/// The version of the path; hidden and missing ones look the same.
async fn version_of(
    app: &App,
    identity: &Identity,
    path: &VersionRefPath,
    action: Action,
) -> ApiResult<Version> {
    let VersionRefPath(project, version) = path;
    if let Some(version) = app.resolve(identity, project, version).await? {
        return Ok(version);
    }
    // Who may do the same to the project may hear that it has no such version.
    match action {
        Action::Read => drop(read(app, identity, project, None).await?),
        Action::Write => app.require_write(identity, project, None).await?,
    }
    Err(ApiError::not_found(format!(
        "No such project_id/version (or revision). Check /projects/{project}/version/…/info"
    )))
}

async fn write(
    app: &App,
    identity: &Identity,
    headers: &HeaderMap,
    project: &Project,
    version: Option<&Version>,
    body: Body<PermissionsPatch>,
) -> ApiResult<Response> {
    app.require_write(identity, project, version).await?;
    let patch = body.required().await?;
    let scope = if version.is_some() {
        Scope::Version
    } else {
        Scope::Project
    };
    if let Some(given) = patch.scope
        && given != scope
    {
        return Err(ApiError::bad_request(format!(
            "Permissions scope must be '{}', not '{}'",
            scope.as_str(),
            given.as_str()
        )));
    }
    let (versions, project) = (app.versions.clone(), project.clone());
    let version = version.cloned();
    let owner = identity.name().map(str::to_owned);
    let task = to_the_end(async move {
        versions
            .set_permissions(&project, version.as_ref(), &patch, owner.as_deref())
            .await
    })
    .await?;
    Ok(accepted(app, headers, &task))
}

async fn delete(
    app: &App,
    identity: &Identity,
    headers: &HeaderMap,
    project: &Project,
    version: Option<&Version>,
) -> ApiResult<Response> {
    app.require_write(identity, project, version).await?;
    let (versions, project) = (app.versions.clone(), project.clone());
    let version = version.cloned();
    let task = to_the_end(async move {
        versions
            .delete_permissions(&project, version.as_ref())
            .await
    })
    .await?;
    Ok(accepted(app, headers, &task))
}

#[utoipa::path(get, path = "/projects/{project}/permissions", tag = "permissions",
    params(("project" = String, Path)),
    responses(
        (status = 200, description = "The permissions that apply", body = shapes::Permissions),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "None are set"),
    ))]
pub async fn of_project(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
) -> ApiResult<Json<Value>> {
    read(&app, &identity, &project, None).await
}

#[utoipa::path(put, path = "/projects/{project}/permissions", tag = "permissions",
    params(("project" = String, Path)),
    request_body(content = shapes::PermissionsBody, description = "Members that are not given stay as they are"),
    responses(
        (status = 202, description = "They apply; the documents follow as a job", body = shapes::Accepted),
        (status = 400, description = "Another scope"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such project"),
        (status = 422, description = "Not permissions"),
    ))]
pub async fn set_of_project(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
    headers: HeaderMap,
    body: Body<PermissionsPatch>,
) -> ApiResult<Response> {
    write(&app, &identity, &headers, &project, None, body).await
}

#[utoipa::path(delete, path = "/projects/{project}/permissions", tag = "permissions",
    params(("project" = String, Path)),
    responses(
        (status = 202, description = "Removed; the next level applies", body = shapes::Accepted),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such project"),
    ))]
pub async fn delete_of_project(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    delete(&app, &identity, &headers, &project, None).await
}

#[utoipa::path(get, path = "/projects/{project}/version/{version}/permissions", tag = "permissions",
    params(("project" = String, Path), ("version" = String, Path)),
    responses(
        (status = 200, description = "The permissions that apply", body = shapes::Permissions),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such version, or none are set"),
    ))]
pub async fn of_version(
    State(app): State<Arc<App>>,
    identity: Identity,
    path: VersionRefPath,
) -> ApiResult<Json<Value>> {
    let version = version_of(&app, &identity, &path, Action::Read).await?;
    read(&app, &identity, &path.0, Some(&version)).await
}

#[utoipa::path(put, path = "/projects/{project}/version/{version}/permissions", tag = "permissions",
    params(("project" = String, Path), ("version" = String, Path)),
    request_body(content = shapes::PermissionsBody, description = "Members that are not given stay as they are"),
    responses(
        (status = 202, description = "They apply; the documents follow as a job", body = shapes::Accepted),
        (status = 400, description = "Another scope"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such version"),
        (status = 422, description = "Not permissions"),
    ))]
pub async fn set_of_version(
    State(app): State<Arc<App>>,
    identity: Identity,
    path: VersionRefPath,
    headers: HeaderMap,
    body: Body<PermissionsPatch>,
) -> ApiResult<Response> {
    let version = version_of(&app, &identity, &path, Action::Write).await?;
    write(&app, &identity, &headers, &path.0, Some(&version), body).await
}

#[utoipa::path(delete, path = "/projects/{project}/version/{version}/permissions", tag = "permissions",
    params(("project" = String, Path), ("version" = String, Path)),
    responses(
        (status = 202, description = "Removed; the next level applies", body = shapes::Accepted),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such version"),
    ))]
pub async fn delete_of_version(
    State(app): State<Arc<App>>,
    identity: Identity,
    path: VersionRefPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let version = version_of(&app, &identity, &path, Action::Write).await?;
    delete(&app, &identity, &headers, &path.0, Some(&version)).await
}
