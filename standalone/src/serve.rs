//! `artifactdb serve`: a whole instance in this process, from the files that a cluster would get.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use artifactdb_api::App;
use artifactdb_core::clock::{Clock, SystemClock};
use artifactdb_core::config::{InstanceConfig, StorageConfig};
use artifactdb_core::counter::LocalCounter;
use artifactdb_core::permissions::roles;
use artifactdb_core::queue::Queue;
use artifactdb_core::store::{Credentials, S3Store};
use artifactdb_core::versions::{Rules, Versions};
use artifactdb_indexer::{Indexer, Publish, Shard, projects, reindex, sweep, sweep_forever, work};
use jiff::SignedDuration;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine::{EmbeddedSearch, Engine};
use crate::lease::EmbeddedLease;
use crate::objectstore::{ObjectStore, bind};
use crate::queue::EmbeddedQueue;
use crate::schedules::Schedules;
use crate::secrets::Secrets;

/// Tasks that are done at the same time.
const WORKERS: usize = 2;
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// How long the start waits for what was acknowledged before a crash to be searchable.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// How long the stop waits for requests and tasks to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Life of the token in the ready file.
const ADMIN_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Debug, Clone)]
pub struct ServeOptions {
    pub files: Vec<PathBuf>,
    pub data: PathBuf,
    pub listen: String,
    pub s3_listen: String,
    /// What presigned URLs name; absent: where the store listens.
    pub s3_url: Option<String>,
    pub ready_file: Option<PathBuf>,
}

/// A running instance.
pub struct Instance {
    pub url: String,
    pub s3_endpoint: String,
    /// An administrator's.
    pub token: String,
    stop: watch::Sender<bool>,
    app: Arc<App>,
    api: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
    store: JoinHandle<()>,
    store_stop: watch::Sender<bool>,
}

/// The instance on one of its storages.
struct Part {
    versions: Arc<Versions>,
    queue: Arc<EmbeddedQueue>,
    indexer: Arc<Indexer>,
    engine: Arc<Engine>,
    /// Whether there was no index to open.
    empty: bool,
}

impl Part {
    async fn open(
        config: InstanceConfig,
        data: &Path,
        credentials: Credentials,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let storage = config.storage.first().context("there is no storage")?;
        let store = S3Store::new(storage, credentials);
        let (mapping, _) = config.mapping();
        let folder = match &config.beside {
            None => "search".to_owned(),
            Some(alias) => format!("search-{alias}"),
        };
        let (folder, name) = (data.join(folder), config.name.clone());
        let opened = tokio::task::spawn_blocking(move || Engine::open(&folder, &name, mapping));
        let (engine, empty) = opened.await??;
        let engine = Arc::new(engine);
        let queue = Arc::new(EmbeddedQueue::new(clock.clone()));
        let versions = Arc::new(Versions::new(
            Arc::new(store),
            Arc::new(EmbeddedLease::new(clock.clone())),
            queue.clone(),
            Arc::new(LocalCounter::default()),
            clock,
            Rules::of(&config),
        ));
        let search = Arc::new(EmbeddedSearch(engine.clone()));
        let indexer = Indexer::new(versions.clone(), search, Arc::new(config))
            .map_err(|problem| anyhow!("{problem}"))?;
        Ok(Self {
            versions,
            queue,
            indexer: Arc::new(indexer),
            engine,
            empty,
        })
    }

    /// Fills the index if there is none, takes up what was left, and goes on working until
    /// `stopping`.
    async fn work(self, stopping: &watch::Receiver<bool>) -> anyhow::Result<Vec<JoinHandle<()>>> {
        if self.empty {
            fill(&self.indexer).await?;
            let adopted = self.engine.clone();
            tokio::task::spawn_blocking(move || adopted.adopt()).await??;
        }
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(tokio::spawn(work(self.indexer.clone(), stopping.clone())));
        }
        recover(&self.versions, &*self.queue).await?;
        workers.push(tokio::spawn(sweep_forever(
            self.versions,
            SWEEP_INTERVAL,
            stopping.clone(),
        )));
        Ok(workers)
    }
}

/// Resolves once `stop` is set.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can set it any more.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Starts an instance; when this returns, it answers, and what was acknowledged before is
/// searchable.
pub async fn start(options: &ServeOptions) -> anyhow::Result<Instance> {
    let set = artifactdb_crds::read::read(&options.files)?;
    let resolved = artifactdb_crds::resolve::resolve(&set).map_err(|refusals| {
        let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        anyhow!(
            "these resources cannot be served:\n  {}",
            lines.join("\n  ")
        )
    })?;
    for conflict in &resolved.conflicts {
        tracing::warn!(%conflict, "a schema is left out of the index");
    }
    let mut config = resolved.config;
    for plugin in &config.plugins.items {
        tracing::warn!(
            plugin = plugin.name,
            "it is a container and runs in a cluster only; `artifactdb plugin run {}` runs its command here",
            plugin.name
        );
    }
    let data = &options.data;
    create_private(data)
        .with_context(|| format!("cannot use the data folder '{}'", data.display()))?;
    let secrets = Secrets::load_or_create(data, &config.name, &config.auth.client_id)?;

    config.plugins.issuer = secrets.issuer();
    config.plugins.audience = secrets.plugin_audience();

    let (store_stop, store_stopped) = watch::channel(false);
    let (listener, address) = bind(&options.s3_listen).await?;
    let s3_endpoint = endpoint(&options.s3_listen, address);
    let objects = open_objects(data).await?;
    config.storage = storage(&config, &s3_endpoint, options.s3_url.as_deref());
    // The whole instance is in this process, whatever servers it would have in a cluster.
    config.elasticsearch = None;
    config.redis = None;
    let storages = config.by_storage()?;
    for config in &storages {
        if let Some(storage) = config.storage.first() {
            objects
                .ensure_bucket(&storage.bucket)
                .await
                .map_err(|error| anyhow!("cannot make the bucket '{}': {error}", storage.bucket))?;
        }
    }
    let collector = objects.clone();
    std::thread::spawn(move || match collector.collect_garbage() {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "deleted content that a crash left behind"),
        Err(error) => tracing::warn!(%error, "cannot look for content that a crash left behind"),
    });
    let (access, secret) = (secrets.access_key.clone(), secrets.secret_key.clone());
    let store_task = tokio::spawn(async move {
        objects
            .serve(listener, &access, &secret, stopped(store_stopped))
            .await;
    });
    let credentials = Credentials {
        access_key: secrets.access_key.clone(),
        secret_key: secrets.secret_key.clone(),
        session_token: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut parts = Vec::with_capacity(storages.len());
    for config in storages {
        parts.push(Part::open(config, data, credentials.clone(), clock.clone()).await?);
    }
    let own = artifactdb_api::Secrets {
        static_keys: vec![secrets.static_key()?, secrets.plugin_key()?],
        signing_key: secrets.signing_key(),
        service_key: None,
    };
    let mut app = None;
    for part in &parts {
        let (config, versions) = (part.indexer.config.clone(), part.versions.clone());
        let search = part.indexer.search.clone();
        match &mut app {
            None => {
                app = Some(App::new(config, versions, search, &own, None)?);
            }
            Some(app) => app.add_storage(config, versions, search),
        }
    }
    let app = Arc::new(app.context("there is no storage")?);

    let (stop, stopping) = watch::channel(false);
    let indexers = parts.iter().map(|part| part.indexer.clone()).collect();
    let schedules = Schedules::of(&set, data, clock, indexers);
    let mut workers = Vec::new();
    for part in parts {
        workers.extend(part.work(&stopping).await?);
    }
    workers.push(tokio::spawn(schedules.follow(stopping.clone())));

    let listener = TcpListener::bind(&options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let url = endpoint(&options.listen, listener.local_addr()?);
    let server = artifactdb_api::serve(app.clone(), listener, stopped(stopping));
    let api = tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the API server failed");
        }
    });
    let admin = [roles::ADMIN.to_owned()];
    let token = secrets.token("admin", &admin, ADMIN_TOKEN_LIFE)?;
    let instance = Instance {
        url,
        s3_endpoint,
        token,
        stop,
        app,
        api,
        workers,
        store: store_task,
        store_stop,
    };
    if let Some(path) = &options.ready_file {
        instance.write_ready_file(path)?;
    }
    Ok(instance)
}

impl Instance {
    fn write_ready_file(&self, path: &Path) -> anyhow::Result<()> {
        let content = json!({
            "url": self.url,
            "s3_endpoint": self.s3_endpoint,
            "token": self.token,
            "pid": std::process::id(),
        });
        // Whoever waits for the file must never see half of it.
        let mut next = path.as_os_str().to_owned();
        next.push(".next");
        let write = || -> std::io::Result<()> {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).write(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&next)?;
            std::io::Write::write_all(&mut file, content.to_string().as_bytes())?;
            std::fs::rename(&next, path)
        };
        write().with_context(|| format!("cannot write '{}'", path.display()))
    }

    /// Takes no new requests, lets what runs end, and stops. The object store goes last: the rest
    /// needs it to finish.
    pub async fn stop(self) {
        self.app.stop();
        let _ = self.stop.send(true);
        let ended = async {
            let _ = self.api.await;
            for worker in self.workers {
                let _ = worker.await;
            }
        };
        if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
            tracing::warn!(
                "not everything ended in time; what is unfinished goes on at the next start"
            );
        }
        let _ = self.store_stop.send(true);
        let _ = tokio::time::timeout(STOP_PATIENCE, self.store).await;
    }
}

/// The host as it was named and the port as it was given out.
fn endpoint(listen: &str, address: SocketAddr) -> String {
    let host = listen
        .rsplit_once(':')
        .map_or("localhost", |(host, _)| host);
    let host = match host {
        "" | "0.0.0.0" | "[::]" => "localhost",
        named => named,
    };
    format!("http://{host}:{}", address.port())
}

fn create_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// A process that was just killed may still hold the files for a moment.
async fn open_objects(data: &Path) -> anyhow::Result<ObjectStore> {
    let folder = data.join("objects");
    create_private(&folder)?;
    let mut attempts = 0;
    loop {
        let path = folder.clone();
        let opened = tokio::task::spawn_blocking(move || ObjectStore::open(&path)).await?;
        match opened {
            Ok(objects) => return Ok(objects),
            Err(crate::objectstore::ObjectStoreError::InUse(_)) if attempts < 20 => {
                attempts += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => bail!(error),
        }
    }
}

/// The embedded buckets, under the aliases and names that the resources give.
fn storage(config: &InstanceConfig, endpoint: &str, public: Option<&str>) -> Vec<StorageConfig> {
    let embedded = |alias: &str, bucket: String| StorageConfig {
        alias: alias.to_owned(),
        bucket,
        endpoint: Some(endpoint.to_owned()),
        public_endpoint: public.map(str::to_owned),
        region: "us-east-1".to_owned(),
        path_style: true,
        version_pinning: Some(true),
        sts: None,
    };
    if config.storage.is_empty() {
        return vec![embedded("default", format!("artifactdb-{}", config.name))];
    }
    let declared = config.storage.iter();
    declared
        .map(|own| embedded(&own.alias, own.bucket.clone()))
        .collect()
}

async fn fill(indexer: &Indexer) -> anyhow::Result<()> {
    let mut reported = std::time::Instant::now();
    let all = projects(indexer, Shard::WHOLE)
        .await
        .map_err(|error| anyhow!("cannot list the projects: {error}"))?;
    let progress = reindex(indexer, all, Publish::Yes, |progress| {
        if reported.elapsed() > Duration::from_secs(2) {
            tracing::info!(
                versions = progress.versions,
                documents = progress.documents,
                "filling the search index from the object store"
            );
            reported = std::time::Instant::now();
        }
    })
    .await
    .map_err(|error| anyhow!("cannot fill the search index: {error}"))?;
    if progress.versions > 0 {
        tracing::info!(
            ?progress,
            "the search index was filled from the object store"
        );
    }
    Ok(())
}

/// Takes up what the last process left, and waits until it is done.
async fn recover(versions: &Versions, queue: &dyn Queue) -> anyhow::Result<()> {
    let acted = sweep(versions)
        .await
        .map_err(|error| anyhow!("cannot look for unfinished work: {error}"))?;
    if acted == 0 {
        return Ok(());
    }
    tracing::info!(acted, "taking up what was left unfinished");
    let drained = async {
        loop {
            match queue.depth().await {
                Ok((0, 0)) | Err(_) => return,
                Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    if tokio::time::timeout(RECOVERY_PATIENCE, drained)
        .await
        .is_err()
    {
        tracing::warn!("unfinished work takes long; it goes on while requests are served");
    }
    Ok(())
}
