//! Permission files: resolved from the nearest, changed by compare-and-swap (CONTRACT section 5).

use std::sync::Arc;

use super::{Versions, WriteError};
use crate::id::{Project, Version};
use crate::keys;
use crate::permissions::{Access, Permissions, PermissionsPatch, Scope};
use crate::queue::{Priority, Task};
use crate::store::{self, Condition, ObjectRef, StoreError};

/// A permission set and the level whose file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub permissions: Permissions,
    pub level: Scope,
}

/// Where permissions may stand, nearest first.
fn levels(project: &Project, version: Option<&Version>) -> Vec<(Scope, String)> {
    let mut levels = Vec::with_capacity(3);
    if let Some(version) = version {
        levels.push((Scope::Version, keys::version_permissions(project, version)));
    }
    levels.push((Scope::Project, keys::project_permissions(project)));
    levels.push((Scope::Global, keys::GLOBAL_PERMISSIONS.to_owned()));
    levels
}

impl Versions {
    /// The permissions that apply, at most a second old: for readers. The nearest existing file
    /// wins entirely: version, project, global.
    pub async fn resolve_permissions(
        &self,
        project: &Project,
        version: Option<&Version>,
    ) -> Result<Option<Resolved>, StoreError> {
        for (level, key) in levels(project, version) {
            let known = match self.permission_files.get(&key) {
                Some(known) => known,
                None => {
                    let read = self.read_permissions(level, &key).await?.map(Arc::new);
                    self.permission_files.insert(key, read.clone());
                    read
                }
            };
            if let Some(permissions) = known {
                return Ok(Some(Resolved {
                    permissions: (*permissions).clone(),
                    level,
                }));
            }
        }
        Ok(None)
    }

    /// The permissions that apply as the store has them now: for whatever is written by them. What
    /// readers remember may be a moment old, and a document written from that would stay so.
    pub async fn current_permissions(
        &self,
        project: &Project,
        version: Option<&Version>,
    ) -> Result<Option<Resolved>, StoreError> {
        for (level, key) in levels(project, version) {
            if let Some(permissions) = self.read_permissions(level, &key).await? {
                return Ok(Some(Resolved { permissions, level }));
            }
        }
        Ok(None)
    }

    /// A file that people wrote may leave members out.
    async fn read_permissions(
        &self,
        level: Scope,
        key: &str,
    ) -> Result<Option<Permissions>, StoreError> {
        let read = store::get_json::<PermissionsPatch>(&*self.store, key).await?;
        Ok(read.map(|(given, _)| given.onto(Permissions::unsaid(level))))
    }

    /// Forgets what readers may have seen of the permissions of `project` up to now.
    pub(super) fn forget_permissions(&self, project: &Project, version: Option<&Version>) {
        self.permission_files
            .invalidate(&keys::project_permissions(project));
        self.permission_files.invalidate(keys::GLOBAL_PERMISSIONS);
        if let Some(version) = version {
            self.permission_files
                .invalidate(&keys::version_permissions(project, version));
        }
    }

    /// A whole set from what was given, the instance's defaults, and the system's own.
    pub fn with_defaults(
        &self,
        patch: &PermissionsPatch,
        scope: Scope,
        owner: Option<&str>,
    ) -> Permissions {
        let patch = patch.or(&self.rules.default_permissions);
        patch.onto(Permissions {
            scope,
            owners: owner.map(str::to_owned).into_iter().collect(),
            viewers: Vec::new(),
            read_access: Access::Public,
            write_access: Access::Owners,
        })
    }

    /// Changes the set of a project or a version; its documents follow as a task.
    pub async fn set_permissions(
        &self,
        project: &Project,
        version: Option<&Version>,
        patch: &PermissionsPatch,
        owner: Option<&str>,
    ) -> Result<Task, WriteError> {
        let scope = if version.is_some() {
            Scope::Version
        } else {
            Scope::Project
        };
        let key = match version {
            Some(version) => keys::version_permissions(project, version),
            None => keys::project_permissions(project),
        };
        let inherited = self.current_permissions(project, version).await?;
        let base = match inherited {
            Some(resolved) => resolved.permissions,
            None => self.with_defaults(patch, scope, owner),
        };
        let tick = self.permission_change(project, version).await?;
        // The file may change between its reading and its writing; the patch then goes onto what
        // is there, so that two people who each add a viewer both succeed.
        loop {
            let current = store::get_json::<Permissions>(&*self.store, &key).await?;
            let (from, condition) = match current {
                Some((permissions, etag)) => (permissions, Condition::IfMatch(etag)),
                None => (base.clone(), Condition::IfAbsent),
            };
            let mut permissions = patch.onto(from);
            permissions.scope = scope;
            match store::put_json(&*self.store, &key, &permissions, condition).await {
                Ok(_) => break,
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.forget_permissions(project, version);
        self.follow_permissions(project, tick).await
    }

    /// Removes the file of a project or a version; the next level then applies.
    pub async fn delete_permissions(
        &self,
        project: &Project,
        version: Option<&Version>,
    ) -> Result<Task, WriteError> {
        let key = match version {
            Some(version) => keys::version_permissions(project, version),
            None => keys::project_permissions(project),
        };
        let tick = self.permission_change(project, version).await?;
        self.store
            .delete(&[ObjectRef {
                key,
                version_id: None,
            }])
            .await?;
        self.forget_permissions(project, version);
        self.follow_permissions(project, tick).await
    }

    async fn permission_change(
        &self,
        project: &Project,
        version: Option<&Version>,
    ) -> Result<u64, WriteError> {
        self.swap_head(project, |head| {
            // A project that was never written to gets no head by a permission change.
            (head.clock > 0).then(|| head.permission_change(version))
        })
        .await?
        .ok_or(WriteError::NotFound)
    }

    async fn follow_permissions(&self, project: &Project, tick: u64) -> Result<Task, WriteError> {
        let task = Task::Permissions {
            project: project.clone(),
            tick,
        };
        self.queue
            .enqueue(task.clone(), Priority::Interactive)
            .await?;
        Ok(task)
    }

    /// Writes what a completion sets, unless its file was changed since it was read.
    pub(super) async fn write_permissions_file(
        &self,
        project: &Project,
        version: &Version,
        permissions: &Permissions,
    ) -> Result<(), WriteError> {
        let key = match permissions.scope {
            Scope::Version => keys::version_permissions(project, version),
            _ => keys::project_permissions(project),
        };
        let current = store::get_json::<Permissions>(&*self.store, &key).await?;
        let condition = match current {
            Some((existing, _)) if existing == *permissions => return Ok(()),
            Some((_, etag)) => Condition::IfMatch(etag),
            None => Condition::IfAbsent,
        };
        let written = store::put_json(&*self.store, &key, permissions, condition).await;
        self.forget_permissions(project, Some(version));
        match written {
            // Someone set permissions meanwhile: theirs are newer than this completion's.
            Ok(_) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
