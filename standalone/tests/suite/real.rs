//! The real servers that the tests use, and one instance's part of them.

// Two suites share this, and neither uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use artifactdb::secrets::Secrets;
use artifactdb_core::clock::SystemClock;
use artifactdb_core::config::{ElasticsearchConfig, InstanceConfig, RedisConfig, StorageConfig};
use artifactdb_core::connect::{self, SecretFiles};
use artifactdb_core::redis::{Redis, RedisLease, RedisQueue};
use artifactdb_core::search::elasticsearch::Elasticsearch;
use artifactdb_core::store::{Credentials, S3Store};
use serde_json::{Value, json};

/// Addresses of the servers.
#[derive(Debug)]
pub struct Services {
    pub es: String,
    pub redis: String,
    pub s3: String,
    pub access_key: String,
    pub secret_key: String,
    /// A role that may be assumed for sessions.
    pub role: Option<String>,
    /// A folder that the engine may write snapshots to.
    pub repository: Option<String>,
}

/// The servers that the environment names, or those that the project's script starts.
pub fn services() -> &'static Services {
    static SERVICES: OnceLock<Services> = OnceLock::new();
    SERVICES.get_or_init(|| {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let all = ["ES", "REDIS", "S3"].map(|name| named(&format!("ARTIFACTDB_TEST_{name}")));
        let mut printed = String::new();
        if all.iter().any(Option::is_none) {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/services.sh");
            let output = Command::new(script)
                .arg("up")
                .stderr(Stdio::inherit())
                .output()
                .unwrap();
            assert!(output.status.success(), "the services do not start");
            printed = String::from_utf8(output.stdout).unwrap();
        }
        let find = |name: &str| {
            let name = format!("ARTIFACTDB_TEST_{name}");
            let line = printed.lines().find_map(|line| {
                let (own, value) = line.split_once('=')?;
                (own == name).then(|| value.to_owned())
            });
            line.or_else(|| named(&name))
        };
        let value =
            |name: &str| find(name).unwrap_or_else(|| panic!("ARTIFACTDB_TEST_{name} is not set"));
        Services {
            es: value("ES"),
            redis: value("REDIS"),
            s3: value("S3"),
            access_key: value("S3_ACCESS_KEY"),
            secret_key: value("S3_SECRET_KEY"),
            role: find("S3_ROLE"),
            repository: find("ES_REPOSITORY"),
        }
    })
}

/// One instance's part of the servers: its configuration, its secrets, and clients for the tests.
pub struct Real {
    pub config: InstanceConfig,
    pub folder: PathBuf,
    pub engine: Elasticsearch,
    pub store: S3Store,
    pub redis: Redis,
    services: &'static Services,
}

impl Real {
    /// Writes configuration and secrets below `data`, and makes the bucket.
    pub async fn prepare(
        services: &'static Services,
        data: &Path,
        resources: &Path,
        change: impl FnOnce(&mut InstanceConfig),
    ) -> Self {
        let set = artifactdb_crds::read::read(&[resources.to_owned()]).unwrap();
        let mut config = artifactdb_crds::resolve::resolve(&set).unwrap().config;
        config.name = format!("t{:012x}", rand_48());
        let storage = |alias: &str, bucket: String| StorageConfig {
            alias: alias.to_owned(),
            bucket,
            endpoint: Some(services.s3.clone()),
            public_endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: true,
            version_pinning: None,
            sts: None,
        };
        config.storage = match config.storage.is_empty() {
            true => vec![storage("default", config.name.clone())],
            false => {
                let declared = config.storage.iter().map(|own| &own.alias);
                declared
                    .map(|alias| storage(alias, format!("{}-{alias}", config.name)))
                    .collect()
            }
        };
        config.elasticsearch = Some(ElasticsearchConfig {
            urls: vec![services.es.clone()],
            shards: 1,
            replicas: 0,
            retained_indices: 1,
            snapshot_repository: None,
        });
        config.redis = Some(RedisConfig {
            url: Some(services.redis.clone()),
        });
        change(&mut config);
        std::fs::create_dir_all(data).unwrap();
        let own = Secrets::load_or_create(data, &config.name, &config.auth.client_id).unwrap();
        let key = own.static_key().unwrap();
        let mut jwk = json!(key.jwk);
        jwk["iss"] = json!(key.issuer);
        let write = |name: &str, content: &[u8]| {
            let path = data.join("secrets").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        write("static-keys/own.json", jwk.to_string().as_bytes());
        write("signing/key", &own.signing_key());
        let service = format!("{:032x}\n", rand::random::<u128>());
        write("service/key", service.as_bytes());
        for own in &config.storage {
            let file = |name: &str| format!("storage/{}/{name}", own.alias);
            write(&file("accessKey"), services.access_key.as_bytes());
            write(&file("secretKey"), services.secret_key.as_bytes());
        }
        let real = Self::connect(services, data, config);
        real.write_config(&real.config);
        let client = real.store.client();
        for own in &real.config.storage {
            let bucket = &own.bucket;
            client.create_bucket().bucket(bucket).send().await.unwrap();
            client
                .put_bucket_versioning()
                .bucket(bucket)
                .versioning_configuration(
                    aws_sdk_s3::types::VersioningConfiguration::builder()
                        .status(aws_sdk_s3::types::BucketVersioningStatus::Enabled)
                        .build(),
                )
                .send()
                .await
                .unwrap();
        }
        real
    }

    fn connect(services: &'static Services, data: &Path, config: InstanceConfig) -> Self {
        let secrets = SecretFiles::new(data.join("secrets"));
        // For the tests themselves: not through what a configuration may put in between.
        let direct = StorageConfig {
            endpoint: Some(services.s3.clone()),
            public_endpoint: None,
            ..config.storage[0].clone()
        };
        let engine = InstanceConfig {
            elasticsearch: config.elasticsearch.clone().map(|own| ElasticsearchConfig {
                urls: vec![services.es.clone()],
                ..own
            }),
            redis: Some(RedisConfig {
                url: Some(services.redis.clone()),
            }),
            ..config.clone()
        };
        Self {
            engine: connect::engine(&engine, &secrets).unwrap(),
            redis: connect::redis(&engine, &secrets).unwrap(),
            store: S3Store::new(
                &direct,
                Credentials {
                    access_key: services.access_key.clone(),
                    secret_key: services.secret_key.clone(),
                    session_token: None,
                },
            ),
            folder: data.to_owned(),
            config,
            services,
        }
    }

    /// The key that the instance was given for automation.
    pub fn service_key(&self) -> String {
        let path = self.folder.join("secrets/service/key");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// What processes that are started from now on are configured with.
    pub fn write_config(&self, config: &InstanceConfig) {
        let text = serde_json::to_string_pretty(config).unwrap();
        std::fs::write(self.folder.join("instance.json"), text).unwrap();
    }

    pub fn lease(&self) -> RedisLease {
        RedisLease::new(self.redis.clone(), Arc::new(SystemClock))
    }

    pub fn queue(&self) -> RedisQueue {
        RedisQueue::new(self.redis.clone(), Arc::new(SystemClock))
    }

    /// One of the project's binaries on this instance.
    pub fn command(&self, binary: &str) -> Command {
        let path = Path::new(env!("CARGO_BIN_EXE_artifactdb")).with_file_name(binary);
        let mut command = Command::new(path);
        command
            .arg("--config")
            .arg(self.folder.join("instance.json"))
            .arg("--secrets")
            .arg(self.folder.join("secrets"));
        command
    }

    /// A request straight to the engine.
    pub async fn raw_engine(&self, method: reqwest::Method, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.services.es);
        let request = reqwest::Client::new().request(method, url);
        let request = match body {
            Value::Null => request,
            body => request.json(body),
        };
        request.send().await.unwrap().json().await.unwrap()
    }

    /// The instance's engines, one for each storage.
    pub fn engines(&self) -> Vec<Elasticsearch> {
        let secrets = SecretFiles::new(self.folder.join("secrets"));
        let all = self.config.by_storage().unwrap();
        let engine = |mut config: InstanceConfig| {
            config.elasticsearch.as_mut().unwrap().urls = vec![self.services.es.clone()];
            connect::engine(&config, &secrets).unwrap()
        };
        all.into_iter().map(engine).collect()
    }

    /// Deletes the indices; the bucket and the keys in Redis go with their servers.
    pub fn clean(self) {
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                for engine in self.engines() {
                    let _ = engine.delete_all().await;
                }
            });
        });
        let _ = cleaned.join();
    }
}

fn rand_48() -> u64 {
    rand::random::<u64>() >> 16
}
