//! A module per resource. Handlers read the request, ask core, and say what came of it.

pub mod events;
pub mod files;
pub mod gprn;
pub mod index;
pub mod info;
pub mod jobs;
pub mod locks;
pub mod maintenance;
mod multipart;
pub mod permissions;
pub mod plugins;
pub mod projects;
pub mod schemas;
pub mod search;
pub mod sequences;
pub mod tasks;
pub mod uploads;

use artifactdb_core::versions::WriteError;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::error::{ApiError, ApiResult};

/// Runs a change to its end, even if the client goes away in the middle of it: what is half done
/// would have to wait for the sweeper, and a lease for its end.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, WriteError>> + Send + 'static,
) -> ApiResult<T> {
    match tokio::spawn(change).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => {
            tracing::error!(%error, "a change broke off");
            Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal Server Error",
            ))
        }
    }
}

/// What a proxy before this server took off the path.
fn proxy_prefix(headers: &HeaderMap) -> &str {
    let prefix = headers.get("x-adb-prefix");
    let prefix = prefix.and_then(|value| value.to_str().ok());
    prefix.unwrap_or_default().trim_end_matches('/')
}

/// JSON that is already text.
fn json_bytes(status: StatusCode, bytes: impl Into<Bytes>) -> Response {
    let mut response = (status, Body::from(bytes.into())).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
