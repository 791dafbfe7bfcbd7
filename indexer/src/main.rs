//! `artifactdb-indexer`: what works behind an instance's API. Stateless, like the API.

mod jobs;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use artifactdb_core::clock::{Clock, SystemClock};
use artifactdb_core::config::InstanceConfig;
use artifactdb_core::connect::{SecretFiles, Servers, connect, connect_versions, read_config};
use artifactdb_core::search::elasticsearch::Standing;
use artifactdb_core::timestamp::parse_period;
use artifactdb_core::versions::Purged;
use artifactdb_indexer::{
    Dispatcher, Event, Indexer, PluginJob, RebuildOptions, Rehearsal, Shard, purge_stale, rebuild,
    rehearse, sweep, sweep_forever, sync_permissions, work,
};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use jobs::ClusterJobs;

// musl's allocator is slow under threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless `RUST_LOG` says otherwise. What the credentials of a role fail by is said
/// once, by us.
const LOGGED: &str = "info,aws_config=error";
/// Files whose manifest entries are remembered: each version is looked at a few times and then not
/// again.
const REMEMBERED_FILES: u64 = 2_000;
/// Pauses between attempts to reach a server at the start.
const PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The workers behind an ArtifactDB instance.
#[derive(Debug, Parser)]
#[command(
    name = "artifactdb-indexer",
    version,
    after_help = "Secrets are files below the secrets folder, the same as for artifactdb-api."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The instance's configuration, JSON.
    #[arg(
        long,
        value_name = "PATH",
        env = "ARTIFACTDB_CONFIG",
        global = true,
        default_value = "/etc/artifactdb/instance.json"
    )]
    config: PathBuf,
    /// Folder of further schemas: files `*.json`, each a list of them.
    #[arg(long, value_name = "DIR", env = "ARTIFACTDB_SCHEMAS", global = true)]
    schemas: Option<PathBuf>,
    /// Folder of the mounted secrets.
    #[arg(
        long,
        value_name = "DIR",
        env = "ARTIFACTDB_SECRETS",
        global = true,
        default_value = "/etc/artifactdb/secrets"
    )]
    secrets: PathBuf,
    /// Work on one storage only; absent: on every one that requests reach.
    #[arg(long, value_name = "ALIAS", env = "ARTIFACTDB_STORAGE", global = true)]
    storage: Option<String>,
    /// Log as JSON lines.
    #[arg(long, env = "ARTIFACTDB_LOG_JSON", global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take tasks and do them, until told to stop.
    Worker {
        /// Tasks that are done at the same time.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
        concurrency: u16,
        /// Sweep as well, with pauses of so many seconds; absent: another process does.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        sweep_every: Option<u64>,
    },
    /// Check all stored metadata against the schemas, and write nothing.
    #[command(
        after_help = "Prints how many documents do not fit, with some of them, as JSON. To be asked before schemas are replaced by others."
    )]
    Rehearse {
        /// Write the result to this file, too: a pod's /dev/termination-log.
        #[arg(long, value_name = "PATH")]
        result: Option<PathBuf>,
    },
    /// Build a new index from the store beside the live one, and switch to it.
    #[command(
        after_help = "Several processes share the work with --shard 0/4 to --shard 3/4; the last one to end switches.\n\nOn a terminal it shows a bar, elsewhere it prints JSON lines."
    )]
    Reindex {
        /// The part of the projects that this process does, `<number>/<of>`, from 0.
        #[arg(long, default_value = "0/1", value_parser = parse_shard)]
        shard: Shard,
        /// Switch although versions do not fit the schemas and will be missing.
        #[arg(long)]
        allow_failed: bool,
    },
    /// Look for what a dead process left undone and for what has become due.
    Sweep {
        /// Go on, with pauses of so many seconds; absent: once.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        every: Option<u64>,
    },
    /// Delete what was marked for that by a `..deleteme` object in a version or project.
    #[command(
        after_help = "A version that was completed after it was marked stays.\n\nExample:\n  artifactdb-indexer purge-stale --older-than 14d"
    )]
    PurgeStale {
        /// Age of the marks, such as 12h or 14d.
        #[arg(long, value_name = "DURATION", default_value = "14d", value_parser = parse_age)]
        older_than: SignedDuration,
    },
    /// Hold the permissions of all documents to those in the store, for changes past the API.
    SyncPermissions,
    /// Print the tasks that were given up, newest first, as JSON lines.
    DeadLetters {
        /// How many at the most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Start a Job for every plugin that waits for an event, until told to stop.
    #[command(
        after_help = "It runs in a cluster, as an account that may create Jobs in its namespace and nothing more. How far it has read the log of events is kept in the storage."
    )]
    Dispatch {
        /// The plugins and their Jobs, JSON, as the operator writes them.
        #[arg(
            long,
            value_name = "PATH",
            env = "ARTIFACTDB_PLUGINS",
            default_value = "/etc/artifactdb/plugins/plugins.json"
        )]
        plugins: PathBuf,
    },
    /// Take a snapshot of the live index into a repository that the engine knows.
    Snapshot {
        /// Name of the repository.
        #[arg(long)]
        repository: String,
    },
}

fn parse_age(text: &str) -> Result<SignedDuration, String> {
    parse_period(text).ok_or_else(|| format!("'{text}' is no period such as 12h or 14d"))
}

fn parse_shard(text: &str) -> Result<Shard, String> {
    let parsed = text.split_once('/').and_then(|(index, of)| {
        Some(Shard {
            index: index.parse().ok()?,
            of: of.parse().ok()?,
        })
    });
    match parsed {
        Some(shard) if shard.index < shard.of => Ok(shard),
        _ => Err("expected <number>/<of>, the number from 0, such as 0/4".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOGGED));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.common.log_json {
        log.json().init();
    } else {
        log.init();
    }
    // Who waits most of the time needs one thread, and the memory of one.
    let mut builder = match arguments.command {
        Command::Dispatch { .. } => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().max_blocking_threads(16).build();
    let ran = runtime
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // No document passes through a dispatcher.
    let schemas = arguments.common.schemas.as_deref();
    let schemas = schemas.filter(|_| !matches!(arguments.command, Command::Dispatch { .. }));
    let config = read_config(&arguments.common.config, schemas)?;
    let secrets = SecretFiles::new(&arguments.common.secrets);
    let (stop, stopping) = watch::channel(false);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
    });
    let mut stopped = stopping.clone();
    let worked = async move {
        let mut storages = config.by_storage()?;
        if let Some(wanted) = &arguments.common.storage {
            storages.retain(|config| config.storage_alias() == Some(wanted));
            if storages.is_empty() {
                bail!("no storage '{wanted}' is reached by requests");
            }
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        if let Command::Dispatch { plugins } = &arguments.command {
            return dispatch(storages, &secrets, plugins, &stopping).await;
        }
        let mut processes = Vec::with_capacity(storages.len());
        for config in storages {
            let servers = connect(&config, &secrets, clock.clone(), REMEMBERED_FILES).await?;
            processes.push(Process::new(config, servers)?);
        }
        run_on(&processes, arguments.command, &stopping).await
    };
    tokio::pin!(worked);
    tokio::select! {
        done = &mut worked => done,
        _ = stopped.wait_for(|stop| *stop) => {
            // Workers end their tasks; what does not end is taken up by another process.
            match tokio::time::timeout(Duration::from_secs(25), worked).await {
                Ok(done) => done,
                Err(_) => Ok(()),
            }
        }
    }
}

/// What runs for ever runs on all storages at the same time, the rest on one after the other.
async fn run_on(
    processes: &[Process],
    command: Command,
    stopping: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    match command {
        Command::Worker {
            concurrency,
            sweep_every,
        } => {
            let workers = processes
                .iter()
                .map(|process| process.worker(concurrency, stopping.clone()));
            let sweepers = sweep_every.into_iter().flat_map(|seconds| {
                // Of many workers not all at the same time.
                let pause = Duration::from_secs(seconds).mul_f64(rand::random_range(0.8..1.2));
                processes.iter().map(move |process| {
                    sweep_forever(process.servers.versions.clone(), pause, stopping.clone())
                })
            });
            let (worked, _) = tokio::join!(
                futures::future::try_join_all(workers),
                futures::future::join_all(sweepers)
            );
            worked?;
        }
        Command::Rehearse { result } => {
            let mut found = Rehearsal::default();
            for process in processes {
                found.add(rehearse(&process.indexer).await?);
            }
            let text = found.to_text();
            println!("{text}");
            if let Some(path) = result {
                std::fs::write(&path, &text)
                    .with_context(|| format!("cannot write '{}'", path.display()))?;
            }
        }
        Command::Sweep {
            every: Some(seconds),
        } => {
            let pause = Duration::from_secs(seconds);
            let sweepers = processes.iter().map(|process| {
                sweep_forever(process.servers.versions.clone(), pause, stopping.clone())
            });
            futures::future::join_all(sweepers).await;
        }
        Command::Sweep { every: None } => {
            let mut acted = 0;
            for process in processes {
                acted += sweep(&process.servers.versions).await?;
            }
            println!("{}", json!({"event": "swept", "acted": acted}));
        }
        Command::PurgeStale { older_than } => {
            let mut purged = Purged::default();
            for process in processes {
                let versions = &process.servers.versions;
                purged += purge_stale(versions, versions.clock.now() - older_than).await?;
            }
            println!(
                "{}",
                json!({"event": "purged", "versions": purged.versions, "kept": purged.kept})
            );
        }
        Command::SyncPermissions => {
            for process in processes {
                let synced = sync_permissions(&process.indexer).await?;
                println!(
                    "{}",
                    json!({"event": "synced", "projects": synced.projects, "changed": synced.changed})
                );
            }
        }
        Command::Reindex {
            shard,
            allow_failed,
        } => {
            for process in processes {
                process.reindex(shard, allow_failed).await?;
            }
        }
        Command::DeadLetters { limit } => {
            for process in processes {
                for letter in process.servers.versions.queue.dead(limit).await? {
                    println!("{}", json!(letter));
                }
            }
        }
        // It needs no index.
        Command::Dispatch { .. } => {}
        Command::Snapshot { repository } => {
            for process in processes {
                process.snapshot(&repository).await?;
            }
        }
    }
    Ok(())
}

/// Starts plugins on the events of every storage.
async fn dispatch(
    storages: Vec<InstanceConfig>,
    secrets: &SecretFiles,
    plugins: &Path,
    stopping: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let text =
        std::fs::read(plugins).with_context(|| format!("cannot read '{}'", plugins.display()))?;
    let plugins: Vec<PluginJob> = serde_json::from_slice(&text)
        .with_context(|| format!("'{}' holds no plugins", plugins.display()))?;
    // Of two that are linked in, one has to be chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut dispatchers = Vec::with_capacity(storages.len());
    for config in storages {
        let jobs = ClusterJobs::of(&config.namespace).await?;
        let (versions, _) = connect_versions(&config, secrets, clock.clone(), 0).await?;
        let storage = config.beside.clone();
        dispatchers.push(Dispatcher::new(versions, storage, plugins.clone(), jobs));
    }
    tracing::info!(plugins = plugins.len(), "following the log of events");
    let running = dispatchers.iter().map(|own| own.run(stopping.clone()));
    futures::future::join_all(running).await;
    Ok(())
}

/// The instance on one storage.
struct Process {
    servers: Servers,
    indexer: Arc<Indexer>,
}

impl Process {
    fn new(config: InstanceConfig, servers: Servers) -> anyhow::Result<Self> {
        let indexer = Indexer::new(
            servers.versions.clone(),
            servers.search.clone(),
            Arc::new(config),
        )
        .map_err(|problem| anyhow!("{problem}"))?;
        Ok(Self {
            servers,
            indexer: Arc::new(indexer),
        })
    }

    async fn worker(
        &self,
        concurrency: u16,
        stopping: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        self.index_for_work(&stopping).await;
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..concurrency {
            workers.spawn(work(self.indexer.clone(), stopping.clone()));
        }
        tracing::info!(concurrency, "taking tasks");
        while workers.join_next().await.is_some() {}
        Ok(())
    }

    /// Sees to it that there is an index to write to. An outdated one serves on until it is built
    /// anew, which is asked for and not done here; where there is none, there is nothing to lose.
    async fn index_for_work(&self, stopping: &watch::Receiver<bool>) {
        while !*stopping.borrow() {
            match self.servers.search.prepare().await {
                Ok(Standing::Current | Standing::Extended) => return,
                Ok(Standing::Outdated) => {
                    tracing::warn!(
                        "the live index has another mapping; run `artifactdb-indexer reindex`"
                    );
                    return;
                }
                Ok(Standing::Missing) => {
                    tracing::info!("there is no index yet: building it from the store");
                    match self.reindex(Shard::WHOLE, true).await {
                        Ok(()) => return,
                        Err(error) => tracing::warn!("cannot build the index: {error:#}"),
                    }
                }
                Err(error) => tracing::warn!(%error, "waiting for the search engine"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn reindex(&self, shard: Shard, allow_failed: bool) -> anyhow::Result<()> {
        let options = RebuildOptions {
            shard,
            allow_failed,
        };
        let mut shown = Shown::new();
        rebuild(&self.indexer, &self.servers.search, options, |event| {
            shown.show(event);
        })
        .await?;
        Ok(())
    }

    async fn snapshot(&self, repository: &str) -> anyhow::Result<()> {
        let name = jiff::Timestamp::now()
            .strftime("artifactdb-%Y%m%d-%H%M%S-%3f")
            .to_string();
        let taken = self.servers.search.snapshot(repository, &name).await?;
        println!(
            "{}",
            json!({"event": "snapshot", "name": name, "snapshot": taken})
        );
        Ok(())
    }
}

/// The progress of a rebuild, for people or for machines.
struct Shown {
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Shown {
    fn new() -> Self {
        let style = ProgressStyle::with_template(
            "{msg} [{wide_bar}] {pos}/{len} projects, {elapsed}, {eta} left",
        );
        let bar = match (std::io::stdout().is_terminal(), style) {
            (true, Ok(style)) => Some(ProgressBar::new(0).with_style(style)),
            _ => None,
        };
        Self { bar, last: None }
    }

    fn show(&mut self, event: Event) {
        match &self.bar {
            Some(bar) => match event {
                Event::Progress(progress) => {
                    bar.set_length(progress.of_projects as u64);
                    bar.set_position(progress.projects as u64);
                    bar.set_message(format!("{} documents", progress.documents));
                }
                Event::Switched { index } => bar.finish_with_message(format!("{index} is live")),
                other => bar.println(format!("{other:?}")),
            },
            None => {
                let minor = matches!(event, Event::Progress(p) if p.projects < p.of_projects);
                if minor && self.last.is_some_and(|at| at.elapsed() < LINE_INTERVAL) {
                    return;
                }
                self.last = Some(Instant::now());
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{}", json!(event));
            }
        }
    }
}
