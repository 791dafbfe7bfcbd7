//! Uploads: begin, complete, abort (CONTRACT section 4).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use artifactdb_core::id::{ArtifactId, FilePath, Project, Version, VersionRef, revision_name};
use artifactdb_core::permissions::PermissionsPatch;
use artifactdb_core::query::Query;
use artifactdb_core::queue::Task;
use artifactdb_core::search::{SearchError, SearchRequest};
use artifactdb_core::state::{Expiry, Promise};
use artifactdb_core::store::{SessionAccess, SessionRequest};
use artifactdb_core::timestamp::rfc3339;
use artifactdb_core::upload::{Check, Dialect, Mode, Plan, UploadRequest, content_md5};
use artifactdb_core::versions::UploadTerms;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::jobs::accepted;
use super::multipart;
use super::to_the_end;
use crate::App;
use crate::auth::{Act, CREDENTIAL, Grant, Identity};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Params, VersionPath, VersionRefPath};
use crate::openapi::shapes;

/// What a segment of a path may hold as it is (RFC 3986, `pchar`).
pub(super) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'=')
    .remove(b'@')
    .remove(b':');
pub(super) const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Documents of one look for equal files.
const DEDUP_PAGE: usize = 1000;
const DEDUP_PAGES: usize = 50;

#[utoipa::path(post, path = "/projects/{project}/version/{version}/upload", tag = "uploads",
    params(
        ("project" = String, Path), ("version" = String, Path),
        ("X-ADB-Credential" = Option<String>, Query, description = "From the Location of a provisioned version"),
    ),
    request_body(content = shapes::UploadBody, description = "`filenames` (texts, or objects with `check` simple, md5 or link; with `size` in bytes, large files come in parts), `mode`, `completed_by`, `expires_in`"),
    responses(
        (status = 200, description = "Where to put the files, and how to complete or abort. Maps of URLs, or arrays when a file has the check `simple`", body = shapes::Begun),
        (status = 400, description = "The version exists, or a name, date or link is wrong"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed, or a reserved name"),
        (status = 413, description = "The body is too large"),
        (status = 422, description = "The body is malformed"),
        (status = 423, description = "Another upload of the version is running"),
        (status = 501, description = "Session credentials are not supported"),
    ))]
pub async fn upload(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionPath(project, version): VersionPath,
    params: Params,
    body: Body<UploadRequest>,
) -> ApiResult<Response> {
    let now = app.versions.clock.now();
    let grant = Grant::of_request(&app.signer, &params.0, Act::Upload, &project, &version, now)?;
    if grant.is_none() {
        app.require_write(&identity, &project, Some(&version))
            .await?;
    }
    let request = body.required().await?;
    let plan = request.plan(&project, &version, now)?;
    if plan.mode == Mode::StsCredentials && !app.versions.store.gives_sessions() {
        return Err(no_sessions());
    }
    let mut promise = promise(&app, &identity, &project, &version, &plan).await?;
    promise.open = plan.mode == Mode::StsCredentials;
    multipart::promise_parts(&plan, &mut promise)?;
    let owner = match grant {
        Some(grant) => grant.owner,
        None => identity.name().unwrap_or_default().to_owned(),
    };
    let terms = UploadTerms {
        owner: owner.clone(),
        deadline: plan.deadline,
        expires_at: plan.expires_at,
        promise: promise.clone(),
    };
    let (versions, target) = (app.versions.clone(), (project.clone(), version.clone()));
    let begun =
        to_the_end(async move { versions.begin(&target.0, &target.1, terms).await }).await?;
    let mut issue = Issue {
        app: &app,
        project: &project,
        version: &version,
        epoch: begun.epoch,
        owner: &owner,
        deadline: plan.deadline,
        expires_at: plan.expires_at,
        now,
        in_parts: Vec::new(),
    };
    let revision = revision_name(begun.revision);
    // After the beginning: before it, the version may be one that nobody may write to any more.
    let opened = issue.open(&plan, &promise).await;
    let session = match opened {
        Ok(session) => session,
        Err(error) => {
            let (versions, epoch) = (app.versions.clone(), begun.epoch);
            let ended =
                to_the_end(async move { versions.abort(&project, &version, Some(epoch)).await });
            if ended.await.is_err() {
                tracing::warn!("an upload that cannot bring its files is left to the sweeper");
            }
            return Err(error);
        }
    };
    Ok(Json(match plan.dialect {
        Dialect::Map => issue.maps(&promise, &revision, session),
        Dialect::Array => issue.arrays(&promise, &revision, session),
    })
    .into_response())
}

/// Decides for each file whether it comes or is linked; every link target is checked now.
async fn promise(
    app: &App,
    identity: &Identity,
    project: &Project,
    version: &Version,
    plan: &Plan,
) -> ApiResult<Promise> {
    let known = equal_files(app, identity, project, plan).await?;
    let mut promise = Promise::default();
    for (path, check) in &plan.files {
        match check {
            Check::Upload { md5 } => {
                promise.files.insert(path.clone(), md5.clone());
            }
            Check::Dedup { md5, .. } => match known.get(&(path.clone(), md5.clone())) {
                Some(target) if target.version != *version => {
                    promise.links.insert(path.clone(), target.clone());
                }
                _ => {
                    promise.files.insert(path.clone(), Some(md5.clone()));
                }
            },
            Check::Link { target } => {
                let VersionRef::Named(name) = &target.version else {
                    continue;
                };
                let target = target.at(name.clone());
                let end = link_target(app, identity, &target).await?;
                promise.links.insert(path.clone(), end);
            }
        }
    }
    Ok(promise)
}

/// The file that a link to `target` leads to: links are collapsed, so that chains do not grow.
async fn link_target(app: &App, identity: &Identity, target: &ArtifactId) -> ApiResult<ArtifactId> {
    let Some((end, view)) = app.follow(identity, target).await? else {
        return Err(ApiError::bad_request(format!(
            "Invalid link: {} doesn't exist (or permission denied): No such file",
            artifactdb_core::id::excerpt(&target.to_string())
        )));
    };
    if view.state.expires_at.is_some() {
        return Err(ApiError::bad_request(format!(
            "Invalid link: {target} is in a transient version, which will be gone"
        )));
    }
    Ok(end)
}

/// For the files that ask for it, an equal one of the project: same path and MD5, persistent, no
/// link itself, newest first. One query for all of them (CONTRACT section 11, entry 27).
async fn equal_files(
    app: &App,
    identity: &Identity,
    project: &Project,
    plan: &Plan,
) -> ApiResult<HashMap<(FilePath, String), ArtifactId>> {
    let mut fields: BTreeMap<&str, Vec<(&FilePath, &str)>> = BTreeMap::new();
    for (path, check) in &plan.files {
        if let Check::Dedup { field, md5 } = check {
            fields.entry(field).or_default().push((path, md5));
        }
    }
    let exists = |field: &str| Query::Exists {
        field: field.to_owned(),
    };
    let mut known: HashMap<(FilePath, String), (String, ArtifactId)> = HashMap::new();
    for (field, wanted) in fields {
        let query = Query::Bool {
            must: vec![
                Query::exact("_extra.project_id", project.as_str()),
                Query::Exact {
                    field: field.to_owned(),
                    values: wanted.iter().map(|(_, md5)| (*md5).to_owned()).collect(),
                },
                Query::Exact {
                    field: "path".to_owned(),
                    values: wanted.iter().map(|(path, _)| path.to_string()).collect(),
                },
            ],
            should: Vec::new(),
            must_not: vec![exists("_extra.link"), exists("_extra.transient")],
        };
        let mut cursor = None;
        for _ in 0..DEDUP_PAGES {
            let searched = app
                .search
                .search(SearchRequest {
                    query: app.visible(identity, query.clone()),
                    sort: Vec::new(),
                    latest: false,
                    size: DEDUP_PAGE,
                    cursor: cursor.take(),
                })
                .await;
            let page = match searched {
                Ok(page) => page,
                // Without the index everything is uploaded: writes go on (DESIGN I4).
                Err(SearchError::Unavailable(reason)) => {
                    tracing::warn!(%reason, "cannot look for equal files");
                    return Ok(HashMap::new());
                }
                Err(error) => return Err(error.into()),
            };
            for hit in &page.hits {
                let document = hit.value();
                let pointer = format!("/{}", field.replace('.', "/"));
                let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
                let (Some(path), Some(md5), Ok(id)) =
                    (text("/path"), text(&pointer), ArtifactId::parse(&hit.id))
                else {
                    continue;
                };
                let Ok(path) = FilePath::new(path) else {
                    continue;
                };
                let uploaded = text("/_extra/uploaded").unwrap_or_default().to_owned();
                let key = (path, md5.to_owned());
                let newer = known.get(&key).is_none_or(|(at, _)| *at < uploaded);
                if newer {
                    known.insert(key, (uploaded, id));
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(known.into_iter().map(|(key, (_, id))| (key, id)).collect())
}

/// Everything that an answer to an upload request is made of.
struct Issue<'a> {
    app: &'a App,
    project: &'a Project,
    version: &'a Version,
    epoch: u64,
    owner: &'a str,
    deadline: Timestamp,
    expires_at: Option<Timestamp>,
    now: Timestamp,
    in_parts: Vec<multipart::Begun>,
}

/// Seconds that session credentials live: what AssumeRole takes.
const SESSION_SECONDS: (u64, u64) = (900, 43_200);

fn no_sessions() -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "Unable to obtain STS credentials, not supported: this storage has no session credentials; use the mode s3-presigned-url",
    )
}

/// Session credentials as clients read them (CONTRACT section 4.4).
async fn session_block(app: &App, request: SessionRequest) -> ApiResult<Value> {
    let store = &app.versions.store;
    let session = store.session(&request).await?.ok_or_else(no_sessions)?;
    Ok(json!({
        "credentials": {
            "aws_access_key_id": session.credentials.access_key,
            "aws_secret_access_key": session.credentials.secret_key,
            "aws_session_token": session.credentials.session_token,
        },
        "session_name": session.name,
        "expiration": rfc3339(session.expires),
        "bucket": store.bucket(),
        "prefix": request.prefix,
    }))
}

#[utoipa::path(get, path = "/projects/{project}/version/{version}/credentials", tag = "files",
    params(
        ("project" = String, Path),
        ("version" = String, Path, description = "A version, a revision, or `latest`"),
        ("ttl" = Option<u64>, Query, description = "Seconds that the credentials live, 900 to 43200"),
    ),
    responses(
        (status = 200, description = "Credentials that read the files of the version", body = shapes::Session),
        (status = 404, description = "No such version, or none that the caller may read"),
        (status = 422, description = "Parameter out of range"),
        (status = 501, description = "The storage has no session credentials"),
    ))]
pub async fn credentials(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionRefPath(project, version): VersionRefPath,
    params: Params,
) -> ApiResult<Response> {
    let seconds = params.number("ttl", 3600, SESSION_SECONDS)?;
    let missing = || ApiError::not_found("No such project/version");
    let version = app
        .resolve(&identity, &project, &version)
        .await?
        .ok_or_else(missing)?;
    if app.view(&identity, &project, &version).await?.is_none() {
        return Err(missing());
    }
    let request = SessionRequest {
        prefix: artifactdb_core::keys::version_prefix(&project, &version),
        access: SessionAccess::Read,
        seconds,
        name: identity.name().unwrap_or("anonymous").to_owned(),
    };
    let block = session_block(&app, request).await?;
    let mut response = Json(block).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Issue<'_> {
    /// Asks the store for what the answer needs: session credentials, or uploads in parts.
    async fn open(&mut self, plan: &Plan, promise: &Promise) -> ApiResult<Option<Value>> {
        if plan.mode == Mode::StsCredentials {
            return self.session().await.map(Some);
        }
        self.in_parts = multipart::begin(self.app, self.project, self.version, promise).await?;
        Ok(None)
    }

    /// Credentials that write the files of the version. They may outlive a short deadline, because
    /// none shorter are given; what comes late is no part of the version.
    async fn session(&self) -> ApiResult<Value> {
        let left = self.deadline.as_second() - self.now.as_second();
        let left = u64::try_from(left).unwrap_or(0);
        let request = SessionRequest {
            prefix: artifactdb_core::keys::version_prefix(self.project, self.version),
            access: SessionAccess::ReadWrite,
            seconds: left.clamp(SESSION_SECONDS.0, SESSION_SECONDS.1),
            name: self.owner.to_owned(),
        };
        session_block(self.app, request).await
    }

    fn credential(&self, act: Act, params: &BTreeMap<String, String>) -> String {
        Grant {
            act,
            project: self.project.clone(),
            version: self.version.clone(),
            epoch: self.epoch,
            owner: self.owner.to_owned(),
            expires: self.deadline,
            params: params.clone(),
        }
        .seal(&self.app.signer)
    }

    fn url(&self, act: Act, verb: &str, params: &BTreeMap<String, String>) -> String {
        let mut url = format!(
            "/projects/{}/version/{}/{verb}?",
            utf8_percent_encode(self.project.as_str(), SEGMENT),
            utf8_percent_encode(self.version.as_str(), SEGMENT),
        );
        for (name, value) in params {
            url.push_str(&format!("{name}={}&", utf8_percent_encode(value, VALUE)));
        }
        url.push_str(&format!("{CREDENTIAL}={}", self.credential(act, params)));
        url
    }

    fn purge_job(&self) -> String {
        self.app.job_id(&Task::Remove {
            project: self.project.clone(),
            version: self.version.clone(),
            epoch: self.epoch,
        })
    }

    fn expires_job(&self) -> Option<String> {
        self.expires_at.map(|_| {
            Expiry {
                project: self.project.clone(),
                version: self.version.clone(),
                epoch: self.epoch,
            }
            .to_string()
        })
    }

    fn completion_url(&self, revision: &str) -> String {
        let mut params = BTreeMap::from([
            ("revision".to_owned(), revision.to_owned()),
            ("purge_job_id".to_owned(), self.purge_job()),
        ]);
        if let (Some(at), Some(job)) = (self.expires_at, self.expires_job()) {
            params.insert("expires_in".to_owned(), rfc3339(at));
            params.insert("expires_job_id".to_owned(), job);
        }
        self.url(Act::Complete, "complete", &params)
    }

    fn abort_url(&self) -> String {
        let params = BTreeMap::from([("purge_job_id".to_owned(), self.purge_job())]);
        self.url(Act::Abort, "abort", &params)
    }

    fn link_path(&self, path: &FilePath, target: &ArtifactId) -> String {
        let source = ArtifactId {
            project: self.project.clone(),
            path: path.clone(),
            version: self.version.clone(),
        };
        format!(
            "/link/{}/to/{}",
            URL_SAFE.encode(source.to_string()),
            URL_SAFE.encode(target.to_string())
        )
    }

    /// Presigned URLs never outlive the lease, which lives a little longer than the deadline.
    fn seconds(&self) -> u64 {
        let seconds = self.deadline.as_second() - self.now.as_second();
        u64::try_from(seconds).unwrap_or(1).max(1)
    }

    fn put_url(&self, path: &FilePath, md5: Option<&str>) -> String {
        let key = artifactdb_core::keys::file_in(self.project, self.version, path);
        let store = &self.app.versions.store;
        store.presign_put(&key, md5, self.now, self.seconds())
    }

    /// Adds the files that come in parts to an answer, if there are any.
    fn with_parts(&self, mut answer: Value) -> Value {
        if !self.in_parts.is_empty() {
            let begun = self.in_parts.iter();
            let answers = begun.map(|begun| {
                begun.answer(
                    self.app,
                    self.project,
                    self.version,
                    self.now,
                    self.seconds(),
                )
            });
            answer["multipart"] = answers.collect();
        }
        answer
    }

    /// The answer in upstream's own form.
    fn maps(&self, promise: &Promise, revision: &str, session: Option<Value>) -> Value {
        let urls: Map<String, Value> = promise
            .files
            .keys()
            .filter(|path| session.is_none() && !promise.multipart.contains_key(*path))
            .map(|path| (path.to_string(), json!(self.put_url(path, None))))
            .collect();
        let credential = self.credential(Act::Link, &BTreeMap::new());
        let links: Map<String, Value> = promise
            .links
            .iter()
            .map(|(path, target)| {
                let url = format!("{}?{CREDENTIAL}={credential}", self.link_path(path, target));
                (path.to_string(), json!(url))
            })
            .collect();
        self.with_parts(json!({
            "project_id": self.project,
            "version": self.version,
            "revision": revision,
            "presigned_urls": urls,
            "sts": session.unwrap_or_else(|| json!({})),
            "links": links,
            "complete_before": rfc3339(self.deadline),
            "completion_url": self.completion_url(revision),
            "abort_url": self.abort_url(),
            "purge_job_id": self.purge_job(),
            "expires_in": self.expires_at.map(rfc3339),
            "expires_job_id": self.expires_job(),
        }))
    }

    /// The answer in the form of the API contract's clients, who send a Content-MD5 with each file.
    fn arrays(&self, promise: &Promise, revision: &str, session: Option<Value>) -> Value {
        let urls: Vec<Value> = promise
            .files
            .iter()
            .filter(|(path, _)| session.is_none() && !promise.multipart.contains_key(*path))
            .map(|(path, md5)| {
                let md5 = md5.as_deref().and_then(content_md5);
                let url = self.put_url(path, md5.as_deref());
                json!({"filename": path, "url": url, "md5sum": md5})
            })
            .collect();
        let credential = self.credential(Act::Link, &BTreeMap::new());
        let links: Vec<Value> = promise
            .links
            .iter()
            .map(|(path, target)| {
                let url = format!("{}?{CREDENTIAL}={credential}", self.link_path(path, target));
                json!({"filename": path, "url": url})
            })
            .collect();
        self.with_parts(json!({
            "project_id": self.project,
            "version": self.version,
            "revision": revision,
            "presigned_urls": urls,
            "sts": session.unwrap_or_else(|| json!({})),
            "links": links,
            "complete_before": rfc3339(self.deadline),
            "completion_url": self.completion_url(revision),
            "abort_url": self.abort_url(),
        }))
    }
}

#[utoipa::path(put, path = "/projects/{project}/version/{version}/complete", tag = "uploads",
    params(
        ("project" = String, Path), ("version" = String, Path),
        ("overwrite_permissions" = Option<bool>, Query, description = "Replace the permissions that apply"),
        ("revision" = Option<String>, Query), ("purge_job_id" = Option<String>, Query),
        ("expires_in" = Option<String>, Query), ("expires_job_id" = Option<String>, Query),
        ("X-ADB-Credential" = Option<String>, Query, description = "From the completion URL"),
    ),
    request_body(content = Option<shapes::PermissionsBody>, description = "Permissions, or nothing"),
    responses(
        (status = 202, description = "The version is in the store; indexing follows as a job", body = shapes::Accepted),
        (status = 400, description = "Promised files are missing or have another MD5"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such upload"),
        (status = 409, description = "The upload is over: aborted, expired, or replaced by a later one"),
        (status = 422, description = "The body is not permissions"),
        (status = 423, description = "Somebody else holds the version"),
    ))]
pub async fn complete(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionPath(project, version): VersionPath,
    params: Params,
    headers: HeaderMap,
    body: Body<PermissionsPatch>,
) -> ApiResult<Response> {
    let now = app.versions.clock.now();
    let overwrite = params.flag("overwrite_permissions")?;
    let grant = Grant::of_request(
        &app.signer,
        &params.0,
        Act::Complete,
        &project,
        &version,
        now,
    )?;
    if grant.is_none() {
        app.require_write(&identity, &project, Some(&version))
            .await?;
    }
    let caller = match &grant {
        Some(grant) => Some(grant.owner.clone()),
        None => identity.name().map(str::to_owned),
    };
    let epoch = grant.map(|grant| grant.epoch);
    let permissions = body.given().await?.unwrap_or_default();
    let versions = app.versions.clone();
    let completed = to_the_end(async move {
        let caller = caller.as_deref();
        versions
            .complete(&project, &version, epoch, caller, &permissions, overwrite)
            .await
    })
    .await?;
    Ok(accepted(&app, &headers, &completed.task))
}

#[utoipa::path(put, path = "/projects/{project}/version/{version}/abort", tag = "uploads",
    params(
        ("project" = String, Path), ("version" = String, Path),
        ("purge_job_id" = Option<String>, Query), ("expires_job_id" = Option<String>, Query),
        ("X-ADB-Credential" = Option<String>, Query, description = "From the abort URL"),
    ),
    responses(
        (status = 200, description = "The upload is over; its files are deleted", body = shapes::Aborted),
        (status = 400, description = "The version is complete"),
        (status = 401, description = "Not authenticated"),
        (status = 403, description = "Not allowed"),
        (status = 404, description = "No such upload"),
        (status = 409, description = "The upload was replaced by a later one"),
    ))]
pub async fn abort(
    State(app): State<Arc<App>>,
    identity: Identity,
    VersionPath(project, version): VersionPath,
    params: Params,
) -> ApiResult<Json<Value>> {
    let now = app.versions.clock.now();
    let grant = Grant::of_request(&app.signer, &params.0, Act::Abort, &project, &version, now)?;
    if grant.is_none() {
        app.require_write(&identity, &project, Some(&version))
            .await?;
    }
    let (versions, target) = (app.versions.clone(), (project.clone(), version.clone()));
    let epoch = grant.map(|grant| grant.epoch);
    to_the_end(async move { versions.abort(&target.0, &target.1, epoch).await }).await?;
    Ok(Json(json!({
        "project_id": project,
        "version": version,
        "cancel_purge_job_id": params.get("purge_job_id"),
        "cancel_expires_job_id": params.get("expires_job_id"),
        "unlocked": true,
    })))
}
