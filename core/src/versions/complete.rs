//! Step 2, completion: verify what was promised, write the manifest, move the state, take a revision.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::{MEANWHILE, Versions, WriteError, random_id};
use crate::id::{FilePath, Project, Version, revision_name};
use crate::keys;
use crate::lease::{Holder, LeaseKey};
use crate::permissions::{Permissions, PermissionsPatch, Scope};
use crate::queue::{Priority, Task};
use crate::state::{Epoch, FileEntry, Manifest, Promise, Stage, VersionState};
use crate::store::{self, Condition, Listed, StoreError};

/// How long the lease is kept for indexing; the sweeper takes over after it.
const INDEXING: SignedDuration = SignedDuration::from_mins(10);
/// Problems named in one refusal.
const NAMED: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    pub epoch: Epoch,
    pub revision: u64,
    pub task: Task,
}

impl Versions {
    /// Completes the upload at `epoch` (absent: the one that runs). Repeating it is harmless: the
    /// same completion is answered again. Once this returns, S3 holds all of it.
    pub async fn complete(
        &self,
        project: &Project,
        version: &Version,
        epoch: Option<Epoch>,
        caller: Option<&str>,
        permissions: &PermissionsPatch,
        overwrite: bool,
    ) -> Result<Completed, WriteError> {
        let over = |reason| WriteError::Superseded {
            project: project.clone(),
            version: version.clone(),
            reason,
        };
        let Some((state, etag)) = self.state(project, version).await? else {
            return Err(WriteError::NotFound);
        };
        if epoch.is_some_and(|epoch| epoch != state.epoch) {
            return Err(over("a later upload of the version has begun"));
        }
        let epoch = state.epoch;
        match state.stage {
            Stage::Uploading => {}
            Stage::Completed | Stage::Indexed => {
                return self.finish_completion(project, version, &state).await;
            }
            Stage::Aborted => return Err(over("it was aborted")),
            Stage::Expired => return Err(over("it has expired")),
        }
        let now = self.clock.now();
        if now > state.deadline {
            return Err(over("its deadline has passed"));
        }
        self.hold_for_indexing(project, version, &state).await?;

        let prefix = keys::version_prefix(project, version);
        let (promise, listed) = tokio::try_join!(
            self.promise(project, version, &state.upload),
            self.store.list(&prefix),
        )?;
        let files = verify(&promise, &prefix, listed)?;
        let in_parts = !promise.multipart.is_empty();
        let permissions = self
            .permissions_at_completion(project, version, &state, caller, permissions, overwrite)
            .await?;
        let manifest = Manifest {
            files,
            links: promise.links,
            permissions,
        };
        let manifest_id = random_id();
        let key = keys::manifest(project, version, &manifest_id);
        store::put_json(&*self.store, &key, &manifest, Condition::IfAbsent).await?;

        let Some(completed) = state.complete(epoch, &manifest_id, now) else {
            return Err(over("it is not running"));
        };
        let (condition, reason) = (Condition::IfMatch(etag), MEANWHILE);
        self.take_step(project, version, &completed, condition, reason)
            .await?;
        // Left by this upload, or by an earlier one that it took the version over from.
        if in_parts || !completed.first {
            let dropped = self
                .drop_parts(project, version, |state| state.epoch == epoch)
                .await;
            if let Err(error) = dropped {
                tracing::warn!(%error, prefix, "unfinished parts of files may be left");
            }
        }
        self.finish_completion(project, version, &completed).await
    }

    /// The rest of a completion whose state is moved: permissions, revision, task. The sweeper runs
    /// it too, for a process that died in between; so every part may run again.
    pub async fn finish_completion(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
    ) -> Result<Completed, WriteError> {
        let revision = self.settle(project, version, state).await?;
        let task = Task::Index {
            project: project.clone(),
            version: version.clone(),
            epoch: state.epoch,
        };
        if state.stage == Stage::Completed && state.failure.is_none() {
            self.queue
                .enqueue(task.clone(), Priority::Interactive)
                .await?;
        }
        Ok(Completed {
            epoch: state.epoch,
            revision,
            task,
        })
    }

    /// Writes the permissions of a completion and takes its revision, unless that is done; returns
    /// the revision.
    pub async fn settle(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
    ) -> Result<u64, WriteError> {
        let epoch = state.epoch;
        let head = self.head(project).await?.unwrap_or_default();
        let Some(pending) = head.pending.get(&epoch) else {
            // Everything was done, and the documents are written.
            return head.revision_of(epoch).ok_or(WriteError::NotFound);
        };
        if let Some(revision) = pending.revision {
            return Ok(revision);
        }
        let id = state.manifest.as_deref().unwrap_or_default();
        let manifest = self.manifest(project, version, id).await?;
        if let Some(permissions) = &manifest.permissions {
            self.write_permissions_file(project, version, permissions)
                .await?;
        }
        self.swap_head(project, |head| {
            head.assign_revision(epoch)
                .or_else(|| head.revision_of(epoch))
        })
        .await?
        .ok_or_else(|| WriteError::Superseded {
            project: project.clone(),
            version: version.clone(),
            reason: "the version was taken over",
        })
    }

    /// `revision.json`, in the form that upstream writes.
    pub async fn write_revision_file(
        &self,
        project: &Project,
        version: &Version,
        revision: u64,
    ) -> Result<(), StoreError> {
        let content = serde_json::json!({
            "revision": revision_name(revision),
            "numerical_revision": revision,
        });
        let key = keys::revision(project, version);
        store::put_json(&*self.store, &key, &content, Condition::Always)
            .await
            .map(|_| ())
    }

    /// Keeps the lease through indexing, or takes it again where it was lost.
    async fn hold_for_indexing(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
    ) -> Result<(), WriteError> {
        let key = LeaseKey::version(project, version);
        let expires = self.clock.now() + INDEXING;
        let renewed = self
            .lease
            .renew(&key, &state.lease, "completed", expires)
            .await?;
        if !renewed {
            // Somebody else may hold it by now: then this completion has to wait its turn.
            let holder = Holder {
                owner: state.owner.clone(),
                stage: "completed".to_owned(),
                info: None,
            };
            let token = self.lease.acquire(&key, holder, expires).await?;
            // What the state records is the token that was lost; nobody could release this one.
            self.lease.release(&key, &token).await?;
        }
        Ok(())
    }

    /// What the completion sets (CONTRACT section 5.3): nothing where permissions resolve already
    /// and are not to be overwritten; the caller as owner where nobody is named.
    async fn permissions_at_completion(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
        caller: Option<&str>,
        patch: &PermissionsPatch,
        overwrite: bool,
    ) -> Result<Option<Permissions>, WriteError> {
        if overwrite && patch.is_empty() {
            return Err(WriteError::Refused(
                "overwrite is True but no permissions passed".to_owned(),
            ));
        }
        let existing = self.current_permissions(project, Some(version)).await?;
        if existing.is_some() && !overwrite {
            return Ok(None);
        }
        if let Some(resolved) = existing {
            let mut merged = patch.onto(resolved.permissions);
            if merged.scope == Scope::Global {
                merged.scope = Scope::Project;
            }
            return Ok(Some(merged));
        }
        let owner = caller.unwrap_or(&state.owner);
        Ok(Some(self.with_defaults(patch, Scope::Project, Some(owner))))
    }
}

/// The promised files as the store has them; every one must be there, with its MD5 where known.
fn verify(
    promise: &Promise,
    prefix: &str,
    listed: Vec<Listed>,
) -> Result<BTreeMap<FilePath, FileEntry>, WriteError> {
    let mut found: BTreeMap<String, Listed> = listed
        .into_iter()
        .filter_map(|object| {
            let path = keys::path_below(prefix, &object.key)?.to_owned();
            Some((path, object))
        })
        .collect();
    let entry = |object: Listed| FileEntry {
        size: object.size,
        etag: object.etag,
        version_id: object.version_id,
        uploaded: object.last_modified,
    };
    let (mut missing, mut wrong, mut wrong_names) = (Vec::new(), Vec::new(), Vec::new());
    let mut wrong_sizes = Vec::new();
    let mut files = BTreeMap::new();
    for (path, md5) in &promise.files {
        let Some(object) = found.remove(path.as_str()) else {
            missing.push(path.as_str());
            continue;
        };
        let etag = object.etag.trim_matches('"');
        let promised_size = promise.multipart.get(path);
        if promised_size.is_some_and(|size| *size != object.size) {
            wrong_sizes.push(path.as_str());
            continue;
        }
        // What came in parts has no MD5 of the whole: its ETag is one of the parts' MD5s.
        let in_parts = etag.contains('-') && (promise.open || promised_size.is_some());
        if !in_parts && md5.as_deref().is_some_and(|md5| md5 != etag) {
            wrong.push(path.as_str());
            continue;
        }
        files.insert(path.clone(), entry(object));
    }
    if promise.open {
        for (path, object) in found {
            match FilePath::new(&path) {
                Ok(path) => drop(files.insert(path, entry(object))),
                Err(_) => wrong_names.push(path),
            }
        }
    }
    let name = |paths: &[&str]| {
        let named = paths
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join("', '");
        let more = paths.len().saturating_sub(NAMED);
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("'{named}'{rest}")
    };
    if !missing.is_empty() {
        return Err(WriteError::Refused(format!(
            "promised files were not uploaded: {}",
            name(&missing)
        )));
    }
    if !wrong_names.is_empty() {
        let names: Vec<&str> = wrong_names.iter().map(String::as_str).collect();
        return Err(WriteError::Refused(format!(
            "files have names that an identifier cannot hold: {}",
            name(&names)
        )));
    }
    if !wrong_sizes.is_empty() {
        return Err(WriteError::Refused(format!(
            "files do not have the size that was promised: {}",
            name(&wrong_sizes)
        )));
    }
    if !wrong.is_empty() {
        return Err(WriteError::Refused(format!(
            "files do not have the MD5 that was promised: {}",
            name(&wrong)
        )));
    }
    Ok(files)
}
