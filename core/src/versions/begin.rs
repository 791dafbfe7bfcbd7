//! Step 1, upload: lease, tick, promise, `uploading`@epoch.

use jiff::{SignedDuration, Timestamp};

use super::{Versions, WriteError, random_id};
use crate::id::{ArtifactId, FilePath, Project, Version};
use crate::keys;
use crate::lease::{Holder, LeaseError, LeaseKey};
use crate::state::{Epoch, Promise, Stage, VersionState};
use crate::store::{self, Condition, StoreError};

/// How much longer than the upload's deadline the lease lives: a completion that comes at the last
/// moment still finds it held.
const LEASE_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// How long the lease lives until the upload stands in the store: a process that dies before that
/// does not keep the version from others for the whole of the upload's time.
const BEGINNING: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Clone)]
pub struct UploadTerms {
    pub owner: String,
    pub deadline: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub promise: Promise,
}

/// An upload that may bring its files now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub epoch: Epoch,
    /// The revision it would get if it completed next.
    pub revision: u64,
}

impl Versions {
    /// Begins an upload. The lease decides who is next; the swap of `state.json` decides who is in.
    pub async fn begin(
        &self,
        project: &Project,
        version: &Version,
        terms: UploadTerms,
    ) -> Result<Begun, WriteError> {
        let key = LeaseKey::version(project, version);
        let holder = Holder {
            owner: terms.owner.clone(),
            stage: "uploading".to_owned(),
            info: None,
        };
        let acquired = self
            .lease
            .acquire(
                &key,
                holder,
                terms.deadline.min(self.clock.now() + BEGINNING),
            )
            .await;
        let token = match acquired {
            Ok(token) => token,
            // Waiting for the lease of a version that cannot be uploaded anyway would be in vain;
            // that of an indexed one is given back after its state says so.
            Err(LeaseError::Held(record)) => {
                if let Some((state, _)) = self.state(project, version).await?
                    && state.stage == Stage::Indexed
                {
                    self.replaceable(project, version, &state)?;
                }
                return Err(WriteError::Locked(record));
            }
            Err(error) => return Err(error.into()),
        };
        let deadline = terms.deadline;
        let begun = self.begin_leased(project, version, terms, &token).await;
        match &begun {
            // Where the lease was lost meanwhile, a later upload may take over, as its epoch decides.
            Ok(_) => {
                self.lease
                    .renew(&key, &token, "uploading", deadline + LEASE_GRACE)
                    .await?;
            }
            // The lease ends by itself if this fails.
            Err(_) => {
                let _ = self.lease.release(&key, &token).await;
            }
        }
        begun
    }

    async fn begin_leased(
        &self,
        project: &Project,
        version: &Version,
        terms: UploadTerms,
        token: &str,
    ) -> Result<Begun, WriteError> {
        let current = self.state(project, version).await?;
        let replaces = match &current {
            None => None,
            Some((state, _)) => self.replaceable(project, version, state)?,
        };
        let upload = random_id();
        let promise_key = keys::promise(project, version, &upload);
        let (written, ticked) = tokio::join!(
            store::put_json(
                &*self.store,
                &promise_key,
                &terms.promise,
                Condition::IfAbsent
            ),
            self.swap_head(project, |head| {
                let epoch = head.begin(version, terms.deadline);
                Some((epoch, head.revision + 1))
            }),
        );
        written?;
        let Some((epoch, revision)) = ticked? else {
            return Err(WriteError::NotFound);
        };
        let state = VersionState {
            epoch,
            stage: Stage::Uploading,
            owner: terms.owner,
            started_at: self.clock.now(),
            deadline: terms.deadline,
            expires_at: terms.expires_at,
            upload,
            lease: token.to_owned(),
            completed_at: None,
            manifest: None,
            failure: None,
            documents: None,
            first: current.is_none(),
            replaces,
        };
        let condition = match current {
            None => Condition::IfAbsent,
            Some((_, etag)) => Condition::IfMatch(etag),
        };
        let reason = "another upload began at the same moment";
        self.take_step(project, version, &state, condition, reason)
            .await?;
        Ok(Begun { epoch, revision })
    }

    /// Whether an upload may begin over `state`, and what it would replace.
    fn replaceable(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
    ) -> Result<Option<Box<VersionState>>, WriteError> {
        let exists = || WriteError::Exists {
            project: project.clone(),
            version: version.clone(),
        };
        match state.stage {
            // A free lease says that this upload is over: expired, forced off, or its lease lost.
            Stage::Uploading => Ok(state.replaces.clone()),
            Stage::Aborted | Stage::Expired => Ok(None),
            // Never became visible; what is wrong with it can only be mended by a new upload.
            Stage::Completed if state.failure.is_some() => Ok(None),
            Stage::Indexed if self.rules.mutable => Ok(Some(Box::new(state.clone()))),
            Stage::Completed | Stage::Indexed => Err(exists()),
        }
    }

    /// Adds a link to a running upload. Idempotent; links of one upload may come in parallel.
    pub async fn add_link(
        &self,
        source: &ArtifactId,
        target: &ArtifactId,
    ) -> Result<(), WriteError> {
        let (project, version) = (&source.project, &source.version);
        let Some((state, _)) = self.state(project, version).await? else {
            return Err(WriteError::NotFound);
        };
        let promise = match state.stage {
            Stage::Uploading => self.promise(project, version, &state.upload).await?,
            Stage::Completed | Stage::Indexed => {
                let id = state.manifest.as_deref().unwrap_or_default();
                let manifest = self.manifest(project, version, id).await?;
                // The client's request may arrive after the completion that it belongs to.
                return match manifest.links.get(&source.path) == Some(target) {
                    true => Ok(()),
                    false => Err(WriteError::Exists {
                        project: project.clone(),
                        version: version.clone(),
                    }),
                };
            }
            Stage::Aborted | Stage::Expired => return Err(WriteError::NotFound),
        };
        if promise.links.get(&source.path) == Some(target) {
            return Ok(());
        }
        let key = keys::promise(project, version, &state.upload);
        store::swap_json(&*self.store, &key, |promise: &mut Promise| {
            promise.files.remove::<FilePath>(&source.path);
            promise.links.insert(source.path.clone(), target.clone());
            Some(())
        })
        .await?;
        Ok(())
    }

    /// Whether a link is among those that an upload, running or completed, brings.
    pub async fn confirm_link(
        &self,
        source: &ArtifactId,
        target: &ArtifactId,
    ) -> Result<(), WriteError> {
        let (project, version) = (&source.project, &source.version);
        let Some((state, _)) = self.state(project, version).await? else {
            return Err(WriteError::NotFound);
        };
        let known = match (state.stage, &state.manifest) {
            (Stage::Uploading, _) => {
                let promise = self.promise(project, version, &state.upload).await?;
                promise.links.get(&source.path) == Some(target)
            }
            (Stage::Completed | Stage::Indexed, Some(id)) => {
                let manifest = self.manifest(project, version, id).await?;
                manifest.links.get(&source.path) == Some(target)
            }
            _ => false,
        };
        match known {
            true => Ok(()),
            false => Err(WriteError::Refused(format!(
                "'{source}' was not to link to '{target}' in this upload"
            ))),
        }
    }

    pub(super) async fn promise(
        &self,
        project: &Project,
        version: &Version,
        upload: &str,
    ) -> Result<Promise, StoreError> {
        let key = keys::promise(project, version, upload);
        match store::get_json(&*self.store, &key).await? {
            Some((promise, _)) => Ok(promise),
            None => Err(StoreError::Damaged {
                key,
                problem: "it does not exist".to_owned(),
            }),
        }
    }
}
