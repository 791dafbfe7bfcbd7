//! What happened to a version, a project or the whole instance, as plugins and followers are told
//! (CONTRACT section 8.3).
//!
//! Pure. A transition notes its events in the project's head, in the same compare-and-swap that makes
//! it; `versions::events` moves them from there to the log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::id::{Project, Version};
use crate::state::Epoch;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventStage {
    /// All files of an upload have arrived.
    Uploaded,
    /// An upload was completed.
    Completed,
    /// The documents of a version are in the index.
    Indexed,
    /// An upload was given up, or a version was taken away.
    Purged,
    /// A transient version has expired.
    Expired,
    /// The files of a version were deleted.
    Deleted,
    /// Permissions of a project or version changed, and its documents follow them.
    PermissionsChanged,
    /// A project was created: its first version is indexed.
    Created,
    /// A project got another version.
    VersionCreated,
    /// A version was replaced.
    VersionModified,
    /// A completed version could not be indexed.
    Failed,
    /// Indexing everything again has ended.
    AllIndexed,
    /// Indexing everything again has failed.
    AllIndexedFailed,
    /// A person asked for a run of a plugin, which `message` names with its `params`.
    Requested,
}

impl EventStage {
    pub const ALL: [EventStage; 14] = [
        EventStage::Uploaded,
        EventStage::Completed,
        EventStage::Indexed,
        EventStage::Purged,
        EventStage::Expired,
        EventStage::Deleted,
        EventStage::PermissionsChanged,
        EventStage::Created,
        EventStage::VersionCreated,
        EventStage::VersionModified,
        EventStage::Failed,
        EventStage::AllIndexed,
        EventStage::AllIndexedFailed,
        EventStage::Requested,
    ];

    /// As it is written: `version-created`.
    pub fn as_str(self) -> &'static str {
        match self {
            EventStage::Uploaded => "uploaded",
            EventStage::Completed => "completed",
            EventStage::Indexed => "indexed",
            EventStage::Purged => "purged",
            EventStage::Expired => "expired",
            EventStage::Deleted => "deleted",
            EventStage::PermissionsChanged => "permissions-changed",
            EventStage::Created => "created",
            EventStage::VersionCreated => "version-created",
            EventStage::VersionModified => "version-modified",
            EventStage::Failed => "failed",
            EventStage::AllIndexed => "all-indexed",
            EventStage::AllIndexedFailed => "all-indexed-failed",
            EventStage::Requested => "requested",
        }
    }

    /// Whether it is one that plugins wait for: all but a request, which names its plugin.
    pub fn is_awaited(self) -> bool {
        self != EventStage::Requested
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.as_str() == text)
    }
}

/// An event as it is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// 32 hexadecimal digits, the same however often the event is told.
    pub id: String,
    pub stage: EventStage,
    /// When it happened.
    pub time: Timestamp,
    /// None: the whole instance.
    pub project_id: Option<Project>,
    pub version: Option<Version>,
    /// What more there is to say: the result of the job, or a reason.
    pub message: Value,
    /// Whether it is about documents that have schemas.
    pub use_schema: bool,
}

impl Event {
    /// One about the whole instance; `cause` tells it from others of its stage.
    pub fn of_instance(stage: EventStage, cause: &str, time: Timestamp, message: Value) -> Self {
        Self {
            id: id(&["", "", cause, stage.as_str()]),
            stage,
            time,
            project_id: None,
            version: None,
            message,
            use_schema: false,
        }
    }
}

fn id(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\n"));
    hex::encode(&digest[..16])
}

/// An event that a head remembers until it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Noted {
    pub stage: EventStage,
    /// None: the whole project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The point on the project's clock that tells it from others of its stage.
    pub epoch: Epoch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub message: Value,
    /// The key in the log under which a process is writing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

impl Noted {
    pub fn new(stage: EventStage, version: Option<&Version>, epoch: Epoch) -> Self {
        Self {
            stage,
            version: version.cloned(),
            epoch,
            at: None,
            message: Value::Null,
            claim: None,
        }
    }

    pub fn saying(self, message: Value) -> Self {
        Self { message, ..self }
    }

    /// The event that this is in `project`.
    pub fn event(&self, project: &Project) -> Event {
        let version = self.version.as_ref().map_or("", |own| own.as_str());
        let epoch = self.epoch.to_string();
        let message = match &self.message {
            Value::Null => json!({}),
            said => said.clone(),
        };
        Event {
            id: id(&[project.as_str(), version, &epoch, self.stage.as_str()]),
            stage: self.stage,
            time: self.at.unwrap_or_default(),
            project_id: Some(project.clone()),
            version: self.version.clone(),
            message,
            use_schema: true,
        }
    }
}

/// The name of an entry of the log that is begun at `at`: names sort by time, and `unique` tells
/// entries of one millisecond apart.
pub fn log_name(at: Timestamp, unique: &str) -> String {
    format!("{:014}-{unique}", at.as_millisecond().max(0))
}

/// When an entry of the log was begun.
pub fn log_time(name: &str) -> Option<Timestamp> {
    let millis = name.split_once('-')?.0.parse().ok()?;
    Timestamp::from_millisecond(millis).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_written_as_they_are_read() {
        for stage in EventStage::ALL {
            assert_eq!(EventStage::parse(stage.as_str()), Some(stage));
            assert_eq!(json!(stage), stage.as_str());
        }
        assert_eq!(EventStage::parse("exploded"), None);
    }

    #[test]
    fn an_event_has_one_id_and_no_other_has_it() {
        let (p, v) = (Project::new("P").unwrap(), Version::new("1").unwrap());
        let noted = |stage, epoch| Noted::new(stage, Some(&v), epoch).event(&p).id;
        let first = noted(EventStage::Indexed, 1);
        assert_eq!(first.len(), 32);
        assert_eq!(first, noted(EventStage::Indexed, 1));
        let others = [
            noted(EventStage::Indexed, 2),
            noted(EventStage::Completed, 1),
            Noted::new(EventStage::Indexed, None, 1).event(&p).id,
            Event::of_instance(EventStage::Indexed, "1", Timestamp::UNIX_EPOCH, Value::Null).id,
        ];
        assert!(others.iter().all(|own| *own != first));
    }

    #[test]
    fn names_in_the_log_sort_by_time() {
        let at: Timestamp = "2026-01-01T00:00:00.005Z".parse().unwrap();
        let early = log_name(at, "ff");
        let late = log_name(at + jiff::SignedDuration::from_millis(1), "00");
        assert!(early < late);
        assert_eq!(log_time(&early), Some(at));
        assert_eq!(log_time("nonsense"), None);
    }
}
