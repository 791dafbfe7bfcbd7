//! `artifactdb plugin run`: the command of a plugin in this terminal, with what its container would
//! find in a cluster: the event, the URL, and a token that reaches as far as `spec.access` says.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use artifactdb_core::timestamp::parse_period;
use artifactdb_crds::ArtifactPlugin;
use artifactdb_crds::read::read;
use artifactdb_crds::resolve::resolve;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::secrets::Secrets;

/// Life of the token.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Longest run where the plugin names none, as in a cluster.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
pub struct RunOptions {
    pub name: String,
    /// Resource files, or folders of them.
    pub files: Vec<PathBuf>,
    /// A file that holds the event, `-` for standard input; absent: one that says that a person asked.
    pub event: Option<PathBuf>,
    pub data: PathBuf,
    pub url: String,
    /// Instead of the plugin's own, which is its image's where the resource names none.
    pub command: Vec<OsString>,
}

/// Runs it, with this process's output. An error is what kept it from running.
pub async fn run(options: &RunOptions) -> anyhow::Result<ExitStatus> {
    let set = read(&options.files)?;
    let resolved = resolve(&set).map_err(|refusals| {
        let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        anyhow!("these resources cannot be used:\n  {}", lines.join("\n  "))
    })?;
    let name = &options.name;
    let known = resolved.config.plugins.items.iter();
    let own = known.clone().find(|own| own.name == *name).ok_or_else(|| {
        let names: Vec<&str> = known.map(|own| &*own.name).collect();
        anyhow!(
            "no ArtifactPlugin '{name}' serves the instance '{}'; there are: {}",
            resolved.config.name,
            names.join(", ")
        )
    })?;
    let mut plugins = set.plugins.iter().map(|(_, own)| own);
    let plugin = plugins
        .find(|own| own.metadata.name.as_ref() == Some(name))
        .context("the plugin is gone")?;
    let event = event(options.event.as_deref())?;
    let secrets = Secrets::load(&options.data)?;
    if secrets.instance != resolved.config.name {
        bail!(
            "the data folder belongs to the instance '{}', and the files describe '{}'",
            secrets.instance,
            resolved.config.name
        );
    }
    let folder = Folder::new()?;
    let token = folder.0.join("token");
    std::fs::write(&token, secrets.plugin_token(&own.subject, TOKEN_LIFE)?)?;

    let mut command = command(plugin, &options.command)?;
    command
        .env("ARTIFACTDB_URL", options.url.trim_end_matches('/'))
        .env("ARTIFACTDB_INSTANCE", &resolved.config.name)
        .env("ARTIFACTDB_PLUGIN", name)
        .env("ARTIFACTDB_TOKEN_FILE", &token)
        .env("ARTIFACTDB_EVENT", event.to_string())
        // Of whoever types this: the plugin has a token of its own.
        .env_remove("ARTIFACTDB_TOKEN")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for own in &plugin.spec.env {
        match (&own.value, &own.secret_key_ref) {
            (Some(value), _) => {
                command.env(&own.name, value);
            }
            (None, Some(reference)) if std::env::var_os(&own.name).is_none() => bail!(
                "the variable {} comes from the Secret '{}' in a cluster; set it in this terminal",
                own.name,
                reference.name
            ),
            _ => {}
        }
    }
    let limit = plugin.spec.timeout.as_deref().and_then(parse_period);
    let limit = limit.and_then(|limit| Duration::try_from(limit).ok());
    let limit = limit.unwrap_or(LONGEST);
    let begun = Instant::now();
    let mut child = command
        .spawn()
        .context("cannot start the plugin's command")?;
    let status = match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            child.kill().await?;
            bail!(
                "it took longer than {} s, its timeout, and was ended",
                limit.as_secs()
            );
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let _ = writeln!(std::io::stderr(), "{name}: {status} after {seconds:.1} s");
    Ok(status)
}

fn event(file: Option<&std::path::Path>) -> anyhow::Result<Value> {
    let Some(file) = file else {
        return Ok(json!({
            "stage": "requested", "project_id": null, "version": null,
            "message": {"params": {}}, "use_schema": false,
        }));
    };
    let mut text = String::new();
    match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|mut own| own.read_to_string(&mut text)),
    }
    .with_context(|| format!("cannot read the event '{}'", file.display()))?;
    let event: Value = serde_json::from_str(&text)
        .with_context(|| format!("the event '{}' is not JSON", file.display()))?;
    if !event["stage"].is_string() {
        bail!("the event has no 'stage'; `artifactdb events --json` prints some");
    }
    Ok(event)
}

fn command(plugin: &ArtifactPlugin, given: &[OsString]) -> anyhow::Result<tokio::process::Command> {
    let spec = &plugin.spec;
    let own = spec.command.iter().chain(&spec.args).map(OsString::from);
    let words: Vec<OsString> = match given.is_empty() {
        false => given.to_vec(),
        true if spec.command.is_empty() => bail!(
            "the plugin names no command: it is its image's '{}', which is not looked into; give it after --",
            spec.image
        ),
        true => own.collect(),
    };
    let (program, arguments) = words.split_first().context("there is no command")?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// A folder for the token that only its owner reads, and that goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("artifactdb-plugin-{:016x}", rand::random::<u64>()));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
