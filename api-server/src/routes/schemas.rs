//! Schemas of the metadata, and documents held to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_core::document::schema_parts;
use artifactdb_core::id::excerpt;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::App;
use crate::auth::{Admin, Identity};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Params, TextPair, TextPath};
use crate::openapi::shapes;

/// The one source of schemas that an instance has.
pub(super) const CLIENT: &str = "default";

pub(super) fn check_client(alias: Option<&str>) -> ApiResult<()> {
    match alias {
        None | Some(CLIENT) => Ok(()),
        Some(other) => Err(ApiError::not_found(format!(
            "No such client alias '{}'",
            excerpt(other)
        ))),
    }
}

#[utoipa::path(get, path = "/schemas", tag = "schemas",
    params(
        ("client" = Option<String>, Query),
        ("checksum" = Option<bool>, Query, description = "A checksum of all schemas instead, for administrators"),
    ),
    responses(
        (status = 200, description = "The document types", body = shapes::SchemaTypes),
        (status = 403, description = "A checksum, for others than administrators"),
        (status = 404, description = "There are none"),
    ))]
pub async fn types(
    State(app): State<Arc<App>>,
    identity: Identity,
    params: Params,
) -> ApiResult<Json<Value>> {
    check_client(params.get("client"))?;
    if params.flag("checksum")? {
        if !identity.caller.is_root() {
            return Err(ApiError::forbidden(
                "Retrieving schema types checksum requires `admin` role",
            ));
        }
        let all = serde_json::to_vec(&app.config.schemas.items).unwrap_or_default();
        return Ok(Json(json!({"checksum": hex::encode(Sha256::digest(all))})));
    }
    let mut names: Vec<&str> = app
        .config
        .schemas
        .items
        .iter()
        .map(|item| item.kind.as_str())
        .filter(|name| !name.starts_with('_'))
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(ApiError::not_found("No types found"));
    }
    let types: Vec<Value> = names
        .into_iter()
        .map(|name| json!({"name": name, "url": format!("/schemas/{name}")}))
        .collect();
    Ok(Json(json!({"document_types": types})))
}

#[utoipa::path(get, path = "/schemas/{type}", tag = "schemas",
    params(("type" = String, Path), ("client" = Option<String>, Query)),
    responses(
        (status = 200, description = "The versions of the type", body = shapes::SchemaVersions),
        (status = 404, description = "No such type"),
    ))]
pub async fn versions(
    State(app): State<Arc<App>>,
    TextPath(kind): TextPath,
    params: Params,
) -> ApiResult<Json<Value>> {
    check_client(params.get("client"))?;
    let versions: Vec<Value> = app
        .config
        .schemas
        .items
        .iter()
        .filter(|item| item.kind == kind)
        .map(|item| {
            let url = format!("/schemas/{kind}/{}", item.version);
            json!({"version": item.version, "url": url})
        })
        .collect();
    if versions.is_empty() {
        return Err(ApiError::not_found("Non-existing document type"));
    }
    Ok(Json(json!({"document_type": kind, "versions": versions})))
}

#[utoipa::path(get, path = "/schemas/{type}/{version}", tag = "schemas",
    params(("type" = String, Path), ("version" = String, Path, description = "With or without `.json`")),
    responses(
        (status = 200, description = "The JSON Schema", body = shapes::Document),
        (status = 304, description = "It is as `If-None-Match` knows it"),
        (status = 404, description = "No such type or version"),
    ))]
pub async fn schema(
    State(app): State<Arc<App>>,
    TextPair(kind, version): TextPair,
) -> ApiResult<Json<Value>> {
    app.config
        .schema(&format!("{kind}/{version}"))
        .map(|item| Json((*item.schema).clone()))
        .ok_or_else(|| ApiError::not_found("Non-existing document type or version"))
}

#[utoipa::path(get, path = "/schema/clients", tag = "schemas",
    responses((status = 200, description = "Where schemas come from", body = shapes::SchemaClients)))]
pub async fn clients(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        CLIENT: {"kind": "ArtifactSchema", "base_uri": "/schemas", "count": app.config.schemas.items.len()},
    }))
}

#[derive(Deserialize)]
pub struct ValidateRequest {
    docs: Vec<BTreeMap<String, Value>>,
}

#[utoipa::path(post, path = "/schema/validate", tag = "schemas",
    request_body(content = shapes::ValidateBody, description = "`{\"docs\": [{…}]}`"),
    responses(
        (status = 200, description = "They are valid", body = shapes::Done),
        (status = 400, description = "A `$schema` is malformed"),
        (status = 404, description = "A schema does not exist"),
        (status = 422, description = "A document breaks its schema, or the body is malformed"),
    ))]
pub async fn validate(
    State(app): State<Arc<App>>,
    body: Body<ValidateRequest>,
) -> ApiResult<Json<Value>> {
    let request = body.required().await?;
    if request.docs.is_empty() || request.docs.iter().any(BTreeMap::is_empty) {
        return Err(ApiError::unprocessable(
            "invalid request body: 'docs' must hold at least one document, and none may be empty",
        ));
    }
    for (number, document) in request.docs.iter().enumerate() {
        check(&app, number, document)?;
    }
    Ok(Json(json!({"status": "Documents are valid"})))
}

fn check(app: &App, number: usize, document: &BTreeMap<String, Value>) -> ApiResult<()> {
    let name = match document.get("$schema") {
        None => {
            return match app.config.schemas.reject_without_schema {
                true => Err(ApiError::unprocessable(format!(
                    "Document Validation Error: document {number} names no '$schema'"
                ))),
                false => Ok(()),
            };
        }
        Some(Value::String(name)) if schema_parts(name).is_some() => name,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "bad '$schema' {}: expected <type>/<version file>",
                excerpt(&other.to_string())
            )));
        }
    };
    let validator = app
        .config
        .schema(name)
        .and_then(|item| app.validators.get(&item.name()))
        .ok_or_else(|| ApiError::not_found(format!("No Schema Found: {}", excerpt(name))))?;
    let value = json!(document);
    match validator.validate(&value) {
        Ok(()) => Ok(()),
        Err(error) => Err(ApiError::unprocessable(format!(
            "Document Validation Error: document {number} at '{}': {error}",
            error.instance_path()
        ))),
    }
}

#[utoipa::path(delete, path = "/schema/cache", tag = "schemas",
    params(("client" = Option<String>, Query)),
    responses(
        (status = 200, description = "Done: schemas are part of the configuration, and none is cached", body = shapes::Done),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such client"),
    ))]
pub async fn delete_cache(_: Admin, params: Params) -> ApiResult<Json<Value>> {
    check_client(params.get("client"))?;
    Ok(Json(json!({"status": "ok", "message": "Cache deleted"})))
}
