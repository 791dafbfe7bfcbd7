//! Typed extractors whose refusals are this API's errors.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::marker::PhantomData;
use std::time::Duration;

use artifactdb_core::id::{Project, Version, VersionRef};
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, RawQuery, Request};
use futures::StreamExt;
use http::StatusCode;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};

/// The query parameters by name. Of one that is given twice, the last counts.
pub struct Params(pub BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let RawQuery(query) = RawQuery::from_request_parts(parts, state)
            .await
            .unwrap_or(RawQuery(None));
        let mut params = BTreeMap::new();
        for pair in query.as_deref().unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.insert(decode(name)?, decode(value)?);
        }
        Ok(Self(params))
    }
}

fn decode(text: &str) -> ApiResult<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| ApiError::bad_request("the query is not UTF-8"))
}

impl Params {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn required(&self, name: &str) -> ApiResult<&str> {
        self.get(name)
            .ok_or_else(|| ApiError::unprocessable(format!("query parameter '{name}' is required")))
    }

    /// `true`, `1`, `yes` and `on`, or their opposites.
    pub fn flag(&self, name: &str) -> ApiResult<bool> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0" | "no" | "off") => Ok(false),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some(_) => Err(ApiError::unprocessable(format!(
                "query parameter '{name}' must be true or false"
            ))),
        }
    }

    /// A whole number in a range; 422 outside it.
    pub fn number(&self, name: &str, default: u64, range: (u64, u64)) -> ApiResult<u64> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|number| (range.0..=range.1).contains(number))
            .ok_or_else(|| {
                ApiError::unprocessable(format!(
                    "query parameter '{name}' must be a number from {} to {}",
                    range.0, range.1
                ))
            })
    }
}

/// The parts of the path, decoded.
async fn path<S: Send + Sync, T: DeserializeOwned + Send>(
    parts: &mut Parts,
    state: &S,
) -> ApiResult<T> {
    Path::<T>::from_request_parts(parts, state)
        .await
        .map(|Path(value)| value)
        .map_err(|error| ApiError::bad_request(format!("Malformed path: {}", error.body_text())))
}

/// `{project}` of the path.
pub struct ProjectPath(pub Project);

impl<S: Send + Sync> FromRequestParts<S> for ProjectPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let text: String = path(parts, state).await?;
        Ok(Self(Project::new(text)?))
    }
}

/// `{project}` and a concrete `{version}` of the path.
pub struct VersionPath(pub Project, pub Version);

impl<S: Send + Sync> FromRequestParts<S> for VersionPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let (project, version): (String, String) = path(parts, state).await?;
        Ok(Self(Project::new(project)?, Version::new(version)?))
    }
}

/// `{project}` and a `{version}` that may be a revision or `latest`.
pub struct VersionRefPath(pub Project, pub VersionRef);

impl<S: Send + Sync> FromRequestParts<S> for VersionRefPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let (project, version): (String, String) = path(parts, state).await?;
        Ok(Self(Project::new(project)?, VersionRef::parse(&version)?))
    }
}

/// One text of the path.
pub struct TextPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for TextPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        path(parts, state).await.map(Self)
    }
}

/// Two texts of the path.
pub struct TextPair(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for TextPair {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let (first, second) = path(parts, state).await?;
        Ok(Self(first, second))
    }
}

/// A JSON body; its content type does not matter. The handler reads it, once that knows that the caller
/// may ask: nobody else's bytes take up memory here.
pub struct Body<T>(Option<Request>, PhantomData<fn() -> T>);

/// Bytes of a body that nobody wants, and how long they may take to come.
const UNWANTED_MAX: usize = 32 * 1024 * 1024;
const UNWANTED_TIME: Duration = Duration::from_secs(30);

impl<T> Drop for Body<T> {
    /// What was not read is let in and forgotten: a client that still sends it would find the connection
    /// closed, and not read why it was refused.
    fn drop(&mut self) {
        let unread = self.0.take().map(Request::into_body);
        let Some(body) = unread.filter(|body| !body.is_end_stream()) else {
            return;
        };
        tokio::spawn(tokio::time::timeout(UNWANTED_TIME, async move {
            let mut pieces = body.into_data_stream();
            let mut left = UNWANTED_MAX;
            while let Some(Ok(piece)) = pieces.next().await {
                match left.checked_sub(piece.len()) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        }));
    }
}

impl<S: Send + Sync, T> FromRequest<S> for Body<T> {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Some(request), PhantomData))
    }
}

impl<T: DeserializeOwned> Body<T> {
    /// What it says; `None` when it is empty, or null.
    pub async fn given(mut self) -> ApiResult<Option<T>> {
        let Some(request) = self.0.take() else {
            return Ok(None);
        };
        let read = Bytes::from_request(request, &()).await;
        let bytes = read.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than this route takes",
            ),
            _ => ApiError::bad_request("the body could not be read"),
        })?;
        let malformed =
            |what: &dyn Display| ApiError::unprocessable(format!("invalid request body: {what}"));
        if bytes.is_empty() {
            return Ok(None);
        }
        match bytes.trim_ascii() {
            b"null" => Ok(None),
            // An array would be taken for the members in their order.
            text if text.first() != Some(&b'{') => Err(malformed(&"it is no JSON object")),
            text => serde_json::from_slice(text)
                .map(Some)
                .map_err(|error| malformed(&error)),
        }
    }

    pub async fn required(self) -> ApiResult<T> {
        self.given()
            .await?
            .ok_or_else(|| ApiError::unprocessable("invalid request body: it is empty"))
    }
}
