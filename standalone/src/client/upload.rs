//! `artifactdb upload`: a folder of files with their metadata becomes a version of a project.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest, Md5};
use reqwest::Method;
use serde_json::{Value, json};

use super::parts::{self, InParts, Piece};
use super::{Api, ClientError, ClientResult, Printer, encode};

/// Files on their way at the same time.
const TRANSFERS: usize = 16;
const READ: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub struct UploadOptions {
    pub folder: PathBuf,
    pub project: String,
    pub version: String,
    pub private: bool,
    pub owners: Vec<String>,
    pub viewers: Vec<String>,
    /// Such as `in 2 days`.
    pub expires: Option<String>,
}

#[derive(Debug, Clone)]
struct LocalFile {
    name: String,
    path: PathBuf,
    size: u64,
    md5: [u8; 16],
}

impl LocalFile {
    /// Metadata is never linked; data is linked to an equal file of an earlier version.
    fn check(&self) -> Value {
        let md5 = hex::encode(self.md5);
        let (check, value) = if self.name.ends_with(".json") {
            ("simple", json!({"md5sum": md5}))
        } else {
            ("md5", json!({"field": "md5sum", "md5sum": md5}))
        };
        json!({"filename": self.name, "check": check, "value": value, "size": self.size})
    }
}

/// Uploads a folder. Ctrl-C aborts the upload on the server, too.
pub async fn upload(api: &Api, options: &UploadOptions, printer: &Printer) -> ClientResult<()> {
    let started = Instant::now();
    // Before the server hears of the upload: from then on a Ctrl-C must not just end the process.
    let interrupted = interruption()?;
    let files = read_folder(&options.folder).await?;
    let mut request = json!({
        "filenames": files.iter().map(LocalFile::check).collect::<Vec<_>>(),
        "mode": "s3-presigned-url",
    });
    if let Some(expires) = &options.expires {
        request["expires_in"] = json!(expires);
        request["completed_by"] = json!(expires);
    }
    let path = format!(
        "/projects/{}/version/{}/upload",
        encode(&options.project),
        encode(&options.version)
    );
    let answer = api.call(Method::POST, &path, Some(&request)).await?;
    let upload = Upload::new(api, files, &answer)?;
    let outcome = tokio::select! {
        outcome = upload.run(options, printer) => outcome,
        () = interrupted => Err(ClientError::Interrupted),
    };
    match outcome {
        Ok(result) => {
            let documents = result
                .get("indexed_files")
                .and_then(Value::as_u64)
                .unwrap_or_default();
            let seconds = started.elapsed().as_secs_f64();
            printer.line(
                &format!(
                    "{}@{}: {} files uploaded, {} linked, {documents} documents indexed, in {seconds:.1} s",
                    options.project,
                    options.version,
                    upload.uploads(),
                    upload.links.len(),
                ),
                &json!({
                    "project_id": options.project,
                    "version": options.version,
                    "uploaded": upload.uploads(),
                    "linked": upload.links.len(),
                    "documents": documents,
                    "seconds": seconds,
                }),
            );
            Ok(())
        }
        // The version is complete: there is nothing to abort.
        Err(error @ ClientError::Job(_)) => Err(error),
        Err(error) => {
            // The server would end the upload at its deadline, too.
            let _ = api.call(Method::PUT, &upload.abort_url, None).await;
            Err(error)
        }
    }
}

/// Resolves at the first Ctrl-C from now on, whenever it is first looked at.
fn interruption() -> ClientResult<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupts = signal(SignalKind::interrupt())
            .map_err(|error| ClientError::Local(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(async move {
            interrupts.recv().await;
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// The files of a folder, by name, with their digests. Hidden files are left out, except
/// `.adbignore`.
async fn read_folder(folder: &Path) -> ClientResult<Vec<LocalFile>> {
    let local = |error: std::io::Error| {
        ClientError::Local(format!("cannot read '{}': {error}", folder.display()))
    };
    let root = folder.to_owned();
    let names = tokio::task::spawn_blocking(move || list(&root))
        .await
        .map_err(|error| ClientError::Local(error.to_string()))?
        .map_err(local)?;
    if names.is_empty() {
        return Err(ClientError::Local(format!(
            "'{}' holds no files",
            folder.display()
        )));
    }
    let reads = names.into_iter().map(|(name, path)| async move {
        tokio::task::spawn_blocking(move || digest(name, path))
            .await
            .map_err(std::io::Error::other)?
    });
    futures::stream::iter(reads)
        .buffered(std::thread::available_parallelism().map_or(2, usize::from))
        .try_collect()
        .await
        .map_err(local)
}

fn list(root: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), root.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                let path = entry.path();
                return Err(std::io::Error::other(format!(
                    "the name of '{}' is not UTF-8",
                    path.display()
                )));
            };
            if name.starts_with('.') && name != ".adbignore" {
                continue;
            }
            let full = format!("{prefix}{name}");
            // Links are followed: what they point at is what people mean.
            if std::fs::metadata(entry.path())?.is_dir() {
                folders.push((format!("{full}/"), entry.path()));
            } else {
                found.push((full, entry.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn digest(name: String, path: PathBuf) -> std::io::Result<LocalFile> {
    use std::io::Read;
    let mut file = std::fs::File::open(&path)?;
    let mut md5 = Md5::new();
    let mut size = 0;
    let mut chunk = vec![0; READ];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        md5.update(&chunk[..read]);
        size += read as u64;
    }
    Ok(LocalFile {
        name,
        path,
        size,
        md5: md5.finalize().into(),
    })
}

/// What the server said to do.
struct Upload<'a> {
    api: &'a Api,
    files: HashMap<String, LocalFile>,
    /// File, URL, and whether the URL wants a Content-MD5.
    urls: Vec<(String, String, bool)>,
    in_parts: Vec<InParts>,
    links: Vec<String>,
    completion_url: String,
    abort_url: String,
}

impl<'a> Upload<'a> {
    fn new(api: &'a Api, files: Vec<LocalFile>, answer: &Value) -> ClientResult<Self> {
        let text = |name: &str| {
            answer
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| ClientError::Local(format!("the answer has no '{name}'")))
        };
        let entry =
            |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
        let urls = match answer.get("presigned_urls") {
            Some(Value::Array(entries)) => entries
                .iter()
                .filter_map(|own| {
                    let signed = own.get("md5sum").is_some_and(Value::is_string);
                    Some((entry(own, "filename")?, entry(own, "url")?, signed))
                })
                .collect(),
            Some(Value::Object(map)) => map
                .iter()
                .filter_map(|(name, url)| Some((name.clone(), url.as_str()?.to_owned(), false)))
                .collect(),
            _ => Vec::new(),
        };
        let links = match answer.get("links") {
            Some(Value::Array(entries)) => {
                entries.iter().filter_map(|own| entry(own, "url")).collect()
            }
            Some(Value::Object(map)) => map
                .values()
                .filter_map(|url| url.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        Ok(Self {
            api,
            files: files
                .into_iter()
                .map(|file| (file.name.clone(), file))
                .collect(),
            urls,
            in_parts: parts::read(answer)?,
            links,
            completion_url: text("completion_url")?,
            abort_url: text("abort_url")?,
        })
    }

    async fn run(&self, options: &UploadOptions, printer: &Printer) -> ClientResult<Value> {
        self.link_all().await?;
        self.send_all(printer).await?;
        let mut permissions = json!({
            "read_access": if options.private { "viewers" } else { "public" },
        });
        if !options.owners.is_empty() {
            permissions["owners"] = json!(options.owners);
        }
        if !options.viewers.is_empty() {
            permissions["viewers"] = json!(options.viewers);
        }
        let accepted = self
            .api
            .call(Method::PUT, &self.completion_url, Some(&permissions))
            .await?;
        let job = accepted
            .get("path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        printer.progress("complete; indexing …");
        self.api.wait(job).await
    }

    async fn link_all(&self) -> ClientResult<()> {
        futures::stream::iter(&self.links)
            .map(|url| self.api.call(Method::PUT, url, None))
            .buffer_unordered(TRANSFERS)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// How many files are brought.
    fn uploads(&self) -> usize {
        self.urls.len() + self.in_parts.len()
    }

    fn file(&self, name: &str) -> ClientResult<&LocalFile> {
        self.files.get(name).ok_or_else(|| {
            ClientError::Local(format!("the server wants '{name}', which is not here"))
        })
    }

    async fn send_all(&self, printer: &Printer) -> ClientResult<()> {
        let names = self.urls.iter().map(|(name, ..)| name);
        let names = names.chain(self.in_parts.iter().map(|own| &own.filename));
        let sizes = names.filter_map(|name| self.files.get(name));
        let total: u64 = sizes.map(|file| file.size).sum();
        let progress = Arc::new(Transfer::new(total, self.uploads(), printer));
        let transfers = futures::stream::iter(&self.urls).map(|(name, url, signed)| {
            let progress = progress.clone();
            async move {
                let file = self.file(name)?;
                self.send(file, url, *signed).await?;
                progress.moved(file.size);
                progress.done();
                Ok(())
            }
        });
        let sent = async {
            transfers
                .buffer_unordered(TRANSFERS)
                .try_for_each(|()| async { Ok(()) })
                .await?;
            for own in &self.in_parts {
                let file = self.file(&own.filename)?;
                own.send(self.api, &file.path, file.size, |bytes| {
                    progress.moved(bytes);
                })
                .await?;
                progress.done();
            }
            Ok(())
        }
        .await;
        progress.finish();
        sent
    }

    /// Puts one file where the store said.
    async fn send(&self, file: &LocalFile, url: &str, signed: bool) -> ClientResult<()> {
        let kind = if file.name.ends_with(".json") {
            "application/json"
        } else {
            "application/octet-stream"
        };
        let md5 = signed.then(|| STANDARD.encode(file.md5));
        let piece = Piece {
            path: &file.path,
            from: 0,
            size: file.size,
        };
        piece
            .put(self.api, url, |request| {
                let request = request.header("content-type", kind);
                match &md5 {
                    Some(md5) => request.header("content-md5", md5),
                    None => request,
                }
            })
            .await
            .map(drop)
    }
}

/// A bar on a terminal, plain lines elsewhere, nothing for machines.
struct Transfer {
    bar: Option<ProgressBar>,
    lines: bool,
    files: usize,
    done: AtomicUsize,
    bytes: AtomicU64,
}

impl Transfer {
    fn new(total: u64, files: usize, printer: &Printer) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !printer.as_json).then(|| {
            let bar = ProgressBar::new(total);
            let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            lines: bar.is_none() && !printer.as_json,
            bar,
            files,
            done: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// One file more is there.
    fn done(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.load(Ordering::Relaxed);
        // Ten lines for any number of files.
        let step = (self.files / 10).max(1);
        if self.lines && (done.is_multiple_of(step) || done == self.files) {
            eprintln!("uploaded {done} of {} files, {bytes} bytes", self.files);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
