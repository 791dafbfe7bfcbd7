//! Step 4: abort, expiry and a passed deadline. The state says so first; deletion follows.

use super::{MEANWHILE, Versions, WriteError};
use crate::head::Work;
use crate::id::{Project, Version};
use crate::keys;
use crate::queue::{Priority, Task};
use crate::state::{Epoch, Stage, VersionState};
use crate::store::{Condition, ObjectRef, StoreError};

/// Attempts at a removal that others come between.
const REMOVALS: usize = 10;

impl Versions {
    /// Aborts the upload at `epoch` (absent: the one that runs). Repeating it is harmless. A
    /// completed version cannot be aborted.
    pub async fn abort(
        &self,
        project: &Project,
        version: &Version,
        epoch: Option<Epoch>,
    ) -> Result<(), WriteError> {
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
        match state.stage {
            Stage::Uploading => {}
            Stage::Aborted => return Ok(()),
            Stage::Completed | Stage::Indexed => {
                return Err(WriteError::Refused(format!(
                    "version '{version}' of project '{project}' is complete and can't be aborted"
                )));
            }
            Stage::Expired => return Err(over("it has expired")),
        }
        self.end(project, version, &state, etag, state.abort(state.epoch))
            .await
    }

    /// Expires the published version at `epoch`.
    pub async fn expire(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
    ) -> Result<(), WriteError> {
        let Some((state, etag)) = self.state(project, version).await? else {
            return Ok(());
        };
        let ended = state.expire(epoch);
        if ended.is_none() {
            return Ok(());
        }
        self.end(project, version, &state, etag, ended).await
    }

    /// Lets a transient version stay. False when it does not expire (any more). Whoever dies on the way
    /// leaves it as it was: it is written again, and expires.
    pub async fn keep(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
    ) -> Result<bool, WriteError> {
        let Some((state, etag)) = self.state(project, version).await? else {
            return Ok(false);
        };
        let ended = matches!(state.stage, Stage::Aborted | Stage::Expired);
        if state.epoch != epoch || state.expires_at.is_none() || ended {
            return Ok(false);
        }
        let marked = self
            .swap_head(project, |head| head.keep(epoch).then_some(()))
            .await?;
        if marked.is_none() {
            return Ok(false);
        }
        let kept = VersionState {
            expires_at: None,
            ..state.clone()
        };
        let condition = Condition::IfMatch(etag);
        self.take_step(project, version, &kept, condition, MEANWHILE)
            .await?;
        if state.stage.is_published() {
            let task = Task::Index {
                project: project.clone(),
                version: version.clone(),
                epoch,
            };
            self.queue.enqueue(task, Priority::Interactive).await?;
        }
        Ok(true)
    }

    /// Takes a version away, whatever stage it is in: an upload is aborted, what is published expires
    /// now. Returns the epoch that is removed; none where there is nothing to remove.
    pub async fn remove(
        &self,
        project: &Project,
        version: &Version,
    ) -> Result<Option<Epoch>, WriteError> {
        let mut attempts = 0;
        loop {
            match self.remove_once(project, version).await {
                // The sweeper found it due and was faster, or a worker wrote how far it is.
                Err(WriteError::Superseded { .. }) if attempts < REMOVALS => attempts += 1,
                removed => return removed,
            }
        }
    }

    async fn remove_once(
        &self,
        project: &Project,
        version: &Version,
    ) -> Result<Option<Epoch>, WriteError> {
        let Some((state, etag)) = self.state(project, version).await? else {
            return Ok(None);
        };
        let epoch = state.epoch;
        match state.stage {
            Stage::Uploading => {
                let ended = state.abort(epoch);
                self.end(project, version, &state, etag, ended).await?;
            }
            Stage::Completed | Stage::Indexed => {
                // Whoever dies from here on, the sweeper finds it due.
                let now = self.clock.now();
                self.swap_head(project, |head| {
                    head.retire(version, epoch, now).then_some(())
                })
                .await?;
                self.expire(project, version, epoch).await?;
            }
            Stage::Aborted | Stage::Expired => {}
        }
        Ok(Some(epoch))
    }

    async fn end(
        &self,
        project: &Project,
        version: &Version,
        state: &VersionState,
        etag: String,
        ended: Option<VersionState>,
    ) -> Result<(), WriteError> {
        let Some(ended) = ended else {
            return Ok(());
        };
        let condition = Condition::IfMatch(etag);
        self.take_step(project, version, &ended, condition, MEANWHILE)
            .await?;
        let epoch = state.epoch;
        if ended.stage.is_published() {
            // Back to the version that it would have replaced: nothing to delete but the promise.
            self.swap_head(project, |head| head.given_up(epoch).then_some(()))
                .await?;
            self.release(project, version, state).await;
            return Ok(());
        }
        self.removal(project, version, epoch).await
    }

    /// Records and enqueues the removal of what `epoch` brought.
    pub(super) async fn removal(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
    ) -> Result<(), WriteError> {
        self.swap_head(project, |head| head.removing(epoch).then_some(()))
            .await?;
        let task = Task::Remove {
            project: project.clone(),
            version: version.clone(),
            epoch,
        };
        self.queue.enqueue(task, Priority::Maintenance).await?;
        Ok(())
    }

    /// Deletes the files of a version that ended at `epoch`, as far as nobody uploads it anew, and
    /// gives its lease back. Internal objects stay: they are the record.
    pub async fn remove_files(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
    ) -> Result<(), WriteError> {
        let prefix = keys::version_prefix(project, version);
        let objects: Vec<ObjectRef> = self
            .store
            .list(&prefix)
            .await?
            .into_iter()
            .filter(|object| keys::path_below(&prefix, &object.key).is_some())
            .map(|object| ObjectRef {
                key: object.key,
                // Exactly this version: what a later upload writes under the key stays.
                version_id: object.version_id,
            })
            .collect();
        for batch in objects.chunks(1000) {
            match self.state(project, version).await? {
                Some((state, _)) if state.epoch == epoch && !state.stage.is_published() => {}
                _ => break,
            }
            self.store.delete(batch).await?;
        }
        self.drop_parts(project, version, |state| {
            state.epoch == epoch && !state.stage.is_published()
        })
        .await?;
        self.swap_head(project, |head| head.removed(epoch).then_some(()))
            .await?;
        if let Some((state, _)) = self.state(project, version).await?
            && state.epoch == epoch
        {
            self.release(project, version, &state).await;
        }
        Ok(())
    }

    /// Gives up the parts of files of a version that nobody put together, if its state is still as it
    /// has to be for that.
    pub(super) async fn drop_parts(
        &self,
        project: &Project,
        version: &Version,
        still: impl Fn(&VersionState) -> bool,
    ) -> Result<(), WriteError> {
        match self.state(project, version).await? {
            Some((state, _)) if still(&state) => {}
            _ => return Ok(()),
        }
        let prefix = keys::version_prefix(project, version);
        match self.store.abort_multiparts(&prefix).await {
            // Not every store and not every role can; a lifecycle rule of the bucket does it too.
            Err(StoreError::Refused(reason)) => {
                tracing::warn!(reason, prefix, "unfinished parts of files may be left");
                Ok(())
            }
            dropped => Ok(dropped?),
        }
    }

    /// What is unfinished in a project and due: the sweeper's look at one head. Returns how many
    /// entries it acted on.
    pub async fn recover(&self, project: &Project) -> Result<usize, WriteError> {
        let Some(head) = self.head(project).await? else {
            return Ok(0);
        };
        let now = self.clock.now();
        let mut acted = 0;
        for (epoch, pending) in &head.pending {
            let due = pending.due.is_some_and(|due| due < now);
            let version = &pending.version;
            let acts = match pending.work {
                Work::Upload => self.recover_upload(project, version, *epoch, due).await?,
                Work::Index => self.recover_index(project, version, *epoch).await?,
                Work::Expire if due => {
                    match self.expire(project, version, *epoch).await {
                        Ok(()) | Err(WriteError::Superseded { .. }) => {}
                        Err(error) => return Err(error),
                    }
                    self.recover_ended(project, version, *epoch).await?
                }
                Work::Expire => false,
                Work::Remove => {
                    self.removal(project, version, *epoch).await?;
                    true
                }
            };
            acted += usize::from(acts);
        }
        if let Some(tick) = head.permission_changes.values().max() {
            let task = Task::Permissions {
                project: project.clone(),
                tick: *tick,
            };
            self.queue.enqueue(task, Priority::Bulk).await?;
            acted += 1;
        }
        self.recover_events(project, &head).await?;
        Ok(acted)
    }

    /// An upload that runs, or whose end died between the state and the head.
    async fn recover_upload(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
        due: bool,
    ) -> Result<bool, WriteError> {
        let state = match self.state(project, version).await? {
            Some((state, _)) if state.epoch == epoch => state,
            // Its own state was never written, or a later upload has replaced it.
            _ => {
                if due {
                    self.swap_head(project, |head| head.never_began(epoch).then_some(()))
                        .await?;
                }
                return Ok(false);
            }
        };
        match state.stage {
            Stage::Uploading if due => match self.abort(project, version, Some(epoch)).await {
                Ok(()) | Err(WriteError::Superseded { .. }) => Ok(true),
                Err(error) => Err(error),
            },
            Stage::Uploading => Ok(false),
            Stage::Completed | Stage::Indexed => {
                self.finish_completion(project, version, &state).await?;
                Ok(true)
            }
            Stage::Aborted | Stage::Expired => {
                self.removal(project, version, epoch).await?;
                Ok(true)
            }
        }
    }

    async fn recover_index(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
    ) -> Result<bool, WriteError> {
        let state = self.state(project, version).await?;
        let Some((state, _)) = state.filter(|(state, _)| state.epoch == epoch) else {
            // A version that could not be indexed was uploaded again.
            self.swap_head(project, |head| head.removing(epoch).then_some(()))
                .await?;
            return Ok(true);
        };
        if let Some(reason) = &state.failure {
            return Ok(self.tell_failure(project, epoch, reason).await?);
        }
        let task = Task::Index {
            project: project.clone(),
            version: version.clone(),
            epoch,
        };
        self.queue.enqueue(task, Priority::Bulk).await?;
        Ok(true)
    }

    /// An expiry that died between the state and the head.
    async fn recover_ended(
        &self,
        project: &Project,
        version: &Version,
        epoch: Epoch,
    ) -> Result<bool, WriteError> {
        match self.state(project, version).await? {
            Some((state, _)) if state.epoch == epoch && state.stage != Stage::Expired => Ok(false),
            _ => {
                self.removal(project, version, epoch).await?;
                Ok(true)
            }
        }
    }
}
