//! Provisioning: the next project of a sequence, and the next version of a project. The number is
//! whose object comes first in the store (CONTRACT sections 4.10 and 8.6).

use super::{Versions, WriteError};
use crate::counter::CounterError;
use crate::head::Head;
use crate::id::{Project, Version};
use crate::keys;
use crate::sequence::{Sequence, SequenceError};
use crate::store::{self, Condition, StoreError};

/// Numbers that are tried before the caller is asked to come again.
const ATTEMPTS: usize = 64;

impl From<CounterError> for WriteError {
    fn from(error: CounterError) -> Self {
        WriteError::Unavailable(error.to_string())
    }
}

impl From<SequenceError> for WriteError {
    fn from(error: SequenceError) -> Self {
        WriteError::Refused(error.to_string())
    }
}

fn counter_of(sequence: &Sequence) -> String {
    format!("sequence:{}", sequence.prefix)
}

impl Versions {
    /// Takes the next number of a sequence: the project and its first version are the caller's. A
    /// number that is then not used is lost.
    pub async fn provision_project(
        &self,
        sequence: &Sequence,
    ) -> Result<(Project, Version), WriteError> {
        let counter = counter_of(sequence);
        for _ in 0..ATTEMPTS {
            let Some(next) = self.counter.take(&counter).await? else {
                self.sync_sequence(sequence).await?;
                continue;
            };
            let number = sequence.allowed(next)?;
            if number != next {
                self.counter.raise(&counter, number).await?;
            }
            let project = sequence.project(number).ok_or_else(|| {
                WriteError::Refused(format!(
                    "number {number} of sequence '{}' makes no identifier of a project",
                    sequence.prefix
                ))
            })?;
            let mut head = Head::default();
            let version = head.provision(0);
            let created = match self.is_there(&project).await? {
                true => Err(StoreError::Conflict),
                false => {
                    let key = keys::head(&project);
                    store::put_json(&*self.store, &key, &head, Condition::IfAbsent).await
                }
            };
            match created {
                Ok(_) => return Ok((project, version)),
                // The counter is behind the store.
                Err(StoreError::Conflict) => {
                    self.sync_sequence(sequence).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Unavailable(format!(
            "numbers of sequence '{}' are taken faster than they are found",
            sequence.prefix
        )))
    }

    /// Takes the next version of a project that exists: versions are whole numbers.
    pub async fn provision_version(&self, project: &Project) -> Result<Version, WriteError> {
        let head = self.head(project).await?;
        let listed = match &head {
            Some(head) if head.provisioned > 0 => 0,
            // Versions that were not written by this system have no entry in the head.
            _ => {
                let folders = self.store.folders(&keys::project_prefix(project)).await?;
                if head.is_none() && folders.is_empty() {
                    return Err(WriteError::NotFound);
                }
                let versions = folders.iter().filter_map(|name| Version::new(&**name).ok());
                versions
                    .filter_map(|version| version.number())
                    .max()
                    .unwrap_or(0)
            }
        };
        let version = self
            .swap_head(project, |head| Some(head.provision(listed)))
            .await?;
        version.ok_or(WriteError::NotFound)
    }

    /// The highest version of a project that is a whole number.
    pub async fn current_version(&self, project: &Project) -> Result<Option<u64>, WriteError> {
        let head = self.head(project).await?.ok_or(WriteError::NotFound)?;
        Ok(Some(head.highest_number()).filter(|number| *number > 0))
    }

    /// The last number of a sequence that was given out, if any was.
    pub async fn current_number(&self, sequence: &Sequence) -> Result<Option<u64>, WriteError> {
        let last = match self.counter.last(&counter_of(sequence)).await? {
            Some(last) => last,
            None => self.sync_sequence(sequence).await?,
        };
        Ok(Some(last).filter(|number| *number > 0))
    }

    /// Raises the counter of a sequence to what the store holds; returns the last number, or 0.
    pub async fn sync_sequence(&self, sequence: &Sequence) -> Result<u64, WriteError> {
        let before = sequence.before();
        let folders = self.store.folders(before).await?;
        let names: Vec<String> = folders
            .iter()
            .map(|rest| format!("{before}{rest}"))
            .collect();
        let highest = sequence
            .highest(names.iter().map(String::as_str))
            .unwrap_or(0);
        self.counter.raise(&counter_of(sequence), highest).await?;
        Ok(highest)
    }

    async fn is_there(&self, project: &Project) -> Result<bool, StoreError> {
        let prefix = keys::project_prefix(project);
        Ok(!self.store.folders(&prefix).await?.is_empty())
    }
}
