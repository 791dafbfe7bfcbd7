//! The object of a version that only compare-and-swap changes, `state.json`, with every legal
//! transition; and the immutable promise and manifest beside it.
//!
//! Pure: no store, no clock. The protocol that moves them through a store is `versions`; the same for
//! a project is `head`. See DESIGN section 5.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ArtifactId, FilePath, Project, Version};
use crate::permissions::Permissions;

/// A point on the project's clock.
pub type Epoch = u64;

/// The end of a transient version, as clients name it: `expires_job_id` (CONTRACT section 4.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    pub project: Project,
    pub version: Version,
    pub epoch: Epoch,
}

impl Expiry {
    /// Project and version hold no slash, so the three parts are told apart again.
    pub fn parse(text: &str) -> Option<Self> {
        let decoded = URL_SAFE_NO_PAD.decode(text.strip_prefix("expire-")?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let mut parts = text.split('/');
        let own = Self {
            project: Project::new(parts.next()?).ok()?,
            version: Version::new(parts.next()?).ok()?,
            epoch: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(own)
    }
}

impl std::fmt::Display for Expiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}/{}/{}", self.project, self.version, self.epoch);
        write!(f, "expire-{}", URL_SAFE_NO_PAD.encode(text))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Uploading,
    Completed,
    Indexed,
    Aborted,
    Expired,
}

impl Stage {
    /// Whether readers may see the version's files.
    pub fn is_published(self) -> bool {
        matches!(self, Stage::Completed | Stage::Indexed)
    }
}

/// `<project>/<version>/..meta/state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionState {
    pub epoch: Epoch,
    pub stage: Stage,
    pub owner: String,
    pub started_at: Timestamp,
    pub deadline: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Names the promise object of this upload.
    pub upload: String,
    /// The lease that the upload holds.
    pub lease: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Names the manifest object that the completion wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Why its documents could not be indexed, when that is not the fault of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How many documents were indexed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Whether no upload of this version was ever begun before: then no document of one can be in
    /// the index.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// A published epoch that an upload over it is about to replace (`versions.mutable`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Box<VersionState>>,
}

impl VersionState {
    /// The state that readers see: its own, or the one that is being replaced.
    pub fn published(&self) -> Option<&VersionState> {
        if self.stage.is_published() {
            Some(self)
        } else {
            self.replaces
                .as_deref()
                .filter(|old| old.stage.is_published())
        }
    }

    /// `uploading`@`epoch` → `completed`.
    pub fn complete(&self, epoch: Epoch, manifest: &str, at: Timestamp) -> Option<VersionState> {
        (self.stage == Stage::Uploading && self.epoch == epoch).then(|| VersionState {
            stage: Stage::Completed,
            manifest: Some(manifest.to_owned()),
            completed_at: Some(at),
            replaces: None,
            ..self.clone()
        })
    }

    /// `completed`@`epoch` → `indexed`.
    pub fn indexed(&self, epoch: Epoch, documents: u64) -> Option<VersionState> {
        (self.stage.is_published() && self.epoch == epoch).then(|| VersionState {
            stage: Stage::Indexed,
            failure: None,
            documents: Some(documents),
            ..self.clone()
        })
    }

    /// `completed`@`epoch` keeps its stage and says why it is not indexed.
    pub fn failed(&self, epoch: Epoch, reason: &str) -> Option<VersionState> {
        (self.stage == Stage::Completed && self.epoch == epoch).then(|| VersionState {
            failure: Some(reason.to_owned()),
            ..self.clone()
        })
    }

    /// `uploading`@`epoch` → `aborted`, or back to what it would have replaced.
    pub fn abort(&self, epoch: Epoch) -> Option<VersionState> {
        (self.stage == Stage::Uploading && self.epoch == epoch).then(|| match &self.replaces {
            Some(old) => (**old).clone(),
            None => VersionState {
                stage: Stage::Aborted,
                ..self.clone()
            },
        })
    }

    /// Published@`epoch` → `expired`.
    pub fn expire(&self, epoch: Epoch) -> Option<VersionState> {
        (self.stage.is_published() && self.epoch == epoch).then(|| VersionState {
            stage: Stage::Expired,
            ..self.clone()
        })
    }
}

/// What an upload promised: written once, then only links are added to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    /// MD5 in hexadecimal where the request gave one.
    pub files: BTreeMap<FilePath, Option<String>>,
    pub links: BTreeMap<FilePath, ArtifactId>,
    /// Sizes in bytes of the files that come in parts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub multipart: BTreeMap<FilePath, u64>,
    /// Whether everything else that is found at completion belongs to the version too: who has
    /// session credentials need not name files beforehand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}

/// What a completion found: the content of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub files: BTreeMap<FilePath, FileEntry>,
    #[serde(default)]
    pub links: BTreeMap<FilePath, ArtifactId>,
    /// Permissions that the completion sets, where it sets any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    pub size: u64,
    pub etag: String,
    /// The pinned object version, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    pub uploaded: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_transition_leaves_its_stage_twice() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let state = VersionState {
            epoch: 3,
            stage: Stage::Uploading,
            owner: "ann".into(),
            started_at: at,
            deadline: at,
            expires_at: None,
            upload: "u".into(),
            lease: "l".into(),
            completed_at: None,
            manifest: None,
            failure: None,
            documents: None,
            first: false,
            replaces: None,
        };
        assert!(state.complete(2, "m", at).is_none());
        let completed = state.complete(3, "m", at).unwrap();
        assert!(completed.complete(3, "m", at).is_none());
        assert!(completed.abort(3).is_none());
        let indexed = completed.indexed(3, 1).unwrap();
        assert!(indexed.abort(3).is_none() && indexed.complete(3, "m", at).is_none());
        assert!(state.abort(3).unwrap().complete(3, "m", at).is_none());
        assert!(indexed.expire(3).unwrap().indexed(3, 1).is_none());
    }
}
