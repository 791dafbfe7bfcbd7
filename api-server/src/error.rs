//! The one error type of the API. Every answer that is not a success is JSON with `status` and
//! `reason` (CONTRACT section 3.0).

use artifactdb_core::id::IdError;
use artifactdb_core::search::SearchError;
use artifactdb_core::store::StoreError;
use artifactdb_core::upload::UploadError;
use artifactdb_core::versions::WriteError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    pub reason: String,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            retry_after: None,
        }
    }

    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub fn unprocessable(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
    }

    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }

    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    /// Both texts that existing clients look for (CONTRACT section 3.0).
    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Not authenticated: user credentials not supplied",
        )
    }

    pub fn no_such_file() -> Self {
        Self::not_found("No such file")
    }

    /// For one who asks too often, until `seconds` have passed.
    pub fn too_many(seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("too many requests, try again in {seconds} s"),
            )
        }
    }

    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self {
            retry_after: Some(2),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }
}

impl ApiError {
    /// What clients read. The status text of a 403 is upstream's.
    pub fn body(&self) -> Value {
        let word = match self.status {
            StatusCode::FORBIDDEN => "forbidden",
            _ => "error",
        };
        json!({"status": word, "reason": self.reason})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        let bad_token =
            self.status == StatusCode::BAD_REQUEST && self.reason.starts_with("Invalid token");
        if self.status == StatusCode::UNAUTHORIZED || bad_token {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For `observe`, which adds the request's id.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        Self::bad_request(format!("Malformed ID: {error}"))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "the object store does not answer");
                Self::unavailable("the object store is unavailable, try again")
            }
            StoreError::Conflict => Self::new(StatusCode::CONFLICT, error.to_string()),
            StoreError::Refused(_) | StoreError::Damaged { .. } => {
                tracing::error!(%error, "the object store answered what it should not");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the object store answered what it should not",
                )
            }
        }
    }
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Invalid(text) => Self::bad_request(text),
            SearchError::Expired => Self::new(StatusCode::GONE, "scroll expired"),
            SearchError::Unavailable(_) => {
                tracing::warn!(%error, "the search engine does not answer");
                Self::unavailable("the search engine is unavailable, try again")
            }
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let reason = error.to_string();
        match error {
            UploadError::Refused(_) => Self::bad_request(reason),
            UploadError::Reserved(_) => Self::forbidden(reason),
            UploadError::Malformed(_) => Self::unprocessable(reason),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let reason = error.to_string();
        match error {
            WriteError::Exists { .. } | WriteError::Refused(_) => Self::bad_request(reason),
            WriteError::Locked(_) => Self::new(StatusCode::LOCKED, reason),
            WriteError::Superseded { .. } => Self::new(StatusCode::CONFLICT, reason),
            WriteError::NotFound => Self::not_found(reason),
            WriteError::Store(error) => error.into(),
            WriteError::Unavailable(_) => {
                tracing::warn!(%reason, "a service does not answer");
                Self::unavailable("a service that writes need is unavailable, try again")
            }
        }
    }
}
