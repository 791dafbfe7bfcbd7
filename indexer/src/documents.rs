//! A version's metadata read from the store and made into what is indexed.

use std::collections::HashMap;
use std::pin::pin;

use artifactdb_core::document::{
    DataObject, DocumentError, Metadata, Transient, VersionContext, indexed, schema_parts,
};
use artifactdb_core::id::{FilePath, Project, Version};
use artifactdb_core::search::{SearchError, Write, WriteFailure};
use artifactdb_core::state::{Epoch, Expiry, FileEntry, Manifest, VersionState};
use artifactdb_core::store::StoreError;
use artifactdb_core::{jsondiff, keys};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::Indexer;
use crate::worker::TaskError;

/// Metadata objects read at once.
const READS: usize = 32;
/// Bytes of one metadata document at the most.
const METADATA_MAX: u64 = 8 * 1024 * 1024;
/// Calls of `Search::write` on their way while more is read.
const WRITES: usize = 2;
/// What a document grows by when it is indexed, about.
const EXTRA_BYTES: usize = 1024;
/// Fields named when a document does not fit the mapping.
const MISFITS: usize = 3;

#[derive(Debug, Error)]
pub enum BuildError {
    /// The version itself is wrong: trying again will not help.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DocumentError> for BuildError {
    fn from(error: DocumentError) -> Self {
        BuildError::Invalid(error.to_string())
    }
}

/// Refuses what would be read into memory and is no metadata by its size.
fn check_size(path: &FilePath, entry: &FileEntry) -> Result<(), BuildError> {
    if entry.size > METADATA_MAX {
        return Err(BuildError::Invalid(format!(
            "'{path}' is larger than {METADATA_MAX} bytes; if it is data, list it in .adbignore"
        )));
    }
    Ok(())
}

/// Corrects what a document says of its file. Which file that is, and what this system says of it,
/// is not for a correction.
fn correct(metadata: &mut Metadata, correction: &Value) -> Result<(), BuildError> {
    let metapath = metadata.metapath.clone();
    let invalid =
        |text: String| BuildError::Invalid(format!("'..diff/{metapath}.jsondiff': {text}"));
    let corrected = jsondiff::patch(metadata.body.take(), correction)
        .map_err(|error| invalid(error.to_string()))?;
    let kept = corrected.get("path").and_then(Value::as_str) == Some(metadata.path.as_str());
    if !kept || corrected.get("_extra").is_some() {
        return Err(invalid(
            "'path' and '_extra' must stay as they are, and the document an object".to_owned(),
        ));
    }
    metadata.body = corrected;
    Ok(())
}

/// Whether a file holds metadata: every `.json` that `.adbignore` does not list (CONTRACT 2.2).
fn is_metadata(path: &FilePath, ignored: &[String]) -> bool {
    let text = path.as_str();
    let name = text.rsplit('/').next().unwrap_or(text);
    text.ends_with(".json") && !name.starts_with('.') && !ignored.iter().any(|own| own == text)
}

/// The metadata files of a version. Owned, because a stream that borrows its items is not `Send`
/// enough to be spawned.
fn metadata_of(manifest: &Manifest, ignored: &[String]) -> Vec<(FilePath, FileEntry)> {
    let files = manifest.files.iter();
    files
        .filter(|(path, _)| is_metadata(path, ignored))
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

impl Indexer {
    /// Writes all documents of a published version under the external version `version`, and
    /// returns how many. They are read, made and written as a stream; held back is what one call of
    /// `Search::write` takes. What the engine refuses makes the version invalid.
    pub(crate) async fn write_version(
        &self,
        project: &Project,
        name: &Version,
        state: &VersionState,
        revision: Option<u64>,
        version: Epoch,
    ) -> Result<u64, TaskError> {
        let id = state.manifest.as_deref().unwrap_or_default();
        let manifest = self.versions.manifest(project, name, id).await?;
        // Read after `version` was taken: see `Versions::document_version`.
        let permissions = self
            .versions
            .current_permissions(project, Some(name))
            .await?
            .map(|resolved| resolved.permissions);
        let job = Expiry {
            project: project.clone(),
            version: name.clone(),
            epoch: state.epoch,
        }
        .to_string();
        let context = VersionContext {
            project,
            version: name,
            revision,
            bucket: self.versions.store.bucket(),
            permissions: permissions.as_ref(),
            transient: state.expires_at.map(|expires_in| Transient {
                expires_in,
                expires_job_id: &job,
            }),
            gprn: self.gprn.as_ref(),
            indexed_at: self.versions.clock.now(),
            completed_at: state.completed_at.unwrap_or(state.started_at),
            uploader: Some(&state.owner),
        };
        let ignored = self.ignored(project, name, &manifest).await?;
        let corrections = self.corrections(project, name).await?;
        let wanted = metadata_of(&manifest, &ignored);
        let mut reads = pin!(
            futures::stream::iter(wanted)
                .map(|(path, entry)| self.read(project, name, path, entry, &corrections))
                .buffered(READS)
        );
        let mut described: HashMap<FilePath, FilePath> = HashMap::new();
        let (mut held, mut bytes, mut total) = (Vec::new(), 0, 0);
        let mut writing = FuturesUnordered::new();
        let limit = self.search.write_size();
        loop {
            tokio::select! {
                read = reads.next(), if writing.len() < WRITES => {
                    let Some(read) = read else { break };
                    let (metadata, entry, correction) = read?;
                    let (path, metapath) = (metadata.path.clone(), metadata.metapath.clone());
                    let document =
                        self.document(metadata, correction.as_ref(), &entry, &manifest, &context)?;
                    let id = format!("{project}:{path}@{name}");
                    if let Some(first) = described.insert(path.clone(), metapath.clone()) {
                        return Err(BuildError::from(DocumentError::Duplicate {
                            path: path.to_string(),
                            first: first.to_string(),
                            second: metapath.to_string(),
                        })
                        .into());
                    }
                    bytes += usize::try_from(entry.size).unwrap_or(limit) + EXTRA_BYTES;
                    held.push(Write {
                        id,
                        version,
                        document,
                    });
                    total += 1;
                    if bytes >= limit {
                        writing.push(self.search.write(std::mem::take(&mut held)));
                        bytes = 0;
                    }
                }
                Some(written) = writing.next() => accepted(written)?,
            }
        }
        if !held.is_empty() {
            writing.push(self.search.write(held));
        }
        while let Some(written) = writing.next().await {
            accepted(written)?;
        }
        Ok(total)
    }

    /// Holds every metadata document of a published version to the schemas and the mapping, without
    /// writing any. Returns how many there are, and what is wrong with those that do not fit.
    pub(crate) async fn rehearse_version(
        &self,
        project: &Project,
        name: &Version,
        state: &VersionState,
    ) -> Result<(u64, Vec<String>), TaskError> {
        let id = state.manifest.as_deref().unwrap_or_default();
        let manifest = self.versions.manifest(project, name, id).await?;
        let context = VersionContext {
            project,
            version: name,
            revision: None,
            bucket: self.versions.store.bucket(),
            permissions: None,
            transient: None,
            gprn: self.gprn.as_ref(),
            indexed_at: self.versions.clock.now(),
            completed_at: state.completed_at.unwrap_or(state.started_at),
            uploader: Some(&state.owner),
        };
        let ignored = self.ignored(project, name, &manifest).await?;
        let corrections = self.corrections(project, name).await?;
        let wanted = metadata_of(&manifest, &ignored);
        let mut reads = pin!(
            futures::stream::iter(wanted)
                .map(|(path, entry)| self.read(project, name, path, entry, &corrections))
                .buffered(READS)
        );
        let (mut checked, mut problems) = (0, Vec::new());
        while let Some(read) = reads.next().await {
            checked += 1;
            let made = read.and_then(|(metadata, entry, correction)| {
                self.document(metadata, correction.as_ref(), &entry, &manifest, &context)
            });
            match made {
                Ok(_) => {}
                Err(BuildError::Invalid(problem)) => {
                    problems.push(format!("{project}@{name}: {problem}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((checked, problems))
    }

    /// The indexed form of one metadata document, held to its schema and to the mapping before
    /// anything of its version is written, as far as that is held back.
    fn document(
        &self,
        mut metadata: Metadata,
        correction: Option<&Value>,
        entry: &FileEntry,
        manifest: &Manifest,
        context: &VersionContext<'_>,
    ) -> Result<Map<String, Value>, BuildError> {
        self.check(&metadata)?;
        if let Some(correction) = correction {
            correct(&mut metadata, correction)?;
        }
        let link = manifest.links.get(&metadata.path);
        let data = manifest.files.get(&metadata.path).map(|file| DataObject {
            size: file.size,
            uploaded: file.uploaded,
        });
        if link.is_none() && data.is_none() && !is_redirection(&metadata) {
            return Err(DocumentError::NoData {
                metapath: metadata.metapath.to_string(),
                path: metadata.path.to_string(),
            }
            .into());
        }
        let title = metadata
            .schema
            .as_deref()
            .and_then(|schema| self.config.schema(schema))
            .and_then(|item| item.title());
        let metapath = metadata.metapath.clone();
        let document = indexed(metadata, title, entry.uploaded, data, link, context);
        let misfits = self.mapping.check(&document, MISFITS);
        if !misfits.is_empty() {
            let misfits = misfits.join("; ");
            let text = format!("'{metapath}' does not fit the index: {misfits}");
            return Err(BuildError::Invalid(text));
        }
        Ok(document)
    }

    async fn read(
        &self,
        project: &Project,
        name: &Version,
        path: FilePath,
        entry: FileEntry,
        corrections: &HashMap<String, u64>,
    ) -> Result<(Metadata, FileEntry, Option<Value>), BuildError> {
        check_size(&path, &entry)?;
        let key = keys::file_in(project, name, &path);
        let object = self
            .versions
            .store
            .get(&key, entry.version_id.as_deref())
            .await?;
        let Some(object) = object else {
            return Err(BuildError::Invalid(format!(
                "'{path}' is gone from the object store"
            )));
        };
        let metadata = Metadata::parse(&path, &object.bytes)?;
        let own = format!("{path}.jsondiff");
        let correction = match corrections.get(&own) {
            Some(size) => self.correction(project, name, &own, *size).await?,
            None => None,
        };
        Ok((metadata, entry, correction))
    }

    /// The corrections that curators left beside a version (`jsondiff`), and their sizes in bytes. They
    /// come after its completion, so no manifest has them.
    async fn corrections(
        &self,
        project: &Project,
        name: &Version,
    ) -> Result<HashMap<String, u64>, BuildError> {
        let prefix = keys::corrections(project, name);
        let listed = self.versions.store.list(&prefix).await?;
        let names = listed.into_iter().filter_map(|own| {
            let name = own.key.strip_prefix(&prefix)?;
            name.ends_with(".jsondiff")
                .then(|| (name.to_owned(), own.size))
        });
        Ok(names.collect())
    }

    async fn correction(
        &self,
        project: &Project,
        name: &Version,
        own: &str,
        size: u64,
    ) -> Result<Option<Value>, BuildError> {
        if size > METADATA_MAX {
            return Err(BuildError::Invalid(format!(
                "'..diff/{own}' is larger than {METADATA_MAX} bytes"
            )));
        }
        let key = format!("{}{own}", keys::corrections(project, name));
        let Some(object) = self.versions.store.get(&key, None).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&object.bytes)
            .map(Some)
            .map_err(|error| BuildError::Invalid(format!("'..diff/{own}' is no JSON: {error}")))
    }

    async fn ignored(
        &self,
        project: &Project,
        name: &Version,
        manifest: &Manifest,
    ) -> Result<Vec<String>, BuildError> {
        let Some((path, entry)) = manifest
            .files
            .iter()
            .find(|(path, _)| path.as_str() == ".adbignore")
        else {
            return Ok(Vec::new());
        };
        check_size(path, entry)?;
        let key = keys::file_in(project, name, path);
        let object = self
            .versions
            .store
            .get(&key, entry.version_id.as_deref())
            .await?;
        let text = object
            .map(|object| String::from_utf8_lossy(&object.bytes).into_owned())
            .unwrap_or_default();
        Ok(text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Holds a document to its schema, as far as the instance asks for that.
    fn check(&self, metadata: &Metadata) -> Result<(), BuildError> {
        let invalid = |text: String| BuildError::Invalid(format!("'{}' {text}", metadata.metapath));
        let Some(schema) = &metadata.schema else {
            return match self.config.schemas.reject_without_schema {
                true => Err(invalid("names no '$schema'".to_owned())),
                false => Ok(()),
            };
        };
        let Some(item) = self.config.schema(schema) else {
            return match self.config.schemas.validate_documents {
                true => Err(invalid(format!("names the unknown schema '{schema}'"))),
                false => Ok(()),
            };
        };
        if let Some(validator) = self.validators.get(&item.name())
            && let Err(error) = validator.validate(&metadata.body)
        {
            return Err(invalid(format!(
                "breaks schema '{schema}' at '{}': {error}",
                error.instance_path()
            )));
        }
        Ok(())
    }
}

fn accepted(written: Result<Vec<WriteFailure>, SearchError>) -> Result<(), TaskError> {
    match written?.first() {
        None => Ok(()),
        Some(failure) => Err(TaskError::Permanent(format!(
            "'{}' does not fit the index: {}",
            failure.id, failure.reason
        ))),
    }
}

fn is_redirection(metadata: &Metadata) -> bool {
    metadata
        .schema
        .as_deref()
        .and_then(schema_parts)
        .is_some_and(|(kind, _)| kind == "redirection")
}
