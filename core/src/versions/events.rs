//! The log of events: what heads have noted is written to the store, read by whoever follows, and
//! forgotten after a while.
//!
//! An entry is an object that holds one or more events; its name begins with the time at which it was
//! claimed. A process claims what is noted in a head, writes the entry, and takes the events off the
//! head. Whoever dies on the way leaves a claim, which the sweeper finds: an entry that is there needs
//! no other. So nothing is lost, and nothing stands in the log twice but where a process stopped for
//! longer than `CLAIM_LIFE` in the middle of it; the events' ids are the same then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Versions, WriteError, random_id};
use crate::counter::CounterError;
use crate::event::{Event, Noted, log_name, log_time};
use crate::head::Head;
use crate::id::Project;
use crate::keys;
use crate::store::{self, Condition, ObjectRef, StoreError};

/// How long somebody may take to write what was claimed.
const CLAIM_LIFE: SignedDuration = SignedDuration::from_secs(60);
/// How far back a reader looks who has read up to now: entries that were begun before its last look
/// may have come after it.
const OVERLAP: SignedDuration = SignedDuration::from_secs(120);
/// How long what is noted may wait for the task in hand to tell it, before the sweeper does.
const TASK_LIFE: SignedDuration = SignedDuration::from_secs(10);
/// The counter that moves when the log grows.
const GROWN: &str = "events";
/// Entries that one listing tells, and that one call deletes.
const BATCH: usize = 500;
const DELETES: usize = 100;
/// How often a reader asks whether the log has grown, and how often it looks without being told.
const ASKS: Duration = Duration::from_millis(250);
const LOOKS: Duration = Duration::from_secs(30);
/// Entries that are read together.
const READS: usize = 16;

/// An event and where it stands in the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Logged {
    #[serde(flatten)]
    pub event: Event,
    /// Name of its entry; not part of the event.
    #[serde(skip)]
    pub entry: String,
}

/// Events in the order of the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogPage {
    pub events: Vec<Logged>,
    /// The entries that were read now.
    entries: Vec<String>,
    /// The last entry that there was; none where there was none.
    pub last: Option<String>,
    /// Whether there are entries after it.
    pub more: bool,
}

impl Versions {
    /// Writes what a project's head has noted to the log. Returns how many events that were.
    pub async fn tell(&self, project: &Project) -> Result<usize, WriteError> {
        let (name, now) = (self.entry_name(), self.clock.now());
        let claimed = self
            .swap_head(project, |head| {
                let claimed = head.claim_events(&name, now);
                (!claimed.is_empty()).then_some(claimed)
            })
            .await?;
        match claimed {
            Some(noted) => self.write_claimed(project, &name, &noted).await,
            None => Ok(0),
        }
    }

    /// Writes one about the whole instance.
    pub async fn tell_of_instance(&self, event: &Event) -> Result<(), StoreError> {
        let name = self.entry_name();
        self.write_entry(&name, std::slice::from_ref(event)).await
    }

    /// A new name of an entry.
    pub(super) fn entry_name(&self) -> String {
        log_name(self.clock.now(), &random_id())
    }

    /// Writes what was claimed under `name`, and takes it off the head.
    pub(super) async fn write_claimed(
        &self,
        project: &Project,
        name: &str,
        noted: &[Noted],
    ) -> Result<usize, WriteError> {
        if noted.is_empty() {
            return Ok(0);
        }
        let events: Vec<Event> = noted.iter().map(|own| own.event(project)).collect();
        self.write_entry(name, &events).await?;
        self.forget_claim(project, name).await?;
        Ok(events.len())
    }

    async fn write_entry(&self, name: &str, events: &[Event]) -> Result<(), StoreError> {
        let key = format!("{}{name}.json", keys::EVENTS);
        store::put_json(&*self.store, &key, &events, Condition::Always).await?;
        // Only a hint for those who wait: they look by themselves after a while.
        let millis = log_time(name).map_or(0, |at| at.as_millisecond());
        let millis = u64::try_from(millis).unwrap_or(0);
        if let Err(error) = self.counter.raise(GROWN, millis).await {
            tracing::debug!(%error, "cannot say that the log of events has grown");
        }
        Ok(())
    }

    async fn forget_claim(&self, project: &Project, name: &str) -> Result<(), StoreError> {
        self.swap_head(project, |head| head.events_told(name).then_some(()))
            .await?;
        Ok(())
    }

    /// Takes up what nobody tells any more.
    pub(super) async fn recover_events(
        &self,
        project: &Project,
        head: &Head,
    ) -> Result<(), WriteError> {
        let now = self.clock.now();
        let old = |at: Option<Timestamp>, life| at.is_none_or(|at| now.duration_since(at) > life);
        let waits = |own: &Noted| own.claim.is_none() && old(own.at, TASK_LIFE);
        let mut untold = head.events.iter().any(waits);
        let mut claims: Vec<&str> = head
            .events
            .iter()
            .filter_map(|own| own.claim.as_deref())
            .collect();
        claims.dedup();
        for claim in claims {
            if !old(log_time(claim), CLAIM_LIFE) {
                continue;
            }
            let key = format!("{}{claim}.json", keys::EVENTS);
            if self.store.get(&key, None).await?.is_some() {
                self.forget_claim(project, claim).await?;
                continue;
            }
            self.swap_head(project, |head| head.unclaim_events(claim).then_some(()))
                .await?;
            untold = true;
        }
        if untold {
            self.tell(project).await?;
        }
        Ok(())
    }

    /// Events after an entry (absent: from the beginning), at most `most` entries of them.
    pub async fn events_after(
        &self,
        after: Option<&str>,
        most: usize,
    ) -> Result<LogPage, StoreError> {
        self.unseen_events_after(after, most, &BTreeSet::new())
            .await
    }

    async fn unseen_events_after(
        &self,
        after: Option<&str>,
        most: usize,
        seen: &BTreeSet<String>,
    ) -> Result<LogPage, StoreError> {
        let most = most.clamp(1, BATCH);
        let after = after.map(|name| format!("{}{name}.json", keys::EVENTS));
        let after = after.as_deref();
        let mut listed = self.store.list_after(keys::EVENTS, after, most + 1).await?;
        let more = listed.len() > most;
        listed.truncate(most);
        let names: Vec<String> = listed
            .iter()
            .filter_map(|own| name_of(&own.key).map(str::to_owned))
            .collect();
        let last = names.last().cloned();
        let mut entries = names;
        entries.retain(|name| !seen.contains(name));
        let read = futures::stream::iter(entries.clone()).map(|name| async move {
            let key = format!("{}{name}.json", keys::EVENTS);
            let read = store::get_json::<Vec<Event>>(&*self.store, &key).await;
            match read {
                Ok(read) => Ok((name, read.map(|(events, _)| events).unwrap_or_default())),
                // One that somebody has spoilt does not hide the others.
                Err(error @ StoreError::Damaged { .. }) => {
                    tracing::warn!(%error, "an entry of the log of events is left out");
                    Ok((name, Vec::new()))
                }
                Err(error) => Err(error),
            }
        });
        let read: Vec<(String, Vec<Event>)> = read.buffered(READS).try_collect().await?;
        let events = read.into_iter().flat_map(|(entry, events)| {
            events.into_iter().map(move |event| Logged {
                event,
                entry: entry.clone(),
            })
        });
        Ok(LogPage {
            events: events.collect(),
            entries,
            last,
            more,
        })
    }

    /// What moves when the log grows, where that is known.
    pub async fn log_mark(&self) -> Result<Option<u64>, CounterError> {
        self.counter.last(GROWN).await
    }

    /// Deletes entries of the log that are older than events are kept; returns how many. One call
    /// deletes a hundred at the most.
    pub async fn forget_events(&self) -> Result<usize, StoreError> {
        let limit = self.clock.now() - self.rules.events_life;
        let listed = self.store.list_after(keys::EVENTS, None, DELETES).await?;
        let old: Vec<ObjectRef> = listed
            .into_iter()
            .take_while(|own| {
                let begun = name_of(&own.key).and_then(log_time);
                begun.is_none_or(|begun| begun < limit)
            })
            .map(|own| ObjectRef {
                key: own.key,
                version_id: own.version_id,
            })
            .collect();
        if !old.is_empty() {
            self.store.delete(&old).await?;
        }
        Ok(old.len())
    }
}

fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(keys::EVENTS)?.strip_suffix(".json")
}

/// How far a reader has come: every entry up to `from`, and of those after it the ones that it saw.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPosition {
    pub from: String,
    #[serde(default)]
    pub seen: BTreeSet<String>,
}

impl LogPosition {
    /// Before everything that was begun at `at` or later.
    pub fn at(at: Timestamp) -> Self {
        Self {
            from: log_name(at, ""),
            seen: BTreeSet::new(),
        }
    }
}

/// Reads the log as it grows; every entry once.
pub struct LogReader {
    versions: Arc<Versions>,
    /// Nothing up to here is read.
    start: String,
    read: LogPosition,
    /// Where the listing goes on, as far as one tells.
    place: Option<String>,
    mark: Option<u64>,
    looked: Option<Instant>,
    /// How often it asks whether the log has grown.
    asks: Duration,
}

impl LogReader {
    /// A reader of what comes after an entry, or after the name that a time gives (`log_name`).
    pub fn after(versions: Arc<Versions>, start: String) -> Self {
        Self {
            versions,
            read: LogPosition {
                from: start.clone(),
                seen: BTreeSet::new(),
            },
            start,
            place: None,
            mark: None,
            looked: None,
            asks: ASKS,
        }
    }

    /// The same, asking at another pace whether the log has grown: what asks more often costs the
    /// counter more.
    pub fn asking(self, asks: Duration) -> Self {
        Self { asks, ..self }
    }

    /// A reader that goes on where another one was.
    pub fn restored(versions: Arc<Versions>, position: LogPosition) -> Self {
        Self {
            read: position.clone(),
            ..Self::after(versions, position.from)
        }
    }

    /// How far it has come, with what the last `next` returned.
    pub fn position(&self) -> &LogPosition {
        &self.read
    }

    /// Whether it has told everything that it has listed.
    pub fn is_at_end(&self) -> bool {
        self.place.is_none()
    }

    /// A reader that goes on where another one has read up to an entry. Entries that were begun before
    /// that one may have come after it: those of `OVERLAP` before it are read again.
    pub fn resumed(versions: Arc<Versions>, entry: &str) -> Self {
        let begun = log_time(entry).unwrap_or_default();
        Self::after(versions, log_name(begun - OVERLAP, ""))
    }

    /// Waits until there are events that were not read yet.
    pub async fn next(&mut self) -> Result<Vec<Logged>, StoreError> {
        loop {
            let mark = self.versions.log_mark().await.ok().flatten();
            let due = self.looked.is_none_or(|at| at.elapsed() >= LOOKS);
            if self.place.is_some() || due || mark != self.mark {
                let events = self.look().await?;
                (self.mark, self.looked) = (mark, Some(Instant::now()));
                if !events.is_empty() {
                    return Ok(events);
                }
                if self.place.is_some() {
                    continue;
                }
            }
            tokio::time::sleep(self.asks).await;
        }
    }

    /// What one listing tells and was not read yet. One that fails is the same again the next time.
    pub async fn look(&mut self) -> Result<Vec<Logged>, StoreError> {
        let from = &self.read.from;
        let after = self.place.clone().unwrap_or_else(|| from.clone());
        let page = self
            .versions
            .unseen_events_after(Some(&after), BATCH, &self.read.seen)
            .await?;
        self.read.seen.extend(page.entries);
        self.place = page.last.filter(|_| page.more);
        let newest = self.read.seen.last().and_then(|name| log_time(name));
        if let (None, Some(newest)) = (&self.place, newest) {
            // The clock of who wrote it may be ahead: what others write now must not count as read.
            let newest = newest.min(self.versions.clock.now());
            let from = log_name(newest - OVERLAP, "");
            self.read.from = from.max(self.start.clone());
            self.read.seen = self.read.seen.split_off(&self.read.from);
        }
        Ok(page.events)
    }
}
