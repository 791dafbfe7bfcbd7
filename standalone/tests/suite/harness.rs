//! A server of one's own, on free ports and with a folder that goes with it: the one binary that
//! holds everything, or the API, two workers and a sweeper on the real servers (`real`).

// Two suites share this, and neither uses all of it.
#![allow(dead_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use artifactdb::secrets::Secrets;
use artifactdb_core::config::{InstanceConfig, StorageConfig};
use artifactdb_core::store::{Condition, Credentials, S3Store, Store};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use md5::{Digest, Md5};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::real::{self, Real};

pub const QUICKSTART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../config/samples/quickstart.yaml"
);

/// What an instance runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `artifactdb serve`.
    Embedded,
    /// Elasticsearch, Redis and an S3 server.
    Real,
}

/// Everything in which an instance on the real servers may differ from the one-process instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The texts of the object store's own errors: clients get them from it and not through us.
    StoreWording,
}

const START_PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub url: String,
    pub token: String,
    pub s3_endpoint: String,
    pub data: PathBuf,
    backend: Backend,
    resources: PathBuf,
    processes: Vec<Process>,
    environment: Vec<(OsString, OsString)>,
    /// What the processes of a real instance are started with.
    real: Option<Real>,
    folder: TempDir,
    pub http: reqwest::Client,
}

/// A process and how it was started.
struct Process {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    child: Child,
}

impl Process {
    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
        Self::on(crate::BACKEND, resources).await
    }

    pub async fn on(backend: Backend, resources: &Path) -> Self {
        Self::configured(backend, resources, |_| {}).await
    }

    /// The same, with a real instance's configuration changed before it starts.
    pub async fn configured(
        backend: Backend,
        resources: &Path,
        change: impl FnOnce(&mut InstanceConfig),
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let mut server = Self {
            url: String::new(),
            token: String::new(),
            s3_endpoint: String::new(),
            data: folder.path().join("data"),
            backend,
            resources: resources.to_owned(),
            processes: Vec::new(),
            environment: Vec::new(),
            real: None,
            folder,
            http: client(HeaderMap::new()),
        };
        if backend == Backend::Real {
            let services = real::services();
            let real = Real::prepare(services, &server.data, resources, change).await;
            server.token = server.token_for("admin", &["admin"]);
            server.s3_endpoint.clone_from(&services.s3);
            server.real = Some(real);
        }
        server.restart().await;
        server
    }

    /// Processes that are started from now on have this variable, too.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Every request from now on carries these headers.
    pub fn with_headers(&mut self, headers: HeaderMap) {
        self.http = client(headers);
    }

    /// Whether this instance may differ so.
    pub fn differs(&self, _: Difference) -> bool {
        self.backend == Backend::Real
    }

    /// The instance's own part of the real servers.
    pub fn real(&self) -> &Real {
        self.real.as_ref().unwrap()
    }

    /// Starts the processes on the same data.
    pub async fn restart(&mut self) {
        match self.backend {
            Backend::Embedded => self.start_embedded().await,
            Backend::Real => self.start_real().await,
        }
    }

    async fn start_embedded(&mut self) {
        let ready = self.folder.path().join("ready.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifactdb"));
        command
            .arg("serve")
            .arg(&self.resources)
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", "127.0.0.1:0", "--s3-listen", "localhost:0"])
            .arg("--ready-file")
            .arg(&ready);
        let content = self.spawn_ready(command, &ready).await;
        let text = |name: &str| content[name].as_str().unwrap().to_owned();
        self.url = text("url");
        self.token = text("token");
        self.s3_endpoint = text("s3_endpoint");
    }

    /// The API, two workers and a sweeper.
    async fn start_real(&mut self) {
        let ready = self.folder.path().join("ready.json");
        let mut command = self.real().command("artifactdb-api");
        // A port of its own, which a process that takes its place has too.
        let listen = format!("127.0.0.1:{}", free_port());
        command
            .args(["--listen", &listen, "--ready-file"])
            .arg(&ready);
        let content = self.spawn_ready(command, &ready).await;
        self.url = content["url"].as_str().unwrap().to_owned();
        for arguments in [&["worker"][..], &["worker"], &["sweep", "--every", "2"]] {
            let mut command = self.real().command("artifactdb-indexer");
            command.args(arguments);
            self.spawn(&command);
        }
        let started = Instant::now();
        while self
            .raw(Method::GET, "/readyz", "", None)
            .await
            .unwrap()
            .status()
            != 200
        {
            assert!(started.elapsed() < START_PATIENCE, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a process that is ended with this server; returns its place among the processes.
    pub fn spawn(&mut self, command: &Command) -> usize {
        let program = PathBuf::from(command.get_program());
        let arguments: Vec<OsString> = command.get_args().map(OsString::from).collect();
        let variables: Vec<(OsString, OsString)> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        let child = self.launch(&program, &arguments, &variables);
        self.processes.push(Process {
            program,
            arguments,
            variables,
            child,
        });
        self.processes.len() - 1
    }

    fn launch(
        &self,
        program: &Path,
        arguments: &[OsString],
        variables: &[(OsString, OsString)],
    ) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .envs(variables.iter().cloned())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run `make test`", program.display()))
    }

    /// `kill -9` of one process, and the same one again.
    pub fn replace(&mut self, place: usize) {
        self.processes[place].end();
        let (program, arguments, variables) = {
            let old = &self.processes[place];
            (
                old.program.clone(),
                old.arguments.clone(),
                old.variables.clone(),
            )
        };
        self.processes[place].child = self.launch(&program, &arguments, &variables);
    }

    /// The ids of all processes, the API's first.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|own| own.child.id()).collect()
    }

    /// How many processes there are.
    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    async fn spawn_ready(&mut self, command: Command, ready: &Path) -> Value {
        let _ = std::fs::remove_file(ready);
        let place = self.spawn(&command);
        let started = Instant::now();
        let content = loop {
            if let Ok(content) = std::fs::read(ready) {
                break content;
            }
            let ended = self.processes[place].child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < START_PATIENCE,
                "the server did not start: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let content: Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(content["pid"], self.processes[place].child.id());
        content
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process that answers requests.
    pub fn pid(&self) -> u32 {
        self.processes[0].child.id()
    }

    /// `kill -9`, of every process.
    pub fn kill(&mut self) {
        for mut process in self.processes.drain(..) {
            process.end();
        }
    }

    /// A polite kill of every process; the exit must be clean.
    pub fn terminate(&mut self) {
        let processes = std::mem::take(&mut self.processes);
        for process in &processes {
            let pid = process.child.id().to_string();
            let killed = Command::new("kill").arg(pid).status();
            assert!(killed.unwrap().success());
        }
        for mut process in processes {
            let ended = process.child.wait().unwrap();
            assert!(ended.success(), "{}", self.log());
        }
    }

    /// Throws the search index away, while nothing runs.
    pub async fn wipe_index(&self) {
        match self.backend {
            Backend::Embedded => std::fs::remove_dir_all(self.data.join("search")).unwrap(),
            Backend::Real => self.real().engine.delete_all().await.unwrap(),
        }
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

    /// A token of this instance that was good until a moment ago.
    pub fn expired_token(&self) -> String {
        let secrets = Secrets::load(&self.data).unwrap();
        let life = SignedDuration::from_secs(-60);
        secrets.token("late", &[], life).unwrap()
    }

    /// Writes the permissions of the whole instance, as whoever has the bucket does.
    pub async fn write_global_permissions(&self, permissions: &Value) {
        let key = artifactdb_core::keys::GLOBAL_PERMISSIONS;
        self.put_object(key, permissions.to_string().into_bytes())
            .await;
    }

    /// Puts an object past the API.
    pub async fn put_object(&self, key: &str, content: Vec<u8>) {
        let embedded;
        let store = match &self.real {
            Some(real) => &real.store,
            None => {
                embedded = self.embedded_store();
                &embedded
            }
        };
        let put = store.put(key, content.into(), Condition::Always);
        put.await.unwrap();
    }

    /// The bucket of a one-process instance.
    fn embedded_store(&self) -> S3Store {
        let secrets = Secrets::load(&self.data).unwrap();
        let storage = StorageConfig {
            alias: "default".to_owned(),
            bucket: "artifactdb-quickstart".to_owned(),
            endpoint: Some(self.s3_endpoint.clone()),
            public_endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: true,
            version_pinning: None,
            sts: None,
        };
        let credentials = Credentials {
            access_key: secrets.access_key,
            secret_key: secrets.secret_key,
            session_token: None,
        };
        S3Store::new(&storage, credentials)
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
        let mut value: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {status} {text}"));
        if status.is_client_error() || status.is_server_error() {
            let word = value["status"].as_str();
            assert!(
                matches!(word, Some("error" | "forbidden")),
                "{path}: {value}"
            );
            assert!(value["reason"].is_string(), "{path}: {value}");
            // It differs each time, and refusals are compared.
            let id = value.as_object_mut().unwrap().remove("request_id");
            assert!(id.is_some_and(|id| id.is_string()), "{path}: {value}");
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
        for mut process in self.processes.drain(..) {
            process.end();
        }
        if let Some(real) = self.real.take() {
            real.clean();
        }
    }
}

fn client(headers: HeaderMap) -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .default_headers(headers)
        .build()
        .unwrap()
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
