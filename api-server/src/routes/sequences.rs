//! Provisioning: uploads whose project or version this instance numbers (CONTRACT section 4.10), and
//! the sequences behind it (section 8.6).

use std::collections::BTreeMap;
use std::sync::Arc;

use artifactdb_core::config::PoolConfig;
use artifactdb_core::id::{Project, Version, excerpt};
use artifactdb_core::permissions::roles;
use artifactdb_core::sequence::Sequence;
use artifactdb_core::upload::UploadRequest;
use artifactdb_core::versions::WriteError;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::SignedDuration;
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use super::uploads::{SEGMENT, VALUE};
use super::{proxy_prefix, to_the_end};
use crate::App;
use crate::auth::{Act, Admin, CREDENTIAL, Grant, Identity};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Params, ProjectPath};
use crate::openapi::shapes;

/// How long a redirection can be followed.
const FOLLOWED_WITHIN: SignedDuration = SignedDuration::from_mins(5);

#[utoipa::path(post, path = "/projects/upload", tag = "uploads",
    params(("prefix" = Option<String>, Query, description = "Of the sequence; absent: the default one")),
    request_body(content = shapes::UploadBody, description = "As for an upload of a version; to be sent again to the Location"),
    responses(
        (status = 307, description = "Location: where to send the same request for the new project's first version"),
        (status = 400, description = "No such sequence, or it has no free number"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 413, description = "The body is too large"),
        (status = 422, description = "The body is malformed"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn provision_project(
    State(app): State<Arc<App>>,
    identity: Identity,
    params: Params,
    headers: HeaderMap,
    body: Body<UploadRequest>,
) -> ApiResult<Response> {
    app.require_role(&identity, &[roles::CREATOR, roles::UPLOADER])?;
    // One that nobody will understand costs no number.
    body.required().await?.check(app.versions.clock.now())?;
    let sequence = app.sequence(params.get("prefix"))?.clone();
    let versions = app.versions.clone();
    let (project, version) =
        to_the_end(async move { versions.provision_project(&sequence).await }).await?;
    redirect(&app, &identity, &headers, &project, &version)
}

#[utoipa::path(post, path = "/projects/{project}/upload", tag = "uploads",
    params(("project" = String, Path)),
    request_body(content = shapes::UploadBody, description = "As for an upload of a version; to be sent again to the Location"),
    responses(
        (status = 307, description = "Location: where to send the same request for the next version"),
        (status = 400, description = "No such project"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 413, description = "The body is too large"),
        (status = 422, description = "The body is malformed"),
        (status = 423, description = "The project is locked"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn provision_version(
    State(app): State<Arc<App>>,
    identity: Identity,
    ProjectPath(project): ProjectPath,
    headers: HeaderMap,
    body: Body<UploadRequest>,
) -> ApiResult<Response> {
    app.require_write(&identity, &project, None).await?;
    body.required().await?.check(app.versions.clock.now())?;
    let leases = app.versions.lease.of_project(&project).await;
    let locked = leases
        .map_err(WriteError::from)?
        .into_iter()
        .find(|record| record.key.version.is_none());
    if let Some(record) = locked {
        return Err(WriteError::Locked(Box::new(record)).into());
    }
    let (versions, target) = (app.versions.clone(), project.clone());
    let provisioned = to_the_end(async move {
        match versions.provision_version(&target).await {
            Ok(version) => Ok(Some(version)),
            Err(WriteError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let version = provisioned.await?.ok_or_else(|| {
        ApiError::bad_request(format!(
            "Unable to provision version: there is no project '{}'",
            excerpt(project.as_str())
        ))
    })?;
    redirect(&app, &identity, &headers, &project, &version)
}

/// 307 to the upload of a version, with a credential for that one request in the URL.
fn redirect(
    app: &App,
    identity: &Identity,
    headers: &HeaderMap,
    project: &Project,
    version: &Version,
) -> ApiResult<Response> {
    let grant = Grant {
        act: Act::Upload,
        project: project.clone(),
        version: version.clone(),
        epoch: 0,
        owner: identity.name().unwrap_or_default().to_owned(),
        expires: app.versions.clock.now() + FOLLOWED_WITHIN,
        params: BTreeMap::new(),
    };
    let location = format!(
        "{}/projects/{}/version/{}/upload?{CREDENTIAL}={}",
        proxy_prefix(headers),
        utf8_percent_encode(project.as_str(), SEGMENT),
        utf8_percent_encode(version.as_str(), SEGMENT),
        utf8_percent_encode(&grant.seal(&app.signer), VALUE),
    );
    let location = HeaderValue::try_from(location)
        .map_err(|_| ApiError::bad_request("the prefix of the proxy is no path"))?;
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

impl App {
    /// The sequence with a prefix; without one the default, or the only one there is.
    fn sequence(&self, prefix: Option<&str>) -> ApiResult<&Sequence> {
        let all = &self.sequences;
        let found = match prefix {
            Some(prefix) => all.iter().find(|own| own.prefix == prefix),
            None => match &all[..] {
                [only] => Some(only),
                all => all.iter().find(|own| own.default),
            },
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|own| &*own.prefix).collect();
            let known = known.join(", ");
            ApiError::bad_request(match (prefix, all.is_empty()) {
                (_, true) => "this instance has no sequences of projects".to_owned(),
                (Some(prefix), _) => {
                    let prefix = excerpt(prefix);
                    format!("Unknown sequence prefix '{prefix}', known are: {known}")
                }
                (None, _) => {
                    format!("no sequence is the default, name a prefix, one of: {known}")
                }
            })
        })
    }

    /// The number that a sequence is at, as administrators read it.
    async fn at(&self, sequence: &Sequence) -> ApiResult<Value> {
        let number = self.versions.current_number(sequence).await?;
        Ok(number.map_or_else(
            || json!({"status": "error", "reason": "no number was given out yet"}),
            Value::from,
        ))
    }
}

/// Pools as upstream's clients read them; the configuration has no dates.
fn pools(kind: &str, pools: &[PoolConfig], first: usize, most: usize) -> Vec<Value> {
    let shown = pools.iter().enumerate().take(most);
    let pools = shown.map(|(place, pool)| {
        json!({
            "pool_id": first + place, "pool_type": kind, "pool_status": "ACTIVE",
            "lower_limit": pool.from, "upper_limit": pool.to, "created_at": null,
        })
    });
    pools.collect()
}

#[utoipa::path(get, path = "/sequences", tag = "sequences",
    params(("max_pools" = Option<u64>, Query, description = "Pools of each kind that are shown, 3 by default")),
    responses(
        (status = 200, description = "Every sequence with its pools and the number that it is at", body = Vec<shapes::Sequence>),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 422, description = "A parameter is malformed"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn list(State(app): State<Arc<App>>, _: Admin, params: Params) -> ApiResult<Json<Value>> {
    let most = usize::try_from(params.number("max_pools", 3, (0, 1000))?).unwrap_or(usize::MAX);
    let mut all = Vec::new();
    for sequence in &*app.sequences {
        let (free, closed) = (&sequence.provisioned, &sequence.restricted);
        all.push(json!({
            "prefix": sequence.prefix,
            "default": sequence.default,
            "test": sequence.test,
            "provisioned_pools": pools("PROVISIONED", free, 1, most),
            "restricted_pools": pools("RESTRICTED", closed, 1 + free.len(), most),
            "current_seq_id": app.at(sequence).await?,
        }));
    }
    Ok(Json(Value::Array(all)))
}

#[utoipa::path(put, path = "/sequences/sync", tag = "sequences",
    params(("prefix" = Option<String>, Query, description = "Of one sequence; absent: all of them")),
    responses(
        (status = 200, description = "The numbers that the sequences are at, raised to what the storage holds", body = Vec<shapes::SequenceAt>),
        (status = 400, description = "No such sequence"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 503, description = "A server is away"),
    ))]
pub async fn sync(State(app): State<Arc<App>>, _: Admin, params: Params) -> ApiResult<Json<Value>> {
    let chosen: Vec<&Sequence> = match params.get("prefix") {
        Some(prefix) => vec![app.sequence(Some(prefix))?],
        None => app.sequences.iter().collect(),
    };
    let mut all = Vec::new();
    for sequence in chosen {
        app.versions.sync_sequence(sequence).await?;
        all.push(json!({"prefix": sequence.prefix, "current_seq_id": app.at(sequence).await?}));
    }
    Ok(Json(Value::Array(all)))
}

#[utoipa::path(get, path = "/sequences/{project}/current_version", tag = "sequences",
    params(("project" = String, Path)),
    responses(
        (status = 200, description = "The highest version that is a whole number, or null", body = shapes::CurrentVersion),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not an administrator"),
        (status = 404, description = "No such project"),
    ))]
pub async fn current_version(
    State(app): State<Arc<App>>,
    _: Admin,
    ProjectPath(project): ProjectPath,
) -> ApiResult<Json<Value>> {
    let current = app.versions.current_version(&project).await?;
    Ok(Json(
        json!({"project_id": project, "current_version": current}),
    ))
}
