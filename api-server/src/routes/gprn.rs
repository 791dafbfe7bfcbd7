//! Global names: whether one is well formed and this instance's, where what it names is stored, and
//! what is above and below it. Nothing here tells of what the caller may not read.

use std::sync::Arc;

use artifactdb_core::gprn::{Gprn, GprnError, Target, TypeId};
use artifactdb_core::id::{ArtifactId, FilePath, Project, Version, VersionRef};
use artifactdb_core::keys;
use artifactdb_core::query::Query;
use artifactdb_core::search::{SearchRequest, SortKey};
use artifactdb_core::versions::VersionView;
use axum::Json;
use axum::extract::State;
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::files::find;
use crate::App;
use crate::auth::Identity;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Params, TextPath};
use crate::openapi::shapes;

/// Names below one, and links of one, at the most.
const CHILDREN_MAX: usize = 250;
/// Names of one request at the most, and how many of anything are looked up at once.
const BULK_MAX: usize = 1000;
const AT_ONCE: usize = 16;

impl From<GprnError> for ApiError {
    fn from(error: GprnError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// What every name of this instance begins with.
fn own(app: &App) -> ApiResult<Gprn> {
    app.config.own_gprn().ok_or_else(|| {
        ApiError::bad_request("this instance has no GPRN: its spec names no service")
    })
}

/// A name that is well formed and this instance's.
fn parse(app: &App, text: &str) -> ApiResult<(Gprn, Option<Target>)> {
    let own = own(app)?;
    let gprn = Gprn::parse(text)?;
    gprn.check_instance(&own.environment, own.service.as_deref().unwrap_or_default())?;
    let target = gprn.target()?;
    Ok((gprn, target))
}

/// One that names something.
fn parse_target(app: &App, text: &str) -> ApiResult<(Gprn, Target)> {
    match parse(app, text)? {
        (gprn, Some(target)) => Ok((gprn, target)),
        _ => Err(ApiError::bad_request("GPRN must contain a 'resource-id'")),
    }
}

/// One route for all of these: a name may hold slashes, and the verb is what follows the last one.
pub async fn lookup(
    State(app): State<Arc<App>>,
    identity: Identity,
    TextPath(path): TextPath,
    params: Params,
) -> ApiResult<Json<Value>> {
    let (name, verb) = path.rsplit_once('/').unwrap_or((&path, ""));
    match verb {
        "validate" => validate(&app, name),
        "parents" => parents(&app, name, &params),
        "permissions" => permissions(&app, &identity, name).await,
        "children" => children(&app, &identity, name).await,
        "locate" => locate(&app, &identity, name, &params).await,
        _ => Err(ApiError::not_found("Not Found")),
    }
}

#[utoipa::path(get, path = "/gprn/{gprn}/validate", tag = "gprn",
    params(("gprn" = String, Path, description = "`gprn:<environment>:<service>:<placeholder>:<type-id>:<resource-id>`")),
    responses(
        (status = 200, description = "It is well formed, and of this instance", body = shapes::Valid),
        (status = 400, description = "What is wrong with it"),
    ))]
pub(crate) fn validate(app: &App, name: &str) -> ApiResult<Json<Value>> {
    parse(app, name)?;
    Ok(Json(json!({"status": "ok"})))
}

#[utoipa::path(get, path = "/gprn/{gprn}/parents", tag = "gprn",
    params(
        ("gprn" = String, Path),
        ("deep" = Option<bool>, Query, description = "With environment and root"),
    ),
    responses(
        (status = 200, description = "The names above it, nearest first", body = Vec<shapes::Parent>),
        (status = 400, description = "What is wrong with it"),
    ))]
pub(crate) fn parents(app: &App, name: &str, params: &Params) -> ApiResult<Json<Value>> {
    let (gprn, _) = parse(app, name)?;
    let parents = gprn.parents(params.flag("deep")?)?;
    let parents = parents
        .iter()
        .map(|(kind, own)| json!({"type": kind, "gprn": own.to_string()}));
    Ok(Json(parents.collect()))
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!(
        "No such GPRN: '{}'.",
        artifactdb_core::id::excerpt(name)
    ))
}

/// Whether there is such a thing that the caller may read.
async fn readable(app: &App, identity: &Identity, target: &Target) -> ApiResult<bool> {
    match target {
        Target::Artifact(id) => found(find(app, identity, id).await).map(|own| own.is_some()),
        Target::Version(project, version) => {
            let Some(version) = app.resolve(identity, project, version).await? else {
                return Ok(false);
            };
            Ok(app.view(identity, project, &version).await?.is_some())
        }
        Target::Project(project) => {
            let scope = vec![Query::exact("_extra.project_id", project.as_str())];
            let page = app.search.search(request(app, identity, scope, 0)).await?;
            Ok(page.total > 0)
        }
    }
}

/// What is missing is an answer here, and other errors are errors.
fn found<T>(looked: ApiResult<T>) -> ApiResult<Option<T>> {
    match looked {
        Ok(own) => Ok(Some(own)),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

fn request(app: &App, identity: &Identity, scope: Vec<Query>, size: usize) -> SearchRequest {
    SearchRequest {
        query: app.visible(identity, Query::all_of(scope)),
        sort: vec![SortKey {
            field: "_extra.id".to_owned(),
            descending: false,
        }],
        latest: false,
        size,
        cursor: None,
    }
}

#[utoipa::path(get, path = "/gprn/{gprn}/permissions", tag = "gprn",
    params(("gprn" = String, Path)),
    responses(
        (status = 200, description = "The caller may read it", body = shapes::Allowed),
        (status = 400, description = "It is malformed, or names nothing that has permissions"),
        (status = 404, description = "There is none, or none that the caller may read"),
    ))]
pub(crate) async fn permissions(
    app: &App,
    identity: &Identity,
    name: &str,
) -> ApiResult<Json<Value>> {
    let (_, target) = parse_target(app, name)?;
    match readable(app, identity, &target).await? {
        true => Ok(Json(json!({"allowed": true}))),
        false => Err(unknown(name)),
    }
}

#[derive(Deserialize)]
pub struct Names {
    gprns: Vec<String>,
}

#[utoipa::path(post, path = "/gprn/permissions", tag = "gprn",
    request_body(content = shapes::GprnsBody, description = "`{\"gprns\": […]}`, 1000 at the most"),
    responses(
        (status = 200, description = "For each whether the caller may read it, and whether they may read all", body = shapes::GprnsAllowed),
        (status = 400, description = "One is malformed, or names nothing that has permissions"),
        (status = 422, description = "Too many, or no such list"),
    ))]
pub async fn bulk_permissions(
    State(app): State<Arc<App>>,
    identity: Identity,
    body: Body<Names>,
) -> ApiResult<Json<Value>> {
    let names = body.required().await?.gprns;
    if names.len() > BULK_MAX {
        return Err(ApiError::unprocessable(format!(
            "invalid request body: 'gprns' holds more than {BULK_MAX} names"
        )));
    }
    let mut targets = Vec::with_capacity(names.len());
    for name in names {
        let (_, target) = parse_target(&app, &name)?;
        targets.push((name, target));
    }
    let (app, identity) = (&app, &identity);
    let answers: Vec<Value> = futures::stream::iter(targets)
        .map(|(name, target)| async move {
            let allowed = readable(app, identity, &target).await?;
            ApiResult::Ok(json!({"gprn": name, "allowed": allowed}))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let all = answers.iter().all(|own| own["allowed"] == true);
    Ok(Json(json!({"status": all, "gprns": answers})))
}

#[utoipa::path(get, path = "/gprn/{gprn}/children", tag = "gprn",
    params(("gprn" = String, Path)),
    responses(
        (status = 200, description = "The names below it that the caller may read, 250 at the most", body = shapes::Children),
        (status = 400, description = "It is malformed, or has nothing below it"),
        (status = 404, description = "There are none"),
    ))]
pub(crate) async fn children(app: &App, identity: &Identity, name: &str) -> ApiResult<Json<Value>> {
    let (gprn, target) = parse(app, name)?;
    let own = own(app)?;
    let none = || ApiError::not_found("No GPRNs found");
    let (mut names, more) = match (gprn.type_id, target) {
        (Some(TypeId::Doc), _) => {
            return Ok(Json(json!({"doc": "/__swagger__/"})));
        }
        (Some(TypeId::Artifact), _) => {
            return Err(ApiError::bad_request("an artifact has no children"));
        }
        (Some(TypeId::Project), Some(Target::Project(project))) => {
            let query = Query::exact("_extra.project_id", project.as_str());
            let query = app.visible(identity, query);
            let page = app
                .search
                .projects(&query, "_extra.version", None, 1)
                .await?;
            let versions = page.projects.first().map(|(_, own)| own.as_slice());
            let names: Vec<String> = versions
                .unwrap_or_default()
                .iter()
                .filter_map(|own| Version::new(own.as_str()).ok())
                .map(|version| own.version(&project, &version).to_string())
                .collect();
            (names, false)
        }
        (Some(TypeId::Project), Some(Target::Version(project, version))) => {
            let version = app
                .resolve(identity, &project, &version)
                .await?
                .ok_or_else(none)?;
            let scope = vec![
                Query::exact("_extra.project_id", project.as_str()),
                Query::exact("_extra.version", version.as_str()),
            ];
            let page = app
                .search
                .search(request(app, identity, scope, CHILDREN_MAX))
                .await?;
            let ids = page
                .hits
                .iter()
                .filter_map(|hit| ArtifactId::parse(&hit.id).ok());
            let names = ids.map(|id| own.artifact(&id).to_string()).collect();
            (names, page.total > CHILDREN_MAX as u64)
        }
        _ => {
            return Err(ApiError::bad_request(
                "only a project, or a version of one, has children",
            ));
        }
    };
    if names.is_empty() {
        return Err(none());
    }
    let partial = more || names.len() > CHILDREN_MAX;
    names.truncate(CHILDREN_MAX);
    let mut body = json!({"children": names});
    if partial {
        body["partial_results"] = json!(true);
    }
    Ok(Json(body))
}

fn location(app: &App, key: &str) -> Value {
    let bucket = app.versions.store.bucket();
    json!({
        "s3_url": format!("s3://{bucket}/{key}"),
        "s3_arn": format!("arn:aws:s3:::{bucket}/{key}"),
    })
}

#[utoipa::path(get, path = "/gprn/{gprn}/locate", tag = "gprn",
    params(
        ("gprn" = String, Path),
        ("check" = Option<bool>, Query, description = "Whether it has to be there; true unless said otherwise"),
        ("skip_links" = Option<bool>, Query, description = "Leave out what its links lead to"),
    ),
    responses(
        (status = 200, description = "Where it is stored, and what its links lead to", body = shapes::Located),
        (status = 400, description = "It is malformed, or names nothing that is stored"),
        (status = 404, description = "There is none, or none that the caller may read"),
    ))]
pub(crate) async fn locate(
    app: &App,
    identity: &Identity,
    name: &str,
    params: &Params,
) -> ApiResult<Json<Value>> {
    let (_, target) = parse_target(app, name)?;
    let checks = params.get("check").is_none() || params.flag("check")?;
    let known = readable(app, identity, &target).await?;
    if checks && !known {
        return Err(unknown(name));
    }
    let (key, version) = match &target {
        Target::Project(project) => (keys::project_prefix(project), None),
        Target::Version(project, version) => {
            let version = match known {
                true => app.resolve(identity, project, version).await?,
                false => as_named(version),
            };
            let version = version.ok_or_else(|| unknown(name))?;
            let key = keys::version_prefix(project, &version);
            (key, Some((project, version, None)))
        }
        Target::Artifact(id) => {
            let version = match known {
                true => found(find(app, identity, id).await)?.map(|(id, _)| id.version),
                false => as_named(&id.version),
            };
            let version = version.ok_or_else(|| unknown(name))?;
            let key = keys::file(&id.at(version.clone()));
            (key, Some((&id.project, version, Some(&id.path))))
        }
    };
    let (mut links, mut more) = (Value::Null, false);
    if !params.flag("skip_links")?
        && let Some((project, version, path)) = version
        && let Some(view) = app.view(identity, project, &version).await?
    {
        (links, more) = linked(app, identity, project, &version, path, &view).await?;
    }
    let mut body = location(app, &key);
    body["links"] = links;
    if more {
        body["partial_results"] = json!(true);
    }
    body["region"] = json!(app.config.storage.first().map(|own| &own.region));
    Ok(Json(body))
}

/// Of what the caller may not read nothing is looked up: the version is the one that they said.
fn as_named(version: &VersionRef) -> Option<Version> {
    match version {
        VersionRef::Named(name) => Some(name.clone()),
        VersionRef::Latest => None,
    }
}

/// What the links of a version, or the one of a file, lead to, as far as the caller may read that,
/// and whether there are more than are told; null where there are none.
async fn linked(
    app: &App,
    identity: &Identity,
    project: &Project,
    version: &Version,
    path: Option<&FilePath>,
    view: &VersionView,
) -> ApiResult<(Value, bool)> {
    let wanted = |own: &&FilePath| path.is_none_or(|path| path == *own);
    let mut paths: Vec<FilePath> = view
        .manifest
        .links
        .keys()
        .filter(wanted)
        .take(CHILDREN_MAX + 1)
        .cloned()
        .collect();
    let more = paths.len() > CHILDREN_MAX;
    paths.truncate(CHILDREN_MAX);
    let found: Vec<Option<Value>> = futures::stream::iter(paths)
        .map(|path| async move {
            let id = ArtifactId {
                project: project.clone(),
                path,
                version: version.clone(),
            };
            let target = app.follow(identity, &id).await?;
            ApiResult::Ok(target.map(|(target, _)| {
                json!({
                    "key": keys::file(&id),
                    "location": location(app, &keys::file(&target)),
                })
            }))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let found: Vec<Value> = found.into_iter().flatten().collect();
    Ok(match found.is_empty() {
        true => (Value::Null, more),
        false => (json!(found), more),
    })
}
