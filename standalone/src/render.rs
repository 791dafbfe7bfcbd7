//! `artifactdb render`: what the operator would make of resource files, printed, or held against a
//! cluster. Rendering itself is the operator's.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use artifactdb_crds::read::read;
use artifactdb_operator::engine::{Access, Engines};
use artifactdb_operator::object::ChildKind;
use artifactdb_operator::offline::observe;
use artifactdb_operator::plan::{Outcome, Problem, plan};
use artifactdb_operator::preview::preview;
use artifactdb_operator::render::{Context, Images, render};

/// What is rendered, and for where.
#[derive(Debug)]
pub struct RenderOptions {
    /// Files of resources, or folders of them.
    pub files: Vec<PathBuf>,
    /// For resources that name none; absent: `default`, or the cluster's own choice.
    pub namespace: Option<String>,
    /// Leave the index templates out, so that all of it may go to `kubectl`.
    pub kubernetes_only: bool,
}

fn refused(name: &str, problems: &[Problem]) -> String {
    let mut text = format!("ArtifactDB '{name}' would be refused:");
    for problem in problems {
        let _ = write!(text, "\n  {}: {}", problem.reason, problem.message);
    }
    text
}

/// The children and index templates of every instance of the files, as YAML documents.
///
/// # Errors
/// For files that cannot be read, and for an instance that would be refused.
pub fn rendered(options: &RenderOptions) -> anyhow::Result<String> {
    let set = read(&options.files)?;
    let namespace = options.namespace.as_deref().unwrap_or("default");
    if set.instances.is_empty() {
        bail!("there is no ArtifactDB in these files: nothing would be made of them by themselves");
    }
    let context = Context {
        images: Images::of_release(),
        http_routes: true,
        service_monitors: true,
    };
    let engines = Engines::default();
    let mut text = String::new();
    for observed in observe(&set, namespace) {
        let name = observed.instance.metadata.name.clone().unwrap_or_default();
        let planned = match plan(&observed) {
            Outcome::Planned(planned) => planned,
            Outcome::Refused(problems) => bail!("{}", refused(&name, &problems)),
        };
        for problem in &planned.problems {
            tracing::warn!(instance = name, "{}", problem.message);
        }
        for object in render(&planned, &context) {
            let yaml = artifactdb_crds::yaml(&object.to_apply()).map_err(|own| anyhow!(own))?;
            let _ = write!(
                text,
                "---\n# {} of ArtifactDB '{name}'",
                object.kind.as_str()
            );
            if object.kind == ChildKind::Secret {
                text.push_str("; its key is made at random, once");
            }
            let _ = write!(text, "\n{}\n", yaml.trim_end());
        }
        let config = observed.assembled.config.as_ref();
        let Some(config) = config.filter(|own| own.elasticsearch.is_some()) else {
            continue;
        };
        if options.kubernetes_only {
            continue;
        }
        for part in engines.of(
            config,
            &observed.assembled.schemas.mapping,
            &Access::default(),
        )? {
            let (name, template) = part.index_template();
            let yaml = artifactdb_crds::yaml(&template).map_err(|own| anyhow!(own))?;
            let _ = write!(
                text,
                "---\n# in Elasticsearch: PUT /_index_template/{name}\n{}\n",
                yaml.trim_end()
            );
        }
    }
    Ok(text)
}

/// What applying the files would change in the cluster of KUBECONFIG, as unified diffs; empty where
/// nothing would.
///
/// # Errors
/// For files that cannot be read, a cluster that does not answer, and what its API server refuses.
pub async fn differences(options: &RenderOptions) -> anyhow::Result<String> {
    // Several providers are compiled in; one must be chosen before the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let set = read(&options.files)?;
    let client = kube::Client::try_default()
        .await
        .context("cannot find a cluster: set KUBECONFIG")?;
    let namespace = match &options.namespace {
        Some(namespace) => namespace.clone(),
        None => client.default_namespace().to_owned(),
    };
    let mut text = String::new();
    for found in preview(&client, &set, &namespace, &Images::of_release()).await? {
        if let Some(problem) = &found.engine_away {
            tracing::warn!(
                instance = found.name,
                "the index template is not compared: {problem}"
            );
        }
        if !found.refused.is_empty() {
            text.push_str(&refused(&found.name, &found.refused));
            text.push('\n');
        }
        for change in &found.changes {
            text.push_str(change);
        }
        for step in found.engine.iter().filter(|_| !options.kubernetes_only) {
            let _ = writeln!(text, "in Elasticsearch: {step}");
        }
    }
    Ok(text)
}
