//! `make bench-operator`: three hundred instances on a real API server. A plain client first creates
//! what they consist of, then the operator reconciles them; the cluster is left alone, the operator
//! restarted, and every figure printed beside its limit. Too many writes or bytes fail it; how fast
//! it was is told and fails nothing. Pods match no node and stay pending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use artifactdb_e2e::table::{Limit, Table};
use artifactdb_e2e::{Space, eventually, memory, resource, variable};
use futures::StreamExt;
use futures::stream;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const SCHEMAS: usize = 20;
const PLUGINS: usize = 3;
/// Calls at a time, of the plain client as of the operator.
const CONCURRENCY: usize = 16;
const RECONCILED: Duration = Duration::from_secs(600);
const OPERATOR: &str = "artifactdb-system";
const ACCOUNT: &str = "system:serviceaccount:artifactdb-system:artifactdb-operator";
/// What an instance consists of.
const KINDS: [&str; 13] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "NetworkPolicy",
    "Service",
    "PodDisruptionBudget",
    "CronJob",
    "Job",
    "StatefulSet",
    "Deployment",
    "HorizontalPodAutoscaler",
];

/// How long nothing may be written.
fn quiet_time() -> Duration {
    let seconds = std::env::var("ARTIFACTDB_BENCH_QUIET");
    Duration::from_secs(seconds.map_or(120, |text| text.parse().expect("a number of seconds")))
}

#[tokio::main]
async fn main() -> ExitCode {
    let instances: usize = std::env::var("ARTIFACTDB_BENCH_INSTANCES")
        .map_or(300, |text| text.parse().expect("a number of instances"));
    let space = Space::new("scale").await;
    let operator = Operator::new(space.client.clone());
    operator.scale(1).await;
    println!(
        "{instances} instances, {SCHEMAS} schemas that all of them share, {PLUGINS} plugins each"
    );

    apply_all(&space, "ArtifactSchema", (0..SCHEMAS).map(schema)).await;
    apply_all(&space, "ArtifactPlugin", plugins_of("model")).await;
    apply_all(&space, "ArtifactDB", [instance(&space, "model")]).await;
    reconciled(&space, &operator, 1).await;
    let model = Model::read(&space).await;
    println!(
        "an instance consists of {} objects in Kubernetes, an index template and an index",
        model.objects.len()
    );
    space.delete("ArtifactDB", "model").await;
    for plugin in plugins_of("model") {
        let name = plugin["metadata"]["name"].as_str().unwrap().to_owned();
        space.delete("ArtifactPlugin", &name).await;
    }
    eventually("the model is gone", RECONCILED, || async {
        match model_children(&space, "model").await.len() {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })
    .await;
    operator.scale(0).await;

    let plain = Space::new("scale-plain").await;
    // Connections, and what the API server makes on first use, are nobody's merit.
    model.create(&plain, "warm", instances.div_ceil(20)).await;
    let begun = Instant::now();
    let objects = model.create(&plain, "plain", instances).await;
    let plain_took = begun.elapsed();
    gone(plain).await;

    let names: Vec<String> = (0..instances).map(|own| format!("i{own:03}")).collect();
    let plugins = names.iter().flat_map(|own| plugins_of(own));
    apply_all(&space, "ArtifactPlugin", plugins).await;
    apply_all(
        &space,
        "ArtifactDB",
        names.iter().map(|own| instance(&space, own)),
    )
    .await;
    let begun = Instant::now();
    operator.scale(1).await;
    reconciled(&space, &operator, instances).await;
    let took = begun.elapsed();
    let mut made = 0;
    for kind in KINDS {
        made += children(&space, kind).await.len();
    }
    assert_eq!(made, objects, "as many objects as the plain client created");

    eventually("the cluster has settled", RECONCILED, || settled(&space)).await;
    let (audited, written) = (operator.audited(), operator.metric("writes_total").await);
    tokio::time::sleep(quiet_time()).await;
    let quiet = operator.metric("writes_total").await - written;
    let quiet_audited = operator
        .audited()
        .zip(audited)
        .map(|(now, then)| now - then);
    let steady_memory = memory("/artifactdb-operator\0");

    let audited = operator.audited();
    operator.restart().await;
    let begun = Instant::now();
    let resources = (instances * (1 + PLUGINS) + SCHEMAS) as u64;
    eventually(
        "the restarted operator saw everything",
        RECONCILED,
        || async {
            match operator.metric("reconciles_total").await {
                seen if seen >= resources => Ok(()),
                seen => Err(format!("{seen} of {resources} reconciled")),
            }
        },
    )
    .await;
    let restart_took = begun.elapsed();
    // Whatever one of them might still begin.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let restart = operator.metric("writes_total").await;
    let restart_audited = operator
        .audited()
        .zip(audited)
        .map(|(now, then)| now - then);
    let restart_memory = memory("/artifactdb-operator\0");

    let rate = |took: Duration| objects as f64 / took.as_secs_f64();
    let mut table = Table::default();
    table.row("plain client: objects a second", rate(plain_took), None);
    table.row("plain client: seconds", plain_took.as_secs_f64(), None);
    table.row("operator: objects a second", rate(took), None);
    table.row(
        "operator: seconds, its start among them",
        took.as_secs_f64(),
        None,
    );
    table.row(
        "operator / plain client",
        rate(took) / rate(plain_took),
        Some(Limit::AtLeast(0.5)),
    );
    let zero = Some(Limit::AtMost(0.0));
    table.row(
        &format!("writes in {} s, by its own count", quiet_time().as_secs()),
        quiet as f64,
        zero,
    );
    if let Some(count) = quiet_audited {
        table.row(
            &format!("writes in {} s, by the audit log", quiet_time().as_secs()),
            count as f64,
            zero,
        );
    }
    table.row(
        "restart: seconds until all was reconciled",
        restart_took.as_secs_f64(),
        None,
    );
    table.row("restart: writes, by its own count", restart as f64, zero);
    if let Some(count) = restart_audited {
        table.row("restart: writes, by the audit log", count as f64, zero);
    }
    if let Some((now, most)) = steady_memory {
        table.row("memory: MB after that", now, Some(Limit::AtMost(60.0)));
        table.row("memory: MB at the most", most, Some(Limit::AtMost(60.0)));
    }
    if let Some((_, most)) = restart_memory {
        table.row(
            "memory: MB at the most after the restart",
            most,
            Some(Limit::AtMost(60.0)),
        );
    }
    if std::env::var_os("ARTIFACTDB_E2E_KEEP").is_none() {
        operator.scale(0).await;
        gone(space).await;
        operator.scale(1).await;
    }
    table.end()
}

fn instance(space: &Space, name: &str) -> Value {
    let nowhere = json!({"spec": {"nodeSelector": {"artifactdb.io/bench": "nowhere"}}});
    json!({
        "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactDB",
        "metadata": {"name": name, "labels": {"bench": name}},
        "spec": {
            "environment": "dev",
            "storage": [{
                "alias": "main", "bucket": format!("{}-{name}", space.name), "pathStyle": true,
                "endpoint": variable("ARTIFACTDB_TEST_S3"),
                "credentialsSecretRef": {"name": "storage"},
            }],
            "elasticsearch": {"urls": [variable("ARTIFACTDB_TEST_ES")], "replicas": 0},
            "redis": {"url": variable("ARTIFACTDB_TEST_REDIS")},
            "auth": {"staticKeysSecretRef": {"name": "tokens", "key": "keys.json"}},
            "api": {"replicas": 2, "podTemplate": nowhere},
            "indexer": {"replicas": 1, "podTemplate": nowhere},
        },
    })
}

fn schema(number: usize) -> Value {
    json!({
        "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactSchema",
        "metadata": {"name": format!("kind{number}-v1")},
        "spec": {"type": format!("kind{number}"), "version": "v1", "schema": {
            "type": "object", "required": ["path"],
            "properties": {
                "path": {"type": "string"}, "md5sum": {"type": "string"},
                "title": {"type": "string", "_elasticsearch": {"type": "text"}},
                format!("size{number}"): {"type": "integer"},
                format!("of{number}"): {"type": "object", "properties": {
                    "name": {"type": "string"}, "taken": {"type": "string", "format": "date-time"},
                }},
            },
        }},
    })
}

fn plugins_of(instance: &str) -> Vec<Value> {
    (0..PLUGINS)
        .map(|number| {
            json!({
                "apiVersion": "artifactdb.io/v1alpha1", "kind": "ArtifactPlugin",
                "metadata": {"name": format!("{instance}-p{number}")},
                "spec": {
                    "instances": {"matchLabels": {"bench": instance}},
                    "image": "registry.example.org/plugin:1", "on": ["indexed"],
                    "access": {"read": ["*"]},
                },
            })
        })
        .collect()
}

async fn apply_all(space: &Space, kind: &str, objects: impl IntoIterator<Item = Value>) {
    let api = space.api(kind);
    stream::iter(objects)
        .for_each_concurrent(CONCURRENCY, |object| {
            let api = &api;
            async move {
                let name = object["metadata"]["name"].as_str().unwrap();
                let parameters = PatchParams::apply("bench").force();
                let applied = api.patch(name, &parameters, &Patch::Apply(&object)).await;
                applied.unwrap();
            }
        })
        .await;
}

/// What the operator made of the instances, without bodies.
async fn children(space: &Space, kind: &str) -> Vec<PartialObjectMeta<DynamicObject>> {
    let labels = "app.kubernetes.io/managed-by=artifactdb-operator";
    let parameters = ListParams::default().labels(labels);
    let found = space.api(kind).list_metadata(&parameters).await;
    found.map(|found| found.items).unwrap_or_default()
}

async fn model_children(space: &Space, name: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for kind in KINDS {
        let labels = format!("app.kubernetes.io/instance={name}");
        for mut object in space.list(kind, &labels).await {
            object["kind"] = json!(kind);
            all.push(object);
        }
    }
    all
}

/// Waits until every instance was brought as far as it comes without pods (the first index is there,
/// and waits for workers), and every plugin and schema has its status.
async fn reconciled(space: &Space, operator: &Operator, count: usize) {
    // Whole lists of resources, asked for all the time, are most of what an API server has to do.
    let told = "artifactdb_resource_condition{kind=\"ArtifactDB\",condition=\"IndexCurrent\",status=\"False\"} ";
    eventually("every instance is told", RECONCILED, || async {
        match operator.series(told).await {
            Some(number) if number >= count as u64 => Ok(()),
            other => Err(format!("{other:?} of {count}")),
        }
    })
    .await;
    let is = |own: &Value, condition: &str, reason: &str| {
        own["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|own| own["type"] == condition && own["reason"] == reason)
    };
    eventually("every resource is reconciled", RECONCILED, || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (kind, count) in [
            ("ArtifactDB", count),
            ("ArtifactPlugin", count * PLUGINS),
            ("ArtifactSchema", SCHEMAS),
        ] {
            let all = space.list(kind, "").await;
            let done = all
                .iter()
                .filter(|own| match kind {
                    "ArtifactDB" => {
                        is(own, "Ready", "RollingOut") && is(own, "IndexCurrent", "IndexBuilding")
                    }
                    _ => own["status"]["conditions"]
                        .as_array()
                        .is_some_and(|own| !own.is_empty()),
                })
                .count();
            if done < count {
                return Err(format!("{kind}: {done} of {count}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Whether the cluster's own controllers have made the pods, and nothing is left to tell.
async fn settled(space: &Space) -> Result<(), String> {
    let all = space.list("Deployment", "").await;
    let waiting = all
        .iter()
        .filter(|own| own["status"]["unavailableReplicas"] != own["spec"]["replicas"])
        .count();
    if waiting > 0 {
        return Err(format!("{waiting} Deployments have no pods yet"));
    }
    let before = versions(space).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    match versions(space).await == before {
        true => Ok(()),
        false => Err("statuses change".to_owned()),
    }
}

async fn versions(space: &Space) -> BTreeMap<String, Option<String>> {
    let api = space.api("ArtifactDB");
    let found = api.list_metadata(&ListParams::default()).await.unwrap();
    found
        .items
        .iter()
        .map(|own| (own.name_any(), own.resource_version()))
        .collect()
}

/// Deletes a namespace, and what it has in the engine: that holds so many indices and no more.
async fn gone(space: Space) {
    let pattern = format!("artifactdb_{}_*", space.name);
    let path = format!("/_cat/indices/{pattern}?format=json&h=index");
    let found = engine(reqwest::Method::GET, &path, None).await;
    let all = found.as_array().unwrap();
    for some in all.chunks(50) {
        let indices: Vec<&str> = some
            .iter()
            .filter_map(|own| own["index"].as_str())
            .collect();
        let path = format!("/{}", indices.join(","));
        engine(reqwest::Method::DELETE, &path, None).await;
    }
    let path = format!("/_index_template/{pattern}");
    engine(reqwest::Method::DELETE, &path, None).await;
    let api: Api<DynamicObject> = Api::all_with(space.client.clone(), &resource("Namespace"));
    let name = space.name.clone();
    space.end().await;
    eventually("the namespace is gone", RECONCILED, || async {
        match api.get_opt(&name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|own| own.map(|own| own.data)))),
        }
    })
    .await;
}

/// What one instance consists of, to be created by a plain client under other names.
struct Model {
    space: String,
    objects: Vec<Value>,
    template: Value,
    index: Value,
}

impl Model {
    async fn read(space: &Space) -> Self {
        let mut objects = model_children(space, "model").await;
        for object in &mut objects {
            let meta = object["metadata"].as_object_mut().unwrap();
            meta.retain(|name, _| ["name", "labels", "annotations"].contains(&&**name));
            meta["labels"]["app.kubernetes.io/managed-by"] = json!("bench");
            let object = object.as_object_mut().unwrap();
            object.remove("status");
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("clusterIP");
                spec.remove("clusterIPs");
            }
        }
        let base = format!("artifactdb_{}_model", space.name);
        let template = engine(
            reqwest::Method::GET,
            &format!("/_index_template/{base}"),
            None,
        )
        .await;
        let index = engine(reqwest::Method::GET, &format!("/{base}_000001"), None).await;
        let index = index.as_object().unwrap().values().next().unwrap().clone();
        Self {
            space: space.name.clone(),
            objects,
            template: template["index_templates"][0]["index_template"].clone(),
            index: json!({"aliases": index["aliases"]}),
        }
    }

    /// Creates as many instances, several calls at a time; returns the number of objects.
    async fn create(&self, space: &Space, prefix: &str, instances: usize) -> usize {
        stream::iter(0..instances)
            .for_each_concurrent(CONCURRENCY, |number| async move {
                let name = format!("{prefix}{number:03}");
                let renamed = |value: &Value| {
                    let text = value.to_string();
                    let text = text
                        .replace(&self.space, &space.name)
                        .replace("model", &name);
                    serde_json::from_str::<Value>(&text).unwrap()
                };
                let base = format!("artifactdb_{}_{name}", space.name);
                let path = format!("/_index_template/{base}");
                engine(reqwest::Method::PUT, &path, Some(renamed(&self.template))).await;
                let path = format!("/{base}_000001");
                engine(reqwest::Method::PUT, &path, Some(renamed(&self.index))).await;
                for object in &self.objects {
                    let api = space.api(object["kind"].as_str().unwrap());
                    let object = serde_json::from_value(renamed(object)).unwrap();
                    let made = api.create(&PostParams::default(), &object).await;
                    made.unwrap_or_else(|error| panic!("{}: {error}", object.name_any()));
                }
            })
            .await;
        instances * self.objects.len()
    }
}

async fn engine(method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
    static HTTP: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    let url = format!("{}{path}", variable("ARTIFACTDB_TEST_ES"));
    let http = HTTP.get_or_init(reqwest::Client::new);
    let mut request = http.request(method, url);
    if let Some(body) = &body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

/// The operator's Deployment, as whoever runs it sees it.
struct Operator {
    client: Client,
    deployments: Api<DynamicObject>,
    pods: Api<DynamicObject>,
}

impl Operator {
    fn new(client: Client) -> Self {
        let api = |kind| Api::namespaced_with(client.clone(), OPERATOR, &resource(kind));
        Self {
            deployments: api("Deployment"),
            pods: api("Pod"),
            client,
        }
    }

    async fn scale(&self, replicas: u32) {
        let patch = json!({"spec": {"replicas": replicas}});
        let patch = Patch::Merge(&patch);
        let parameters = PatchParams::default();
        let deployments = &self.deployments;
        deployments
            .patch("artifactdb-operator", &parameters, &patch)
            .await
            .unwrap();
        if replicas == 0 {
            eventually("the operator stops", Duration::from_secs(60), || async {
                match self.pod().await {
                    None => Ok(()),
                    Some(name) => Err(name),
                }
            })
            .await;
        }
    }

    async fn pod(&self) -> Option<String> {
        let labels = ListParams::default().labels("app.kubernetes.io/name=artifactdb-operator");
        let pods = self.pods.list(&labels).await.unwrap();
        pods.items.first().map(ResourceExt::name_any)
    }

    async fn restart(&self) {
        let before = self.pod().await.unwrap();
        self.pods
            .delete(&before, &DeleteParams::default())
            .await
            .unwrap();
        eventually("another operator", Duration::from_secs(60), || async {
            match self.pod().await {
                Some(now) if now != before && self.try_metric("leader").await == Some(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    async fn metric(&self, name: &str) -> u64 {
        self.try_metric(name).await.unwrap_or(0)
    }

    async fn try_metric(&self, name: &str) -> Option<u64> {
        self.series(&format!("artifactdb_operator_{name} ")).await
    }

    async fn series(&self, series: &str) -> Option<u64> {
        let pod = self.pod().await?;
        let path = format!("/api/v1/namespaces/{OPERATOR}/pods/{pod}:8080/proxy/metrics");
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let text = self.client.request_text(request).await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(series))?;
        line.trim().parse().ok()
    }

    /// Writes of the operator in the API server's audit log, its lease left out; where this machine
    /// runs the API server.
    fn audited(&self) -> Option<usize> {
        let path = std::env::var_os("ARTIFACTDB_E2E_AUDIT")?;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let own = |line: &&str| line.contains(ACCOUNT);
        Some(text.lines().filter(own).count())
    }
}
