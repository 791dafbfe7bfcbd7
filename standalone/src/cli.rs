//! The commands, their arguments and their help.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use artifactdb::client::{self, Api, ClientError, Printer};
use artifactdb::plugin::{self, RunOptions};
use artifactdb::render::{self, RenderOptions};
use artifactdb::secrets::Secrets;
use artifactdb::serve::{self, ServeOptions};
use artifactdb_core::timestamp::parse_period;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use serde_json::{Value, json};

/// ArtifactDB: versioned data with metadata, search and permissions.
#[derive(Debug, Parser)]
#[command(
    name = "artifactdb",
    version,
    after_help = "Exit codes of the client: 0 done; 1 failed; 2 wrong command line; 3 not found; \
4 not allowed; 5 invalid; 6 locked or superseded; 7 unavailable; 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log as JSON lines.
    #[arg(long, global = true, env = "ARTIFACTDB_LOG_JSON")]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a whole instance from resource files, in this process.
    #[command(
        after_help = "Example:\n  artifactdb serve config/samples/quickstart.yaml --data ./artifactdb-data"
    )]
    Serve(ServeArgs),
    /// Print a token of the instance that owns a data folder.
    #[command(
        after_help = "Example:\n  export ARTIFACTDB_TOKEN=$(artifactdb token --data ./artifactdb-data --user ann --role uploader)"
    )]
    Token(TokenArgs),
    /// Upload a folder of files and their `*.json` metadata as a version of a project.
    #[command(
        after_help = "Example:\n  artifactdb upload ./penguins --project penguins --version 1"
    )]
    Upload(UploadArgs),
    /// Search the metadata.
    #[command(
        after_help = "Examples:\n  artifactdb search 'species:Adelie AND rows:>50'\n  artifactdb search 'description:parser' --latest --fields name,license"
    )]
    Search(SearchArgs),
    /// Print the metadata of a file, or download it.
    #[command(
        after_help = "Examples:\n  artifactdb get 'penguins:adelie/dream.csv@latest'\n  artifactdb get 'penguins:adelie/dream.csv@latest' -o dream.csv"
    )]
    Get(GetArgs),
    /// List the projects.
    Projects(Remote),
    /// List the versions of a project.
    Versions(VersionsArgs),
    /// Show or change who may read and write.
    Permissions {
        #[command(subcommand)]
        command: PermissionsCommand,
    },
    /// List what happened to projects and versions, or follow it.
    #[command(
        after_help = "For administrators.\n\nExamples:\n  artifactdb events --since 2h --stage failed\n  artifactdb events --follow --json"
    )]
    Events(EventsArgs),
    /// Try a plugin without a cluster.
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Print what the operator would make of resource files: Kubernetes objects and index templates.
    #[command(
        after_help = "With --diff nothing is printed where nothing would change, and the exit code is 0; it is 1 where \
something would, and 2 where that cannot be found out.\n\nExamples:\n  artifactdb render instance.yaml\n  \
artifactdb render instance.yaml --kubernetes-only | kubectl apply --dry-run=server -f -\n  \
artifactdb render instance.yaml --namespace team-a --diff"
    )]
    Render(RenderArgs),
    /// Print the custom resource definitions.
    Crds(CrdsArgs),
    /// Write the sample data of the tour.
    Sample(SampleArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Resource files, or folders of them.
    #[arg(required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Folder of the data, which outlives the process.
    #[arg(long, default_value = "./artifactdb-data", env = "ARTIFACTDB_DATA")]
    data: PathBuf,
    /// Address of the API; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: String,
    /// Address of the object store, as clients reach it; port 0 picks one.
    #[arg(long, default_value = "localhost:0")]
    s3_listen: String,
    /// URL by which clients reach the object store, where that is not its address.
    #[arg(long, value_name = "URL")]
    s3_url: Option<String>,
    /// Where to write `{"url","s3_endpoint","token","pid"}` once it answers.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// Folder of the instance's data.
    #[arg(long, default_value = "./artifactdb-data", env = "ARTIFACTDB_DATA")]
    data: PathBuf,
    /// Whom the token names.
    #[arg(long)]
    user: String,
    /// A role: admin, uploader, creator, or one of your own.
    #[arg(long = "role")]
    roles: Vec<String>,
    /// How long it is good for, such as 30m, 1h or 7d.
    #[arg(long, default_value = "1h", value_parser = parse_lifetime)]
    expires: SignedDuration,
}

/// How to reach an instance.
#[derive(Debug, Args)]
struct Remote {
    /// URL of the API.
    #[arg(long, env = "ARTIFACTDB_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Token; without one, only what is public.
    #[arg(long, env = "ARTIFACTDB_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct UploadArgs {
    /// The folder.
    folder: PathBuf,
    /// Project to upload to.
    #[arg(long)]
    project: String,
    /// Name of the version.
    #[arg(long)]
    version: String,
    /// Let only owners and viewers read it.
    #[arg(long)]
    private: bool,
    /// An owner; without any, whoever uploads.
    #[arg(long = "owner")]
    owners: Vec<String>,
    /// Somebody who may read a private project.
    #[arg(long = "viewer")]
    viewers: Vec<String>,
    /// Let the version expire, such as "in 2 days".
    #[arg(long)]
    expires: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct SearchArgs {
    /// Lucene query-string syntax; `*` is everything.
    query: String,
    /// Fields to print, separated by commas.
    #[arg(long)]
    fields: Option<String>,
    /// Fields to sort by, `-` before a descending one.
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
    /// Only the latest version of each project.
    #[arg(long)]
    latest: bool,
    /// Results at the most.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// `<project>:<path>@<version>`; the version may be `latest`.
    id: String,
    /// Download the file to this path.
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct VersionsArgs {
    project: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct EventsArgs {
    /// Go on as events happen, from now on or from `--since`; Ctrl-C ends it.
    #[arg(short, long)]
    follow: bool,
    /// Of this stage, such as indexed or failed; may be given again.
    #[arg(long = "stage")]
    stages: Vec<String>,
    /// Of this project; may be given again.
    #[arg(long = "project")]
    projects: Vec<String>,
    /// From a time on, or for a period such as 2h.
    #[arg(long, value_name = "TIME|PERIOD")]
    since: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum PermissionsCommand {
    /// Show the permissions that apply.
    Get {
        project: String,
        /// Of one version of it.
        #[arg(long)]
        version: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Change what is given; the rest stays.
    Set {
        project: String,
        /// Of one version of it.
        #[arg(long)]
        version: Option<String>,
        /// All owners from now on.
        #[arg(long = "owner")]
        owners: Vec<String>,
        /// All viewers from now on.
        #[arg(long = "viewer")]
        viewers: Vec<String>,
        /// Who may read.
        #[arg(long)]
        read: Option<Access>,
        /// Who may write.
        #[arg(long)]
        write: Option<Access>,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Access {
    Public,
    Authenticated,
    Viewers,
    Owners,
    None,
}

impl Access {
    fn as_str(self) -> &'static str {
        match self {
            Access::Public => "public",
            Access::Authenticated => "authenticated",
            Access::Viewers => "viewers",
            Access::Owners => "owners",
            Access::None => "none",
        }
    }
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Run the command of a plugin here, with the event, the URL and the token that it would find in its
    /// container.
    #[command(
        after_help = "The instance is one that `artifactdb serve` runs here. The exit code is the plugin's.\n\nExamples:\n  \
artifactdb events --json --stage indexed | tail -n 1 > event.json\n  \
artifactdb plugin run checksum-audit -f instance.yaml -f plugin.yaml --event event.json -- ./audit.sh"
    )]
    Run(PluginRunArgs),
}

#[derive(Debug, Args)]
struct PluginRunArgs {
    /// Name of the ArtifactPlugin.
    name: String,
    /// Resource files, or folders of them: the instance's and the plugin's.
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// The event, JSON; `-` reads standard input. Without one the plugin is told that a person asked.
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Folder of the instance's data, which has the key of its token.
    #[arg(long, default_value = "./artifactdb-data", env = "ARTIFACTDB_DATA")]
    data: PathBuf,
    /// URL of the API.
    #[arg(long, env = "ARTIFACTDB_URL", default_value = "http://127.0.0.1:8000")]
    url: String,
    /// What to run instead of the command that the resource names.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
struct RenderArgs {
    /// Resource files, or folders of them.
    #[arg(required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Namespace of resources that name none.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Show what applying the files would change in the cluster of KUBECONFIG; change nothing.
    #[arg(long)]
    diff: bool,
    /// Leave out what is Elasticsearch's.
    #[arg(long)]
    kubernetes_only: bool,
}

#[derive(Debug, Args)]
struct CrdsArgs {
    /// Write one file per kind into this folder instead.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SampleArgs {
    /// Folder to write to.
    out: PathBuf,
    /// Output of `cargo metadata --format-version 1`, for the packages beside the penguins.
    #[arg(long, value_name = "FILE")]
    cargo_metadata: Option<PathBuf>,
}

/// A period, or a bare number of seconds.
fn parse_lifetime(text: &str) -> Result<SignedDuration, String> {
    let seconds = || text.parse::<u32>().ok();
    parse_period(text)
        .or_else(|| Some(SignedDuration::from_secs(seconds()?.into())))
        .filter(|period| !period.is_zero())
        .ok_or_else(|| format!("'{text}' is not a duration such as 30m, 1h or 7d"))
}

/// Runs a command; the exit code is the process's.
pub async fn run(cli: Cli) -> ExitCode {
    start_logs(cli.log_json, matches!(cli.command, Command::Serve(_)));
    let outcome = match cli.command {
        Command::Render(args) => return render(args).await,
        Command::Plugin {
            command: PluginCommand::Run(args),
        } => return run_plugin(args).await,
        Command::Serve(args) => serve(args).await,
        Command::Token(args) => token(&args),
        Command::Crds(args) => crds(&args),
        Command::Sample(args) => sample(&args),
        remote => remote_command(remote).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            match error.downcast_ref::<ClientError>() {
                Some(client) => ExitCode::from(client.exit_code()),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn start_logs(as_json: bool, server: bool) {
    let level = if server { "info,tantivy=warn" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ARTIFACTDB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if as_json {
        builder.json().init();
    } else {
        builder.init();
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let data = args.data.clone();
    let instance = serve::start(&ServeOptions {
        files: args.files,
        data: args.data,
        listen: args.listen,
        s3_listen: args.s3_listen,
        s3_url: args.s3_url,
        ready_file: args.ready_file,
    })
    .await?;
    println!("API            {}", instance.url);
    println!("documentation  {}/__swagger__/", instance.url);
    println!("object store   {}", instance.s3_endpoint);
    println!("data           {}", data.display());
    println!("\nIn another terminal:\n");
    println!("  export ARTIFACTDB_URL={}", instance.url);
    println!(
        "  export ARTIFACTDB_TOKEN=$(artifactdb token --data {} --user $(id -un) --role uploader)",
        data.display()
    );
    println!("  artifactdb upload DIR --project my-project --version 1");
    println!("  artifactdb search '*'\n\nCtrl-C stops it.");
    stop_signal().await;
    tracing::info!("stopping");
    instance.stop().await;
    Ok(())
}

/// Ctrl-C, or a polite kill.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let secrets = Secrets::load(&args.data)?;
    println!("{}", secrets.token(&args.user, &args.roles, args.expires)?);
    Ok(())
}

fn crds(args: &CrdsArgs) -> anyhow::Result<()> {
    for definition in artifactdb_crds::definitions() {
        let yaml = artifactdb_crds::to_yaml(&definition).map_err(|problem| anyhow!(problem))?;
        match &args.out {
            None => println!("---\n{}", yaml.trim_end()),
            Some(folder) => {
                let name = definition.spec.names.plural;
                let path = folder.join(format!("{name}.yaml"));
                std::fs::write(&path, yaml)
                    .with_context(|| format!("cannot write '{}'", path.display()))?;
                println!("{}", path.display());
            }
        }
    }
    Ok(())
}

/// Exit codes as of `kubectl diff`: 0 and 1 for none and some, and another for trouble.
async fn render(args: RenderArgs) -> ExitCode {
    let options = RenderOptions {
        files: args.files,
        namespace: args.namespace,
        kubernetes_only: args.kubernetes_only,
    };
    let shown = match args.diff {
        true => render::differences(&options).await,
        false => render::rendered(&options),
    };
    match shown {
        Ok(text) => {
            let written = std::io::stdout().write_all(text.as_bytes());
            let differs = args.diff && !text.is_empty();
            ExitCode::from(u8::from(differs || written.is_err()))
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(if args.diff { 2 } else { 1 })
        }
    }
}

/// The exit code is the plugin's; 125 says that it did not run, as `docker run` does.
async fn run_plugin(args: PluginRunArgs) -> ExitCode {
    let options = RunOptions {
        name: args.name,
        files: args.files,
        event: args.event,
        data: args.data,
        url: args.url,
        command: args.command,
    };
    match plugin::run(&options).await {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            ExitCode::from(code.unwrap_or(1))
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn sample(args: &SampleArgs) -> anyhow::Result<()> {
    let tables = artifactdb::sample::penguins(&args.out)?;
    println!(
        "{tables} tables of penguins in {}/penguins",
        args.out.display()
    );
    if let Some(file) = &args.cargo_metadata {
        let text =
            std::fs::read(file).with_context(|| format!("cannot read '{}'", file.display()))?;
        let metadata: Value = serde_json::from_slice(&text)?;
        let manifests = artifactdb::sample::packages(&metadata, &args.out)?;
        println!("{manifests} manifests in {}/packages", args.out.display());
    }
    Ok(())
}

fn connect(remote: &Remote) -> anyhow::Result<(Api, Printer)> {
    let api = Api::new(
        &remote.url,
        remote.token.clone().filter(|token| !token.is_empty()),
    )?;
    Ok((
        api,
        Printer {
            as_json: remote.json,
        },
    ))
}

async fn remote_command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Upload(args) => {
            let (api, printer) = connect(&args.remote)?;
            let options = client::UploadOptions {
                folder: args.folder,
                project: args.project,
                version: args.version,
                private: args.private,
                owners: args.owners,
                viewers: args.viewers,
                expires: args.expires,
            };
            client::upload(&api, &options, &printer).await?;
        }
        Command::Search(args) => {
            let (api, printer) = connect(&args.remote)?;
            let options = client::SearchOptions {
                query: args.query,
                fields: args.fields,
                sort: args.sort,
                latest: args.latest,
                limit: args.limit,
            };
            client::search(&api, &options, &printer).await?;
        }
        Command::Get(args) => {
            let (api, printer) = connect(&args.remote)?;
            client::get(&api, &args.id, args.output.as_deref(), &printer).await?;
        }
        Command::Projects(remote) => {
            let (api, printer) = connect(&remote)?;
            client::projects(&api, &printer).await?;
        }
        Command::Versions(args) => {
            let (api, printer) = connect(&args.remote)?;
            client::versions(&api, &args.project, &printer).await?;
        }
        Command::Permissions { command } => permissions(command).await?,
        Command::Events(args) => {
            let (api, printer) = connect(&args.remote)?;
            let options = client::EventsOptions {
                follow: args.follow,
                stages: args.stages,
                projects: args.projects,
                since: args.since,
            };
            client::events(&api, &options, &printer).await?;
        }
        Command::Serve(_)
        | Command::Token(_)
        | Command::Render(_)
        | Command::Plugin { .. }
        | Command::Crds(_)
        | Command::Sample(_) => {}
    }
    Ok(())
}

async fn permissions(command: PermissionsCommand) -> anyhow::Result<()> {
    match command {
        PermissionsCommand::Get {
            project,
            version,
            remote,
        } => {
            let (api, printer) = connect(&remote)?;
            client::permissions_get(&api, &project, version.as_deref(), &printer).await?;
        }
        PermissionsCommand::Set {
            project,
            version,
            owners,
            viewers,
            read,
            write,
            remote,
        } => {
            let mut patch = json!({});
            if !owners.is_empty() {
                patch["owners"] = json!(owners);
            }
            if !viewers.is_empty() {
                patch["viewers"] = json!(viewers);
            }
            if let Some(read) = read {
                patch["read_access"] = json!(read.as_str());
            }
            if let Some(write) = write {
                patch["write_access"] = json!(write.as_str());
            }
            let (api, printer) = connect(&remote)?;
            client::permissions_set(&api, &project, version.as_deref(), &patch, &printer).await?;
        }
    }
    Ok(())
}
