//! Bytes of local files on their way to the object store: whole files, and large ones in parts.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use reqwest::header::ETAG;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{Api, ClientError, ClientResult, unreachable};

const ATTEMPTS: u32 = 4;
const READ: usize = 256 * 1024;
/// Parts of a file on their way at the same time.
const PARTS: usize = 4;

/// So many bytes of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub path: &'a Path,
    pub from: u64,
    pub size: u64,
}

impl Piece<'_> {
    /// Puts it where the store said, again after a failure that may pass; `headers` adds some.
    pub async fn put(
        &self,
        api: &Api,
        url: &str,
        headers: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> ClientResult<Response> {
        let (_, sent) = patiently(async || {
            let request = api
                .client
                .put(url)
                .header("content-length", self.size)
                .body(self.body().await?);
            accepted(self.path, url, headers(request)).await
        })
        .await;
        sent
    }

    async fn body(&self) -> ClientResult<reqwest::Body> {
        let local = |error: std::io::Error| {
            ClientError::Local(format!("cannot read '{}': {error}", self.path.display()))
        };
        let mut file = tokio::fs::File::open(self.path).await.map_err(local)?;
        if self.from > 0 {
            file.seek(std::io::SeekFrom::Start(self.from))
                .await
                .map_err(local)?;
        }
        let chunks = futures::stream::try_unfold(file.take(self.size), |mut open| async move {
            let mut chunk = vec![0; READ];
            let read = open.read(&mut chunk).await?;
            chunk.truncate(read);
            Ok::<_, std::io::Error>((read > 0).then_some((chunk, open)))
        });
        Ok(reqwest::Body::wrap_stream(chunks))
    }
}

/// Does something again after a failure that may pass; returns the number of attempts, too.
async fn patiently<T>(attempt: impl AsyncFn() -> ClientResult<T>) -> (u32, ClientResult<T>) {
    let mut attempts = 1;
    loop {
        match attempt().await {
            Err(error) if attempts < ATTEMPTS && error.exit_code() == 7 => {
                tokio::time::sleep(Duration::from_millis(200 << attempts)).await;
                attempts += 1;
            }
            outcome => return (attempts, outcome),
        }
    }
}

/// Sends a request to the store; anything but a success is an error.
async fn accepted(path: &Path, url: &str, request: RequestBuilder) -> ClientResult<Response> {
    let response = request
        .send()
        .await
        .map_err(|error| unreachable(url, &error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    Err(refused(path, status, &text))
}

fn refused(path: &Path, status: StatusCode, text: &str) -> ClientError {
    let status = match status.is_server_error() {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => status,
    };
    ClientError::Answer {
        status,
        reason: format!("the object store refused '{}': {text}", path.display()),
    }
}

/// A file that the server wants in parts.
#[derive(Debug, Deserialize)]
pub(super) struct InParts {
    pub filename: String,
    part_size: u64,
    part_urls: Vec<String>,
    completion_url: String,
}

/// The files that an answer to an upload request wants in parts.
pub(super) fn read(answer: &Value) -> ClientResult<Vec<InParts>> {
    match answer.get("multipart") {
        None => Ok(Vec::new()),
        Some(files) => Deserialize::deserialize(files)
            .map_err(|error| ClientError::Local(format!("the answer's 'multipart': {error}"))),
    }
}

impl InParts {
    /// Brings the parts and puts them together; `moved` hears of the bytes that have arrived.
    pub async fn send(
        &self,
        api: &Api,
        path: &Path,
        size: u64,
        moved: impl Fn(u64),
    ) -> ClientResult<()> {
        let moved = &moved;
        let parts = self.part_urls.iter().enumerate().map(|(number, url)| {
            let from = number as u64 * self.part_size;
            let piece = Piece {
                path,
                from,
                size: size.saturating_sub(from).min(self.part_size),
            };
            async move {
                let stored = piece.put(api, url, |request| request).await?;
                let etag = stored.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
                let etag = etag.unwrap_or_default().to_owned();
                moved(piece.size);
                Ok::<_, ClientError>(etag)
            }
        });
        let etags: Vec<String> = futures::stream::iter(parts)
            .buffered(PARTS)
            .try_collect()
            .await?;
        let mut document = String::from("<CompleteMultipartUpload>");
        for (number, etag) in etags.iter().enumerate() {
            let etag = etag.replace('"', "&quot;");
            let number = number + 1;
            document.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            ));
        }
        document.push_str("</CompleteMultipartUpload>");
        match patiently(async || self.put_together(api, path, &document).await).await {
            // An attempt whose answer was lost has ended it; whether the file is there is looked at
            // when the version is completed.
            (attempts, Err(error)) if attempts > 1 && error.exit_code() == 3 => Ok(()),
            (_, outcome) => outcome,
        }
    }

    async fn put_together(&self, api: &Api, path: &Path, document: &str) -> ClientResult<()> {
        let request = api
            .client
            .post(&self.completion_url)
            .header("content-type", "application/xml")
            .body(document.to_owned());
        let done = accepted(path, &self.completion_url, request).await?;
        // S3 begins its answer before it is done, and may end it with an error.
        let text = done.text().await.unwrap_or_default();
        if text.contains("<CompleteMultipartUploadResult") {
            return Ok(());
        }
        Err(refused(path, StatusCode::SERVICE_UNAVAILABLE, &text))
    }
}
