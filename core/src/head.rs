//! The object of a project that only compare-and-swap changes, `head.json`, with every legal change of it:
//! the project's clock, its revisions, what is unfinished, and what is to be told.
//!
//! Pure: no store, no clock. The protocol that moves it through a store is `versions`; what a version
//! is in is `state`. See DESIGN section 5.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::event::{EventStage, Noted};
use crate::id::{Version, excerpt};
use crate::state::Epoch;

/// `<project>/..meta/head.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Only grows. Numbers lease epochs, permission changes and deletions, and is the external
    /// version of every index write.
    pub clock: Epoch,
    /// The highest revision given so far.
    #[serde(default)]
    pub revision: u64,
    /// The version that owns the highest revision among those that are there and indexed.
    #[serde(default)]
    pub latest: Option<Latest>,
    /// Tick of the last permission change; documents written from older permissions lose to it.
    #[serde(default)]
    pub permissions: Epoch,
    /// What is not finished, by the epoch that began it: what the sweeper looks at instead of at
    /// every object. By epoch and not by version, so that an upload that loses its version to a
    /// later one, or to an earlier one's completion, cannot take that one's entry.
    #[serde(default)]
    pub pending: BTreeMap<Epoch, Pending>,
    /// Permission changes whose documents are not written yet: the tick by scope (`None` in JSON
    /// as the empty text: the whole project).
    #[serde(default)]
    pub permission_changes: BTreeMap<String, Epoch>,
    /// Versions by their revision, for `NUM-3` in place of a version; and the epoch that took it.
    #[serde(default)]
    pub revisions: BTreeMap<u64, (Version, Epoch)>,
    /// The highest version that was given out by its number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub provisioned: u64,
    /// What happened and is not in the log of events yet, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Noted>,
}

/// Events that a head remembers at the most: were the log never to be written, the head would grow for
/// ever, and with it every write of the project would get slower.
const EVENTS_MAX: usize = 1000;

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde wants"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latest {
    pub version: Version,
    pub revision: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    pub version: Version,
    pub work: Work,
    /// Set once the completion has been given its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// When the sweeper has to act: the upload's deadline, or the expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// What was told of it already, or is not to be told.
    #[serde(default, skip_serializing_if = "Told::is_nothing")]
    pub told: Told,
    /// Whether it takes the place of what readers could see.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaces: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    #[default]
    Nothing,
    /// That it is indexed: its documents are written again.
    Indexed,
    /// That it cannot be indexed.
    Failed,
    /// Nothing, but somebody takes it away: that is no expiry.
    Unwanted,
}

impl Told {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde wants"
    )]
    fn is_nothing(&self) -> bool {
        *self == Told::Nothing
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// An upload runs until `due`.
    Upload,
    /// Completed; its documents are to be indexed.
    Index,
    /// Indexed, and to be removed when `due`.
    Expire,
    /// Aborted or expired; objects and documents are to be deleted.
    Remove,
}

impl Head {
    /// Moves the clock on and records that an upload of `version` has begun.
    pub fn begin(&mut self, version: &Version, deadline: Timestamp) -> Epoch {
        self.clock += 1;
        self.pending.insert(
            self.clock,
            Pending {
                version: version.clone(),
                work: Work::Upload,
                revision: None,
                due: Some(deadline),
                told: Told::Nothing,
                replaces: false,
            },
        );
        self.clock
    }

    /// Gives out the next version that is a whole number, above `listed` and all that are known.
    pub fn provision(&mut self, listed: u64) -> Version {
        self.provisioned = self.highest_number().max(listed) + 1;
        Version::of_number(self.provisioned)
    }

    /// The highest version that is a whole number, given out or named by a caller; 0 without one.
    pub fn highest_number(&self) -> u64 {
        let completed = self.revisions.values().map(|(version, _)| version);
        let begun = self.pending.values().map(|pending| &pending.version);
        let numbers = completed.chain(begun).filter_map(Version::number);
        numbers.max().unwrap_or(0).max(self.provisioned)
    }

    /// Gives the completion at `epoch` its revision, once. `None` when there is nothing to give
    /// one to: it was indexed or removed.
    pub fn assign_revision(&mut self, epoch: Epoch) -> Option<u64> {
        let pending = self.pending.get_mut(&epoch)?;
        match (pending.work, pending.revision) {
            (Work::Upload, None) => {
                self.revision += 1;
                pending.work = Work::Index;
                pending.revision = Some(self.revision);
                pending.due = None;
                let version = pending.version.clone();
                for stage in [EventStage::Uploaded, EventStage::Completed] {
                    let message = json!({"numerical_revision": self.revision});
                    self.note(Noted::new(stage, Some(&version), epoch).saying(message));
                }
                let replaced = self.forget_revisions(&version);
                if let Some(pending) = self.pending.get_mut(&epoch) {
                    pending.replaces = replaced;
                }
                self.revisions.insert(self.revision, (version, epoch));
                Some(self.revision)
            }
            (Work::Index | Work::Expire, revision) => revision,
            _ => None,
        }
    }

    /// Takes its revisions from a version that gets another one. True where documents of one could be
    /// seen.
    fn forget_revisions(&mut self, version: &Version) -> bool {
        let pending = &self.pending;
        let mut seen = false;
        self.revisions.retain(|_, (known, epoch)| {
            if known != version {
                return true;
            }
            let own = pending.get(epoch);
            seen |= own.is_none_or(|own| own.work == Work::Expire);
            false
        });
        seen
    }

    /// The revision that the completion at `epoch` took.
    pub fn revision_of(&self, epoch: Epoch) -> Option<u64> {
        let mut found = self.revisions.iter().filter(|(_, (_, own))| *own == epoch);
        found.next().map(|(revision, _)| *revision)
    }

    /// Records that the documents of `epoch` are written; `expires` keeps it in view.
    pub fn indexed(&mut self, epoch: Epoch, expires: Option<Timestamp>, documents: u64) -> bool {
        let Some(pending) = self.pending.get_mut(&epoch) else {
            return false;
        };
        if pending.work != Work::Index {
            return false;
        }
        let (version, told) = (pending.version.clone(), pending.told);
        let how = match (&self.latest, pending.replaces) {
            (None, _) => EventStage::Created,
            (Some(_), false) => EventStage::VersionCreated,
            (Some(_), true) => EventStage::VersionModified,
        };
        match expires {
            Some(due) => {
                pending.work = Work::Expire;
                pending.due = Some(due);
                pending.told = Told::Nothing;
            }
            None => {
                self.pending.remove(&epoch);
            }
        }
        if told != Told::Indexed {
            for stage in [EventStage::Indexed, how] {
                let message = json!({"indexed_files": documents});
                self.note(Noted::new(stage, Some(&version), epoch).saying(message));
            }
        }
        self.find_latest();
        true
    }

    /// Records that what `epoch` brought cannot be indexed. False when that was told.
    pub fn failed(&mut self, epoch: Epoch, reason: &str) -> bool {
        let Some(pending) = self.pending.get_mut(&epoch) else {
            return false;
        };
        if pending.work != Work::Index || pending.told != Told::Nothing {
            return false;
        }
        pending.told = Told::Failed;
        let version = pending.version.clone();
        let message = json!({"reason": excerpt(reason)});
        self.note(Noted::new(EventStage::Failed, Some(&version), epoch).saying(message));
        true
    }

    fn note(&mut self, noted: Noted) {
        if self.events.len() >= EVENTS_MAX {
            self.events.remove(0);
        }
        self.events.push(noted);
    }

    /// Says when what was noted just now happened.
    pub fn date_events(&mut self, now: Timestamp) {
        for noted in &mut self.events {
            noted.at.get_or_insert(now);
        }
    }

    /// Records that what was claimed under `name` is in the log. False when that is known.
    pub fn events_told(&mut self, name: &str) -> bool {
        let before = self.events.len();
        self.events.retain(|own| own.claim.as_deref() != Some(name));
        self.events.len() != before
    }

    /// Takes back what was claimed under `name` and never came into the log. False when there is nothing.
    pub fn unclaim_events(&mut self, name: &str) -> bool {
        let mut found = false;
        for own in &mut self.events {
            if own.claim.as_deref() == Some(name) {
                own.claim = None;
                found = true;
            }
        }
        found
    }

    /// Gives the events that nobody writes to the log to whoever writes them under `name`.
    pub fn claim_events(&mut self, name: &str, now: Timestamp) -> Vec<Noted> {
        self.date_events(now);
        let mut claimed = Vec::new();
        for noted in &mut self.events {
            if noted.claim.is_none() {
                noted.claim = Some(name.to_owned());
                claimed.push(noted.clone());
            }
        }
        claimed
    }

    /// The highest revision whose documents are written: readers of `latest` see no gap between a
    /// completion and its indexing.
    fn find_latest(&mut self) {
        let mut written = self.revisions.iter().rev().filter(|(_, (_, epoch))| {
            self.pending
                .get(epoch)
                .is_none_or(|pending| pending.work == Work::Expire)
        });
        self.latest = written.next().map(|(revision, (version, _))| Latest {
            version: version.clone(),
            revision: *revision,
        });
    }

    /// Records that what `epoch` brought to `version` expires now, whatever was to become of it.
    pub fn retire(&mut self, version: &Version, epoch: Epoch, now: Timestamp) -> bool {
        let pending = self.pending.entry(epoch).or_insert_with(|| Pending {
            version: version.clone(),
            work: Work::Expire,
            revision: None,
            due: None,
            told: Told::Nothing,
            replaces: false,
        });
        if pending.work == Work::Remove {
            return false;
        }
        pending.told = Told::Unwanted;
        pending.work = Work::Expire;
        pending.due = Some(now);
        true
    }

    /// Records that what `epoch` brought is gone and is to be removed. False when it is known.
    pub fn removing(&mut self, epoch: Epoch) -> bool {
        let Some(pending) = self.pending.get_mut(&epoch) else {
            return false;
        };
        if pending.work == Work::Remove {
            return false;
        }
        let stage = match (pending.work, pending.told) {
            (Work::Expire, Told::Nothing) => EventStage::Expired,
            _ => EventStage::Purged,
        };
        let noted = Noted::new(stage, Some(&pending.version), epoch);
        pending.work = Work::Remove;
        pending.due = None;
        self.note(noted);
        self.clock += 1;
        self.revisions.retain(|_, (_, own)| *own != epoch);
        self.find_latest();
        true
    }

    /// Records that what `epoch` brought is to stay: its documents, which say that it goes, are written
    /// again. False when it does not expire, or has begun to.
    pub fn keep(&mut self, epoch: Epoch) -> bool {
        match self.pending.get_mut(&epoch) {
            Some(pending) if pending.work == Work::Expire => {
                pending.work = Work::Index;
                pending.due = None;
                pending.told = Told::Indexed;
                true
            }
            // It is not indexed yet, or not complete: its state says all.
            Some(pending) => matches!(pending.work, Work::Index | Work::Upload),
            None => false,
        }
    }

    /// Closes the entry of an upload that never got as far as its version. One that did meanwhile, and
    /// waits for its removal, keeps its entry.
    pub fn never_began(&mut self, epoch: Epoch) -> bool {
        let waits = |pending: &Pending| pending.work == Work::Upload;
        self.pending.get(&epoch).is_some_and(waits) && self.pending.remove(&epoch).is_some()
    }

    /// Closes the entry of an upload that was given up and leaves nothing to remove.
    pub fn given_up(&mut self, epoch: Epoch) -> bool {
        self.end(epoch, EventStage::Purged)
    }

    /// Closes the entry of what is removed now.
    pub fn removed(&mut self, epoch: Epoch) -> bool {
        self.end(epoch, EventStage::Deleted)
    }

    fn end(&mut self, epoch: Epoch, stage: EventStage) -> bool {
        let Some(pending) = self.pending.remove(&epoch) else {
            return false;
        };
        self.note(Noted::new(stage, Some(&pending.version), epoch));
        true
    }

    /// Below which external version documents of `version` belong to `epoch` or an earlier one.
    pub fn documents_below(&self, version: &Version, epoch: Epoch) -> Epoch {
        let begun = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.version == *version)
            .map(|(own, _)| *own);
        let completed = self
            .revisions
            .values()
            .filter(|(known, _)| known == version)
            .map(|(_, own)| *own);
        begun
            .chain(completed)
            .filter(|own| *own > epoch)
            .min()
            .unwrap_or(self.clock + 1)
    }

    /// Records a permission change of one version, or of the whole project.
    pub fn permission_change(&mut self, version: Option<&Version>) -> Epoch {
        self.clock += 1;
        let scope = version.map_or_else(String::new, ToString::to_string);
        self.permission_changes.insert(scope, self.clock);
        self.clock
    }

    /// Records that all documents carry the permissions as of `tick`. False when there was no change.
    pub fn permissions_followed(&mut self, tick: Epoch) -> bool {
        let changes = std::mem::take(&mut self.permission_changes);
        let (followed, open) = changes.into_iter().partition(|(_, change)| *change <= tick);
        self.permission_changes = open;
        let followed: BTreeMap<String, Epoch> = followed;
        for (scope, change) in &followed {
            let version = Version::new(scope.as_str()).ok();
            let noted = Noted::new(EventStage::PermissionsChanged, version.as_ref(), *change);
            self.note(noted);
        }
        !followed.is_empty()
    }

    /// The tick under which documents are written for every change recorded so far. It is taken
    /// after the permission file was written and before it is read back, so that whoever writes
    /// documents under this tick or a later one has seen the new file.
    pub fn permission_tick(&mut self) -> Epoch {
        self.clock += 1;
        self.permissions = self.clock;
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::new(text).unwrap()
    }

    #[test]
    fn a_revision_is_given_once_per_completion() {
        let mut head = Head::default();
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (a, b) = (version("a"), version("b"));
        let first = head.begin(&a, at);
        let second = head.begin(&b, at);
        // A later upload of the same version, which will lose, takes nothing from the first.
        let loser = head.begin(&a, at);
        assert_eq!((first, second, loser), (1, 2, 3));
        assert_eq!(head.assign_revision(second), Some(1));
        assert_eq!(head.assign_revision(second), Some(1));
        assert_eq!(head.assign_revision(first), Some(2));
        assert_eq!(head.latest, None, "nothing is indexed");
        assert!(head.indexed(second, None, 1));
        assert!(head.indexed(first, None, 1));
        assert!(!head.indexed(first, None, 1));
        assert_eq!(head.latest.as_ref().unwrap().version, a);
        assert_eq!(head.revision_of(first), Some(2));
        assert_eq!(head.assign_revision(first), None, "it is done");
        assert_eq!(head.documents_below(&a, first), loser);
        assert!(head.never_began(loser));
        let again = head.begin(&a, at);
        assert_eq!(head.assign_revision(again), Some(3));
        assert!(head.removing(again) && !head.removing(again));
        assert_eq!(head.latest.as_ref().unwrap().version, b);
        assert!(!head.never_began(again));
        assert!(head.removed(again) && head.pending.is_empty());
    }

    #[test]
    fn what_a_version_is_to_its_project_is_told() {
        let mut head = Head::default();
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (a, b) = (version("a"), version("b"));
        let completed = |head: &mut Head, version: &Version| {
            let epoch = head.begin(version, at);
            head.assign_revision(epoch).unwrap();
            epoch
        };
        let last = |head: &Head| head.events.last().unwrap().stage;
        // What could not be indexed was never there.
        let failed = completed(&mut head, &a);
        assert!(head.failed(failed, "no JSON") && !head.failed(failed, "no JSON"));
        let again = completed(&mut head, &a);
        assert!(head.indexed(again, None, 1));
        assert_eq!(last(&head), EventStage::Created);
        assert!(head.removing(failed));
        assert_eq!(last(&head), EventStage::Purged);
        // Nor was what was given up.
        let given_up = head.begin(&b, at);
        assert!(head.removing(given_up) && head.removed(given_up));
        let second = completed(&mut head, &b);
        assert!(head.indexed(second, Some(at), 1));
        assert_eq!(last(&head), EventStage::VersionCreated);
        let replacing = completed(&mut head, &b);
        assert!(head.indexed(replacing, None, 1));
        assert_eq!(last(&head), EventStage::VersionModified);
        assert!(head.removing(second));
        assert_eq!(last(&head), EventStage::Expired);
    }
}
