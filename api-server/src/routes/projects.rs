//! Projects and their versions: lists, metadata, and whether a version is in order.

use std::sync::Arc;

use artifactdb_core::id::{Project, VersionRef};
use artifactdb_core::permissions::{Permissions, roles};
use artifactdb_core::query::Query;
use artifactdb_core::queue::Task;
use artifactdb_core::search::{SearchRequest, SortKey};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde_json::{Value, json};

use super::jobs::accepted;
use super::search::{Question, answer, page_size, projects_answer};
use super::to_the_end;
use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Params, ProjectPath, VersionRefPath};
use crate::openapi::shapes;

const VERSION: &str = "_extra.version";
const REVISION: &str = "_extra.revision";
/// Documents that `info` compares with the store at once.
const INFO_PAGE: usize = 500;

fn agg_field(params: &Params) -> ApiResult<String> {
    match params.get("agg_field") {
        None => Ok(VERSION.to_owned()),
        Some(field) if field == VERSION || field == REVISION => Ok(field.to_owned()),
        Some(_) => Err(ApiError::unprocessable(format!(
            "query parameter 'agg_field' must be {VERSION} or {REVISION}"
        ))),
    }
}

fn aggs(field: &str, values: &[String]) -> Vec<Value> {
    values.iter().map(|value| json!({field: value})).collect()
}

#[utoipa::path(get, path = "/projects", tag = "projects",
    params(
        ("agg_field" = Option<String>, Query, description = "`_extra.version` or `_extra.revision`"),
        ("size" = Option<u64>, Query, description = "Projects of a page, 1 to 500"),
    ),
    responses(
        (status = 200, description = "Projects by name, with their versions", body = shapes::Projects),
        (status = 422, description = "A parameter out of range"),
    ))]
pub async fn list(
    State(app): State<Arc<App>>,
    identity: Identity,
    params: Params,
) -> ApiResult<Response> {
    let field = agg_field(&params)?;
    let size = params.number("size", 100, (1, 500))?;
    list_page(
        &app,
        &identity,
        field,
        usize::try_from(size).unwrap_or(500),
        None,
    )
    .await
}

pub async fn list_page(
    app: &App,
    identity: &Identity,
    field: String,
    size: usize,
    after: Option<String>,
) -> ApiResult<Response> {
    let query = app.visible(identity, Query::All);
    let page = app
        .search
        .projects(&query, &field, after.as_deref(), size)
        .await?;
    let last = page.projects.last().map(|(name, _)| name.clone());
    let results: Vec<Value> = page
        .projects
        .iter()
        .map(|(name, values)| json!({"project_id": name, "aggs": aggs(&field, values)}))
        .collect();
    let body = json!({"results": results, "count": results.len(), "total": page.total});
    let after = last.filter(|_| page.more);
    Ok(projects_answer(app, identity, field, size, body, after))
}

#[utoipa::path(get, path = "/projects/{project}/versions", tag = "projects",
    params(
        ("project" = String, Path),
        ("agg_field" = Option<String>, Query, description = "`_extra.version` or `_extra.revision`"),
    ),
    responses(
        (status = 200, description = "Its versions, and which is the latest", body = shapes::Versions),
        (status = 404, description = "No version that the caller may see"),
    ))]
pub async fn versions(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
    params: Params,
) -> ApiResult<Json<Value>> {
    let field = agg_field(&params)?;
    let query = app.visible(
        &identity,
        Query::exact("_extra.project_id", project.as_str()),
    );
    let (page, latest) = tokio::try_join!(
        app.search.projects(&query, &field, None, 1),
        app.latest(&identity, &project),
    )?;
    let Some((_, values)) = page.projects.first() else {
        return Err(ApiError::not_found("No project/versions found"));
    };
    let mut body = json!({
        "project_id": project,
        "aggs": aggs(&field, values),
        "total": values.len(),
    });
    if let Some(latest) = latest {
        body["latest"] = json!({VERSION: latest});
    }
    Ok(Json(body))
}

fn documents_of(scope: Vec<(String, String)>, size: usize) -> Question {
    Question::Search {
        q: None,
        scope,
        fields: Vec::new(),
        sort: vec![SortKey {
            field: "_extra.id".to_owned(),
            descending: false,
        }],
        latest: false,
        size,
    }
}

/// A page of documents, or 404 where there is none at all.
async fn page_or_missing(
    app: &App,
    identity: &Identity,
    scope: Vec<(String, String)>,
    size: usize,
) -> ApiResult<Response> {
    let must = scope
        .iter()
        .map(|(field, value)| Query::exact(field, value.as_str()));
    let query = app.visible(identity, Query::all_of(must.collect()));
    let found = app
        .search
        .search(SearchRequest {
            query,
            sort: Vec::new(),
            latest: false,
            size: 0,
            cursor: None,
        })
        .await?;
    if found.total == 0 {
        return Err(ApiError::not_found("No such project/version"));
    }
    answer(app, identity, documents_of(scope, size), None).await
}

#[utoipa::path(get, path = "/projects/{project}/metadata", tag = "projects",
    params(("project" = String, Path), ("size" = Option<u64>, Query)),
    responses(
        (status = 200, description = "The metadata of all its versions, in pages", body = shapes::Page),
        (status = 404, description = "No such project, or none that the caller may see"),
    ))]
pub async fn metadata(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
    params: Params,
) -> ApiResult<Response> {
    let size = page_size(&app, &params)?;
    let scope = vec![("_extra.project_id".to_owned(), project.into())];
    page_or_missing(&app, &identity, scope, size).await
}

#[utoipa::path(get, path = "/projects/{project}/version/{version}/metadata", tag = "projects",
    params(("project" = String, Path), ("version" = String, Path, description = "Also a revision or `latest`"), ("size" = Option<u64>, Query)),
    responses(
        (status = 200, description = "The metadata of the version, in pages", body = shapes::Page),
        (status = 400, description = "There is no latest revision"),
        (status = 404, description = "No such version, or none that the caller may see"),
    ))]
pub async fn version_metadata(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionRefPath(project, version): VersionRefPath,
    params: Params,
) -> ApiResult<Response> {
    let size = page_size(&app, &params)?;
    let latest = version == VersionRef::Latest;
    let Some(version) = app.resolve(&identity, &project, &version).await? else {
        return Err(match latest {
            true => {
                ApiError::bad_request("Latest revision couldn't be found, check if project exists")
            }
            false => ApiError::not_found("No such project/version"),
        });
    };
    let scope = vec![
        ("_extra.project_id".to_owned(), project.into()),
        ("_extra.version".to_owned(), version.into()),
    ];
    page_or_missing(&app, &identity, scope, size).await
}

#[utoipa::path(get, path = "/projects/{project}/version/{version}/info", tag = "projects",
    params(("project" = String, Path), ("version" = String, Path, description = "Also a revision or `latest`")),
    responses(
        (status = 200, description = "Whether store and index agree on the version", body = shapes::VersionReport),
        (status = 404, description = "No such version, or none that the caller may see"),
    ))]
pub async fn version_info(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionRefPath(project, version): VersionRefPath,
) -> ApiResult<Json<Value>> {
    let missing = || ApiError::not_found("No such project/version");
    let version = app
        .resolve(&identity, &project, &version)
        .await?
        .ok_or_else(missing)?;
    let uploader = identity.caller.has_role(&[roles::UPLOADER]);
    let visible = app.view(&identity, &project, &version).await?.is_some();
    let state = app.versions.state(&project, &version).await?;
    let Some((state, _)) = state.filter(|_| uploader || visible) else {
        return Err(missing());
    };
    let resolved = app
        .versions
        .resolve_permissions(&project, Some(&version))
        .await?
        .map(|resolved| resolved.permissions);
    let mut report = Report::default();
    if resolved.is_none() {
        report.add(
            format!("Missing permissions file on s3: {project}/{version}"),
            "create permissions",
        );
    }
    if let Some(failure) = &state.failure {
        report.add(
            format!("not indexed: {failure}"),
            "re-index project/version",
        );
    } else if state.documents.is_none() {
        report.add(
            format!("project version is in stage {:?}", state.stage).to_lowercase(),
            "wait, or abort the upload",
        );
    }
    compare(
        &app,
        &project,
        version.as_str(),
        resolved.as_ref(),
        &mut report,
    )
    .await?;
    changed_objects(&app, &project, &version, &state, &mut report).await?;
    let mut body = json!({"status": if report.anomalies.is_empty() { "ok" } else { "error" }});
    if let Some(permissions) = resolved {
        body["permissions"] = json!(permissions);
    }
    if !report.anomalies.is_empty() {
        body["anomalies"] = json!(report.anomalies);
        body["actions"] = json!(report.actions);
    }
    Ok(Json(body))
}

#[utoipa::path(delete, path = "/projects/{project}/version/{version}", tag = "projects",
    params(("project" = String, Path), ("version" = String, Path, description = "Also a revision or `latest`")),
    responses(
        (status = 202, description = "It is gone for readers; the job deletes its files", body = shapes::Accepted),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
    ))]
pub async fn delete_version(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionRefPath(project, version): VersionRefPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    app.require_role(&identity, &[roles::UPLOADER])?;
    let named = app.resolve(&identity, &project, &version).await?;
    // One that is not there ends the same way (CONTRACT section 3.3).
    let version = match (named, version) {
        (Some(version), _) | (None, VersionRef::Named(version)) => version,
        (None, VersionRef::Latest) => return Err(ApiError::not_found("No such project/version")),
    };
    let removed = {
        let (app, project, version) = (app.clone(), project.clone(), version.clone());
        to_the_end(async move { app.versions.remove(&project, &version).await }).await?
    };
    app.documents.forget(&project);
    let task = Task::Remove {
        project,
        version,
        epoch: removed.unwrap_or_default(),
    };
    Ok(accepted(&app, &headers, &task))
}

#[derive(Default)]
struct Report {
    anomalies: Vec<String>,
    actions: Vec<&'static str>,
}

impl Report {
    fn add(&mut self, anomaly: String, action: &'static str) {
        self.anomalies.push(anomaly);
        if !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }
}

/// Holds the permissions of every indexed document to those in the store.
async fn compare(
    app: &App,
    project: &Project,
    version: &str,
    expected: Option<&Permissions>,
    report: &mut Report,
) -> ApiResult<()> {
    let mut cursor = None;
    loop {
        let page = app
            .search
            .search(SearchRequest {
                query: Query::all_of(vec![
                    Query::exact("_extra.project_id", project.as_str()),
                    Query::exact("_extra.version", version),
                ]),
                sort: Vec::new(),
                latest: false,
                size: INFO_PAGE,
                cursor: cursor.take(),
            })
            .await?;
        for hit in &page.hits {
            match (hit.permissions(), expected) {
                (Some(own), Some(expected)) if own == expected => {}
                (None, _) => report.add(
                    format!("{}: missing permissions", hit.id),
                    "re-index project/version",
                ),
                _ => report.add(
                    format!("{}: permissions differ", hit.id),
                    "re-index project/version",
                ),
            }
        }
        cursor = page.next;
        if cursor.is_none() || report.anomalies.len() > 100 {
            return Ok(());
        }
    }
}

/// Flags files that were written after the completion. Where object versions are pinned, readers
/// still get what was completed.
async fn changed_objects(
    app: &App,
    project: &Project,
    version: &artifactdb_core::id::Version,
    state: &artifactdb_core::state::VersionState,
    report: &mut Report,
) -> ApiResult<()> {
    let Some(id) = state.published().and_then(|state| state.manifest.clone()) else {
        return Ok(());
    };
    let manifest = app.versions.manifest(project, version, &id).await?;
    let prefix = artifactdb_core::keys::version_prefix(project, version);
    for object in app.versions.store.list(&prefix).await? {
        let Some(path) = artifactdb_core::keys::path_below(&prefix, &object.key) else {
            continue;
        };
        let known = artifactdb_core::id::FilePath::new(path)
            .ok()
            .and_then(|path| manifest.files.get(&path))
            .map(|entry| entry.etag.as_str());
        if known.is_some_and(|etag| etag != object.etag) {
            report.add(
                format!("{project}:{path}@{version}: changed after its completion"),
                "restore the object that the manifest names",
            );
        }
    }
    Ok(())
}
