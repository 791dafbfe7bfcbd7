//! A module per resource. Handlers read the request, ask core, and say what came of it.

pub mod files;
pub mod info;
pub mod jobs;
pub mod locks;
pub mod permissions;
pub mod projects;
pub mod schemas;
pub mod search;
pub mod uploads;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

/// JSON that is already text.
fn json_bytes(status: StatusCode, bytes: impl Into<Bytes>) -> Response {
    let mut response = (status, Body::from(bytes.into())).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
