//! `artifactdb-api`: the REST API of one instance on real servers. Stateless: any number of it may
//! run, and any of them may be killed at any moment.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use artifactdb_api::auth::{Bearers, StaticKey, plugin_keys};
use artifactdb_api::{App, Secrets};
use artifactdb_core::clock::{Clock, SystemClock};
use artifactdb_core::connect::{SecretFiles, connect, read_config};
use clap::Parser;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

// musl's allocator is slow under threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless `RUST_LOG` says otherwise. What the credentials of a role fail by is said
/// once, by us.
const LOGGED: &str = "info,aws_config=error";
/// Files whose manifest entries downloads find in memory, about 300 bytes each.
const REMEMBERED_FILES: u64 = 100_000;
/// Bytes of the signing key at the least.
const SIGNING_KEY_MIN: usize = 32;
/// How long requests may take to end once a stop was asked for.
const STOP_PATIENCE: Duration = Duration::from_secs(25);

/// The REST API of an ArtifactDB instance, on S3, Elasticsearch and Redis.
#[derive(Debug, Parser)]
#[command(
    name = "artifactdb-api",
    version,
    after_help = "Secrets are files below the secrets folder: storage/<alias>/accessKey and secretKey, \
elasticsearch/username and password or apiKey, redis/url, signing/key, static-keys/*.json, \
elasticsearch-ca/ca.crt, redis-ca/ca.crt. Storage credentials may also come from AWS_ACCESS_KEY_ID \
and AWS_SECRET_ACCESS_KEY, or from the role that the cloud gives this process.\n\nExample:\n  artifactdb-api --config instance.json --secrets ./secrets"
)]
struct Arguments {
    /// The instance's configuration, JSON.
    #[arg(long, value_name = "PATH", env = "ARTIFACTDB_CONFIG")]
    config: PathBuf,
    /// Folder of further schemas: files `*.json`, each a list of them.
    #[arg(long, value_name = "DIR", env = "ARTIFACTDB_SCHEMAS")]
    schemas: Option<PathBuf>,
    /// Folder of the mounted secrets.
    #[arg(
        long,
        value_name = "DIR",
        env = "ARTIFACTDB_SECRETS",
        default_value = "/etc/artifactdb/secrets"
    )]
    secrets: PathBuf,
    /// Folder of files that tell what became of plugins' runs, as the operator writes them.
    #[arg(
        long,
        value_name = "DIR",
        env = "ARTIFACTDB_RUNS",
        default_value = "/etc/artifactdb/runs"
    )]
    runs: PathBuf,
    /// Address to listen on; port 0 picks one.
    #[arg(long, default_value = "0.0.0.0:8000", env = "ARTIFACTDB_LISTEN")]
    listen: String,
    /// Where to write `{"url","pid"}` once it answers.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Log as JSON lines.
    #[arg(long, env = "ARTIFACTDB_LOG_JSON")]
    log_json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOGGED));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build();
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
    let config = read_config(&arguments.config, arguments.schemas.as_deref())?;
    let secrets = SecretFiles::new(&arguments.secrets);
    let signing_key = secrets.bytes("signing/key")?.ok_or_else(|| {
        anyhow!(
            "the secret file 'signing/key' is missing: 32 random bytes, the same for every replica"
        )
    })?;
    if signing_key.len() < SIGNING_KEY_MIN {
        bail!(
            "the secret file 'signing/key' holds {} bytes; who can guess it can sign what this server believes: use {SIGNING_KEY_MIN} random bytes or more",
            signing_key.len()
        );
    }
    let service_key = secrets.text("service/key")?.map(String::into_bytes);
    if service_key
        .as_ref()
        .is_some_and(|key| key.len() < SIGNING_KEY_MIN)
    {
        bail!(
            "the secret file 'service/key' is shorter than {SIGNING_KEY_MIN} bytes; who can guess it is an administrator"
        );
    }
    let own = Secrets {
        static_keys: {
            let mut keys = static_keys(&secrets)?;
            keys.extend(plugin_keys(&config.plugins));
            keys
        },
        signing_key,
        service_key,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut storages = config.by_storage()?.into_iter();
    let config = storages.next().unwrap_or(config);
    let servers = connect(&config, &secrets, clock.clone(), REMEMBERED_FILES).await?;
    let mut app = App::new(
        Arc::new(config),
        servers.versions,
        servers.search,
        &own,
        Some(Arc::new(servers.redis)),
    )?;
    app.show_runs(arguments.runs.clone());
    for config in storages {
        let servers = connect(&config, &secrets, clock.clone(), REMEMBERED_FILES).await?;
        app.add_storage(Arc::new(config), servers.versions, servers.search);
    }
    let app = Arc::new(app);
    let listener = TcpListener::bind(&arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "answering");
    if let Some(path) = &arguments.ready_file {
        let content = json!({"url": format!("http://{address}"), "pid": std::process::id()});
        // Whoever waits for the file must never see half of it.
        let next = path.with_extension("next");
        std::fs::write(&next, content.to_string())?;
        std::fs::rename(&next, path)?;
    }
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stopping = app.clone();
    let (stopped, mut deadline) = tokio::sync::watch::channel(false);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.stop();
        let _ = stopped.send(true);
    };
    let patience = async move {
        let _ = deadline.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        served = artifactdb_api::serve(app, listener, stop) => served?,
        () = patience => tracing::warn!("not every request ended in time"),
    }
    Ok(())
}

/// Keys below `static-keys/`: each file a JSON Web Key or a set of them. A member `iss` beside the
/// key's own is what tokens must name as their issuer.
fn static_keys(secrets: &SecretFiles) -> anyhow::Result<Vec<StaticKey>> {
    let mut keys = Vec::new();
    for bytes in secrets.all("static-keys", ".json")? {
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).context("a file of static-keys is not JSON")?;
        let items = match value.get("keys").and_then(serde_json::Value::as_array) {
            Some(items) => items.clone(),
            None => vec![value],
        };
        for item in items {
            let issuer = item
                .get("iss")
                .and_then(|iss| iss.as_str())
                .map(str::to_owned);
            let jwk = serde_json::from_value(item)
                .context("a file of static-keys holds what is no JSON Web Key")?;
            keys.push(StaticKey {
                jwk,
                issuer,
                bearers: Bearers::Users,
            });
        }
    }
    Ok(keys)
}
