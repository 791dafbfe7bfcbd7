//! Files: their metadata, where to download them, and links between them.

use std::sync::Arc;

use artifactdb_core::id::{ArtifactId, ArtifactRef, VersionRef};
use artifactdb_core::search::Document;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::json_bytes;
use crate::App;
use crate::access::{HOPS, key_of};
use crate::auth::{Act, Grant, Identity};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Params, TextPath};
use crate::openapi::shapes;

/// One route for both: an identifier may hold slashes, and `/metadata` at its end is the verb.
pub async fn file_or_metadata(
    State(app): State<Arc<App>>,
    identity: Identity,
    TextPath(path): TextPath,
    params: Params,
) -> ApiResult<Response> {
    match path.strip_suffix("/metadata") {
        Some(id) => metadata(&app, &identity, id, &params).await,
        None => download(&app, &identity, &path, &params).await,
    }
}

/// The concrete identifier that `id` means to the caller.
async fn resolve(app: &App, identity: &Identity, id: &ArtifactRef) -> ApiResult<ArtifactId> {
    let version = app.resolve(identity, &id.project, &id.version).await?;
    version
        .map(|version| id.at(version))
        .ok_or_else(ApiError::no_such_file)
}

pub async fn find(
    app: &App,
    identity: &Identity,
    id: &ArtifactRef,
) -> ApiResult<(ArtifactId, Arc<Document>)> {
    if let VersionRef::Named(version) = &id.version {
        let exact = id.at(version.clone());
        if let Some(document) = app.document(identity, &exact).await? {
            return Ok((exact, document));
        }
    }
    let concrete = resolve(app, identity, id).await?;
    match app.document(identity, &concrete).await? {
        Some(document) => Ok((concrete, document)),
        None => Err(ApiError::no_such_file()),
    }
}

#[utoipa::path(get, path = "/files/{id}/metadata", tag = "files",
    params(
        ("id" = String, Path, description = "`<project>:<path>@<version>`, the version also a revision or `latest`"),
        ("follow_link" = Option<bool>, Query, description = "Answer for what the file links to"),
        ("raw" = Option<bool>, Query, description = "The document as it was uploaded"),
    ),
    responses(
        (status = 200, description = "The metadata document", body = shapes::Document),
        (status = 304, description = "It is as `If-None-Match` knows it"),
        (status = 400, description = "Malformed identifier"),
        (status = 404, description = "No such file, or none that the caller may read"),
        (status = 422, description = "The stored metadata is not JSON"),
    ))]
pub(crate) async fn metadata(
    app: &App,
    identity: &Identity,
    id: &str,
    params: &Params,
) -> ApiResult<Response> {
    let id = ArtifactRef::parse(id)?;
    let (mut concrete, mut document) = find(app, identity, &id).await?;
    if params.flag("follow_link")? {
        let mut hops = 0;
        while let Some(link) = document.link() {
            hops += 1;
            let target = ArtifactId::parse(link).map_err(|_| ApiError::no_such_file())?;
            if hops > HOPS {
                return Err(ApiError::no_such_file());
            }
            document = app
                .document(identity, &target)
                .await?
                .ok_or_else(ApiError::no_such_file)?;
            concrete = target;
        }
    }
    if !params.flag("raw")? {
        return Ok(json_bytes(StatusCode::OK, document.body.clone()));
    }
    raw(app, identity, &concrete, &document).await
}

async fn raw(
    app: &App,
    identity: &Identity,
    id: &ArtifactId,
    document: &Document,
) -> ApiResult<Response> {
    let missing = || ApiError::not_found("Unable to find raw metadata file");
    let value = document.value();
    let metapath = value
        .pointer("/_extra/metapath")
        .and_then(Value::as_str)
        .ok_or_else(missing)?;
    let view = app
        .view(identity, &id.project, &id.version)
        .await?
        .ok_or_else(missing)?;
    let source = ArtifactId {
        path: artifactdb_core::id::FilePath::new(metapath)?,
        ..id.clone()
    };
    let (key, version_id) = key_of(&source, &view).map_err(|_| missing())?;
    let object = app
        .versions
        .store
        .get(&key, version_id.as_deref())
        .await?
        .ok_or_else(missing)?;
    if serde_json::from_slice::<serde::de::IgnoredAny>(&object.bytes).is_err() {
        return Err(ApiError::unprocessable(
            "Unable to parse raw metadata file as JSON",
        ));
    }
    Ok(json_bytes(StatusCode::OK, object.bytes))
}

#[utoipa::path(get, path = "/files/{id}", tag = "files",
    params(
        ("id" = String, Path, description = "`<project>:<path>@<version>`, the version also a revision or `latest`"),
        ("expires_in" = Option<u64>, Query, description = "Seconds for which the URL works, 10 to 86400"),
    ),
    responses(
        (status = 302, description = "Where the bytes are", body = shapes::Redirection),
        (status = 400, description = "Malformed identifier"),
        (status = 404, description = "No such file, or none that the caller may read"),
        (status = 422, description = "Parameter out of range"),
    ))]
pub(crate) async fn download(
    app: &App,
    identity: &Identity,
    requested: &str,
    params: &Params,
) -> ApiResult<Response> {
    let seconds = params.number("expires_in", 120, (10, 86_400))?;
    let id = ArtifactRef::parse(requested)?;
    let concrete = resolve(app, identity, &id).await?;
    let (target, view) = app
        .follow(identity, &concrete)
        .await?
        .ok_or_else(ApiError::no_such_file)?;
    let (key, version_id) = key_of(&target, &view)?;
    let now = app.versions.clock.now();
    let url = app
        .versions
        .store
        .presign_get(&key, version_id.as_deref(), now, seconds);
    let location = HeaderValue::try_from(&url)
        .map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the URL is not a header"))?;
    let body = Json(json!({"id": requested, "location": url}));
    let mut response = (StatusCode::FOUND, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The identifier in a link's path: base64, of either alphabet, padded or not.
fn decode_id(text: &str) -> Option<String> {
    [STANDARD, URL_SAFE, STANDARD_NO_PAD, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| String::from_utf8(engine.decode(text).ok()?).ok())
}

/// `<base64>/to/<base64>`; the standard alphabet has slashes of its own.
fn split_pair(pair: &str) -> Option<(String, String)> {
    let separators = pair.match_indices("/to/").map(|(at, _)| at);
    separators
        .into_iter()
        .find_map(|at| Some((decode_id(&pair[..at])?, decode_id(&pair[at + 4..])?)))
}

#[utoipa::path(put, path = "/link/{source}/to/{target}", tag = "files",
    params(
        ("source" = String, Path, description = "Base64 of the linking identifier"),
        ("target" = String, Path, description = "Base64 of the identifier that is linked to"),
    ),
    responses(
        (status = 200, description = "The link is recorded"),
        (status = 400, description = "Malformed, or a link to itself or to `latest`"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "The target does not exist, or the caller may not read it"),
    ))]
pub async fn link(
    State(app): State<Arc<App>>,
    identity: Identity,
    TextPath(pair): TextPath,
    Params(params): Params,
) -> ApiResult<Response> {
    let (source, target) = split_pair(&pair)
        .ok_or_else(|| ApiError::bad_request("Malformed link: expected <base64>/to/<base64>"))?;
    if source == target {
        return Err(ApiError::bad_request(
            "Source and target of a link are the same",
        ));
    }
    let (source, target) = (ArtifactId::parse(&source)?, ArtifactId::parse(&target)?);
    let now = app.versions.clock.now();
    let grant = Grant::of_request(
        &app.signer,
        &params,
        Act::Link,
        &source.project,
        &source.version,
        now,
    )?;
    if grant.is_none() {
        app.require_write(&identity, &source.project, Some(&source.version))
            .await?;
        if app.follow(&identity, &target).await?.is_none() {
            return Err(ApiError::no_such_file());
        }
        app.versions.add_link(&source, &target).await?;
        return Ok(Json(Value::Null).into_response());
    }
    // The links of an upload were checked and recorded when it began; this confirms one of them.
    app.versions.confirm_link(&source, &target).await?;
    Ok(Json(Value::Null).into_response())
}
