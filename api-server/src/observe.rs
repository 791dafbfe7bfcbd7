//! Around the handlers: request ids, metrics, access logs, and answers for what no handler takes.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Service, ServiceExt};

use crate::App;
use crate::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id of a caller that is passed on.
const REQUEST_ID_MAX: usize = 128;
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// No label comes from what a caller wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    route: String,
    status: u16,
}

pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Histogram>,
    pub tasks_waiting: Gauge,
    pub tasks_in_hand: Gauge,
    pub tasks_dead: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("artifactdb");
        let requests =
            Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "http_request_duration_seconds",
            "Time from a request to its answer",
            requests.clone(),
        );
        let (tasks_waiting, tasks_in_hand) = (Gauge::default(), Gauge::default());
        let tasks_dead = Gauge::default();
        registry.register(
            "tasks_dead",
            "Tasks that were given up, up to a thousand",
            tasks_dead.clone(),
        );
        registry.register("tasks_waiting", "Tasks in the queue", tasks_waiting.clone());
        registry.register("tasks_in_hand", "Tasks being done", tasks_in_hand.clone());
        Self {
            registry,
            requests,
            tasks_waiting,
            tasks_in_hand,
            tasks_dead,
        }
    }

    /// In the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

fn method(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        _ => "other",
    }
}

pub async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method(&request);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| id.len() <= REQUEST_ID_MAX)
        .cloned()
        .or_else(|| HeaderValue::try_from(format!("{:016x}", rand::random::<u64>())).ok());
    let mut response = next.run(request).await;
    // The time limit answers without a body.
    let silent = !response.headers().contains_key(header::CONTENT_TYPE);
    if response.status() == StatusCode::SERVICE_UNAVAILABLE && silent {
        response = ApiError::unavailable("the request took too long").into_response();
    }
    let status = response.status().as_u16();
    let seconds = started.elapsed().as_secs_f64();
    if status >= 500 {
        tracing::error!(method, route, status, seconds, request_id = ?id, "a request failed");
    } else {
        tracing::debug!(method, route, status, seconds, request_id = ?id, "request");
    }
    let labels = Labels {
        method,
        route,
        status,
    };
    app.metrics.requests.get_or_create(&labels).observe(seconds);
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

pub async fn not_found() -> ApiError {
    ApiError::not_found("Not Found")
}

pub async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

pub fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(cause = text, "a handler panicked");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").into_response()
}

/// The router behind a look at the path: existing clients build `base + "/" + "/link/…"`, so
/// doubled slashes at its start count as one (CONTRACT section 1.3).
#[derive(Clone)]
pub struct Normalised {
    router: Router,
}

impl Normalised {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }
}

fn collapse(uri: &Uri) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    if !whole.starts_with("//") {
        return None;
    }
    let path = format!("/{}", whole.trim_start_matches('/'));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

impl Service<Request> for Normalised {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(uri) = collapse(request.uri()) {
            *request.uri_mut() = uri;
        }
        Box::pin(self.router.clone().oneshot(request))
    }
}
