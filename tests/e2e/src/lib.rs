//! The cluster under test and an instance in it, as their users see them: `kubectl apply`, objects of
//! the API server, and HTTP. Nothing of the project's own crates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod table;

use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// The samples that are applied, with the servers of the tests in the place of theirs.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/samples");
/// The key that signs the tests' tokens.
const KEY: [u8; 32] = *b"end-to-end tests sign with this.";
const ISSUER: &str = "urn:e2e";

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make e2e`"))
}

/// Asks again until the answer is there, and fails once the time is over.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(problem) => assert!(
                begun.elapsed() < limit,
                "not within {limit:?}: {what}: {problem}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Resident memory now and at the most, in MB, of the process whose command line begins so; where its
/// pod runs on this machine.
pub fn memory(command: &str) -> Option<(f64, f64)> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let status = processes
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let line = std::fs::read(path.join("cmdline")).ok()?;
            let own = line.starts_with(command.as_bytes());
            own.then(|| std::fs::read_to_string(path.join("status")).ok())?
        })
        .next()?;
    let read = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kilobytes * 1024.0 / 1e6)
    };
    Some((read("VmRSS:")?, read("VmHWM:")?))
}

/// A namespace of the cluster, deleted at the end of its test.
pub struct Space {
    pub client: Client,
    pub name: String,
}

pub fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" => ("apps", "v1"),
        "Job" | "CronJob" => ("batch", "v1"),
        "HorizontalPodAutoscaler" => ("autoscaling", "v2"),
        "PodDisruptionBudget" => ("policy", "v1"),
        "NetworkPolicy" | "Ingress" => ("networking.k8s.io", "v1"),
        "Role" | "RoleBinding" => ("rbac.authorization.k8s.io", "v1"),
        own if own.starts_with("Artifact") => ("artifactdb.io", "v1alpha1"),
        _ => ("", "v1"),
    };
    let plural = match kind {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        "Ingress" => "ingresses".to_owned(),
        own => format!("{}s", own.to_lowercase()),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural)
}

impl Space {
    /// A new namespace that enforces restricted Pod Security, with the Secrets of the samples.
    pub async fn new(name: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default().await.unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        // What an earlier run left in the servers has another name.
        let name = &format!("{name}-{}", hex::encode(rand::random::<[u8; 3]>()));
        let namespace = json!({"metadata": {
            "name": name,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }});
        namespaces
            .create(
                &PostParams::default(),
                &serde_json::from_value(namespace).unwrap(),
            )
            .await
            .unwrap();
        let space = Self {
            client,
            name: name.to_owned(),
        };
        let jwk = json!({"keys": [{
            "kty": "oct", "kid": "e2e", "alg": "HS256", "iss": ISSUER,
            "k": URL_SAFE_NO_PAD.encode(KEY),
        }]});
        space
            .secret(
                "storage",
                &[
                    ("accessKey", &variable("ARTIFACTDB_TEST_S3_ACCESS_KEY")),
                    ("secretKey", &variable("ARTIFACTDB_TEST_S3_SECRET_KEY")),
                ],
            )
            .await;
        space
            .secret("tokens", &[("keys.json", &jwk.to_string())])
            .await;
        space
    }

    /// Writes a Secret.
    pub async fn secret(&self, name: &str, entries: &[(&str, &str)]) {
        let data: serde_json::Map<String, Value> = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let body = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name}, "stringData": data,
        });
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.name);
        api.patch(
            name,
            &PatchParams::apply("e2e").force(),
            &Patch::Apply(&body),
        )
        .await
        .unwrap();
    }

    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &resource(kind))
    }

    /// An object, or null.
    pub async fn get(&self, kind: &str, name: &str) -> Value {
        let found = self.api(kind).get_opt(name).await.unwrap();
        serde_json::to_value(found).unwrap()
    }

    pub async fn list(&self, kind: &str, labels: &str) -> Vec<Value> {
        let parameters = ListParams::default().labels(labels);
        let found = self.api(kind).list(&parameters).await.unwrap();
        found
            .items
            .into_iter()
            .map(|own| serde_json::to_value(own).unwrap())
            .collect()
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        let _ = self.api(kind).delete(name, &DeleteParams::default()).await;
    }

    /// Changes an object by a merge patch.
    pub async fn patch(&self, kind: &str, name: &str, patch: Value) {
        self.api(kind)
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    /// What `kubectl` with these arguments prints, or what it fails by.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = tokio::process::Command::new(variable("ARTIFACTDB_E2E_KUBECTL"))
            .arg("--namespace")
            .arg(&self.name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// A sample's text with the servers of the tests, and buckets of this namespace's own.
    pub fn sample(&self, name: &str) -> String {
        std::fs::read_to_string(format!("{SAMPLES}/{name}.yaml"))
            .unwrap()
            .replace(
                "http://s3.example.org:9000",
                &variable("ARTIFACTDB_TEST_S3"),
            )
            .replace(
                "http://elasticsearch.example.org:9200",
                &variable("ARTIFACTDB_TEST_ES"),
            )
            .replace(
                "redis://redis.example.org:6379",
                &variable("ARTIFACTDB_TEST_REDIS"),
            )
            .replace("bucket: artifactdb-", &format!("bucket: {}-", self.name))
    }

    pub async fn apply(&self, text: &str) {
        self.kubectl(&["apply", "-f", "-"], text).await.unwrap();
    }

    /// Waits as a user does, with `kubectl wait`.
    pub async fn wait(&self, what: &str, condition: &str, seconds: u64) {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={seconds}s");
        let waited = self
            .kubectl(&["wait", &condition, what, &timeout], "")
            .await;
        if let Err(problem) = waited {
            let told = self
                .kubectl(&["get", what, "-o", "jsonpath={.status}"], "")
                .await;
            let there = self.kubectl(&["get", "pods,jobs,pvc,events"], "").await;
            panic!("{problem}\n{told:?}\n{}", there.unwrap_or_default());
        }
    }

    /// A condition of an object: status, reason, message.
    pub async fn condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
    ) -> (String, String, String) {
        let object = self.get(kind, name).await;
        let all = object["status"]["conditions"].as_array();
        let own = all
            .into_iter()
            .flatten()
            .find(|own| own["type"] == condition)
            .cloned()
            .unwrap_or_default();
        let text = |name: &str| own[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// Waits until a condition has a status and a reason; an empty one is any. Returns the message.
    pub async fn until(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        (status, reason): (&str, &str),
        limit: Duration,
    ) -> String {
        let what = format!("{kind} '{name}' has {condition}={status} {reason}");
        eventually(&what, limit, || async {
            let (now, why, message) = self.condition(kind, name, condition).await;
            match now == status && (reason.is_empty() || why == reason) {
                true => Ok(message),
                false => Err(format!("{now} {why}: {message}")),
            }
        })
        .await
    }

    /// The instance behind a Service, by its cluster IP, which this machine routes to.
    pub async fn instance(&self, name: &str) -> Instance {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &self.name);
        let service = api.get(name).await.unwrap();
        let address = service.spec.unwrap().cluster_ip.unwrap();
        let host = format!("{name}.{}.svc", self.name);
        let instance = Instance::new(&host, address.parse().unwrap());
        // Every node's proxy learns of the pods in its own time.
        eventually("the Service is routed", Duration::from_secs(10), || async {
            match instance.get("/").await? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status} {body}")),
            }
        })
        .await;
        instance
    }

    /// Deletes the namespace, and waits for nothing.
    pub async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces
            .delete(&self.name, &DeleteParams::default())
            .await;
    }
}

/// The names of objects.
pub fn names(objects: &[Value]) -> Vec<&str> {
    objects
        .iter()
        .filter_map(|own| own["metadata"]["name"].as_str())
        .collect()
}

pub fn name(object: &DynamicObject) -> String {
    object.name_any()
}

/// An instance, over HTTP.
#[derive(Clone)]
pub struct Instance {
    pub url: String,
    pub http: reqwest::Client,
    pub token: String,
}

/// A token of `user` with `roles`.
pub fn token(user: &str, roles: &[&str]) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "iss": ISSUER, "azp": "artifactdb", "preferred_username": user,
        "jti": hex::encode(rand::random::<[u8; 8]>()), "iat": now, "exp": now + 7200,
        "resource_access": {"artifactdb": {"roles": roles}},
    });
    let header = Header {
        kid: Some("e2e".to_owned()),
        ..Header::default()
    };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&KEY)).unwrap()
}

/// Data and metadata of a table.
pub fn table(file: &str, content: &str, title: &str) -> Vec<(String, Vec<u8>)> {
    let metadata = json!({
        "$schema": "table/v1.json", "path": file, "title": title, "rows": 1,
        "md5sum": hex::encode(Md5::digest(content)),
    });
    vec![
        (file.to_owned(), content.as_bytes().to_vec()),
        (format!("{file}.json"), metadata.to_string().into_bytes()),
    ]
}

impl Instance {
    /// `host` is what pods call it, and `address` where this machine reaches it.
    pub fn new(host: &str, address: std::net::IpAddr) -> Self {
        let url = format!("http://{host}");
        let http = reqwest::Client::builder()
            .resolve(host, (address, 0).into())
            .redirect(reqwest::redirect::Policy::none())
            // A Service spreads connections, not requests.
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self {
            url,
            http,
            token: token("ann", &["admin", "uploader", "creator"]),
        }
    }

    pub async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), String> {
        let url = format!("{}/{}", self.url, path.trim_start_matches('/'));
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| format!("{error:?}"))?;
        let status = response.status().as_u16();
        let text = response
            .text()
            .await
            .map_err(|error| format!("{error:?}"))?;
        Ok((status, serde_json::from_str(&text).unwrap_or(json!(text))))
    }

    pub async fn get(&self, path: &str) -> Result<(u16, Value), String> {
        self.call(reqwest::Method::GET, path, None).await
    }

    /// Begins an upload, puts the files and completes it: acknowledged once this returns well, with
    /// the path of the job.
    pub async fn complete(
        &self,
        project: &str,
        version: &str,
        files: &[(String, Vec<u8>)],
    ) -> Result<String, String> {
        let permissions = json!({"read_access": "public"});
        self.complete_as(project, version, files, &permissions)
            .await
    }

    /// The same with these permissions.
    pub async fn complete_as(
        &self,
        project: &str,
        version: &str,
        files: &[(String, Vec<u8>)],
        permissions: &Value,
    ) -> Result<String, String> {
        let entries: Vec<Value> = files
            .iter()
            .map(|(name, content)| {
                json!({"filename": name, "check": "simple", "value": {"md5sum": hex::encode(Md5::digest(content))}})
            })
            .collect();
        let path = format!("/projects/{project}/version/{version}/upload");
        let body = json!({"filenames": entries});
        let (status, begun) = self.call(reqwest::Method::POST, &path, Some(&body)).await?;
        if status != 200 {
            return Err(format!("begin: {status} {begun}"));
        }
        for entry in begun["presigned_urls"].as_array().into_iter().flatten() {
            let name = entry["filename"].as_str().unwrap_or_default();
            let content = files.iter().find(|(own, _)| own == name);
            let content = content
                .map(|(_, content)| content.clone())
                .unwrap_or_default();
            let put = self
                .http
                .put(entry["url"].as_str().unwrap_or_default())
                .header("content-md5", entry["md5sum"].as_str().unwrap_or_default())
                .body(content)
                .send()
                .await
                .map_err(|error| format!("{error:?}"))?;
            if put.status() != 200 {
                return Err(format!("put '{name}': {}", put.status()));
            }
        }
        let path = begun["completion_url"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let (status, accepted) = self
            .call(reqwest::Method::PUT, &path, Some(permissions))
            .await?;
        match (status, accepted["path"].as_str()) {
            (202, Some(job)) => Ok(job.to_owned()),
            _ => Err(format!("complete: {status} {accepted}")),
        }
    }

    /// The same, and waits until it is indexed.
    pub async fn upload(&self, project: &str, version: &str, files: &[(String, Vec<u8>)]) {
        let job = self.complete(project, version, files).await.unwrap();
        eventually("the upload is indexed", Duration::from_secs(60), || async {
            let (_, record) = self.get(&job).await?;
            match record["status"].as_str() {
                Some("SUCCESS") => Ok(()),
                Some("FAILURE") => panic!("{record}"),
                _ => Err(record.to_string()),
            }
        })
        .await;
    }

    /// How many documents a search finds.
    pub async fn count(&self, query: &str) -> Result<u64, String> {
        let (status, page) = self.get(&format!("/search?size=1&q={query}")).await?;
        match (status, page["total"].as_u64()) {
            (200, Some(total)) => Ok(total),
            _ => Err(format!("{status} {page}")),
        }
    }

    /// Downloads a file by its identifier, through the redirect.
    pub async fn download(&self, id: &str) -> Vec<u8> {
        let id = id.replace('/', "%2F");
        let url = format!("{}/files/{id}", self.url);
        let answer = self
            .http
            .get(url)
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 302);
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let file = self.http.get(location).send().await.unwrap();
        assert_eq!(file.status(), 200);
        file.bytes().await.unwrap().to_vec()
    }
}
