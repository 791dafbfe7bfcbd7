//! The client: a typed connection to an instance's API (`Api`), and the verbs that people type.
//!
//! `upload` and `events` have their own files, and `parts` brings the bytes; the others are short. What is printed,
//! and the exit codes, are in `print`.

mod events;
mod parts;
mod print;
mod upload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

pub use events::{EventsOptions, events};
pub use print::Printer;
pub use upload::{UploadOptions, upload};

/// What went wrong, as the exit code tells it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{reason}")]
    Answer { status: StatusCode, reason: String },
    #[error("cannot reach {url}: {problem}")]
    Unreachable { url: String, problem: String },
    #[error("{0}")]
    Local(String),
    #[error("the indexing of the version failed: {0}")]
    Job(String),
    #[error("interrupted; the upload was aborted")]
    Interrupted,
}

impl ClientError {
    /// 1 failure, 3 not found, 4 not allowed, 5 invalid, 6 locked or superseded, 7 unavailable,
    /// 130 interrupted. (2 is a wrong command line.)
    pub fn exit_code(&self) -> u8 {
        match self {
            ClientError::Answer { status, .. } => match status.as_u16() {
                404 | 410 => 3,
                401 | 403 => 4,
                400 | 413 | 422 => 5,
                409 | 423 => 6,
                429 | 502..=504 => 7,
                _ => 1,
            },
            ClientError::Unreachable { .. } => 7,
            ClientError::Local(_) | ClientError::Job(_) => 1,
            ClientError::Interrupted => 130,
        }
    }
}

pub type ClientResult<T> = Result<T, ClientError>;

/// A connection to an instance.
#[derive(Debug, Clone)]
pub struct Api {
    url: String,
    token: Option<String>,
    client: reqwest::Client,
}

/// Pages that a search reads at the most, where the caller sets no limit.
const PAGES_MAX: usize = 10_000;

impl Api {
    pub fn new(url: &str, token: Option<String>) -> ClientResult<Self> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|error| ClientError::Local(error.to_string()))?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            token,
            client,
        })
    }

    fn absolute(&self, path: &str) -> String {
        if path.starts_with("http://") || path.starts_with("https://") {
            path.to_owned()
        } else {
            format!("{}{path}", self.url)
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> ClientResult<reqwest::Response> {
        self.send_with(method, path, body, None).await
    }

    /// The same with one more header.
    async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(&str, &str)>,
    ) -> ClientResult<reqwest::Response> {
        let url = self.absolute(path);
        let mut request = self.client.request(method, &url);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| unreachable(&url, &error))?;
        if response.status().is_client_error() || response.status().is_server_error() {
            let status = response.status();
            let text = response.text().await.unwrap_or_default();
            let reason = serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|body| body.get("reason")?.as_str().map(str::to_owned))
                .unwrap_or_else(|| format!("{status}: {text}"));
            return Err(ClientError::Answer { status, reason });
        }
        Ok(response)
    }

    /// A request and its answer as JSON.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> ClientResult<Value> {
        let response = self.send(method, path, body).await?;
        let text = response
            .text()
            .await
            .map_err(|error| unreachable(path, &error))?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text)
            .map_err(|error| ClientError::Local(format!("the answer is not JSON: {error}")))
    }

    /// Every result of a paged answer, at most `limit`.
    async fn all(&self, first: &str, limit: Option<usize>) -> ClientResult<(Vec<Value>, u64)> {
        let mut path = first.to_owned();
        let mut results = Vec::new();
        let mut total = 0;
        for _ in 0..PAGES_MAX {
            let mut page = self.call(Method::GET, &path, None).await?;
            total = page.get("total").and_then(Value::as_u64).unwrap_or(total);
            if let Some(Value::Array(own)) = page.get_mut("results").map(Value::take) {
                results.extend(own);
            }
            if limit.is_some_and(|limit| results.len() >= limit) {
                results.truncate(limit.unwrap_or_default());
                break;
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut path),
                None => break,
            }
        }
        Ok((results, total))
    }

    /// Polls a job until it ends.
    async fn wait(&self, job: &str) -> ClientResult<Value> {
        let mut pause = Duration::from_millis(20);
        loop {
            let answer = self.call(Method::GET, job, None).await?;
            match answer.get("status").and_then(Value::as_str) {
                Some("SUCCESS") => return Ok(answer["result"].clone()),
                Some("FAILURE") => {
                    let why = answer.get("traceback").and_then(Value::as_str);
                    return Err(ClientError::Job(
                        why.unwrap_or("no reason given").to_owned(),
                    ));
                }
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

fn unreachable(url: &str, error: &reqwest::Error) -> ClientError {
    let mut problem = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        problem = inner.to_string();
        source = inner.source();
    }
    ClientError::Unreachable {
        url: url.split('?').next().unwrap_or(url).to_owned(),
        problem,
    }
}

/// Percent-encodes one segment of a path or one value of a query.
fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

pub struct SearchOptions {
    pub query: String,
    pub fields: Option<String>,
    pub sort: Option<String>,
    pub latest: bool,
    pub limit: usize,
}

pub async fn search(api: &Api, options: &SearchOptions, printer: &Printer) -> ClientResult<()> {
    let mut path = format!(
        "/search?q={}&size={}",
        encode(&options.query),
        options.limit.clamp(1, 500)
    );
    if let Some(fields) = &options.fields {
        path.push_str(&format!("&fields={}", encode(fields)));
    }
    if let Some(sort) = &options.sort {
        path.push_str(&format!("&sort={}", encode(sort)));
    }
    if options.latest {
        path.push_str("&latest=true");
    }
    let (results, total) = api.all(&path, Some(options.limit)).await?;
    printer.results(&results, total, options.fields.is_some());
    Ok(())
}

/// Prints a document, or, with `output`, downloads the file that it describes.
pub async fn get(
    api: &Api,
    id: &str,
    output: Option<&Path>,
    printer: &Printer,
) -> ClientResult<()> {
    let Some(output) = output else {
        let path = format!("/files/{}/metadata?follow_link=true", encode(id));
        let document = api.call(Method::GET, &path, None).await?;
        printer.json(&document);
        return Ok(());
    };
    let path = format!("/files/{}", encode(id));
    let answer = api.send(Method::GET, &path, None).await?;
    let location = answer
        .headers()
        .get("location")
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| ClientError::Local("the answer names no location".to_owned()))?
        .to_owned();
    let bytes = download(api, &location, output).await?;
    printer.line(
        &format!("{id} → {} ({bytes} bytes)", output.display()),
        &json!({"id": id, "file": output, "bytes": bytes}),
    );
    Ok(())
}

/// Writes beside `output` first, so that a broken download leaves nothing under its name.
async fn download(api: &Api, url: &str, output: &Path) -> ClientResult<u64> {
    let local = |error: std::io::Error| {
        ClientError::Local(format!("cannot write '{}': {error}", output.display()))
    };
    let mut response = api
        .client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| unreachable(url, &error))?;
    let mut partial = output.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let mut file = tokio::fs::File::create(&partial).await.map_err(local)?;
    let mut bytes = 0;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                bytes += chunk.len() as u64;
                file.write_all(&chunk).await.map_err(local)?;
            }
            Ok(None) => break,
            Err(error) => {
                let _ = tokio::fs::remove_file(&partial).await;
                return Err(unreachable(url, &error));
            }
        }
    }
    file.flush().await.map_err(local)?;
    tokio::fs::rename(&partial, output).await.map_err(local)?;
    Ok(bytes)
}

pub async fn projects(api: &Api, printer: &Printer) -> ClientResult<()> {
    let (results, total) = api.all("/projects?size=500", None).await?;
    printer.projects(&results, total);
    Ok(())
}

pub async fn versions(api: &Api, project: &str, printer: &Printer) -> ClientResult<()> {
    let path = format!("/projects/{}/versions", encode(project));
    let answer = api.call(Method::GET, &path, None).await?;
    printer.versions(&answer);
    Ok(())
}

fn permissions_path(project: &str, version: Option<&str>) -> String {
    match version {
        Some(version) => format!(
            "/projects/{}/version/{}/permissions",
            encode(project),
            encode(version)
        ),
        None => format!("/projects/{}/permissions", encode(project)),
    }
}

pub async fn permissions_get(
    api: &Api,
    project: &str,
    version: Option<&str>,
    printer: &Printer,
) -> ClientResult<()> {
    let path = permissions_path(project, version);
    printer.json(&api.call(Method::GET, &path, None).await?);
    Ok(())
}

/// Changes what `patch` gives, waits until search shows it, and prints the result.
pub async fn permissions_set(
    api: &Api,
    project: &str,
    version: Option<&str>,
    patch: &Value,
    printer: &Printer,
) -> ClientResult<()> {
    let path = permissions_path(project, version);
    let accepted = api.call(Method::PUT, &path, Some(patch)).await?;
    if let Some(job) = accepted.get("path").and_then(Value::as_str) {
        api.wait(job).await?;
    }
    permissions_get(api, project, version, printer).await
}
