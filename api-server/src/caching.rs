//! Answers that clients may keep and ask about again (RFC 9110 section 13, RFC 9111).

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha1::{Digest, Sha1};

use crate::error::ApiError;

/// To be asked about each time: permissions may have changed.
const ASK: HeaderValue = HeaderValue::from_static("private, no-cache");
/// A presigned URL is the caller's alone, and soon worth nothing.
const NEVER: HeaderValue = HeaderValue::from_static("no-store");

/// Names the content of a success by an ETag; answers 304 to whoever has it already.
pub async fn revalidate(request: Request, next: Next) -> Response {
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    if response.status().is_redirection() {
        return marked(response, NEVER);
    }
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return ApiError::unavailable("the answer broke off").into_response();
    };
    // Weak: the same content may go compressed.
    let tag = format!("W/\"{}\"", hex::encode(Sha1::digest(&bytes)));
    let same = known.is_some_and(|known| names(&known, &tag));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        parts.headers.insert(header::ETAG, tag);
    }
    let body = match same {
        true => {
            parts.status = StatusCode::NOT_MODIFIED;
            without_content(&mut parts.headers);
            Body::empty()
        }
        false => Body::from(bytes),
    };
    marked(Response::from_parts(parts, body), ASK)
}

fn without_content(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_LENGTH);
}

fn marked(mut response: Response, value: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(value);
    response
}

/// Whether `If-None-Match` names the tag; weak comparison.
fn names(known: &HeaderValue, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let known = known.to_str().unwrap_or_default();
    known.trim() == "*" || known.split(',').any(|own| opaque(own) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        for known in ["W/\"a\"", "\"a\"", "\"b\", W/\"a\"", "*", " \"a\" "] {
            assert!(
                names(&HeaderValue::from_static(known), "W/\"a\""),
                "{known}"
            );
        }
        for known in ["\"b\"", "", "a", "W/a"] {
            assert!(
                !names(&HeaderValue::from_static(known), "W/\"a\""),
                "{known}"
            );
        }
    }
}
