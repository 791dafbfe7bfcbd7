//! Requests to Elasticsearch or OpenSearch and what their failures mean here. No index and no query.

use std::time::Duration;

use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::headers::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{MultiNodeConnectionPool, Transport, TransportBuilder};
use elasticsearch::http::{Method, StatusCode, Url};
use serde_json::Value;
use thiserror::Error;

use crate::causes::causes;
use crate::search::SearchError;

/// How long an answer may take where the caller does not say.
const ANSWER: Duration = Duration::from_secs(30);
/// Attempts at a request that reached no node, or a node that had no room for it just then.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Who we are to the engine.
#[derive(Clone)]
pub enum EngineCredentials {
    Basic {
        username: String,
        password: String,
    },
    /// The encoded form: base64 of `id:key`.
    ApiKey(String),
}

#[derive(Debug, Error)]
pub enum EngineSetupError {
    #[error("'{0}' is no http or https URL")]
    Url(String),
    #[error("name at least one URL of Elasticsearch")]
    NoUrl,
    #[error("the certificate authority of Elasticsearch cannot be read: {0}")]
    Certificate(String),
    #[error("cannot make a client of Elasticsearch: {0}")]
    Client(String),
}

/// A node's answer that is no success.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub status: u16,
    /// The type of the first cause, such as `index_not_found_exception`.
    pub kind: String,
    /// The reason, for people.
    pub reason: String,
}

#[derive(Debug, Clone)]
pub(super) enum RequestError {
    Refused(Refusal),
    /// No answer, or one that cannot be read.
    Away(String),
}

impl RequestError {
    pub fn kind(&self) -> &str {
        match self {
            RequestError::Refused(refusal) => &refusal.kind,
            RequestError::Away(_) => "",
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            RequestError::Refused(refusal) => refusal.status,
            RequestError::Away(_) => 0,
        }
    }
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RequestError::Refused(refusal) => {
                write!(f, "{} {}: {}", refusal.status, refusal.kind, refusal.reason)
            }
            RequestError::Away(text) => f.write_str(text),
        }
    }
}

impl From<RequestError> for SearchError {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refusal) => match (refusal.status, refusal.kind.as_str()) {
                (_, "search_context_missing_exception") => SearchError::Expired,
                // The whole of the query was refused, which is the caller's doing.
                (400, _) => SearchError::Invalid(refusal.reason.clone()),
                _ => SearchError::Unavailable(error.to_string()),
            },
            RequestError::Away(text) => SearchError::Unavailable(text.clone()),
        }
    }
}

#[derive(Clone)]
pub(super) struct Client {
    transport: Transport,
}

impl Client {
    pub fn new(
        urls: &[String],
        credentials: Option<EngineCredentials>,
        ca: Option<&[u8]>,
    ) -> Result<Self, EngineSetupError> {
        let parsed = urls
            .iter()
            .map(|url| {
                Url::parse(url)
                    .ok()
                    .filter(|parsed| matches!(parsed.scheme(), "http" | "https"))
                    .ok_or_else(|| EngineSetupError::Url(url.clone()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if parsed.is_empty() {
            return Err(EngineSetupError::NoUrl);
        }
        let pool = MultiNodeConnectionPool::round_robin(parsed, None);
        let mut builder = TransportBuilder::new(pool)
            .enable_meta_header(false)
            .timeout(ANSWER);
        builder = match credentials {
            None => builder,
            Some(EngineCredentials::Basic { username, password }) => {
                builder.auth(Credentials::Basic(username, password))
            }
            Some(EngineCredentials::ApiKey(key)) => builder.auth(Credentials::EncodedApiKey(key)),
        };
        if let Some(pem) = ca {
            let certificate = Certificate::from_pem(pem)
                .map_err(|error| EngineSetupError::Certificate(error.to_string()))?;
            builder = builder.cert_validation(CertificateValidation::Full(certificate));
        }
        let transport = builder
            .build()
            .map_err(|error| EngineSetupError::Client(error.to_string()))?;
        Ok(Self { transport })
    }

    /// Sends a request and returns the body of its success. One that reached no node or a busy one is
    /// sent again, to the next node where there are several: our writes carry versions, so repeating
    /// is harmless.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Bytes>,
        timeout: Option<Duration>,
    ) -> Result<Bytes, RequestError> {
        self.send_as(method, path, query, body, timeout, "application/json")
            .await
    }

    pub async fn send_as(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Bytes>,
        timeout: Option<Duration>,
        content_type: &'static str,
    ) -> Result<Bytes, RequestError> {
        let mut attempt = 1;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            // A compressed answer costs the engine more than it saves between neighbours.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            let sent = self
                .transport
                .send(method, path, headers, Some(query), body.clone(), timeout)
                .await;
            let response = match sent {
                Ok(response) => response,
                Err(error) if attempt < ATTEMPTS && !error.is_timeout() => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                    continue;
                }
                Err(error) => return Err(RequestError::Away(causes(&error))),
            };
            let status = response.status_code();
            let bytes = response
                .bytes()
                .await
                .map_err(|error| RequestError::Away(causes(&error)))?;
            if status.is_success() {
                return Ok(bytes);
            }
            if attempt < ATTEMPTS && is_busy(status) {
                tokio::time::sleep(PAUSE * attempt).await;
                attempt += 1;
                continue;
            }
            return Err(RequestError::Refused(refusal(status, &bytes)));
        }
    }

    pub async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, RequestError> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let bytes = self.send(method, path, query, body, None).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| RequestError::Away(format!("an answer that is no JSON: {error}")))
    }
}

/// Statuses that a node or a proxy before it answers with for a while only: queues and memory that
/// are full, shards that move.
fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// The cause that a failed answer names, the innermost that says most.
fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let cause = match error["root_cause"].get(0) {
        Some(cause) => cause,
        None => error,
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut reason = text(&cause["reason"]);
    // A query that cannot be made names the field's own complaint further in.
    let mut inner = &error["failed_shards"][0]["reason"]["caused_by"];
    if inner.is_null() {
        inner = &error["caused_by"];
    }
    if let Some(more) = inner["reason"].as_str()
        && !reason.contains(more)
    {
        reason = format!("{reason}: {more}");
    }
    if reason.is_empty() {
        reason = match error.as_str() {
            Some(text) => text.to_owned(),
            None => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
        };
    }
    Refusal {
        status: status.as_u16(),
        kind: text(&cause["type"]),
        reason,
    }
}
