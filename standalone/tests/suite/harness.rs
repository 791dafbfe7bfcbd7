//! A server of one's own: the binary on free ports with a folder that goes with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const QUICKSTART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../config/samples/quickstart.yaml"
);
const START_PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub url: String,
    pub token: String,
    pub s3_endpoint: String,
    pub data: PathBuf,
    resources: PathBuf,
    process: Option<Child>,
    folder: TempDir,
    pub http: reqwest::Client,
}

pub fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

pub fn md5_base64(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// A file and its metadata document, valid by the quickstart's `table/v1.json`.
pub fn table(name: &str, content: &str, title: &str, rows: usize) -> Vec<(String, Vec<u8>)> {
    let metadata = json!({
        "$schema": "table/v1.json", "path": name, "md5sum": md5_hex(content.as_bytes()),
        "title": title, "rows": rows, "columns": [{"name": "a", "type": "number"}],
    });
    vec![
        (name.to_owned(), content.as_bytes().to_vec()),
        (format!("{name}.json"), metadata.to_string().into_bytes()),
    ]
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Path::new(QUICKSTART)).await
    }

    pub async fn with(resources: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let mut server = Self {
            url: String::new(),
            token: String::new(),
            s3_endpoint: String::new(),
            data: folder.path().join("data"),
            resources: resources.to_owned(),
            process: None,
            folder,
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
        };
        server.restart().await;
        server
    }

    /// Starts the binary on the same data.
    pub async fn restart(&mut self) {
        let ready = self.folder.path().join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_artifactdb"))
            .arg("serve")
            .arg(&self.resources)
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", "127.0.0.1:0", "--s3-listen", "localhost:0"])
            .arg("--ready-file")
            .arg(&ready)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Instant::now();
        let content = loop {
            if let Ok(content) = std::fs::read(&ready) {
                break content;
            }
            let ended = process.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < START_PATIENCE,
                "the server did not start: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let content: Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(content["pid"], process.id());
        let text = |name: &str| content[name].as_str().unwrap().to_owned();
        self.url = text("url");
        self.token = text("token");
        self.s3_endpoint = text("s3_endpoint");
        self.process = Some(process);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// A polite kill; the exit must be clean.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().unwrap();
        let killed = Command::new("kill").arg(process.id().to_string()).status();
        assert!(killed.unwrap().success());
        assert!(process.wait().unwrap().success(), "{}", self.log());
    }

    /// A token of this instance for somebody.
    pub fn token_for(&self, user: &str, roles: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifactdb"));
        command
            .arg("token")
            .arg("--data")
            .arg(&self.data)
            .args(["--user", user]);
        for role in roles {
            command.args(["--role", role]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A request by whoever has `token`; an empty one is anonymous.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Response> {
        let url = match path.starts_with("http") {
            true => path.to_owned(),
            false => format!("{}{path}", self.url),
        };
        let mut request = self.http.request(method, url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    /// A request and its JSON answer. Every answer of the API is JSON with the right header.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let response = self.raw(method, path, token, body.as_ref()).await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {status} {text}"));
        if status.is_client_error() || status.is_server_error() {
            let word = value["status"].as_str();
            assert!(
                matches!(word, Some("error" | "forbidden")),
                "{path}: {value}"
            );
            assert!(value["reason"].is_string(), "{path}: {value}");
        }
        (status, value)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, &self.token, None).await
    }

    pub async fn anonymous(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, "", None).await
    }

    /// Asks for an upload of `files`, all with the check `simple` for metadata and `md5` for data.
    pub async fn begin(
        &self,
        project: &str,
        version: &str,
        files: &[(String, Vec<u8>)],
        token: &str,
    ) -> (StatusCode, Value) {
        let entries: Vec<Value> = files
            .iter()
            .map(|(name, content)| {
                let md5 = md5_hex(content);
                match name.ends_with(".json") {
                    true => json!({"filename": name, "check": "simple", "value": {"md5sum": md5}}),
                    false => json!({"filename": name, "check": "md5", "value": {"md5sum": md5, "field": "md5sum"}}),
                }
            })
            .collect();
        let path = format!("/projects/{project}/version/{version}/upload");
        self.call(
            Method::POST,
            &path,
            token,
            Some(json!({"filenames": entries})),
        )
        .await
    }

    /// Puts what the answer of `begin` asks for; returns how many files were linked.
    pub async fn transfer(
        &self,
        begun: &Value,
        files: &[(String, Vec<u8>)],
    ) -> reqwest::Result<usize> {
        for entry in begun["presigned_urls"].as_array().unwrap() {
            let name = entry["filename"].as_str().unwrap();
            let content = &files.iter().find(|(own, _)| own == name).unwrap().1;
            let response = self
                .http
                .put(entry["url"].as_str().unwrap())
                .header("content-md5", entry["md5sum"].as_str().unwrap())
                .body(content.clone())
                .send()
                .await?;
            assert_eq!(response.status(), 200, "{name}");
        }
        let links = begun["links"].as_array().unwrap();
        for entry in links {
            let url = format!("{}/{}", self.url, entry["url"].as_str().unwrap());
            assert_eq!(self.http.put(url).send().await?.status(), 200);
        }
        Ok(links.len())
    }

    pub async fn complete(&self, begun: &Value, permissions: &Value) -> (StatusCode, Value) {
        let path = begun["completion_url"].as_str().unwrap();
        self.call(Method::PUT, path, "", Some(permissions.clone()))
            .await
    }

    /// Waits for the end of a job and returns its record.
    pub async fn wait(&self, accepted: &Value) -> Value {
        let path = accepted["path"]
            .as_str()
            .unwrap_or_else(|| panic!("{accepted}"));
        let started = Instant::now();
        loop {
            let (_, job) = self.anonymous(path).await;
            if matches!(job["status"].as_str(), Some("SUCCESS" | "FAILURE")) {
                return job;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{job}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The whole of an upload, to its indexed end. Returns how many files were linked.
    pub async fn upload(
        &self,
        project: &str,
        version: &str,
        files: &[(String, Vec<u8>)],
        permissions: &Value,
    ) -> usize {
        let (status, begun) = self.begin(project, version, files, &self.token).await;
        assert_eq!(status, 200, "{begun}");
        let links = self.transfer(&begun, files).await.unwrap();
        let (status, accepted) = self.complete(&begun, permissions).await;
        assert_eq!(status, 202, "{accepted}");
        let job = self.wait(&accepted).await;
        assert_eq!(job["status"], "SUCCESS", "{job}");
        links
    }

    /// Downloads a file as its redirect says.
    pub async fn download(&self, id: &str, token: &str) -> (StatusCode, Vec<u8>) {
        let response = self
            .raw(Method::GET, &format!("/files/{}", encode(id)), token, None)
            .await
            .unwrap();
        if response.status() != 302 {
            return (response.status(), response.bytes().await.unwrap().to_vec());
        }
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let file = self.http.get(location).send().await.unwrap();
        (file.status(), file.bytes().await.unwrap().to_vec())
    }

    /// The identifiers that a search finds, all pages of it.
    pub async fn ids(&self, query: &str, token: &str) -> Vec<String> {
        let mut path = format!("/search?q={}&size=500", encode(query));
        let mut found = Vec::new();
        loop {
            let (status, page) = self.call(Method::GET, &path, token, None).await;
            assert_eq!(status, 200, "{page}");
            let results = page["results"].as_array().unwrap();
            found.extend(
                results
                    .iter()
                    .map(|hit| hit["_extra"]["id"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => path = next.to_owned(),
                None => {
                    assert_eq!(page["total"].as_u64().unwrap(), found.len() as u64);
                    return found;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
