//! `artifactdb-operator`: watches the custom resources of ArtifactDB and keeps the cluster as they
//! say.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use artifactdb_operator::lease::Leadership;
use artifactdb_operator::observe::{Observed, router};
use artifactdb_operator::operator::{Operator, control};
use artifactdb_operator::render::Images;
use artifactdb_operator::world::World;
use clap::Parser;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};

/// Keeps ArtifactDB instances as their resources say.
#[derive(Debug, Parser)]
#[command(
    name = "artifactdb-operator",
    version,
    after_help = "It uses the cluster that it runs in, or the one of KUBECONFIG.\n\nExamples:\n  artifactdb-operator\n  artifactdb-operator --namespace team-a   (needs a Role only)"
)]
struct Arguments {
    /// Work in this namespace alone; absent: in all of them.
    #[arg(long, value_name = "NAME", env = "ARTIFACTDB_NAMESPACE")]
    namespace: Option<String>,
    /// Where the lease is by which one of several operators leads.
    #[arg(long, value_name = "NAME", env = "ARTIFACTDB_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of that lease.
    #[arg(long, default_value = "artifactdb-operator", env = "ARTIFACTDB_LEASE")]
    lease: String,
    /// Who this process is in the lease; its host's name, which a pod has from its own.
    #[arg(long, env = "HOSTNAME", default_value = "artifactdb-operator")]
    identity: String,
    /// Address of health and metrics.
    #[arg(long, default_value = "0.0.0.0:8080", env = "ARTIFACTDB_LISTEN")]
    listen: SocketAddr,
    /// Resources of a kind that are reconciled at the same time.
    #[arg(long, default_value_t = 16, env = "ARTIFACTDB_CONCURRENCY", value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Image of the API for instances that name none.
    #[arg(long, value_name = "IMAGE", env = "ARTIFACTDB_API_IMAGE")]
    api_image: Option<String>,
    /// Image of the indexer for instances that name none.
    #[arg(long, value_name = "IMAGE", env = "ARTIFACTDB_INDEXER_IMAGE")]
    indexer_image: Option<String>,
    /// Image of standalone instances that name none.
    #[arg(long, value_name = "IMAGE", env = "ARTIFACTDB_STANDALONE_IMAGE")]
    standalone_image: Option<String>,
    /// `imagePullPolicy` of the pods that are made.
    #[arg(long, value_name = "POLICY", env = "ARTIFACTDB_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,
    /// Log as JSON lines.
    #[arg(long, env = "ARTIFACTDB_LOG_JSON")]
    log_json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
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
    // Several providers are compiled in; one must be chosen before the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default()
        .await
        .context("cannot find a cluster: run in one, or set KUBECONFIG")?;
    let release = Images::of_release();
    let images = Images {
        api: arguments.api_image.unwrap_or(release.api),
        indexer: arguments.indexer_image.unwrap_or(release.indexer),
        standalone: arguments.standalone_image.unwrap_or(release.standalone),
        pull_policy: arguments.image_pull_policy,
    };
    let home = arguments
        .lease_namespace
        .or_else(|| arguments.namespace.clone())
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let (world, queues) = World::watch(client.clone(), arguments.namespace);
    let operator = Arc::new(Operator::new(
        world,
        client.clone(),
        images,
        &arguments.identity,
    ));
    let observed = Arc::new(Observed {
        operator: operator.clone(),
        leads: AtomicBool::new(false),
    });
    let listener = tokio::net::TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    tokio::spawn(axum::serve(listener, router(observed.clone())).into_future());

    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let leadership = Leadership::new(client, &home, &arguments.lease, &arguments.identity);
    let work = async {
        leadership.acquire().await;
        tracing::info!("leading");
        observed.leads.store(true, Ordering::Relaxed);
        tokio::select! {
            () = leadership.hold() => anyhow::bail!("the lease is lost"),
            () = control(operator, queues, arguments.concurrency) => Ok(()),
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    if ended.is_ok() && observed.leads.load(Ordering::Relaxed) {
        leadership.release().await;
    }
    ended
}
