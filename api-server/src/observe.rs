//! Around the handlers: request ids, metrics, access and audit logs, and answers for what no handler takes.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
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
use serde_json::json;
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

pub async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
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
    let writes = matches!(method, "PUT" | "POST" | "DELETE");
    let path = writes.then(|| request.uri().path().to_owned());
    let who = Who::default();
    request.extensions_mut().insert(who.clone());
    let mut response = next.run(request).await;
    if let (Some(error), Some(id)) = (response.extensions_mut().remove::<ApiError>(), &id) {
        response = with_id(response, &error, id);
    }
    let status = response.status().as_u16();
    let seconds = started.elapsed().as_secs_f64();
    if status >= 500 {
        tracing::error!(method, route, status, seconds, request_id = ?id, "a request failed");
    } else {
        tracing::debug!(method, route, status, seconds, request_id = ?id, "request");
    }
    if let Some(path) = path {
        let who = who.name();
        tracing::info!(target: "audit", method, path, status, who, request_id = ?id);
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

/// Who a request turned out to be of; whoever checks credentials says so.
#[derive(Clone, Default)]
pub struct Who(Arc<OnceLock<String>>);

impl Who {
    /// The first word counts.
    pub fn is(&self, name: &str) {
        let _ = self.0.set(name.to_owned());
    }

    fn name(&self) -> &str {
        self.0.get().map_or("anonymous", String::as_str)
    }
}

/// The same refusal, with the id by which the log knows the request.
fn with_id(response: Response, error: &ApiError, id: &HeaderValue) -> Response {
    let (mut parts, _) = response.into_parts();
    let mut body = error.body();
    body["request_id"] = json!(String::from_utf8_lossy(id.as_bytes()));
    // The body that these are of is gone.
    for header in [header::CONTENT_LENGTH, header::CONTENT_ENCODING] {
        parts.headers.remove(header);
    }
    Response::from_parts(parts, Body::from(body.to_string()))
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
    /// What a proxy may have left before the API's own path.
    prefix: Option<HeaderValue>,
}

impl Normalised {
    pub(crate) fn new(router: Router, prefix: Option<String>) -> Self {
        let prefix = prefix.and_then(|own| HeaderValue::try_from(own).ok());
        Self { router, prefix }
    }

    /// Takes the prefix off, and notes it as a proxy that had taken it off would have.
    fn strip(&self, request: &mut Request) {
        let Some(prefix) = &self.prefix else { return };
        let whole = request.uri().path_and_query().map(PathAndQuery::as_str);
        let rest = whole.and_then(|whole| whole.strip_prefix(prefix.to_str().ok()?));
        let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(['/', '?'])) else {
            return;
        };
        let path = match rest.starts_with('/') {
            true => rest.to_owned(),
            false => format!("/{rest}"),
        };
        if let Some(uri) = with_path(request.uri(), path) {
            *request.uri_mut() = uri;
            let headers = request.headers_mut();
            headers
                .entry("x-adb-prefix")
                .or_insert_with(|| prefix.clone());
        }
    }
}

fn collapse(uri: &Uri) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    if !whole.starts_with("//") {
        return None;
    }
    with_path(uri, format!("/{}", whole.trim_start_matches('/')))
}

fn with_path(uri: &Uri, path: String) -> Option<Uri> {
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
        self.strip(&mut request);
        if let Some(uri) = collapse(request.uri()) {
            *request.uri_mut() = uri;
        }
        Box::pin(self.router.clone().oneshot(request))
    }
}
