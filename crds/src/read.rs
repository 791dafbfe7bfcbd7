//! Files of resources: YAML, many documents each, read strictly. Every complaint names the file,
//! the document and the field.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::{API_VERSION, ArtifactDB, ArtifactPlugin, ArtifactSchedule, ArtifactSchema};

/// Where a resource came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: PathBuf,
    /// From 1.
    pub document: usize,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, document {}", self.file.display(), self.document)
    }
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("cannot read '{path}': {error}")]
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{path}: not YAML: {problem}")]
    Yaml { path: PathBuf, problem: String },
    #[error("{origin}: {problem}")]
    Resource { origin: Origin, problem: String },
    #[error("no resource of '{API_VERSION}' in {0}")]
    Empty(String),
}

/// Resources with where they came from, in the order in which they were read.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct ResourceSet {
    pub instances: Vec<(Origin, ArtifactDB)>,
    pub schemas: Vec<(Origin, ArtifactSchema)>,
    pub plugins: Vec<(Origin, ArtifactPlugin)>,
    pub schedules: Vec<(Origin, ArtifactSchedule)>,
}

/// Reads files and folders (their `*.yaml` and `*.yml`, by name). Resources of other groups are
/// passed over: the same files go to a cluster, with Secrets beside them.
pub fn read(paths: &[PathBuf]) -> Result<ResourceSet, ReadError> {
    let mut set = ResourceSet::default();
    for path in paths {
        for file in files(path)? {
            read_file(&file, &mut set)?;
        }
    }
    if set == ResourceSet::default() {
        let named: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        return Err(ReadError::Empty(named.join(", ")));
    }
    Ok(set)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let io = |error| ReadError::Io {
        path: path.to_owned(),
        error,
    };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_file(path: &Path, set: &mut ResourceSet) -> Result<(), ReadError> {
    let text = std::fs::read_to_string(path).map_err(|error| ReadError::Io {
        path: path.to_owned(),
        error,
    })?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| ReadError::Yaml {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
    for (number, document) in documents.into_iter().enumerate() {
        let origin = Origin {
            file: path.to_owned(),
            document: number + 1,
        };
        add(origin, document, set)?;
    }
    Ok(())
}

fn add(origin: Origin, document: Value, set: &mut ResourceSet) -> Result<(), ReadError> {
    if document.is_null() {
        return Ok(());
    }
    let text = |name: &str| {
        document
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let fail = |origin: Origin, problem: String| Err(ReadError::Resource { origin, problem });
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return fail(origin, "it has no 'apiVersion' and 'kind'".to_owned());
    };
    if version != API_VERSION {
        if version.starts_with("artifactdb.io/") {
            let problem = format!("apiVersion '{version}' is not known; this is {API_VERSION}");
            return fail(origin, problem);
        }
        return Ok(());
    }
    match kind.as_str() {
        "ArtifactDB" => set
            .instances
            .push((origin.clone(), parse(origin, document)?)),
        "ArtifactSchema" => set.schemas.push((origin.clone(), parse(origin, document)?)),
        "ArtifactPlugin" => set.plugins.push((origin.clone(), parse(origin, document)?)),
        "ArtifactSchedule" => set
            .schedules
            .push((origin.clone(), parse(origin, document)?)),
        other => {
            let problem = format!(
                "kind '{other}' is not known; the kinds are ArtifactDB, ArtifactSchema, ArtifactPlugin, ArtifactSchedule"
            );
            return fail(origin, problem);
        }
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(origin: Origin, document: Value) -> Result<T, ReadError> {
    let fail = |problem: String| ReadError::Resource {
        origin: origin.clone(),
        problem,
    };
    let has_name = document
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .is_some_and(|name| !name.is_empty());
    if !has_name {
        return Err(fail("field 'metadata.name' is missing".to_owned()));
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&document, &mut track);
    let parsed = serde_ignored::deserialize(deserializer, |path| {
        let path = path.to_string();
        // The type itself stands for these two.
        if path != "apiVersion" && path != "kind" {
            unknown.push(path);
        }
    });
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            return Err(fail(format!("field '{}': {error}", track.path())));
        }
    };
    match unknown.first() {
        None => Ok(parsed),
        Some(field) => {
            let field = field.replace(".?", "");
            Err(fail(format!("field '{field}' is not known")))
        }
    }
}
