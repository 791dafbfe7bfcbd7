//! Leases and tasks in a Redis Cluster: an instance's keys are all in one slot, wherever that is.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use artifactdb_core::queue::Queue;
use futures::StreamExt;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Backend, QUICKSTART, Server, free_port, table};

const NODES: u16 = 3;
const SLOTS: u16 = 16_384;

/// Three masters with a third of the slots each.
struct Cluster {
    nodes: Vec<(u16, Child)>,
    _folder: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, process) in &mut self.nodes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn connect(port: u16) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let started = Instant::now();
    loop {
        match client.get_multiplexed_async_connection().await {
            Ok(connection) => return connection,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut nodes = Vec::new();
        let mut first_bus = None;
        for number in 0..NODES {
            let (port, bus) = (free_port(), free_port());
            let process = std::process::Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
                .args(["--cluster-enabled", "yes"])
                .args(["--cluster-port", &bus.to_string()])
                .args(["--cluster-config-file", &format!("nodes-{port}.conf")])
                .args(["--save", "", "--appendonly", "no"])
                .arg("--dir")
                .arg(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is missing; `make services` installs it");
            nodes.push((port, process));
            let mut node = connect(port).await;
            let (from, to) = (SLOTS / NODES * number, SLOTS / NODES * (number + 1));
            let to = if number + 1 == NODES { SLOTS } else { to };
            let mut slots = redis::cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(from).arg(to - 1);
            slots.exec_async(&mut node).await.unwrap();
            match first_bus {
                None => first_bus = Some((port, bus)),
                Some((port, bus)) => {
                    let mut meet = redis::cmd("CLUSTER");
                    meet.arg("MEET").arg("127.0.0.1").arg(port).arg(bus);
                    meet.exec_async(&mut node).await.unwrap();
                }
            }
        }
        let cluster = Self {
            nodes,
            _folder: folder,
        };
        let started = Instant::now();
        for (port, _) in &cluster.nodes {
            let mut node = connect(*port).await;
            loop {
                let info: String = redis::cmd("CLUSTER")
                    .arg("INFO")
                    .query_async(&mut node)
                    .await
                    .unwrap();
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                assert!(started.elapsed() < Duration::from_secs(30), "{info}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        cluster
    }

    fn url(&self) -> String {
        let hosts: Vec<String> = self
            .nodes
            .iter()
            .map(|(port, _)| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis://{}?cluster=true", hosts.join(","))
    }

    /// How many nodes hold keys of an instance.
    async fn used(&self, instance: &str) -> usize {
        let mut used = 0;
        for (port, _) in &self.nodes {
            let mut node = connect(*port).await;
            let keys: Vec<String> = redis::cmd("KEYS")
                .arg(format!("{{adb:*{instance}*"))
                .query_async(&mut node)
                .await
                .unwrap();
            used += usize::from(!keys.is_empty());
        }
        used
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_tasks_live_in_a_cluster() {
    let cluster = Cluster::start().await;
    let url = cluster.url();
    let mut server = Server::configured(Backend::Real, Path::new(QUICKSTART), |config| {
        config.redis.as_mut().unwrap().url = Some(url.clone());
    })
    .await;
    let public = json!({"read_access": "public"});
    let uploads = futures::stream::iter(0..24).map(|number: usize| {
        let (server, public) = (&server, &public);
        async move {
            let files = table("a.csv", &format!("a\n{number}\n"), "cluster", 1);
            let (project, version) = (format!("P{}", number % 4), number.to_string());
            server.upload(&project, &version, &files, public).await;
        }
    });
    uploads.buffer_unordered(8).collect::<Vec<()>>().await;
    assert_eq!(server.ids("title:cluster", "").await.len(), 24);

    // A version that is being uploaded is locked, and seen to be.
    let files = table("a.csv", "a\n1\n", "locked", 1);
    let (status, begun) = server.begin("P0", "new", &files, &server.token).await;
    assert_eq!(status, 200, "{begun}");
    let (status, again) = server.begin("P0", "new", &files, &server.token).await;
    assert_eq!(status, 423, "{again}");
    let (status, locks) = server.get("/projects/P0/lock").await;
    assert_eq!(status, 200);
    assert!(locks.to_string().contains("uploading"), "{locks}");

    // A worker that dies leaves its tasks to the other one.
    server.replace(1);
    server.transfer(&begun, &files).await.unwrap();
    let (status, accepted) = server.complete(&begun, &public).await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(server.wait(&accepted).await["status"], "SUCCESS");
    let config = server.real().config.clone();
    let redis = artifactdb_core::redis::Redis::new(&url, None, &config.instance_id()).unwrap();
    let clock = std::sync::Arc::new(artifactdb_core::clock::SystemClock);
    let queue = artifactdb_core::redis::RedisQueue::new(redis, clock);
    let started = Instant::now();
    while queue.depth().await.unwrap() != (0, 0) {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.used(&config.name).await, 1);
}
